use std::sync::Arc;

use serde_json::json;
use tholepin_core::{ReconcileKey, WriteMode};
use tholepin_schema::manifest::{Grants, KindName};
use tokio_util::sync::CancellationToken;

use super::*;

/// Where a kind has its Pod spec: group and version, kind, and the path.
const PLACES: &[(&str, &str, &str)] = &[
    ("v1", "Pod", "/spec"),
    ("v1", "PodTemplate", "/template/spec"),
    ("v1", "ReplicationController", "/spec/template/spec"),
    ("apps/v1", "DaemonSet", "/spec/template/spec"),
    ("apps/v1", "Deployment", "/spec/template/spec"),
    ("apps/v1", "ReplicaSet", "/spec/template/spec"),
    ("apps/v1", "StatefulSet", "/spec/template/spec"),
    ("apps/v1", "ControllerRevision", "/data/spec/template/spec"),
    ("batch/v1", "Job", "/spec/template/spec"),
    ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template/spec"),
    ("x.example/v1", "Fleet", "/spec/podTemplate/spec"),
    ("x.example/v1", "Overlay", "/spec"),
    ("x.example/v1", "Bare", ""),
];

/// The scope of a reconcile of a `Thing` that names the Secret `named` in a declared field, and the text
/// `unnamed` in another.
fn scope(grants: Grants) -> ReconcileScope {
    let kind = KindName { api_version: "tests.tholepin.dev/v1".into(), kind: "Thing".into() };
    let key = ReconcileKey {
        plugin: "p".parse().unwrap(),
        kind,
        namespace: "n".into(),
        name: "me".into(),
    };
    ReconcileScope {
        key: Arc::new(key),
        object: Arc::new(json!({"metadata": {"uid": "uid-me"},
            "spec": {"secret": "named", "text": "unnamed", "many": [{"name": "third"}]}})),
        grants: Arc::new(grants),
        secret_fields: Arc::new(vec![".spec.secret".into(), ".spec.many.name".into()]),
        parameters: Arc::new(json!({})),
        mode: WriteMode::Live,
        urgent: CancellationToken::new(),
        calls_max: 1,
        writes_max: 1,
        bytes_max: 1 << 30,
    }
}

fn granting(words: &[&str]) -> ReconcileScope {
    let pod_security = words.iter().map(|word| (*word).to_owned()).collect();
    scope(Grants { pod_security, ..Grants::default() })
}

fn reference((api_version, kind): (&str, &str)) -> ObjectRef {
    let kind = KindName { api_version: api_version.into(), kind: kind.into() };
    ObjectRef { kind, namespace: "n".into(), name: "x".into() }
}

/// The smallest Pod spec that needs no grant, with these fields.
fn pod_spec(fields: &Value) -> Value {
    let mut spec = json!({"automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": false}}]});
    merge(&mut spec, fields);
    spec
}

/// Puts a value at a pointer below an empty object.
fn within(pointer: &str, value: &Value) -> Value {
    pointer
        .rsplit('/')
        .filter(|step| !step.is_empty())
        .fold(value.clone(), |inner, step| json!({step: inner}))
}

/// Returns the refusal of an apply that creates a StatefulSet with these fields in its Pod spec.
fn refusal(scope: &ReconcileScope, fields: &Value) -> Option<String> {
    let intent = within("/spec/template/spec", &pod_spec(fields));
    text(check_apply(scope, &reference(("apps/v1", "StatefulSet")), &intent, None))
}

fn text(result: Result<(), CallError>) -> Option<String> {
    result.err().map(|error| {
        let CallError::Denied(text) = error else { panic!("{error:?}") };
        text
    })
}

fn container(fields: &Value) -> Value {
    let mut container = json!({"name": "c", "image": "i"});
    merge(&mut container, fields);
    json!({"containers": [container]})
}

/// The smallest fields that need a permission. Without a wildcard: a permission that is added must get a row.
fn needing(permission: PodPermission) -> Vec<Value> {
    let security = |fields: Value| container(&json!({"securityContext": fields}));
    match permission {
        PodPermission::Capabilities => {
            vec![security(json!({"capabilities": {"add": ["SYS_ADMIN"]}}))]
        }
        PodPermission::HostIpc => vec![json!({"hostIPC": true})],
        PodPermission::HostNetwork => {
            vec![json!({"hostNetwork": true}), json!({"hostNetwork": "true"})]
        }
        PodPermission::HostPath => {
            vec![json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})]
        }
        PodPermission::HostPid => vec![json!({"hostPID": true})],
        PodPermission::HostPorts => {
            vec![container(&json!({"ports": [{"containerPort": 1, "hostPort": 22}]}))]
        }
        PodPermission::NodeName => vec![json!({"nodeName": "control-plane"})],
        PodPermission::Privileged => vec![
            security(json!({"privileged": true})),
            security(json!({"allowPrivilegeEscalation": true})),
            security(json!({"procMount": "Unmasked"})),
            security(json!({"windowsOptions": {"hostProcess": true}})),
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            json!({"initContainers": [{"name": "i", "securityContext": {"privileged": true}}]}),
            json!({"ephemeralContainers": [{"name": "e", "securityContext": {"privileged": true}}]}),
        ],
        PodPermission::ServiceAccount => vec![
            json!({"serviceAccountName": "admin"}),
            json!({"serviceAccount": "admin"}),
            json!({"automountServiceAccountToken": true}),
            json!({"automountServiceAccountToken": null}),
            json!({"automountServiceAccountToken": "false"}),
            json!({"volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}]}}]}),
        ],
    }
}

#[test]
fn each_permission_is_refused_without_its_word_and_given_by_it_alone() {
    for permission in PodPermission::ALL {
        let others: Vec<&str> = PodPermission::ALL
            .iter()
            .filter(|other| *other != permission)
            .map(|other| other.as_str())
            .collect();
        for fields in needing(*permission) {
            let refused = refusal(&granting(&others), &fields).unwrap_or_default();
            let remedy = format!("spec.grants.podSecurity needs [{permission}]");
            assert!(refused.contains(&remedy), "{fields}: {refused}");
            assert_eq!(refusal(&granting(&[permission.as_str()]), &fields), None, "{fields}");
        }
    }
}

#[test]
fn what_a_pod_has_anyway_needs_no_grant() {
    let security = |fields: Value| container(&json!({"securityContext": fields}));
    let rows = [
        json!({}),
        json!({"hostNetwork": false, "hostPID": null, "hostUsers": true, "nodeName": ""}),
        json!({"serviceAccountName": "default"}),
        json!({"nodeSelector": {"secret-zone": "unnamed"}}),
        container(&json!({"env": [{"name": "SECRET", "value": "unnamed"}]})),
        container(&json!({"ports": [{"containerPort": 1, "hostPort": 0}]})),
        security(json!({"capabilities": {"drop": ["ALL"], "add": []}, "procMount": "Default"})),
        json!({"volumes": [{"name": "secret", "configMap": {"name": "unnamed"}}]}),
    ];
    for fields in rows {
        assert_eq!(refusal(&granting(&[]), &fields), None, "{fields}");
    }
}

/// The fields by which a Pod spec names the Secret `name`.
fn naming(name: &str) -> Vec<Value> {
    let volume = |source: Value| {
        let mut volume = json!({"name": "v"});
        merge(&mut volume, &source);
        json!({"volumes": [volume]})
    };
    vec![
        volume(json!({"secret": {"secretName": name}})),
        volume(
            json!({"projected": {"sources": [{"configMap": {"name": "m"}}, {"secret": {"name": name}}]}}),
        ),
        volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": name}}})),
        volume(json!({"csi": {"driver": "d", "volumeAttributes": {"secretName": name}}})),
        volume(json!({"flexVolume": {"driver": "d", "secretRef": {"name": name}}})),
        volume(json!({"cephfs": {"monitors": [], "secretRef": {"name": name}}})),
        volume(json!({"rbd": {"monitors": [], "image": "i", "secretRef": {"name": name}}})),
        volume(json!({"iscsi": {"iqn": "q", "secretRef": {"name": name}}})),
        volume(json!({"azureFile": {"secretName": name, "shareName": "s"}})),
        volume(json!({"scaleIO": {"gateway": "g", "secretRef": {"name": name}}})),
        volume(json!({"storageos": {"secretRef": {"name": name}}})),
        json!({"imagePullSecrets": [{"name": name}]}),
        container(
            &json!({"env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]}),
        ),
        container(&json!({"envFrom": [{"secretRef": {"name": name}}]})),
        json!({"initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": name}}]}]}),
        json!({"ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": name}}]}]}),
    ]
}

#[test]
fn a_pod_uses_only_secrets_that_are_declared_granted_or_its_own() {
    let granted = |entry: &str| scope(Grants { secrets: vec![entry.into()], ..Grants::default() });
    // grants, Secret, the words of the refusal
    let rows = [
        (granting(&[]), "named", None),
        (granting(&[]), "third", None),
        (granting(&[]), "tholepin-credentials-thing-uid-me", None),
        (granting(&[]), "tholepin-credentials-thing-uid-them", Some("reserved for the host")),
        // Its name is a text of the spec, but not in a field that the manifest declares.
        (granting(&[]), "unnamed", Some("spec.grants.secrets needs [unnamed]")),
        (granted("unnamed"), "unnamed", None),
        (granted("n/unnamed"), "unnamed", None),
        (granted("other/unnamed"), "unnamed", Some("spec.grants.secrets needs [unnamed]")),
    ];
    for (scope, name, expected) in rows {
        for fields in naming(name) {
            let refused = refusal(&scope, &fields);
            match expected {
                None => assert_eq!(refused, None, "{fields}"),
                Some(words) => assert!(refused.unwrap_or_default().contains(words), "{fields}"),
            }
        }
    }
}

#[test]
fn in_another_namespace_the_names_of_the_spec_do_not_count() {
    let intent = pod_spec(&json!({"imagePullSecrets": [{"name": "named"}]}));
    let pod = ObjectRef { namespace: "other".into(), ..reference(("v1", "Pod")) };
    let check =
        |scope: &ReconcileScope| text(check_apply(scope, &pod, &within("/spec", &intent), None));
    let refused = check(&granting(&[])).unwrap_or_default();
    assert!(refused.contains("spec.grants.secrets needs [other/named]"), "{refused}");
    let granted = Grants { secrets: vec!["other/named".into()], ..Grants::default() };
    assert_eq!(check(&scope(granted)), None);
}

#[test]
fn the_pod_spec_of_every_kind_is_found() {
    for (api_version, kind, pointer) in PLACES {
        let object = reference((api_version, kind));
        let check = |fields: &Value| {
            let intent = within(pointer, &pod_spec(fields));
            text(check_apply(&granting(&[]), &object, &intent, None))
        };
        assert_eq!(check(&json!({})), None, "{kind}");
        for fields in [json!({"hostPID": true}), json!({"automountServiceAccountToken": null})] {
            assert!(check(&fields).is_some(), "{kind} {fields}");
        }
        assert!(check(&json!({"imagePullSecrets": [{"name": "unnamed"}]})).is_some(), "{kind}");
        // Without its containers, which another write may have put there.
        let found = within(pointer, &pod_spec(&json!({})));
        let partial =
            within(pointer, &json!({"automountServiceAccountToken": false, "hostPID": true}));
        let refused = text(check_apply(&granting(&[]), &object, &partial, Some(&found)));
        assert!(refused.unwrap_or_default().contains("[hostPID]"), "{kind}");
        if pointer.contains("emplate/") && *kind != "Fleet" {
            let partial = within(pointer, &json!({"hostPID": true}));
            assert!(check_apply(&granting(&[]), &object, &partial, None).is_err(), "{kind}");
        }
    }
}

#[test]
fn an_apply_does_not_remove_the_field_about_the_token() {
    let found = within("/spec/template/spec", &pod_spec(&json!({})));
    let check = |kind: (&str, &str), scope: &ReconcileScope, found: &Value| {
        text(check_apply(scope, &reference(kind), &json!({"spec": {"replicas": 3}}), Some(found)))
    };
    let set = ("apps/v1", "StatefulSet");
    let refused = check(set, &granting(&[]), &found).unwrap_or_default();
    assert!(
        refused.contains("would remove `.spec.template.spec.automountServiceAccountToken: false`"),
        "{refused}"
    );
    assert_eq!(check(set, &granting(&["serviceAccount"]), &found), None);
    assert_eq!(check(set, &granting(&[]), &json!({"spec": {"replicas": 1}})), None);
    let (pod, label) =
        (within("/spec", &pod_spec(&json!({}))), within("/metadata/labels/a", &json!("b")));
    assert!(check_apply(&granting(&[]), &reference(("v1", "Pod")), &label, Some(&pod)).is_ok());
}

#[test]
fn a_patch_of_a_pod_spec_is_checked_with_what_the_pod_has() {
    let set = reference(("apps/v1", "StatefulSet"));
    let host = within("/spec/template/spec", &pod_spec(&json!({"hostPID": true})));
    let plain = within("/spec/template/spec", &pod_spec(&json!({})));
    let image = json!({"containers": [{"name": "c", "image": "mine"}]});
    let of_spec = |fields: &Value| within("/spec/template/spec", fields);
    let annotation =
        json!({"spec": {"template": {"metadata": {"annotations": {"restarted": "1"}}}}});
    // found, patch, whether it is refused
    let rows = [
        (&host, json!({"spec": {"replicas": 3}}), false),
        (&host, annotation, false),
        (&host, of_spec(&image), true),
        (&host, of_spec(&json!({"hostPID": null})), false),
        (&plain, of_spec(&image), false),
        (&plain, of_spec(&json!({"hostPID": true})), true),
        (&plain, of_spec(&json!({"automountServiceAccountToken": null})), true),
        (&plain, of_spec(&json!({"imagePullSecrets": [{"name": "unnamed"}]})), true),
        (&plain, of_spec(&json!({"imagePullSecrets": [{"name": "named"}]})), false),
    ];
    for (found, patch, is_refused) in rows {
        let result = text(check_patch(&granting(&[]), &set, found, &patch));
        assert_eq!(result.is_some(), is_refused, "{patch}: {result:?}");
    }
}

#[test]
fn a_template_of_something_else_is_no_pod_template() {
    let machine = json!({"spec": {"template": {"spec": {"providerID": "x"}}}});
    let object = reference(("x.example/v1", "MachineSet"));
    assert_eq!(text(check_apply(&granting(&[]), &object, &machine, None)), None);
    let claims = json!({"spec": {"volumeClaimTemplates": [{"spec": {"storageClassName": "s"}}]}});
    let object = reference(("apps/v1", "StatefulSet"));
    assert_eq!(text(check_apply(&granting(&[]), &object, &claims, None)), None);
}

#[test]
fn no_write_gets_around_the_names_of_secrets() {
    let own = ("tests.tholepin.dev/v1", "Thing");
    let secret = ("v1", "Secret");
    // kind, written, the words of the refusal
    let rows = [
        (secret, json!({"stringData": {"k": "${secret:named/k}"}}), None),
        (secret, json!({"stringData": {"k": "${secret:unnamed/k}"}}), Some("[unnamed]")),
        (secret, json!({"data": {"k": "${secret:unnamed/k}"}}), Some("[unnamed]")),
        (secret, json!({"x": [{"y": "a${secret:named/k}${secret:unnamed/k}"}]}), Some("[unnamed]")),
        (secret, json!({"stringData": {"k": "${secret:tholepin-x/k}"}}), Some("reserved")),
        (secret, json!({"type": "kubernetes.io/service-account-token"}), Some("[serviceAccount]")),
        (
            secret,
            json!({"metadata": {"annotations": {"kubernetes.io/service-account.name": "admin"}}}),
            Some("[serviceAccount]"),
        ),
        (
            ("x.example/v1", "SecretClass"),
            json!({"spec": {"template": {"stringData": {"k": "${secret:unnamed/k}"}}}}),
            Some("[unnamed]"),
        ),
        (("v1", "ConfigMap"), json!({"data": {"k": "${secret:unnamed/k}"}}), None),
        (
            ("v1", "ServiceAccount"),
            json!({"imagePullSecrets": [{"name": "unnamed"}]}),
            Some("[unnamed]"),
        ),
        // The next reconcile would believe that a person named it.
        (own, json!({"spec": {"secret": "unnamed"}}), Some("[unnamed]")),
        (own, json!({"spec": {"many": [{"name": "unnamed"}]}}), Some("[unnamed]")),
        (own, json!({"spec": {"secret": "named", "text": "other"}}), None),
    ];
    for (kind, written, expected) in rows {
        let (scope, object) = (granting(&[]), reference(kind));
        let applied = text(check_apply(&scope, &object, &written, None));
        let patched = text(check_patch(&scope, &object, &json!({}), &written));
        for refused in [applied, patched] {
            match expected {
                None => assert_eq!(refused, None, "{written}"),
                Some(words) => {
                    assert!(refused.unwrap_or_default().contains(words), "{written}");
                }
            }
        }
    }
}
