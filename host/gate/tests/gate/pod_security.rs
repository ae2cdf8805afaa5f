//! Pod specs and names of Secrets are checked by every call that writes an object.

use serde_json::{Value, json};
use tholepin_core::{CallError, KubernetesCall, ObjectRef, WriteMode};
use tholepin_schema::manifest::{GrantScope, Grants};

use crate::{GateFixture, fixture::object, grants, kind};

fn fixture(mode: WriteMode, pod_security: &[&str]) -> GateFixture {
    let mut grants = Grants {
        pod_security: pod_security.iter().map(|word| (*word).to_owned()).collect(),
        ..grants(GrantScope::Owned)
    };
    grants.kubernetes[0].name = kind("apps/v1", "StatefulSet");
    GateFixture::new(grants, mode)
}

fn template(fields: &Value) -> Value {
    let mut spec = json!({"automountServiceAccountToken": false, "containers": [{"name": "c"}]});
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"template": {"spec": spec}})
}

#[tokio::test]
async fn an_apply_and_a_patch_need_the_permissions_of_their_pods() {
    for (mode, granted) in
        [(WriteMode::Live, false), (WriteMode::Plan, false), (WriteMode::Live, true)]
    {
        let mut bench = fixture(mode, if granted { &["hostPID"] } else { &[] });
        let mut found = object("apps/v1", "StatefulSet", "set", Some("me"));
        found["spec"] = template(&json!({}));
        bench.world.put(found);
        bench.context = bench.sibling(mode);
        let (kind, namespace) = (kind("apps/v1", "StatefulSet"), "n".to_owned());
        let set = ObjectRef { kind, namespace, name: "set".to_owned() };
        let mut intent = object("apps/v1", "StatefulSet", "new", Some("me"));
        intent["metadata"].as_object_mut().unwrap().remove("uid");
        intent["spec"] = template(&json!({"hostPID": true}));
        let patch = json!({"spec": template(&json!({"hostPID": true}))});
        for call in [
            KubernetesCall::Apply { object: intent, force: false },
            KubernetesCall::MergePatch { object: set, patch },
        ] {
            let answer = bench.kubernetes(call).await;
            match &answer {
                Ok(_) => assert!(granted),
                Err(CallError::Denied(text)) => {
                    assert!(
                        !granted && text.contains("spec.grants.podSecurity needs [hostPID]"),
                        "{text}"
                    );
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(bench.writes().is_empty(), !granted, "{:?}", bench.writes());
    }
}
