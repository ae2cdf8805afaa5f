//! An estimate of the memory of a JSON document.
//!
//! A parsed document takes at least ten times the size of its text, because a map node has room for eleven members
//! even if it has one. The estimate follows the layout of the standard library's maps. It is precise enough for
//! limits, not for accounting.

use serde_json::Value;

/// The size of a map node: eleven names and values, and the node's own fields.
const NODE_BYTES: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 16;
/// The number of members per node if they are inserted in order.
const NODE_MEMBERS: usize = 6;
/// The overhead of the allocator for each allocation.
const PIECE_BYTES: usize = 16;

/// Returns the estimated heap memory of a document in bytes.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text_weight(text),
        Value::Array(items) => {
            let room = items.capacity() * size_of::<Value>() + PIECE_BYTES;
            room + items.iter().map(weight).sum::<usize>()
        }
        Value::Object(members) => {
            let nodes = members.len().div_ceil(NODE_MEMBERS);
            let inside = members.iter().map(|(name, value)| text_weight(name) + weight(value));
            nodes * (NODE_BYTES + PIECE_BYTES) + inside.sum::<usize>()
        }
    }
}

fn text_weight(text: &str) -> usize {
    text.len() + PIECE_BYTES
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_maps_are_counted() {
        let flat = weight(&json!({"a": "b"}));
        assert!((NODE_BYTES..NODE_BYTES + 100).contains(&flat), "{flat}");
        assert_eq!(weight(&json!({"a": {"a": "b"}})), 2 * flat - weight(&json!("b")));
        assert_eq!(weight(&json!({})), 0);
        let long = "x".repeat(5_000);
        assert!(5_000 <= weight(&json!([long])));
        let wide: Value = (0..60).map(|n| (n.to_string(), json!(null))).collect();
        assert!(10 * NODE_BYTES <= weight(&wide));
    }
}
