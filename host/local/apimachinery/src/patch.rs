//! Merge patches (RFC 7386) and JSON patches (RFC 6902).
//!
//! The functions change the JSON only; the caller then applies defaults, validates and records field ownership.
//! Strategic merge patches are not supported: the server answers them with 415.
//!
//! Invariant: a JSON patch is applied whole or not at all.

use json_patch::{Patch, PatchErrorKind, PatchOperation};
use serde_json::{Map, Value};

/// The most operations in one JSON patch, as in the real server.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// The most bytes of JSON that the `copy` operations of one patch may copy together, as in the real server. The
/// limit is needed because each `copy` can double the object.
pub const JSON_PATCH_COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The deepest level at which merge patches are merged; a deeper value replaces the target's.
const MERGE_DEPTH_MAX: usize = 128;

/// The error of a JSON patch. The object is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum JsonPatchError {
    /// The body is not a JSON patch: HTTP 400.
    #[error("the body is not a JSON patch (a list of operations with `op` and `path`)")]
    Malformed(#[source] serde_json::Error),
    /// The patch has too many operations: HTTP 413.
    #[error("the JSON patch has {count} operations, {max} are allowed", max = JSON_PATCH_OPERATIONS_MAX)]
    TooMany {
        /// Operations in the patch.
        count: usize,
    },
    /// The `copy` operations copy too many bytes: HTTP 413.
    #[error(
        "the copy operations of the JSON patch copy more than {max} bytes",
        max = JSON_PATCH_COPIED_BYTES_MAX
    )]
    CopiesTooMuch,
    /// A `test` operation found another value: HTTP 422.
    #[error("the test operation {index} on `{path}` failed")]
    TestFailed {
        /// Position of the operation, from 0.
        index: usize,
        /// Its JSON pointer.
        path: String,
        /// Why the test failed.
        source: PatchErrorKind,
    },
    /// An operation cannot be applied, for example because its path does not exist: HTTP 422.
    #[error("operation {index} cannot be applied at `{path}`")]
    NotApplicable {
        /// Position of the operation, from 0.
        index: usize,
        /// Its JSON pointer.
        path: String,
        /// Why it cannot be applied.
        source: PatchErrorKind,
    },
}

impl JsonPatchError {
    /// Returns the HTTP code that the real server uses for this error.
    pub const fn code(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TooMany { .. } | Self::CopiesTooMuch => 413,
            Self::TestFailed { .. } | Self::NotApplicable { .. } => 422,
        }
    }
}

/// Merges `patch` into `target`: objects member by member; `null` removes a member; any other value replaces it.
///
/// Source: RFC 7386, section 2.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    merge_at_depth(target, patch, 0);
}

fn merge_at_depth(target: &mut Value, patch: &Value, depth: usize) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if depth == MERGE_DEPTH_MAX {
        *target = patch.clone();
        return;
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            merge_at_depth(members.entry(name.clone()).or_insert(Value::Null), change, depth + 1);
        }
    }
}

/// Applies the JSON patch `patch` (its JSON text, parsed) to `target`.
///
/// As in the real server, a `test` for `null` succeeds if the path is missing: kube's `finalizer()` sends such a test
/// to check that the object has no finalizers yet.
///
/// # Errors
///
/// Fails if the patch is malformed, has too many operations or copies too much, or if an operation cannot be
/// applied.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), JsonPatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if JSON_PATCH_OPERATIONS_MAX < count {
        return Err(JsonPatchError::TooMany { count });
    }
    let Patch(operations) =
        serde_json::from_value(patch.clone()).map_err(JsonPatchError::Malformed)?;
    let mut patched = target.clone();
    let mut copied_bytes = 0;
    for (index, operation) in operations.into_iter().enumerate() {
        if let PatchOperation::Copy(copy) = &operation {
            let source = patched.pointer(copy.from.as_str());
            copied_bytes += source.map_or(0, |source| source.to_string().len());
            if JSON_PATCH_COPIED_BYTES_MAX < copied_bytes {
                return Err(JsonPatchError::CopiesTooMuch);
            }
        }
        apply_operation(&mut patched, index, operation)?;
    }
    *target = patched;
    Ok(())
}

fn apply_operation(
    target: &mut Value,
    index: usize,
    operation: PatchOperation,
) -> Result<(), JsonPatchError> {
    let path = operation.path().to_string();
    let is_test = if let PatchOperation::Test(test) = &operation {
        if test.value.is_null() && target.pointer(&path).is_none() {
            return Ok(());
        }
        true
    } else {
        false
    };
    json_patch::patch_unsafe(target, &[operation]).map_err(|error| {
        let source = error.kind;
        if is_test {
            JsonPatchError::TestFailed { index, path, source }
        } else {
            JsonPatchError::NotApplicable { index, path, source }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_patch_passes_the_cases_of_the_rfc() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, expected) in cases {
            let before = target.to_string();
            merge_patch(&mut target, &patch);
            assert_eq!(target, expected, "{before} with {patch}");
        }
    }

    #[test]
    fn a_test_for_null_succeeds_if_the_path_is_missing() {
        let mut object = json!({"metadata": {}});
        let patch = json!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["a/b"]},
        ]);
        json_patch(&mut object, &patch).unwrap();
        assert_eq!(object, json!({"metadata": {"finalizers": ["a/b"]}}));
        let error = json_patch(&mut object, &patch).unwrap_err();
        assert!(matches!(error, JsonPatchError::TestFailed { index: 0, .. }), "{error}");
        assert_eq!(error.code(), 422);
    }

    #[test]
    fn a_failing_patch_changes_nothing() {
        let mut object = json!({"a": 1});
        let patch = json!([
            {"op": "add", "path": "/b", "value": 2},
            {"op": "remove", "path": "/nowhere"},
        ]);
        let error = json_patch(&mut object, &patch).unwrap_err();
        assert!(matches!(error, JsonPatchError::NotApplicable { index: 1, .. }), "{error}");
        assert_eq!(object, json!({"a": 1}));
    }

    #[test]
    fn a_malformed_patch_is_refused() {
        for body in [json!({}), json!([{"op": "frobnicate", "path": "/a"}]), json!(null)] {
            let error = json_patch(&mut json!({}), &body).unwrap_err();
            assert_eq!(error.code(), 400, "{body}");
        }
        let long = Value::Array(vec![json!({}); JSON_PATCH_OPERATIONS_MAX + 1]);
        assert_eq!(json_patch(&mut json!({}), &long).unwrap_err().code(), 413);
    }
    #[test]
    fn copied_bytes_are_limited() {
        let mut object = json!({"a": "x".repeat(1000)});
        let copy = |index: usize| json!({"op": "copy", "from": "", "path": format!("/c{index}")});
        let patch = Value::Array((0..64).map(copy).collect());
        let error = json_patch(&mut object, &patch).unwrap_err();
        assert!(matches!(error, JsonPatchError::CopiesTooMuch), "{error}");
        json_patch(&mut object, &json!([copy(0), copy(1)])).unwrap();
        assert_eq!(object["c1"]["c0"]["a"], object["a"]);
    }
}
