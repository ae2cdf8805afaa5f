//! The safety policy of an object is its owner's word: no plugin writes it, whatever it is granted.

use serde_json::{Value, json};
use tholepin_core::{CallError, KubernetesCall, ObjectRef, WriteMode};
use tholepin_schema::manifest::{GrantScope, Grants, KubernetesGrant, SafetyPaths};

use crate::{GateFixture, grants, kind};

#[tokio::test]
async fn a_plugin_does_not_write_the_policy_of_its_kind() {
    let thing = kind("tests.tholepin.dev/v1", "Thing");
    let mut granted = Grants {
        safety: SafetyPaths { data_loss: Some(".spec.keep.loss".into()), tail_loss: None },
        ..grants(GrantScope::Owned)
    };
    granted.kubernetes.push(KubernetesGrant {
        name: thing.clone(),
        verbs: ["get", "apply", "merge-patch"].map(str::to_owned).to_vec(),
        scope: GrantScope::Namespace,
        force: true,
    });
    let bench = GateFixture::new(granted, WriteMode::Live);
    let object = ObjectRef { kind: thing, namespace: "n".into(), name: "me".into() };
    let patched = async |patch: Value| {
        let call = KubernetesCall::MergePatch { object: object.clone(), patch };
        bench.kubernetes(call).await
    };
    let applied = async |spec: Value| {
        let object = json!({"apiVersion": "tests.tholepin.dev/v1", "kind": "Thing",
            "metadata": {"name": "me", "namespace": "n"}, "spec": spec});
        bench.kubernetes(KubernetesCall::Apply { object, force: true }).await
    };
    let lossy = json!({"keep": {"loss": "acceptable"}});
    let answers = [
        patched(json!({"spec": lossy})).await,
        patched(json!({"spec": {"keep": null}})).await,
        patched(json!({"spec": null})).await,
        applied(lossy).await,
    ];
    for answer in answers {
        let Err(CallError::Denied(text)) = answer else { panic!("{answer:?}") };
        assert!(text.starts_with("`.spec.keep.loss` of Thing n/me is its safety policy"), "{text}");
    }
    assert!(patched(json!({"spec": {"keep": {"other": 1}}})).await.is_ok());
    assert!(applied(json!({"other": 1})).await.is_ok());
}
