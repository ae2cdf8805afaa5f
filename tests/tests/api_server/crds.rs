//! CRDs at run time: they are established, validated, changed, and deleted with their objects.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{Fixture, eventually};

pub(crate) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/test.tholepin.dev/v1/namespaces/default/things";
const MERGE: &str = "application/merge-patch+json";

/// Returns a CRD that uses most features of a schema.
pub(crate) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.test.tholepin.dev"},
        "spec": {
            "group": "test.tholepin.dev", "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things", "shortNames": ["th"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object", "required": ["size"],
                            "properties": {
                                "size": {"type": "integer", "minimum": 1, "description": "How large it is."},
                                "color": {"type": "string", "default": "red"},
                                "fixed": {"type": "string", "x-kubernetes-validations": [
                                    {"rule": "self == oldSelf", "message": "fixed never changes"},
                                ]},
                            },
                            "x-kubernetes-validations": [
                                {"rule": "self.size < 100", "message": "size must be small"},
                            ],
                        },
                        "status": {"type": "object", "properties": {
                            "phase": {"type": "string"},
                            "conditions": {
                                "type": "array", "x-kubernetes-list-type": "map",
                                "x-kubernetes-list-map-keys": ["type"],
                                "items": {"type": "object", "required": ["type"], "properties": {
                                    "type": {"type": "string"}, "status": {"type": "string"},
                                }},
                            },
                        }},
                    },
                }},
            }],
        },
    })
}

fn thing(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "test.tholepin.dev/v1", "kind": "Thing",
        "metadata": {"name": name}, "spec": spec,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crd_is_established_offered_and_withdrawn_with_its_objects() -> Result<()> {
    let fixture = Fixture::start().await?;
    assert_eq!(fixture.get(THINGS).await.unwrap_err().code, 404);
    fixture.create(CRDS, &definition()).await?;
    let path = format!("{CRDS}/things.test.tholepin.dev");
    let crd = fixture.get(&path).await?;
    let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
    for kind in ["NamesAccepted", "Established"] {
        let is_true = |c: &Value| c["type"] == kind && c["status"] == "True";
        assert!(conditions.iter().any(is_true), "{kind}: {conditions:?}");
    }
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    fixture.create(THINGS, &thing("a", json!({"size": 1}))).await?;
    let list = fixture.get(THINGS).await?;
    assert_eq!(list["items"][0]["kind"], "Thing", "items of CRs carry their kind");

    let deleting = fixture.ask("DELETE", &path, "", &Value::Null).await?;
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    eventually("the CRD to be deleted", || async {
        fixture.get(&path).await.err().filter(|status| status.code == 404)
    })
    .await?;
    assert_eq!(fixture.get(THINGS).await.unwrap_err().code, 404);
    fixture.create(CRDS, &definition()).await?;
    let list = fixture.get(THINGS).await?;
    assert_eq!(list["items"], json!([]), "no object of the first CRD is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_filled_in_pruned_and_checked() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CRDS, &definition()).await?;
    let created =
        fixture.create(THINGS, &thing("a", json!({"size": 1, "unknown": 2, "fixed": "x"}))).await?;
    assert_eq!(created["spec"], json!({"size": 1, "color": "red", "fixed": "x"}));
    assert_eq!(created["metadata"]["generation"], 1);

    let rows = [
        (json!({"size": 0}), "spec.size"),
        (json!({}), "spec.size"),
        (json!({"size": "1"}), "spec.size"),
        (json!({"size": 100}), "spec"),
    ];
    for (spec, field) in rows {
        let refused = fixture.create(THINGS, &thing("b", spec.clone())).await.unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"), "{spec}");
        let causes = refused.details.map(|details| details.causes).unwrap_or_default();
        assert_eq!(causes[0].field, field, "{spec}: {causes:?}");
    }
    let path = format!("{THINGS}/a");
    let patch = json!({"spec": {"fixed": "y"}});
    let refused = fixture.ask("PATCH", &path, MERGE, &patch).await.unwrap_err();
    assert!(refused.message.contains("fixed never changes"), "{}", refused.message);
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(fixture.ask("PATCH", &path, strategic, &patch).await.unwrap_err().code, 415);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_change_does_not_increment_the_generation() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CRDS, &definition()).await?;
    let mut object = thing("a", json!({"size": 1}));
    object["status"] = json!({"phase": "Early"});
    let created = fixture.create(THINGS, &object).await?;
    assert_eq!(created.get("status"), None);
    let path = format!("{THINGS}/a");
    let label = json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "No"}});
    let labelled = fixture.ask("PATCH", &path, MERGE, &label).await?;
    assert_eq!(labelled["metadata"]["generation"], 1);
    assert_eq!(labelled.get("status"), None);
    assert_ne!(labelled["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let status = json!({"spec": {"size": 9}, "status": {"phase": "Yes"}});
    let status = fixture.ask("PATCH", &format!("{path}/status"), MERGE, &status).await?;
    assert_eq!((&status["spec"]["size"], &status["status"]["phase"]), (&json!(1), &json!("Yes")));
    assert_eq!(status["metadata"]["generation"], 1);
    let grown = fixture.ask("PATCH", &path, MERGE, &json!({"spec": {"size": 2}})).await?;
    assert_eq!(grown["metadata"]["generation"], 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_removes_fields_that_it_no_longer_contains() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CRDS, &definition()).await?;
    let path = format!("{THINGS}/a");
    fixture.apply(&path, "one", &thing("a", json!({"size": 1, "fixed": "x"}))).await?;
    let less = fixture.apply(&path, "one", &thing("a", json!({"size": 1}))).await?;
    assert_eq!(less["spec"], json!({"size": 1, "color": "red"}));
    assert_eq!(less["metadata"]["generation"], 2);
    for (manager, kind) in [("one", "Ready"), ("two", "Progressing")] {
        let status = json!({
            "apiVersion": "test.tholepin.dev/v1", "kind": "Thing", "metadata": {"name": "a"},
            "status": {"conditions": [{"type": kind, "status": "True"}]},
        });
        fixture.apply(&format!("{path}/status"), manager, &status).await?;
    }
    let both = fixture.get(&path).await?;
    assert_eq!(both["status"]["conditions"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_can_change_and_a_bad_one_is_refused() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.create(CRDS, &definition()).await?;
    let path = format!("{CRDS}/things.test.tholepin.dev");
    let mut changed = fixture.get(&path).await?;
    let size = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size";
    *changed.pointer_mut(size).expect("the size") = json!({"type": "integer", "minimum": 5});
    let changed = fixture.ask("PUT", &path, "application/json", &changed).await?;
    assert_eq!(
        fixture.create(THINGS, &thing("a", json!({"size": 1}))).await.unwrap_err().code,
        422
    );
    fixture.create(THINGS, &thing("a", json!({"size": 5}))).await?;

    let mut bad = fixture.get(&path).await?;
    assert_eq!(bad["spec"], changed["spec"]);
    *bad.pointer_mut(size).expect("the size") = json!({"type": "wholenumber"});
    let refused = fixture.ask("PUT", &path, "application/json", &bad).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    let causes = refused.details.map(|details| details.causes).unwrap_or_default();
    assert!(causes[0].field.starts_with("spec.versions[0].schema.openAPIV3Schema"), "{causes:?}");
    fixture.create(THINGS, &thing("b", json!({"size": 5}))).await?;
    Ok(())
}
