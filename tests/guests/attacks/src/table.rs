//! The attacks, as data.

/// One call that the host must refuse.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// The name, by which an object's `spec.attack` picks it.
    pub name: &'static str,
    /// The rule that refuses it.
    pub rule: &'static str,
    /// The call as JSON. `{{uid}}` stands for the uid of the reconciled object `a`.
    pub call: &'static str,
    /// How the host's answer begins, and a text that it contains.
    pub error: (&'static str, &'static str),
}

/// The rule about what a plugin creates.
const INTENT: &str = "an intent is in the object's namespace and names it as its only owner";
/// The rule about what exists.
const EXISTING: &str = "what exists is judged by what the API server has";
/// The rule about the host's own objects.
const RESERVED: &str = "the host's own objects and annotations are nobody else's";
/// The rule about Redis commands.
const COMMANDS: &str = "a command that the table does not allow is not sent, whatever the grant";

/// The rule about Pod specs.
const PODS: &str = "a Pod gets of its node and of identities only what is granted by name";
/// The rule about Secrets.
const SECRETS: &str =
    "a Secret is used only if a declared field of the object names it, or the grant";

/// All attacks.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "create-in-another-namespace",
        rule: INTENT,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x",
            "namespace": "kube-system", "ownerReferences": [{"apiVersion": "tests.tholepin.dev/v1",
            "kind": "Attack", "name": "a", "uid": "{{uid}}", "controller": true}]}}}"#,
        error: ("Denied", "its namespace must be `default`"),
    },
    Attack {
        name: "create-without-an-owner",
        rule: INTENT,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x",
            "namespace": "default"}}}"#,
        error: ("Denied", "as the controller"),
    },
    Attack {
        name: "create-with-a-second-owner",
        rule: INTENT,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x",
            "namespace": "default", "ownerReferences": [
            {"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a", "uid": "{{uid}}",
             "controller": true},
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "theirs", "uid": "{{theirs}}"}]}}}"#,
        error: ("Denied", "no other owner"),
    },
    Attack {
        name: "create-for-another-owner",
        rule: INTENT,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x",
            "namespace": "default", "ownerReferences": [{"apiVersion": "v1", "kind": "Node",
            "name": "node-1", "uid": "0"}]}, "spec": {"ports": [{"port": 80}]}}}"#,
        error: ("Denied", "no other owner"),
    },
    Attack {
        name: "claim-what-another-made",
        rule: EXISTING,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs",
            "namespace": "default", "ownerReferences": [{"apiVersion": "tests.tholepin.dev/v1",
            "kind": "Attack", "name": "a", "uid": "{{uid}}", "controller": true}]}}}"#,
        error: ("Denied", "does not belong to"),
    },
    Attack {
        name: "status-of-another-object",
        rule: EXISTING,
        call: r#"{"applyStatus": {"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "metadata":
            {"name": "b", "namespace": "default", "ownerReferences": [{"apiVersion":
            "tests.tholepin.dev/v1", "kind": "Attack", "name": "a", "uid": "{{uid}}",
            "controller": true}]}, "status": {"ready": true}}}"#,
        error: ("Denied", "does not belong to"),
    },
    Attack {
        name: "patch-what-another-made",
        rule: EXISTING,
        call: r#"{"patch": {"apiVersion": "v1", "kind": "ConfigMap", "name": "theirs", "patch":
            {"data": {"k": "mine"}}}}"#,
        error: ("Denied", "does not belong to"),
    },
    Attack {
        name: "delete-what-another-made",
        rule: EXISTING,
        call: r#"{"delete": {"apiVersion": "v1", "kind": "ConfigMap", "name": "theirs"}}"#,
        error: ("Denied", "does not belong to"),
    },
    Attack {
        name: "orphan-an-own-object",
        rule: INTENT,
        call: r#"{"patch": {"apiVersion": "v1", "kind": "Pod", "name": "a-0", "patch":
            {"metadata": {"ownerReferences": []}}}}"#,
        error: ("Denied", "must not change its owner references"),
    },
    Attack {
        name: "apply-with-another-uid",
        rule: EXISTING,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine",
            "namespace": "default", "uid": "00000000-0000-0000-0000-000000000000",
            "ownerReferences": [{"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a",
            "uid": "{{uid}}", "controller": true}]}}}"#,
        error: ("Conflict", "has the uid"),
    },
    Attack {
        name: "write-the-ledger",
        rule: RESERVED,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name":
            "tholepin-ledger-attack-{{uid}}", "namespace": "default", "ownerReferences":
            [{"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a", "uid": "{{uid}}",
            "controller": true}]}, "data": {}}}"#,
        error: ("Denied", "is reserved for the host"),
    },
    Attack {
        name: "read-the-credentials",
        rule: RESERVED,
        call: r#"{"get": {"apiVersion": "v1", "kind": "Secret", "name":
            "tholepin-credentials-attack-{{uid}}"}}"#,
        error: ("Denied", "is reserved for the host"),
    },
    Attack {
        name: "confirm-a-death",
        rule: RESERVED,
        call: r#"{"patch": {"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a",
            "patch": {"metadata": {"annotations": {"tholepin.dev/confirm-dead": "x"}}}}}"#,
        error: ("Denied", "tholepin.dev/confirm-dead"),
    },
    Attack {
        name: "observe-the-members-of-another",
        rule: "the members of an instance are those of the object reconciled",
        call: r#"{"observe": {"namespace": "default", "selector": "app=b", "container": "redis",
            "port": 6379}}"#,
        error: ("NotFound", "app=b"),
    },
    Attack {
        name: "stop-the-last-copy",
        rule: "a guard follows the effect, whatever import causes it",
        call: r#"{"delete": {"apiVersion": "v1", "kind": "Pod", "name": "a-0"}}"#,
        error: ("Refused", "a-0"),
    },
    Attack {
        name: "flush-all-data",
        rule: COMMANDS,
        call: r#"{"command": ["FLUSHALL"]}"#,
        error: ("Denied", "`flushall` is not allowed"),
    },
    Attack {
        name: "run-a-script",
        rule: COMMANDS,
        call: r#"{"command": ["EVAL", "return redis.call('FLUSHALL')", "0"]}"#,
        error: ("Denied", "`eval` is not allowed"),
    },
    Attack {
        name: "leave-the-primary",
        rule: COMMANDS,
        call: r#"{"command": ["REPLICAOF", "10.0.0.1", "6379"]}"#,
        error: ("Denied", "`replicaof` is not allowed"),
    },
    Attack {
        name: "read-the-password",
        rule: COMMANDS,
        call: r#"{"command": ["CONFIG", "GET", "requirepass"]}"#,
        error: ("Denied", "requirepass"),
    },
    Attack {
        name: "read-the-password-by-an-alias",
        rule: COMMANDS,
        call: r#"{"command": ["CONFIG", "GET", "primaryauth"]}"#,
        error: ("Denied", "not in the host's table of readable settings"),
    },
    Attack {
        name: "speak-for-a-sentinel",
        rule: "a publication to Sentinels changes the topology",
        call: r#"{"command": ["PUBLISH", "__sentinel__:hello", "10.0.0.1,26379,a,1,b,10.0.0.2,6379,1"]}"#,
        error: ("Denied", "Sentinels take over the topology"),
    },
    Attack {
        name: "delete-a-key-of-a-user",
        rule: "a write of keys needs a granted pattern, or is a loss of data",
        call: r#"{"command": ["DEL", "key"]}"#,
        error: ("Denied", "no pattern of keys is granted"),
    },
    Attack {
        name: "write-the-own-safety-policy",
        rule: "the safety policy is written by a person",
        call: r#"{"patch": {"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a",
            "patch": {"spec": {"dataLoss": "acceptable"}}}}"#,
        error: ("Denied", "is its safety policy"),
    },
    Attack {
        name: "take-the-node",
        rule: PODS,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "default",
            "ownerReferences": [{"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a",
            "uid": "{{uid}}", "controller": true}]}, "spec": {"automountServiceAccountToken": false, "volumes": [{"name": "v",
            "hostPath": {"path": "/"}}], "containers": [{"name": "c", "image": "redis:7.0",
            "securityContext": {"privileged": true}}]}}}"#,
        error: ("Denied", "spec.grants.podSecurity needs [hostPath, privileged]"),
    },
    Attack {
        name: "take-an-identity",
        rule: PODS,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "default",
            "ownerReferences": [{"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a",
            "uid": "{{uid}}", "controller": true}]}, "spec": {"automountServiceAccountToken": false, "nodeName": "node-1",
            "serviceAccountName": "admin", "containers": [{"name": "c", "image": "redis:7.0"}]}}}"#,
        error: ("Denied", "spec.grants.podSecurity needs [nodeName, serviceAccount]"),
    },
    Attack {
        name: "take-a-token",
        rule: PODS,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "default",
            "ownerReferences": [{"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a",
            "uid": "{{uid}}", "controller": true}]}, "spec": {"containers": [{"name": "c", "image": "redis:7.0"}]}}}"#,
        error: ("Denied", "`automountServiceAccountToken: false` in the Pod spec"),
    },
    Attack {
        name: "use-a-secret-of-another",
        rule: SECRETS,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "default",
            "ownerReferences": [{"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a",
            "uid": "{{uid}}", "controller": true}]}, "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c",
            "image": "redis:7.0", "envFrom": [{"secretRef": {"name": "theirs"}}]}]}}}"#,
        error: ("Denied", "the Secret `theirs` may not be used"),
    },
    Attack {
        name: "copy-a-secret-of-another",
        rule: SECRETS,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "default",
            "ownerReferences": [{"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a",
            "uid": "{{uid}}", "controller": true}]}, "stringData": {"k": "${secret:theirs/k}"}}}"#,
        error: ("Denied", "the Secret `theirs` may not be used"),
    },
    Attack {
        name: "make-a-token",
        rule: PODS,
        call: r#"{"apply": {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "default",
            "ownerReferences": [{"apiVersion": "tests.tholepin.dev/v1", "kind": "Attack", "name": "a",
            "uid": "{{uid}}", "controller": true}]}, "type": "kubernetes.io/service-account-token"}}"#,
        error: ("Denied", "would contain a token"),
    },
    Attack {
        name: "patch-a-pod-onto-the-node",
        rule: PODS,
        call: r#"{"patch": {"apiVersion": "v1", "kind": "Pod", "name": "a-0", "patch":
            {"spec": {"hostPID": true}}}}"#,
        error: ("Denied", "spec.grants.podSecurity needs ["),
    },
];
