//! Names of kinds and objects.

use serde::{Deserialize, Serialize};
use serde_json::Value;
pub use tholepin_schema::manifest::KindName;

/// The name of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// The kind.
    #[serde(flatten)]
    pub kind: KindName,
    /// The namespace; empty for a cluster-scoped object.
    #[serde(default)]
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectRef {
    /// Returns a reference; `namespace` is empty for a cluster-scoped object.
    #[must_use]
    pub fn new(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let kind = KindName { api_version: api_version.to_owned(), kind: kind.to_owned() };
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Returns the reference to an object; `None` if `apiVersion`, `kind` or `metadata.name` is missing.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let namespace = text("/metadata/namespace").unwrap_or_default();
        Some(Self::new(text("/apiVersion")?, text("/kind")?, namespace, text("/metadata/name")?))
    }
}
