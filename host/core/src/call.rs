//! The calls of a plugin to the host, as values.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct as _};
use serde_json::Value;
use tholepin_schema::{manifest::KindName, probe::PodPortProbe};

/// One host call of a plugin.
///
/// Serialises as `{"interface": …, "function": …, "arguments": …}`, the names being those of the
/// WIT, so that a saved call can be read beside the contract. Arguments are in alphabetical order, as are the
/// fields of a document: a replay that has a call as a document computes the same digest of it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "interface", rename_all = "kebab-case")]
pub enum Call {
    /// `tholepin:kubernetes`.
    Kubernetes(KubernetesCall),
    /// `tholepin:redis`.
    Redis(RedisCall),
    /// `tholepin:runtime`.
    Runtime(PluginRuntimeCall),
}

/// A reference to an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Its kind.
    #[serde(flatten)]
    pub kind: KindName,
    /// Its namespace; empty for a cluster-scoped object.
    #[serde(default)]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Serialize for ObjectRef {
    /// Writes the fields in alphabetical order. Their order in the type is that in which references are sorted.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ObjectRef", 4)?;
        fields.serialize_field("apiVersion", &self.kind.api_version)?;
        fields.serialize_field("kind", &self.kind.kind)?;
        fields.serialize_field("name", &self.name)?;
        fields.serialize_field("namespace", &self.namespace)?;
        fields.end()
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        write!(f, "{} {namespace}/{name}", kind.kind)
    }
}

/// The source of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// The store: one revision per reconcile, plus the reconcile's own writes.
    #[default]
    Cached,
    /// The API server.
    Live,
}

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum EventType {
    /// Something ordinary.
    Normal,
    /// Something that may need attention.
    Warning,
}

/// A call of `tholepin:kubernetes`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "function", content = "arguments", rename_all = "kebab-case")]
pub enum KubernetesCall {
    /// Reads one object.
    #[serde(rename_all = "camelCase")]
    Get {
        /// Field paths to keep (`.spec`, `.status.phase`); everything if empty. Identity
        /// (`apiVersion`, `kind`, `metadata`) is always kept.
        #[serde(default)]
        fields: Vec<String>,
        /// The object.
        object: ObjectRef,
        /// The source.
        #[serde(default)]
        read: ReadMode,
    },
    /// Reads the objects of a kind in one namespace.
    #[serde(rename_all = "camelCase")]
    List {
        /// Field paths to keep; everything if empty.
        #[serde(default)]
        fields: Vec<String>,
        /// The kind.
        kind: KindName,
        /// The namespace; empty for all, or for a cluster-scoped kind.
        #[serde(default)]
        namespace: String,
        /// The source.
        #[serde(default)]
        read: ReadMode,
        /// A label selector as kubectl writes it; empty for all.
        #[serde(default)]
        selector: String,
    },
    /// Server-side apply of an object under the plugin's own field manager.
    #[serde(rename_all = "camelCase")]
    Apply {
        /// Whether to take fields from other managers; needs a grant.
        #[serde(default)]
        force: bool,
        /// The intent: an object with the fields that the plugin will own.
        object: Value,
    },
    /// Server-side apply of the status subresource under the plugin's own field manager.
    ApplyStatus {
        /// `apiVersion`, `kind`, `metadata.namespace`, `metadata.name` and `status`.
        object: Value,
    },
    /// Sends a JSON merge patch (RFC 7386).
    MergePatch {
        /// The object.
        object: ObjectRef,
        /// The patch.
        patch: Value,
    },
    /// Deletes one object.
    #[serde(rename_all = "camelCase")]
    Delete {
        /// Seconds until a Pod is killed; its own grace period if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_seconds: Option<u32>,
        /// The object.
        object: ObjectRef,
        /// Deletes only this resource version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resource_version: Option<String>,
        /// Deletes only an object with this uid.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
    },
    /// Publishes an event about the reconciled object. Repeats of one event are merged.
    #[serde(rename_all = "camelCase")]
    Publish {
        /// The type.
        event_type: EventType,
        /// One line for people.
        message: String,
        /// A stable CamelCase name.
        reason: String,
    },
    /// Reads the warning events about one object.
    Warnings {
        /// The object.
        object: ObjectRef,
    },
}

/// A call of `tholepin:redis`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "function", content = "arguments", rename_all = "kebab-case")]
pub enum RedisCall {
    /// Sends commands to one member, in order, on one connection.
    Pipeline(Pipeline),
    /// Sends several pipelines concurrently; one result per pipeline, in order.
    FanOut {
        /// The pipelines.
        pipelines: Vec<Pipeline>,
    },
    /// Reads every member of an instance concurrently.
    Observe {
        /// The instance (`tholepin_schema::instance::Instance`).
        instance: Value,
    },
    /// Performs actions under guards.
    Act {
        /// The actions (`tholepin_schema::action::Action`), in waves by `after`.
        actions: Vec<Value>,
        /// The instance.
        instance: Value,
    },
}

/// Commands for one member of an instance.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    /// The commands with their arguments: any bytes.
    pub commands: Vec<Vec<Vec<u8>>>,
    /// How long the whole pipeline may take, at most 5000 ms.
    pub deadline_ms: u32,
    /// The instance.
    pub instance: Value,
    /// The member, by the name of its Pod.
    pub pod: String,
}

/// A call of `tholepin:runtime`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "function", content = "arguments", rename_all = "kebab-case")]
pub enum PluginRuntimeCall {
    /// The wall clock in milliseconds since 1970.
    Now,
    /// Returns random bytes.
    Random {
        /// How many; at most 1024.
        bytes: u32,
    },
    /// The plugin's parameters, as its `Plugin` object gives them.
    Parameters,
    /// Waits until facts hold.
    Wait {
        /// The facts (`tholepin_schema::fact::Fact`).
        facts: Vec<Value>,
        /// The longest wait in milliseconds.
        ms: u32,
    },
    /// Probes a port of a Pod.
    Probe(PodPortProbe),
    /// Writes a line to the log.
    Log {
        /// `trace`, `debug`, `info`, `warn` or `error`.
        level: String,
        /// The line.
        message: String,
    },
}

impl Call {
    /// Returns the call as JSON without white space. Equal calls have equal texts: fields are in the order of their
    /// type.
    #[must_use]
    pub fn to_json(&self) -> String {
        // `Value` sorts its keys: the workspace does not enable `preserve_order`, which a test checks.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns true if the call can change anything outside the host.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        match self {
            Self::Kubernetes(call) => match call {
                KubernetesCall::Get { .. }
                | KubernetesCall::List { .. }
                | KubernetesCall::Warnings { .. } => false,
                KubernetesCall::Apply { .. }
                | KubernetesCall::ApplyStatus { .. }
                | KubernetesCall::MergePatch { .. }
                | KubernetesCall::Delete { .. }
                | KubernetesCall::Publish { .. } => true,
            },
            Self::Redis(call) => match call {
                RedisCall::Observe { .. } => false,
                // The command table (`tholepin_schema::command`) tells reads from writes; here every command
                // counts as a write.
                RedisCall::Act { .. } | RedisCall::Pipeline(_) | RedisCall::FanOut { .. } => true,
            },
            Self::Runtime(_) => false,
        }
    }

    /// Returns the WIT function, such as `kubernetes/apply`: from a closed set, usable as a label.
    #[must_use]
    pub const fn function(&self) -> &'static str {
        match self {
            Self::Kubernetes(call) => match call {
                KubernetesCall::Get { .. } => "kubernetes/get",
                KubernetesCall::List { .. } => "kubernetes/list",
                KubernetesCall::Apply { .. } => "kubernetes/apply",
                KubernetesCall::ApplyStatus { .. } => "kubernetes/apply-status",
                KubernetesCall::MergePatch { .. } => "kubernetes/merge-patch",
                KubernetesCall::Delete { .. } => "kubernetes/delete",
                KubernetesCall::Publish { .. } => "kubernetes/publish",
                KubernetesCall::Warnings { .. } => "kubernetes/warnings",
            },
            Self::Redis(call) => match call {
                RedisCall::Pipeline(_) => "redis/pipeline",
                RedisCall::FanOut { .. } => "redis/fan-out",
                RedisCall::Observe { .. } => "redis/observe",
                RedisCall::Act { .. } => "redis/act",
            },
            Self::Runtime(call) => match call {
                PluginRuntimeCall::Now => "runtime/now",
                PluginRuntimeCall::Random { .. } => "runtime/random",
                PluginRuntimeCall::Parameters => "runtime/parameters",
                PluginRuntimeCall::Wait { .. } => "runtime/wait",
                PluginRuntimeCall::Probe(_) => "runtime/probe",
                PluginRuntimeCall::Log { .. } => "runtime/log",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_calls_have_equal_keys_whatever_the_order_of_their_fields() {
        let one = json!({"metadata": {"name": "a"}, "data": {"x": "1", "b": "2"}});
        let other: Value =
            serde_json::from_str(r#"{"data":{"b":"2","x":"1"},"metadata":{"name":"a"}}"#).unwrap();
        let call = |object| Call::Kubernetes(KubernetesCall::Apply { object, force: false });
        assert_eq!(call(one).to_json(), call(other).to_json());
    }

    #[test]
    fn a_call_is_named_as_in_the_contract() {
        let call = Call::Redis(RedisCall::Observe { instance: json!({"port": 6379}) });
        assert_eq!(
            call.to_json(),
            r#"{"interface":"redis","function":"observe","arguments":{"instance":{"port":6379}}}"#
        );
        let back: Call = serde_json::from_str(&call.to_json()).unwrap();
        assert_eq!(back, call);
    }

    #[test]
    fn the_arguments_are_in_the_order_of_a_document() {
        let kind = || KindName { api_version: "v1".into(), kind: "K".into() };
        let object = || ObjectRef { kind: kind(), namespace: "n".into(), name: "x".into() };
        let (read, fields) = (ReadMode::Live, vec![".a".to_owned()]);
        let pipeline = || Pipeline {
            commands: vec![vec![b"GET".to_vec()]],
            deadline_ms: 1,
            instance: json!({"port": 1}),
            pod: "p".into(),
        };
        let kubernetes = [
            KubernetesCall::Get { fields: fields.clone(), object: object(), read },
            KubernetesCall::List {
                fields,
                kind: kind(),
                namespace: "n".into(),
                read,
                selector: "a=b".into(),
            },
            KubernetesCall::Apply { force: true, object: json!({"b": 1, "a": 2}) },
            KubernetesCall::ApplyStatus { object: json!({}) },
            KubernetesCall::MergePatch { object: object(), patch: json!({}) },
            KubernetesCall::Delete {
                grace_seconds: Some(1),
                object: object(),
                resource_version: Some("1".into()),
                uid: Some("u".into()),
            },
            KubernetesCall::Publish {
                event_type: EventType::Normal,
                message: "m".into(),
                reason: "R".into(),
            },
            KubernetesCall::Warnings { object: object() },
        ];
        let redis = [
            RedisCall::Pipeline(pipeline()),
            RedisCall::FanOut { pipelines: vec![pipeline()] },
            RedisCall::Observe { instance: json!({}) },
            RedisCall::Act { actions: vec![json!({})], instance: json!({}) },
        ];
        let probe =
            PodPortProbe { deadline_ms: 1, get: Some("/".into()), pod: "p".into(), port: 1 };
        let runtime = [
            PluginRuntimeCall::Random { bytes: 1 },
            PluginRuntimeCall::Wait { facts: vec![json!({})], ms: 1 },
            PluginRuntimeCall::Probe(probe),
            PluginRuntimeCall::Log { level: "info".into(), message: "m".into() },
        ];
        let calls = kubernetes.map(Call::Kubernetes).into_iter();
        let calls = calls.chain(redis.map(Call::Redis)).chain(runtime.map(Call::Runtime));
        for call in calls {
            let text = call.to_json();
            let (_, arguments) = text.split_once(r#""arguments":"#).unwrap();
            let arguments = arguments.strip_suffix('}').unwrap();
            let document: Value = serde_json::from_str(arguments).unwrap();
            assert_eq!(document.to_string(), arguments, "{}", call.function());
        }
    }
}
