//! An object as the store keeps it: JSON text with parsed metadata.
//!
//! A parsed Pod takes about nine times its size on the wire, so the body is parsed only on request.
//!
//! Invariants:
//! - The text has `apiVersion` and `kind`, and no `managedFields`.
//! - The parsed metadata equals that of the text.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;
use tholepin_schema::manifest::KindName;

use crate::ObjectRef;

/// The annotation that stops the engine from writing anything for an object, unless its value is `false` in any case;
/// plans still work.
pub const PAUSED: &str = "tholepin.dev/paused";

/// The prefix of the annotations by which a person instructs the host. No plugin can write one.
pub const ANNOTATION_PREFIX: &str = "tholepin.dev/";

/// The annotation by which a person confirms that processes have ended: `NODE_ID/POD_UID`, several separated by commas
/// or spaces.
pub const CONFIRM_DEAD: &str = "tholepin.dev/confirm-dead";

/// One object of the store; clones share the text.
#[derive(Clone)]
pub struct WatchedStoreObject {
    meta: Arc<ObjectMeta>,
    text: Arc<str>,
}

/// The parsed metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The object's reference.
    pub object: ObjectRef,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`; absent for kinds that have none, such as ConfigMap.
    pub generation: Option<i64>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.finalizers`, in their order.
    pub finalizers: Vec<String>,
    /// `metadata.ownerReferences`, in their order.
    pub owners: Vec<OwnerReference>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerReference {
    /// The owner's kind.
    pub kind: KindName,
    /// The owner's name.
    pub name: String,
    /// The owner's uid.
    pub uid: String,
    /// Whether this owner controls the object.
    pub controller: bool,
}

/// A field without which a document is no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the object has no `{0}`")]
pub struct MissingObjectField(&'static str);

impl WatchedStoreObject {
    /// Creates a stored object: drops `managedFields` and kubectl's last-applied annotation, and parses the metadata.
    ///
    /// # Errors
    ///
    /// Fails if `apiVersion`, `kind` or `metadata.name` is missing.
    pub fn new(mut object: Value) -> Result<Self, MissingObjectField> {
        const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            if let Some(annotations) =
                metadata.get_mut("annotations").and_then(Value::as_object_mut)
            {
                annotations.remove(LAST_APPLIED);
            }
        }
        let meta = ObjectMeta::of(&object)?;
        // All keys are strings, so this cannot fail.
        let text = serde_json::to_string(&object).unwrap_or_default();
        Ok(Self { meta: Arc::new(meta), text: text.into() })
    }

    /// Returns the metadata.
    #[must_use]
    pub fn meta(&self) -> &Arc<ObjectMeta> {
        &self.meta
    }

    /// Returns the object as JSON text.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Parses and returns the whole object: takes about 20 µs for a Pod.
    #[must_use]
    pub fn value(&self) -> Value {
        // The text was written from a value, so it parses.
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

impl fmt::Debug for WatchedStoreObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.meta.object, self.meta.resource_version)
    }
}

impl ObjectMeta {
    /// Reads the metadata of an object.
    ///
    /// # Errors
    ///
    /// Fails if `apiVersion`, `kind` or `metadata.name` is missing.
    pub fn of(object: &Value) -> Result<Self, MissingObjectField> {
        let required = |pointer: &str, field: &'static str| match text(object, pointer) {
            "" => Err(MissingObjectField(field)),
            found => Ok(found.to_owned()),
        };
        let kind = KindName {
            api_version: required("/apiVersion", "apiVersion")?,
            kind: required("/kind", "kind")?,
        };
        Ok(Self {
            object: ObjectRef {
                kind,
                namespace: text(object, "/metadata/namespace").to_owned(),
                name: required("/metadata/name", "metadata.name")?,
            },
            uid: text(object, "/metadata/uid").to_owned(),
            resource_version: text(object, "/metadata/resourceVersion").to_owned(),
            generation: object.pointer("/metadata/generation").and_then(Value::as_i64),
            labels: map(object, "/metadata/labels"),
            annotations: map(object, "/metadata/annotations"),
            finalizers: strings(object, "/metadata/finalizers"),
            owners: items(object, "/metadata/ownerReferences").map(OwnerReference::of).collect(),
            deleting: !text(object, "/metadata/deletionTimestamp").is_empty(),
        })
    }

    /// Returns true if the annotation [`PAUSED`] stops the engine from writing for the object.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.annotations.get(PAUSED).is_some_and(|value| !value.eq_ignore_ascii_case("false"))
    }

    /// Returns the value of the annotation [`PAUSED`] if it is neither true nor false. Such an object is paused,
    /// because that is most likely what the person who wrote the value meant.
    #[must_use]
    pub fn unclear_pause(&self) -> Option<&str> {
        let value = self.annotations.get(PAUSED).filter(|_| self.is_paused())?;
        (!value.eq_ignore_ascii_case("true")).then_some(value)
    }

    /// Returns the owner that controls the object.
    #[must_use]
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owners.iter().find(|owner| owner.controller)
    }
}

impl OwnerReference {
    fn of(reference: &Value) -> Self {
        Self {
            kind: KindName {
                api_version: text(reference, "/apiVersion").to_owned(),
                kind: text(reference, "/kind").to_owned(),
            },
            name: text(reference, "/name").to_owned(),
            uid: text(reference, "/uid").to_owned(),
            controller: reference.get("controller") == Some(&Value::Bool(true)),
        }
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn strings(object: &Value, pointer: &str) -> Vec<String> {
    items(object, pointer).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn map(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let entries = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn managed_fields_and_last_applied_are_dropped() {
        let stored = WatchedStoreObject::new(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"},
            "metadata": {
                "name": "n", "namespace": "s", "uid": "u", "resourceVersion": "7",
                "managedFields": [{"manager": "m"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "b": "2"},
                "ownerReferences": [
                    {"apiVersion": "x/v1", "kind": "A", "name": "a", "uid": "ua"},
                    {"apiVersion": "x/v1", "kind": "B", "name": "b", "uid": "ub", "controller": true},
                ],
            },
        }))
        .unwrap();
        assert!(!stored.text().contains("managedFields"));
        assert!(!stored.text().contains("last-applied"));
        assert_eq!(stored.meta().controller().map(|owner| owner.uid.as_str()), Some("ub"));
        assert_eq!(stored.meta().annotations.get("b").map(String::as_str), Some("2"));
        assert_eq!(ObjectMeta::of(&stored.value()).unwrap(), **stored.meta());
    }

    #[test]
    fn any_value_but_false_pauses_and_values_other_than_true_are_unclear() {
        let cases = [
            (None, false, None),
            (Some("false"), false, None),
            (Some("False"), false, None),
            (Some("true"), true, None),
            (Some("True"), true, None),
            (Some("TRUE"), true, None),
            (Some("yes"), true, Some("yes")),
            (Some("1"), true, Some("1")),
            (Some("0"), true, Some("0")),
            (Some(""), true, Some("")),
        ];
        for (value, is_paused, unclear) in cases {
            let mut object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}});
            if let Some(value) = value {
                object["metadata"]["annotations"] = json!({PAUSED: value});
            }
            let meta = ObjectMeta::of(&object).unwrap();
            assert_eq!((meta.is_paused(), meta.unclear_pause()), (is_paused, unclear), "{value:?}");
        }
    }

    #[test]
    fn a_document_without_a_name_is_refused() {
        let refused =
            WatchedStoreObject::new(json!({"apiVersion": "v1", "kind": "Pod"})).unwrap_err();
        assert_eq!(refused.to_string(), "the object has no `metadata.name`");
    }
}
