//! Keys and objects for the unit tests of this crate.

use tholepin_core::ReconcileKey;
use tholepin_schema::manifest::KindName;

pub(crate) fn kind(name: &str) -> KindName {
    KindName { api_version: "test.dev/v1".to_owned(), kind: name.to_owned() }
}

pub(crate) fn key(plugin: &str, name: &str) -> ReconcileKey {
    ReconcileKey {
        plugin: plugin.parse().unwrap(),
        kind: kind("Thing"),
        namespace: "space".to_owned(),
        name: name.to_owned(),
    }
}
