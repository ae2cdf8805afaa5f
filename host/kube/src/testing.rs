//! Objects for the unit tests of this crate.

use serde_json::{Value, json};
use tholepin_core::WatchedStoreObject;

pub(crate) fn object(name: &str, uid: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "space", "name": name, "uid": uid, "resourceVersion": version},
    })
}

pub(crate) fn stored(object: Value) -> WatchedStoreObject {
    WatchedStoreObject::new(object).unwrap()
}
