//! The kind `Plugin` as the engine's parts name it.

use tholepin_core::ObjectRef;
use tholepin_schema::manifest::KindName;

/// Returns the kind of `Plugin` objects.
pub(crate) fn plugin_kind() -> KindName {
    KindName {
        api_version: format!("{}/{}", tholepin_crd::GROUP, tholepin_crd::VERSION),
        kind: "Plugin".to_owned(),
    }
}

/// Returns the reference of a `Plugin` object.
pub(crate) fn plugin_reference(name: &str) -> ObjectRef {
    ObjectRef { kind: plugin_kind(), namespace: String::new(), name: name.to_owned() }
}
