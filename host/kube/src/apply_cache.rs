//! The last apply of each field manager with the object that the server returned, so that an apply that
//! would change nothing is not sent.
//!
//! An apply is skipped if its intent equals the one applied last, and the part of the object that the apply
//! can change equals, value for value, what the server returned then. This module does not compare an intent
//! with an object: what a difference means depends on the schema of the kind (an atomic map must be equal, a
//! map of several managers need not be), on defaults and on how the server writes a quantity. The server
//! evaluated all of that for its reply. Any later change by another client, also of fields that the manager
//! does not own, costs one apply, whose reply replaces the remembered one.
//!
//! The cache is in memory only: after a restart the first apply of each object is sent. The entries of an
//! object are removed when the object is deleted. The cache is bounded: an entry that is evicted early costs
//! one apply that changes nothing.

use std::{collections::BTreeMap, sync::Mutex};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tholepin_core::ObjectMeta;

use crate::lock::lock;

/// The most entries, one per object, manager and subresource; about 150 bytes each.
const REMEMBERED_MAX: usize = 65_536;

/// The members of `metadata` that a field manager can own. The server sets the others.
const OWNABLE_METADATA: [&str; 4] = ["annotations", "finalizers", "labels", "ownerReferences"];

/// The object and the field manager of an apply. The derived order compares the uid first, so that the
/// entries of one object are adjacent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApplyCacheKey {
    pub(crate) uid: String,
    pub(crate) field_manager: String,
    pub(crate) status: bool,
}

/// The hash of an intent together with the part of the object that an apply of it can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ApplyFingerprint([u8; 32]);

impl ApplyFingerprint {
    /// Hashes an intent and an object: equal documents have equal hashes, whatever the order of their
    /// fields.
    ///
    /// An apply of the status subresource changes nothing but the status. An apply of the object does not
    /// change the status if the kind has the subresource; if it has not, the status counts only for an
    /// intent that contains one. The preconditions of an intent do not count: see [`may_skip`].
    pub(crate) fn of(intent: &Value, object: &Value, status: bool) -> Self {
        let mut text = Vec::new();
        for (name, value) in intent.as_object().into_iter().flatten() {
            let fields = value.as_object().filter(|_| name == "metadata");
            for (name, value) in fields.into_iter().flatten() {
                if !PRECONDITIONS.contains(&name.as_str()) {
                    write(&mut text, name, value);
                }
            }
            if fields.is_none() {
                write(&mut text, name, value);
            }
        }
        text.push(b'\n');
        for (name, value) in object.as_object().into_iter().flatten() {
            match name.as_str() {
                "metadata" if !status => {
                    for name in OWNABLE_METADATA {
                        write(&mut text, name, value.get(name).unwrap_or(&Value::Null));
                    }
                }
                "metadata" => {}
                "status" if status || intent.get("status").is_some() => {
                    write(&mut text, name, value);
                }
                "status" => {}
                _ if status => {}
                _ => write(&mut text, name, value),
            }
        }
        Self(Sha256::digest(text).into())
    }
}

/// The members of an intent's `metadata` that name the object that is meant and change nothing.
const PRECONDITIONS: [&str; 2] = ["resourceVersion", "uid"];

/// Appends a named document. Serialising a `Value` sorts its keys and cannot fail.
fn write(text: &mut Vec<u8>, name: &str, value: &Value) {
    serde_json::to_writer(text, &(name, value)).unwrap_or_default();
}

/// Returns true if an intent may be skipped for this state of the object: it names no uid and resource version, or
/// those of this state. An intent that names others must be sent, so that the server refuses it.
pub(crate) fn may_skip(intent: &Value, object: &ObjectMeta) -> bool {
    let found = [&object.resource_version, &object.uid];
    PRECONDITIONS.iter().zip(found).all(|(field, found)| {
        let named = intent.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
        named.is_none_or(|named| named.is_empty() || named == found)
    })
}

/// The outcomes of the last applies.
#[derive(Default)]
pub(crate) struct ApplyCache {
    outcomes: Mutex<BTreeMap<ApplyCacheKey, ApplyFingerprint>>,
}

impl ApplyCache {
    /// Returns true if the last apply had this outcome.
    pub(crate) fn is_last_outcome(
        &self,
        target: &ApplyCacheKey,
        outcome: ApplyFingerprint,
    ) -> bool {
        lock(&self.outcomes).get(target) == Some(&outcome)
    }

    /// Removes the entry of a target. Called before an apply is sent, because its outcome may stay unknown.
    pub(crate) fn forget(&self, target: &ApplyCacheKey) {
        lock(&self.outcomes).remove(target);
    }

    /// Removes all entries of an object that was deleted.
    pub(crate) fn forget_object(&self, uid: &str) {
        let mut outcomes = lock(&self.outcomes);
        let first =
            ApplyCacheKey { uid: uid.to_owned(), field_manager: String::new(), status: false };
        let targets = outcomes.range(first..).map(|(target, _)| target);
        let own_targets: Vec<_> = targets.take_while(|target| target.uid == uid).cloned().collect();
        for target in own_targets {
            outcomes.remove(&target);
        }
    }

    /// Stores the outcome of an apply that the server accepted.
    pub(crate) fn remember(&self, target: ApplyCacheKey, outcome: ApplyFingerprint) {
        let mut outcomes = lock(&self.outcomes);
        outcomes.insert(target, outcome);
        while REMEMBERED_MAX < outcomes.len() {
            // Uids are random, so this evicts an arbitrary object. With more objects than entries, most
            // entries still hit; evicting the oldest would miss for every object in a cyclic resync.
            outcomes.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "generation": 1,
                "labels": {"app": "a"}, "finalizers": ["x"]},
            "spec": {
                "selector": {"app": "a"}, "clusterIP": "10.0.0.1",
                "ports": [{"port": 80, "protocol": "TCP"}],
                "template": {"containers": [{"name": "a", "cpu": "1", "env": [{"name": "e"}]}]},
            },
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    /// Returns true if an apply is skipped after this member of the reply got another value; `null` removes
    /// the member.
    #[track_caller]
    fn is_skipped(status: bool, pointer: &str, value: &Value) -> bool {
        let intent = json!({"spec": {"selector": {"app": "a"}, "cpu": "1000m"}});
        let before = reply();
        let mut after = reply();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = after.pointer_mut(parent).unwrap();
        match (parent, value) {
            (Value::Object(members), Value::Null) => assert!(members.remove(name).is_some()),
            (Value::Object(members), value) => {
                members.insert(name.to_owned(), value.clone());
            }
            (Value::Array(items), value) => items.push(value.clone()),
            (other, _) => panic!("{other} has no members"),
        }
        ApplyFingerprint::of(&intent, &before, status)
            == ApplyFingerprint::of(&intent, &after, status)
    }

    #[test]
    fn an_apply_is_skipped_only_if_the_part_that_it_can_change_is_as_replied() {
        let cases = [
            // An atomic map, a map of several managers, and a value that the server sets.
            ("/spec/selector/typo", json!("1"), false),
            ("/spec/selector/app", json!("b"), false),
            ("/spec/selector", Value::Null, false),
            ("/metadata/labels/foreign", json!("1"), false),
            ("/metadata/annotations", json!({"foreign": "1"}), false),
            ("/spec/clusterIP", json!("10.0.0.2"), false),
            // Sets and lists, with and without keys.
            ("/metadata/finalizers/-", json!("y"), false),
            ("/metadata/ownerReferences", json!([{"uid": "o"}]), false),
            ("/spec/ports/-", json!({"port": 81, "protocol": "TCP"}), false),
            ("/spec/template/containers/-", json!({"name": "b"}), false),
            ("/spec/template/containers/0/env/-", json!({"name": "f"}), false),
            ("/spec/template/containers/0/cpu", json!("1000m"), false),
            // A member beside `spec`, as kinds without `spec` have it.
            ("/data", json!({"a": "1"}), false),
            // Members that an apply of the object cannot change.
            ("/metadata/resourceVersion", json!("8"), true),
            ("/metadata/generation", json!(2), true),
            ("/metadata/deletionTimestamp", json!("2026-01-02T03:04:05Z"), true),
            ("/status/conditions/-", json!({"type": "Other"}), true),
            ("/status", Value::Null, true),
        ];
        for (pointer, value, expected) in cases {
            assert_eq!(is_skipped(false, pointer, &value), expected, "{pointer} {value}");
            let is_status = pointer.starts_with("/status");
            assert_eq!(is_skipped(true, pointer, &value), !is_status, "status: {pointer} {value}");
        }
    }

    #[test]
    fn a_status_counts_for_an_intent_that_contains_one() {
        let intent = json!({"status": {"phase": "Up"}});
        let (before, after) = (json!({"status": {"phase": "Up"}}), json!({"status": {}}));
        for status in [false, true] {
            let outcome = |object| ApplyFingerprint::of(&intent, object, status);
            assert_ne!(outcome(&before), outcome(&after), "{status}");
        }
    }

    #[test]
    fn another_intent_is_another_outcome_and_the_order_of_fields_does_not_matter() {
        let outcome = |intent: &str| {
            let intent = serde_json::from_str(intent).unwrap();
            ApplyFingerprint::of(&intent, &reply(), false)
        };
        assert_eq!(outcome(r#"{"a": 1, "b": 2}"#), outcome(r#"{"b": 2, "a": 1}"#));
        for other in [r#"{"a": 1}"#, r#"{"a": 1, "b": 3}"#, r#"{"a": 1, "b": 2, "c": null}"#] {
            assert_ne!(outcome(r#"{"a": 1, "b": 2}"#), outcome(other), "{other}");
        }
    }

    #[test]
    fn the_entries_of_an_object_are_removed_with_it() {
        let cache = ApplyCache::default();
        let outcome = ApplyFingerprint::of(&json!({}), &reply(), false);
        let target = |uid: &str, manager: &str, status| ApplyCacheKey {
            uid: uid.to_owned(),
            field_manager: manager.to_owned(),
            status,
        };
        let own_targets =
            [target("b", "m", false), target("b", "m", true), target("b", "n", false)];
        let other_targets =
            [target("a", "m", true), target("bb", "m", false), target("c", "", false)];
        for target in own_targets.iter().chain(&other_targets) {
            cache.remember(target.clone(), outcome);
            assert!(cache.is_last_outcome(target, outcome));
        }
        cache.forget_object("b");
        assert!(own_targets.iter().all(|target| !cache.is_last_outcome(target, outcome)));
        assert!(other_targets.iter().all(|target| cache.is_last_outcome(target, outcome)));
        cache.forget(&other_targets[0]);
        assert!(!cache.is_last_outcome(&other_targets[0], outcome));
    }

    #[test]
    fn an_intent_with_preconditions_is_skipped_for_the_object_that_they_name_only() {
        let meta = ObjectMeta::of(&reply()).unwrap();
        let outcome = |intent: &Value| ApplyFingerprint::of(intent, &reply(), false);
        for (version, uid, expected) in [
            (Value::Null, Value::Null, true),
            (json!(""), json!(""), true),
            (json!("7"), json!("u"), true),
            (json!("6"), json!("u"), false),
            (json!("7"), json!("v"), false),
        ] {
            let metadata = json!({"name": "a", "resourceVersion": version, "uid": uid});
            let intent = json!({"metadata": metadata, "spec": {}});
            assert_eq!(may_skip(&intent, &meta), expected, "{intent}");
            let without = json!({"metadata": {"name": "a"}, "spec": {}});
            assert_eq!(outcome(&intent), outcome(&without), "they change nothing");
        }
        let other = json!({"metadata": {"name": "a", "labels": {}}, "spec": {}});
        assert_ne!(outcome(&other), outcome(&json!({"metadata": {"name": "a"}, "spec": {}})));
    }
}
