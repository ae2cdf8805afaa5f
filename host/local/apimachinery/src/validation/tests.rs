use serde_json::json;

use super::*;
use crate::kinds;

fn kind(group: &str, plural: &str) -> &'static Kind {
    kinds::find(group, "v1", plural).unwrap()
}

fn metadata_errors(kind: &Kind, metadata: Value) -> Vec<String> {
    let errors = object_meta(&json!({"metadata": metadata}), kind);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn names_are_checked_by_kind() {
    let cases = [
        ("configmaps", "a.b-c", true),
        ("configmaps", "A", false),
        ("configmaps", "a_b", false),
        ("configmaps", "-a", false),
        ("configmaps", "a..b", false),
        ("services", "a", true),
        ("services", "1a", false),
        ("services", "a.b", false),
    ];
    for (plural, name, is_valid) in cases {
        let errors = metadata_errors(kind("", plural), json!({"name": name, "namespace": "n"}));
        assert_eq!(errors.is_empty(), is_valid, "{plural} {name}: {errors:?}");
    }
    let namespaces = kind("", "namespaces");
    assert!(metadata_errors(namespaces, json!({"name": "a"})).is_empty());
    assert!(!metadata_errors(namespaces, json!({"name": "a.b"})).is_empty());
    assert!(!metadata_errors(namespaces, json!({"name": "a".repeat(64)})).is_empty());
}

#[test]
fn invalid_metadata_has_the_messages_of_the_server() {
    let maps = kind("", "configmaps");
    let cases = [
        (
            json!({"namespace": "n"}),
            "metadata.name: Required value: name or generateName is required",
        ),
        (json!({"name": "a"}), "metadata.namespace: Required value"),
        (
            json!({"name": "a", "namespace": "N"}),
            r#"metadata.namespace: Invalid value: "N": a lowercase RFC 1123 label must consist of"#,
        ),
        (
            json!({"name": "a", "namespace": "n", "generateName": "A-"}),
            r#"metadata.generateName: Invalid value: "A-": a lowercase RFC 1123 subdomain"#,
        ),
        (
            json!({"name": "a", "namespace": "n", "labels": {"a b": "c"}}),
            r#"metadata.labels: Invalid value: "a b": name part must consist of alphanumeric"#,
        ),
        (
            json!({"name": "a", "namespace": "n", "labels": {"a": "c d"}}),
            r#"metadata.labels: Invalid value: "c d": a valid label must be an empty string or"#,
        ),
        (
            json!({"name": "a", "namespace": "n", "labels": {"a": 1}}),
            "metadata.labels: Invalid value: 1: must be a string",
        ),
        (
            json!({"name": "a", "namespace": "n", "annotations": {"/a": "c"}}),
            r#"metadata.annotations: Invalid value: "/a": prefix part must be non-empty"#,
        ),
        (
            json!({"name": "a", "namespace": "n", "annotations": {"a": "x".repeat(300_000)}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            json!({"name": "a", "namespace": "n", "finalizers": ["a/b/c"]}),
            r#"metadata.finalizers[0]: Invalid value: "a/b/c": name part must consist of alphanumeric"#,
        ),
        (
            json!({"name": "a", "namespace": "n", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
            "metadata.ownerReferences[0].uid: Required value: must not be empty",
        ),
    ];
    for (metadata, expected) in cases {
        let found = metadata_errors(maps, metadata);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(expected), "{found:?} must begin with {expected}");
    }
    assert_eq!(
        metadata_errors(kind("", "nodes"), json!({"name": "a", "namespace": "n"})),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
    let good = json!({"name": "a", "namespace": "n", "generateName": "a-", "finalizers": ["x.y/z"],
        "labels": {"app.kubernetes.io/name": "R_1.x", "e": ""}, "annotations": {"X.y/Z": "any text"}});
    assert!(metadata_errors(maps, good).is_empty());
}

#[test]
fn identity_may_not_change() {
    let old = json!({"metadata": {"name": "a", "uid": "1", "finalizers": ["x/a"]}});
    assert!(object_meta_update(&old, &old).is_empty());
    let new = json!({"metadata": {"name": "a", "uid": "2", "finalizers": ["x/a", "x/b"]}});
    let errors = object_meta_update(&new, &old);
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].to_string(), r#"metadata.uid: Invalid value: "2": field is immutable"#);
}

#[test]
fn an_object_being_deleted_gets_no_new_finalizer() {
    let mut old = json!({"metadata": {"name": "a", "finalizers": ["x/a"],
        "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["x/a", "x/b"]);
    let errors = object_meta_update(&new, &old);
    assert_eq!(
        errors[0].to_string(),
        r#"metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"x/b"}"#
    );
    std::mem::swap(&mut old, &mut new);
    assert!(object_meta_update(&new, &old).is_empty(), "one may go");
}

#[test]
fn unknown_fields_of_builtin_kinds_are_found_and_dropped() {
    let set = kind("apps", "statefulsets");
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "s", "creationTimestamp": null, "labels": {"any": "x"}, "colour": "red",
            "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
        "spec": {"replicas": 1, "replica": 2, "template": {"spec": {
            "nodeSelector": {"any": "x"},
            "containers": [{"name": "a", "imag": "x", "resources": {"limits": {"cpu": "1"}}}]}}},
    });
    let expected = ["metadata.colour", "spec.replica", "spec.template.spec.containers[0].imag"];
    assert_eq!(unknown_fields(set, &object), expected);
    assert_eq!(prune_builtin(set, &mut object), expected);
    assert_eq!(unknown_fields(set, &object), [""; 0]);
    assert!(object["metadata"].get("creationTimestamp").is_none(), "null is no value");
    assert_eq!(object["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:spec": {}}));
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"],
        "1"
    );
}

#[test]
fn unknown_fields_are_found_at_every_depth_of_a_crd_schema() {
    let crds = kind("apiextensions.k8s.io", "customresourcedefinitions");
    let object = json!({"spec": {"group": "g", "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
        "type": "object", "typo": 1, "properties": {"spec": {"type": "object", "default": {"free": null},
            "x-kubernetes-validations": [{"rule": "true", "rool": 1}],
            "additionalProperties": {"type": "string", "tipe": 1}}}}}}]}});
    let root = "spec.versions[0].schema.openAPIV3Schema";
    assert_eq!(
        unknown_fields(crds, &object),
        [
            format!("{root}.properties.spec.additionalProperties.tipe"),
            format!("{root}.properties.spec.x-kubernetes-validations[0].rool"),
            format!("{root}.typo"),
        ]
    );
    let mut object = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {
        "default": null, "format": null}}}]}});
    assert_eq!(prune_builtin(crds, &mut object), [""; 0]);
    let schema = &object["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(*schema, json!({"default": null}), "only in arbitrary JSON null means something");
    let revisions = kind("apps", "controllerrevisions");
    let mut object = json!({"data": {"any": {"thing": null}}, "revision": 1});
    assert_eq!(prune_builtin(revisions, &mut object), [""; 0]);
    assert_eq!(object["data"], json!({"any": {"thing": null}}));
}

/// Returns the type errors of an object as one text.
fn type_errors(kind: &Kind, object: Value) -> String {
    let errors = wrong_types(kind, &object);
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn type_errors_name_the_value_and_the_fix() {
    let (secrets, maps) = (kind("", "secrets"), kind("", "configmaps"));
    let (sets, services) = (kind("apps", "statefulsets"), kind("", "services"));
    let string = "where a string is expected: put it in quotes";
    let cases = [
        (secrets, json!({"stringData": {"password": 12345}}),
            format!("stringData[password]: the value is a number, {string}")),
        (secrets, json!({"stringData": {"password": true}}),
            format!("stringData[password]: the value is a boolean, {string}")),
        (secrets, json!({"data": {"password": "hunter2!"}}),
            "data[password]: the value is not base64: encode it, or use a field for plain text".into()),
        (secrets, json!({"immutable": "yes"}),
            "immutable: the value is a string, where true or false is expected: write it without \
             quotes".into()),
        (maps, json!({"data": {"a": 1.5}}), format!("data[a]: 1.5 is a number, {string}")),
        (maps, json!({"data": ["a"]}),
            r#"data: ["a"] is a list, where a map is expected"#.into()),
        (maps, json!({"metadata": {"labels": {"a": 1}, "finalizers": "f"}}),
            format!("metadata.finalizers: \"f\" is a string, where a list is expected; \
                metadata.labels[a]: 1 is a number, {string}")),
        (sets, json!({"spec": {"replicas": "3"}}),
            r#"spec.replicas: "3" is a string, where an integer is expected: write it without quotes"#
                .into()),
        (sets, json!({"spec": {"replicas": 1.5}}),
            "spec.replicas: 1.5 is a number, where an integer is expected".into()),
        (sets, json!({"spec": {"replicas": 3_000_000_000_u64}}),
            "spec.replicas: 3000000000 does not fit into 32 bits: 2147483647 is the highest".into()),
        (sets, json!({"spec": {"template": {"spec": {"containers": [{"env": [{"value": 1}]}]}}}}),
            format!("spec.template.spec.containers[0].env[0].value: 1 is a number, {string}")),
        (sets, json!({"spec": {"template": {"spec": {"containers": [
            {"resources": {"requests": {"memory": "lots", "cpu": "500m"}, "limits": {"cpu": 2}}}]}}}}),
            "spec.template.spec.containers[0].resources.requests[memory]: \"lots\" is not a quantity: \
             write a number with or without a unit, such as `500m` or `2Gi`".into()),
        (services, json!({"spec": {"ports": [{"targetPort": true}]}}),
            "spec.ports[0].targetPort: true is a boolean, where an integer or a string is expected"
                .into()),
        (kind("coordination.k8s.io", "leases"), json!({"spec": {"renewTime": "now"}}),
            r#"spec.renewTime: "now" is not an RFC 3339 time: write `2026-01-02T03:04:05Z`"#
                .into()),
    ];
    for (kind, object, expected) in cases {
        assert_eq!(type_errors(kind, object.clone()), expected, "{object}");
    }
}

#[test]
fn accepted_values_have_no_type_errors() {
    let container = json!({"name": "a", "args": [null, "1"], "ports": [{"containerPort": 1}],
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 0.5}},
        "livenessProbe": {"tcpSocket": {"port": 1}}, "readinessProbe": {"tcpSocket": {"port": "p"}}});
    let crds = kind("apiextensions.k8s.io", "customresourcedefinitions");
    let schema = json!({"type": "object", "maximum": 1, "minimum": 0.5, "default": {"a": [1, "2"]},
        "properties": {"a": {"items": {"type": "string"}, "additionalProperties": true},
            "b": {"additionalProperties": {"type": "object"}, "default": 5, "enum": [1, "2", null]}}});
    let cases = [
        (kind("", "pods"), json!({"spec": {"containers": [container]}, "unknown": 1})),
        (kind("", "pods"), json!({"metadata": {"labels": null, "creationTimestamp": null}})),
        (kind("", "secrets"), json!({"data": {"a": "aHVudGVyMg=="}, "stringData": {"a": "1"}})),
        (kind("apps", "controllerrevisions"), json!({"data": {"any": [1]}, "revision": 1})),
        (crds, json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}})),
    ];
    for (kind, object) in cases {
        assert_eq!(type_errors(kind, object.clone()), "", "{object}");
    }
}

#[test]
fn only_metadata_of_custom_kinds_is_checked_and_ten_errors_are_reported() {
    let kind = Kind { kind: "Thing".to_owned(), custom: true, ..kind("", "configmaps").clone() };
    let labels = json!({"metadata": {"labels": {"a": true}}, "data": {"a": 1}});
    assert!(type_errors(&kind, labels).starts_with("metadata.labels[a]: true is a boolean"));
    let labels: Map<String, Value> =
        (0..100).map(|index| (format!("l{index:02}"), json!(index))).collect();
    assert_eq!(wrong_types(&kind, &json!({"metadata": {"labels": labels}})).len(), 10);
}

#[test]
fn a_precondition_of_a_wrong_type_is_not_absent() {
    let error_texts = |body, value: Value| {
        let errors = wrong_types_of_body(body, &value);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let string = "is a number, where a string is expected: put it in quotes";
    let cases = [
        (
            NonObjectRequestBody::DeleteOptions,
            json!({"preconditions": {"uid": 5}, "dryRun": "All"}),
            format!(
                "dryRun: \"All\" is a string, where a list is expected; preconditions.uid: 5 {string}"
            ),
        ),
        (
            NonObjectRequestBody::Eviction,
            json!({"deleteOptions": {"preconditions": {"resourceVersion": 5}}}),
            format!("deleteOptions.preconditions.resourceVersion: 5 {string}"),
        ),
        (
            NonObjectRequestBody::Binding,
            json!({"target": {"name": 5}}),
            format!("target.name: 5 {string}"),
        ),
        (
            NonObjectRequestBody::DeleteOptions,
            json!({"propagationPolicy": "Background", "dryRun": ["All"],
            "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}}),
            String::new(),
        ),
        (NonObjectRequestBody::DeleteOptions, Value::Null, String::new()),
    ];
    for (body, value, expected) in cases {
        assert_eq!(error_texts(body, value.clone()), expected, "{value}");
    }
}
