//! Answers whether an object already is what an intent wants of it, so that an apply can be skipped.
//!
//! Pure. Errs towards "no": then one more apply is sent, which the server finds to change nothing.

use serde_json::Value;

/// Lists that other managers add items to, and what tells their items apart.
const SHARED_LISTS: &[(&str, &str)] = &[("conditions", "type"), ("ownerReferences", "uid")];

/// Lists of plain values that other managers add to.
const SHARED_SETS: &[&str] = &["finalizers"];

/// Whether each leaf of `intent` equals the object's.
///
/// What the object has beyond the intent does not count, except in a list: it must have the same
/// length, unless it is one of those that managers share.
pub(crate) fn holds(intent: &Value, object: &Value) -> bool {
    holds_at("", intent, object)
}

fn holds_at(field: &str, intent: &Value, object: &Value) -> bool {
    match (intent, object) {
        (Value::Object(intent), Value::Object(object)) => {
            intent.iter().all(|(key, wanted)| match object.get(key) {
                Some(found) => holds_at(key, wanted, found),
                None => wanted.is_null() || is_empty(wanted),
            })
        }
        (Value::Array(intent), Value::Array(object)) => list_holds(field, intent, object),
        (intent, object) => intent == object,
    }
}

fn list_holds(field: &str, intent: &[Value], object: &[Value]) -> bool {
    if SHARED_SETS.contains(&field) {
        return intent.iter().all(|wanted| object.contains(wanted));
    }
    let shared = SHARED_LISTS.iter().find(|(name, _)| *name == field);
    if let Some((_, key)) = shared {
        let same = |wanted: &Value, found: &&Value| wanted.get(key) == found.get(key);
        return intent.iter().all(|wanted| {
            let found = object.iter().find(|found| same(wanted, found));
            found.is_some_and(|found| holds_at("", wanted, found))
        });
    }
    intent.len() == object.len()
        && intent.iter().zip(object).all(|(wanted, found)| holds_at("", wanted, found))
}

/// An empty map or list may be left out by the server.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_intent_holds_only_if_each_of_its_leaves_does() {
        let object = json!({
            "metadata": {"name": "a", "labels": {"a": "1", "foreign": "2"},
                "finalizers": ["x", "y"]},
            "spec": {"replicas": 3, "list": [{"name": "a", "image": "i", "defaulted": true}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "True"}, {"type": "Reconciled", "status": "True"}]},
        });
        let cases = [
            (json!({}), true),
            (json!({"metadata": {"labels": {"a": "1"}}}), true),
            (json!({"metadata": {"labels": {"a": "2"}}}), false),
            (json!({"metadata": {"labels": {"b": "1"}}}), false),
            (json!({"metadata": {"annotations": {}}}), true),
            (json!({"metadata": {"annotations": null}}), true),
            (json!({"metadata": {"finalizers": ["y"]}}), true),
            (json!({"metadata": {"finalizers": ["z"]}}), false),
            (json!({"spec": {"replicas": 3}}), true),
            (json!({"spec": {"replicas": "3"}}), false),
            (json!({"spec": {"list": [{"name": "a", "image": "i"}]}}), true),
            (json!({"spec": {"list": [{"name": "a", "image": "j"}]}}), false),
            (json!({"spec": {"list": []}}), false),
            (json!({"spec": {"list": [{"name": "a"}, {"name": "b"}]}}), false),
            (json!({"status": {"conditions": [{"type": "Reconciled", "status": "True"}]}}), true),
            (json!({"status": {"conditions": [{"type": "Reconciled", "status": "False"}]}}), false),
            (json!({"status": {"conditions": [{"type": "Other"}]}}), false),
        ];
        for (intent, expected) in cases {
            assert_eq!(holds(&intent, &object), expected, "{intent}");
        }
    }
}
