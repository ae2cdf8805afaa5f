//! Reduces an object to the fields that a plugin requested.

use serde_json::{Map, Value};

/// Always kept, because they identify an object.
const IDENTITY: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Returns a copy of `object` with its identity and the fields at `paths` (`.spec`, `.status.phase`); without
/// paths the whole object. A path that does not exist adds nothing.
pub(crate) fn keep(object: &Value, paths: &[String]) -> Value {
    if paths.is_empty() {
        return object.clone();
    }
    let mut kept = Value::Object(Map::new());
    for name in IDENTITY {
        copy(object, &mut kept, &[name]);
    }
    for path in paths {
        let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
        copy(object, &mut kept, &steps);
    }
    kept
}

/// Returns the value at a path such as `.spec.failover.onPodDeath`.
pub(crate) fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|step| !step.is_empty()).try_fold(object, |value, step| value.get(step))
}

/// Returns true if a write of these fields (an apply or a merge patch) changes the value at a path, or replaces
/// one of the objects above it.
pub(crate) fn is_written(written: &Value, path: &str) -> bool {
    let mut steps = path.split('.').filter(|step| !step.is_empty());
    let end = steps.try_fold(written, |value, step| match value {
        Value::Object(fields) => fields.get(step).ok_or(false),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(true)
        }
    });
    end.map_or_else(|is_replaced| is_replaced, |_| true)
}

/// Returns the texts at a path. A list on the way or at the end stands for each of its items.
pub(crate) fn texts<'a>(object: &'a Value, path: &str) -> Vec<&'a str> {
    fn collect<'a>(value: &'a Value, steps: &[&str], found: &mut Vec<&'a str>) {
        match (value, steps) {
            (Value::Array(items), _) => items.iter().for_each(|item| collect(item, steps, found)),
            (Value::String(text), []) => found.push(text),
            (Value::Object(fields), [step, rest @ ..]) => {
                if let Some(next) = fields.get(*step) {
                    collect(next, rest, found);
                }
            }
            _ => {}
        }
    }
    let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
    let mut found = Vec::new();
    collect(object, &steps, &mut found);
    found
}

fn copy(from: &Value, to: &mut Value, steps: &[&str]) {
    let Some((step, rest)) = steps.split_first() else { return };
    let (Some(source), Some(target)) = (from.get(step), to.as_object_mut()) else { return };
    if rest.is_empty() {
        target.insert((*step).to_owned(), source.clone());
    } else if source.is_object() {
        let next = target.entry(*step).or_insert_with(|| Value::Object(Map::new()));
        copy(source, next, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_written_by_itself_or_with_an_object_above_it() {
        for written in
            [json!({"spec": {"a": {"b": null}}}), json!({"spec": {"a": 1}}), json!({"spec": null})]
        {
            assert!(is_written(&written, ".spec.a.b"), "{written}");
        }
        for written in
            [json!({"spec": {"a": {"c": 1}}}), json!({"spec": {}}), json!({"status": {}})]
        {
            assert!(!is_written(&written, ".spec.a.b"), "{written}");
        }
    }

    #[test]
    fn keeps_identity_and_the_requested_fields() {
        let object = json!({
            "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running", "x": 1}
        });
        let kept = keep(&object, &[".status.phase".to_owned(), ".spec.absent".to_owned()]);
        assert_eq!(
            kept,
            json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {},
                "status": {"phase": "Running"}})
        );
        assert_eq!(keep(&object, &[]), object);
        assert_eq!(at(&object, ".spec.nodeName"), Some(&json!("n")));
        assert_eq!(at(&object, ".spec.nodeName.deeper"), None);
    }

    #[test]
    fn a_path_to_texts_continues_into_each_item_of_a_list() {
        let object =
            json!({"spec": {"a": "x", "b": [{"n": "y"}, {"n": ["z"]}, 1], "c": {"d": "w"}}});
        for (path, expected) in [
            (".spec.a", vec!["x"]),
            (".spec.b.n", vec!["y", "z"]),
            (".spec.c", vec![]),
            (".spec.a.b", vec![]),
            (".spec", vec![]),
        ] {
            assert_eq!(texts(&object, path), expected, "{path}");
        }
    }
}
