//! Replaces Secret values by fingerprints when they enter the host, so that no clear value is in the store, a
//! plan, a recording or a log.
//!
//! Invariants:
//! - Equal values have equal fingerprints under one key; hosts have different keys.
//! - An intent that contains a fingerprint as a value is refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use serde_json::{Map, Value};
use sha2::Sha256;
use tholepin_core::CallError;
use tholepin_schema::manifest::KindName;

/// The prefix of every fingerprint. A colon is not in the base64 alphabet, so that no value in `data` has it.
const PREFIX: &str = "fingerprint:";

/// Makes fingerprints of Secret values with the host's own key.
#[derive(Clone)]
pub struct SecretFingerprinter(
    // Any length is valid for HMAC; the constructor asks for 32 bytes.
    [u8; 32],
);

impl SecretFingerprinter {
    /// Uses a key of 32 random bytes, which the host must keep secret.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the fingerprint of a value: `fingerprint:` and the first 32 hex digits of its HMAC-SHA256.
    #[must_use]
    pub fn of(&self, value: &[u8]) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            // Cannot happen, because HMAC takes keys of any length; the value must not be returned.
            return PREFIX.to_owned();
        };
        mac.update(value);
        let digest = mac.finalize().into_bytes();
        let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}{hex}")
    }

    /// Replaces the values of a Secret, or of an intent of one, by their fingerprints. Objects of other kinds
    /// stay unchanged. Moves `stringData` into `data`, as the API server does.
    pub(crate) fn replace_secret_values(&self, object: &mut Value) {
        if !is_secret(object) {
            return;
        }
        let Some(object) = object.as_object_mut() else { return };
        let texts = take_map(object, "stringData");
        let mut fingerprints = Map::new();
        for (key, value) in take_map(object, "data") {
            let text = value.as_str().unwrap_or_default();
            let bytes = STANDARD.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec());
            fingerprints.insert(key, self.of(&bytes).into());
        }
        for (key, value) in texts {
            let bytes = value.as_str().unwrap_or_default().as_bytes();
            fingerprints.insert(key, self.of(bytes).into());
        }
        if !fingerprints.is_empty() {
            object.insert("data".to_owned(), Value::Object(fingerprints));
        }
        // `kubectl apply` stores a copy of the applied object here, with its values.
        let annotations = object.get_mut("metadata").and_then(|meta| meta.get_mut("annotations"));
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
}

/// Returns true if the object is a Secret of the core group.
pub(crate) fn is_secret(object: &Value) -> bool {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    text("kind") == "Secret" && text("apiVersion") == "v1"
}

/// Returns true if the kind is Secret of the core group.
pub(crate) fn is_secret_kind(kind: &KindName) -> bool {
    kind.kind == "Secret" && kind.api_version == "v1"
}

/// Refuses an intent that would store a fingerprint as a value.
///
/// # Errors
///
/// Fails if a value of `data` or `stringData` is a fingerprint.
pub(crate) fn refuse_fingerprints(object: &Value) -> Result<(), CallError> {
    let maps =
        ["data", "stringData"].into_iter().filter_map(|field| object.get(field)?.as_object());
    for (key, value) in maps.flatten() {
        if value.as_str().is_some_and(|text| text.starts_with(PREFIX)) {
            return Err(CallError::Invalid(format!(
                "`{key}` holds the fingerprint of a value and not the value itself: refer to the value \
                 with `${{secret:NAME/KEY}}`"
            )));
        }
    }
    Ok(())
}

fn take_map(object: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match object.remove(key) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key() -> SecretFingerprinter {
        SecretFingerprinter::new([7; 32])
    }

    #[test]
    fn equal_values_are_equal_and_never_clear() {
        let mut stored = json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "aHVudGVyMg=="},
            "metadata": {"annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "hunter2", "kept": "1"}}});
        let mut intent =
            json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"a": "hunter2"}});
        key().replace_secret_values(&mut stored);
        key().replace_secret_values(&mut intent);
        assert_eq!(stored["data"], intent["data"]);
        assert_eq!(stored["data"]["a"], key().of(b"hunter2"));
        assert_ne!(key().of(b"hunter2"), SecretFingerprinter::new([8; 32]).of(b"hunter2"));
        assert!(!stored.to_string().contains("hunter2") && !stored.to_string().contains("aHVu"));
        assert_eq!(stored["metadata"]["annotations"]["kept"], "1");
        assert!(refuse_fingerprints(&stored).is_err());
    }

    #[test]
    fn other_kinds_stay_as_they_are() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}});
        let mut after = map.clone();
        key().replace_secret_values(&mut after);
        assert_eq!(after, map);
    }
}
