//! Reads the field paths of manifests: `.spec.auth.secretName`, `.spec.volumes[].name`.

use serde_json::Value;

/// Returns the strings at a path; a segment that ends in `[]` stands for every item of a list.
pub(crate) fn texts<'a>(object: &'a Value, path: &str) -> Vec<&'a str> {
    let mut found = vec![object];
    for segment in path.split('.').filter(|segment| !segment.is_empty()) {
        let (name, is_list) =
            segment.strip_suffix("[]").map_or((segment, false), |name| (name, true));
        let next = found.into_iter().filter_map(|value| value.get(name));
        found = if is_list {
            next.filter_map(Value::as_array).flatten().collect()
        } else {
            next.collect()
        };
    }
    found.into_iter().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_finds_strings() {
        let object =
            json!({"spec": {"name": "a", "list": [{"name": "b"}, {}, {"name": "c"}], "n": 1}});
        let cases: [(&str, &[&str]); 6] = [
            (".spec.name", &["a"]),
            ("spec.name", &["a"]),
            (".spec.list[].name", &["b", "c"]),
            (".spec.n", &[]),
            (".spec.missing.name", &[]),
            (".spec.name[]", &[]),
        ];
        for (path, expected) in cases {
            assert_eq!(texts(&object, path), expected, "{path}");
        }
    }
}
