//! The spec that a plugin accepted last, which stays in force while it refuses a later one.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Fields whose changes do not change the generation.
const NOT_COUNTED: [&str; 2] = ["metadata", "status"];

/// An accepted spec: all fields of an object whose changes change its generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedSpec {
    /// The `metadata.generation` that was accepted.
    pub generation: i64,
    /// The fields with `apiVersion` and `kind`, without `metadata` and `status`, as one JSON object.
    pub fields: Arc<str>,
}

impl AcceptedSpec {
    /// Returns the accepted spec of an object that was accepted as it is.
    #[must_use]
    pub fn of(object: &Value, generation: i64) -> Self {
        let fields = object.as_object().into_iter().flatten();
        let fields = fields.filter(|(name, _)| !NOT_COUNTED.contains(&name.as_str()));
        let fields: Map<String, Value> =
            fields.map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { generation, fields: Value::Object(fields).to_string().into() }
    }

    /// Returns the object with these fields in place of its own. Its metadata and its status stay, except for the
    /// generation, which becomes that of the accepted spec: a condition about the result must name the generation that
    /// was reconciled.
    ///
    /// Returns `None` if the fields are unreadable, or are of another kind or version.
    #[must_use]
    pub fn put_into(&self, object: &Value) -> Option<Value> {
        let mut fields: Map<String, Value> = serde_json::from_str(&self.fields).ok()?;
        let is_same =
            |name: &str| fields.get(name).is_some() && fields.get(name) == object.get(name);
        if !is_same("apiVersion") || !is_same("kind") {
            return None;
        }
        for name in NOT_COUNTED {
            fields.remove(name);
            let kept = object.get(name).map(|value| (name.to_owned(), value.clone()));
            fields.extend(kept);
        }
        let metadata = fields.get_mut("metadata").and_then(Value::as_object_mut)?;
        metadata.insert("generation".to_owned(), self.generation.into());
        Some(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(generation: i64, spec: &Value) -> Value {
        json!({"apiVersion": "a/v1", "kind": "K", "spec": spec, "status": {"ready": generation},
            "metadata": {"name": "x", "generation": generation}})
    }

    #[test]
    fn accepted_fields_replace_all_but_metadata_and_status() {
        let accepted = AcceptedSpec::of(&object(3, &json!({"size": 1})), 3);
        let mut newer = object(4, &json!({"size": -1}));
        newer["extra"] = json!(true);
        let in_force = accepted.put_into(&newer).unwrap();
        let mut expected = object(4, &json!({"size": 1}));
        expected["metadata"]["generation"] = json!(3);
        assert_eq!(in_force, expected);
    }

    #[test]
    fn fields_that_do_not_fit_the_object_are_not_used() {
        let newer = object(4, &json!({}));
        for fields in [
            "",
            "[]",
            "{}",
            r#"{"apiVersion": "a/v2", "kind": "K", "spec": {}}"#,
            r#"{"apiVersion": "a/v1", "kind": "Other", "spec": {}}"#,
        ] {
            let accepted = AcceptedSpec { generation: 3, fields: fields.into() };
            assert_eq!(accepted.put_into(&newer), None, "{fields}");
        }
        let forged =
            r#"{"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "y"}, "status": 1}"#;
        let accepted = AcceptedSpec { generation: 3, fields: forged.into() };
        let in_force = accepted.put_into(&newer).unwrap();
        assert_eq!(in_force["metadata"]["name"], "x");
        assert_eq!(in_force["status"], newer["status"]);
    }
}
