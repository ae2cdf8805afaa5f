//! The clear values of the Secrets in use, in memory, so that the host can open its own connections while the
//! API server does not answer.
//!
//! A Secret is in use once its value was requested. From then on, every state of it in a watch event or in
//! the reply to a patch is kept here before its values are replaced by fingerprints for the store.
//!
//! Invariants:
//! - No value is printed: the only `Debug` here shows counts.
//! - An older state never replaces a newer one of the same object.
//! - A Secret is dropped immediately if a watch reports it deleted, or if the server replies that it does not
//!   exist or that the host may not read it. Entries do not expire otherwise: a connection may need the value
//!   after hours.
//! - Count and bytes are bounded. The least recently used Secret of the largest namespace is evicted first, which
//!   costs one read, or the value while the API server is away. Large Secrets evict none of a smaller namespace.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tholepin_core::{ObjectMeta, ObjectRef};

use crate::{fingerprint::is_secret, lock::lock, store::is_newer, template::TemplateValues};

/// The most Secrets and bytes of values that are kept. One Secret has at most 1 MiB.
const BOUNDS: SecretCacheLimits = SecretCacheLimits { count_max: 4096, bytes_max: 8 << 20 };

#[derive(Clone, Copy)]
struct SecretCacheLimits {
    count_max: usize,
    bytes_max: usize,
}

/// The clear values of the Secrets in use.
pub(crate) struct SecretCache {
    bounds: SecretCacheLimits,
    inner: Mutex<SecretCacheState>,
}

#[derive(Default)]
struct SecretCacheState {
    kept: HashMap<ObjectRef, CachedSecret>,
    bytes: usize,
    /// The number of uses so far, by which entries are ordered for eviction.
    uses: u64,
}

struct CachedSecret {
    uid: String,
    resource_version: String,
    values: Arc<TemplateValues>,
    bytes: usize,
    used: u64,
}

impl Default for SecretCache {
    fn default() -> Self {
        Self { bounds: BOUNDS, inner: Mutex::default() }
    }
}

impl SecretCache {
    /// Stores a Secret that was read for its values, which puts it in use, and returns the values.
    pub(crate) fn insert_read(&self, secret: &Value) -> Arc<TemplateValues> {
        let values = Arc::new(decode_values(secret));
        if let Ok(meta) = ObjectMeta::of(secret) {
            let mut inner = lock(&self.inner);
            inner.insert(meta, values.clone());
            inner.shrink(self.bounds);
        }
        values
    }

    /// Stores the state of an object from a watch or a reply if it is a Secret in use; ignores other objects.
    pub(crate) fn update_if_used(&self, object: &Value) {
        if !is_secret(object) {
            return;
        }
        let Ok(meta) = ObjectMeta::of(object) else { return };
        let mut inner = lock(&self.inner);
        if let Some(used) = inner.kept.get(&meta.object).map(|kept| kept.used) {
            let secret = meta.object.clone();
            inner.insert(meta, Arc::new(decode_values(object)));
            // A change of the Secret does not count as a use.
            if let Some(kept) = inner.kept.get_mut(&secret) {
                kept.used = used;
            }
            inner.shrink(self.bounds);
        }
    }

    /// Drops a Secret that was deleted, or that the host may not read.
    pub(crate) fn forget(&self, secret: &ObjectRef) {
        lock(&self.inner).remove(secret);
    }

    /// Drops every Secret that was deleted.
    pub(crate) fn forget_deleted(&self, is_deleted: impl Fn(&ObjectRef) -> bool) {
        let mut inner = lock(&self.inner);
        let deleted: Vec<_> =
            inner.kept.keys().filter(|secret| is_deleted(secret)).cloned().collect();
        for secret in deleted {
            inner.remove(&secret);
        }
    }

    /// Returns the last known values of a Secret.
    pub(crate) fn last(&self, secret: &ObjectRef) -> Option<Arc<TemplateValues>> {
        lock(&self.inner).touch(secret).map(|kept| kept.values.clone())
    }

    /// Returns the values of a Secret if they belong to this state, or to a later one of the same object.
    pub(crate) fn for_state(&self, state: &ObjectMeta) -> Option<Arc<TemplateValues>> {
        let mut inner = lock(&self.inner);
        let kept = inner.touch(&state.object)?;
        let is_current =
            kept.uid == state.uid && !is_newer(&state.resource_version, &kept.resource_version);
        is_current.then(|| kept.values.clone())
    }
}

impl SecretCacheState {
    fn touch(&mut self, secret: &ObjectRef) -> Option<&CachedSecret> {
        let kept = self.kept.get_mut(secret)?;
        self.uses += 1;
        kept.used = self.uses;
        Some(kept)
    }

    fn insert(&mut self, meta: ObjectMeta, values: Arc<TemplateValues>) {
        let cached = self.touch(&meta.object);
        if cached.is_some_and(|cached| !is_newer(&meta.resource_version, &cached.resource_version))
        {
            return;
        }
        self.remove(&meta.object);
        self.uses += 1;
        let bytes = values.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.bytes += bytes;
        let ObjectMeta { object, uid, resource_version, .. } = meta;
        self.kept
            .insert(object, CachedSecret { uid, resource_version, values, bytes, used: self.uses });
    }

    fn remove(&mut self, secret: &ObjectRef) {
        if let Some(kept) = self.kept.remove(secret) {
            self.bytes -= kept.bytes;
        }
    }

    fn shrink(&mut self, bounds: SecretCacheLimits) {
        while bounds.count_max < self.kept.len() || bounds.bytes_max < self.bytes {
            let namespace = self.largest_namespace(bounds.bytes_max < self.bytes);
            let of_namespace = self
                .kept
                .iter()
                .filter(|(secret, _)| Some(&secret.namespace) == namespace.as_ref());
            let least = of_namespace.min_by_key(|(_, kept)| kept.used);
            let Some(secret) = least.map(|(secret, _)| secret.clone()) else { return };
            self.remove(&secret);
        }
    }
}

impl SecretCacheState {
    /// Returns the namespace with the most bytes, or with the most Secrets.
    fn largest_namespace(&self, by_bytes: bool) -> Option<String> {
        let mut sizes: HashMap<&String, usize> = HashMap::new();
        for (secret, kept) in &self.kept {
            *sizes.entry(&secret.namespace).or_default() += if by_bytes { kept.bytes } else { 1 };
        }
        let largest = sizes.into_iter().max_by_key(|(_, size)| *size);
        largest.map(|(namespace, _)| namespace.clone())
    }
}

/// Prints how many Secrets and bytes are kept, and no value.
impl fmt::Debug for SecretCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = lock(&self.inner);
        write!(f, "{} Secrets of {} bytes", inner.kept.len(), inner.bytes)
    }
}

/// Decodes the values of a Secret. Entries that are not base64 are left out.
pub(crate) fn decode_values(secret: &Value) -> TemplateValues {
    let entries = secret.get("data").and_then(Value::as_object).into_iter().flatten();
    let values = entries
        .filter_map(|(key, value)| Some((key.clone(), STANDARD.decode(value.as_str()?).ok()?)));
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(name: &str, version: &str, value: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"namespace": "s", "name": name, "uid": name, "resourceVersion": version},
            "data": {"k": STANDARD.encode(value)}})
    }

    fn meta(secret: &Value) -> ObjectMeta {
        ObjectMeta::of(secret).unwrap()
    }

    #[track_caller]
    fn check(secrets: &SecretCache, name: &str, expected: Option<&str>) {
        let last = secrets.last(&meta(&secret(name, "1", "")).object);
        let value = last.map(|values| String::from_utf8(values["k"].clone()).unwrap());
        assert_eq!(value.as_deref(), expected, "{name}");
    }

    #[test]
    fn a_secret_is_cached_from_its_first_use_and_follows_its_changes() {
        let secrets = SecretCache::default();
        secrets.update_if_used(&secret("a", "1", "one"));
        check(&secrets, "a", None);
        assert_eq!(secrets.insert_read(&secret("a", "1", "one"))["k"], b"one");
        check(&secrets, "a", Some("one"));
        for (version, value, expected) in
            [("3", "three", "three"), ("2", "late", "three"), ("3", "same", "three")]
        {
            secrets.update_if_used(&secret("a", version, value));
            check(&secrets, "a", Some(expected));
        }
        let mut map = secret("a", "9", "map");
        map["kind"] = json!("ConfigMap");
        secrets.update_if_used(&map);
        check(&secrets, "a", Some("three"));
        secrets.forget(&meta(&secret("a", "1", "")).object);
        secrets.update_if_used(&secret("a", "4", "four"));
        check(&secrets, "a", None);
    }

    #[test]
    fn values_are_returned_for_their_state_and_earlier_ones_of_the_same_object() {
        let secrets = SecretCache::default();
        secrets.insert_read(&secret("a", "5", "five"));
        let mut other = secret("a", "5", "");
        other["metadata"]["uid"] = json!("another");
        let cases = [
            (secret("a", "5", ""), true),
            (secret("a", "4", ""), true),
            (secret("a", "6", ""), false),
            (other, false),
            (secret("b", "5", ""), false),
        ];
        for (state, expected) in cases {
            assert_eq!(secrets.for_state(&meta(&state)).is_some(), expected, "{state}");
        }
    }

    #[test]
    fn the_least_recently_used_secret_is_evicted_first() {
        let bounds = SecretCacheLimits { count_max: 3, bytes_max: 20 };
        let secrets = SecretCache { bounds, ..SecretCache::default() };
        for name in ["a", "b", "c"] {
            secrets.insert_read(&secret(name, "1", "12345"));
        }
        check(&secrets, "a", Some("12345"));
        // A change does not count as a use: `b` is still the least recently used.
        secrets.update_if_used(&secret("b", "2", "1"));
        secrets.insert_read(&secret("d", "1", "12345"));
        check(&secrets, "b", None);
        secrets.insert_read(&secret("e", "1", "1234567890"));
        for (name, is_kept) in [("a", false), ("c", false), ("d", true), ("e", true)] {
            let last = secrets.last(&meta(&secret(name, "1", "")).object);
            assert_eq!(last.is_some(), is_kept, "{name}");
        }
        secrets.forget_deleted(|secret| secret.name == "d");
        assert_eq!(format!("{secrets:?}"), "1 Secrets of 11 bytes");
        secrets.insert_read(&secret("huge", "1", &"1".repeat(100)));
        assert_eq!(format!("{secrets:?}"), "0 Secrets of 0 bytes");
    }

    #[test]
    fn large_secrets_evict_those_of_their_own_namespace() {
        let bounds = SecretCacheLimits { count_max: 3, bytes_max: 20 };
        let secrets = SecretCache { bounds, ..SecretCache::default() };
        secrets.insert_read(&secret("mine", "1", "12345"));
        let elsewhere = |name: &str, value: &str| {
            let mut secret = secret(name, "1", value);
            secret["metadata"]["namespace"] = json!("greedy");
            secret
        };
        for number in 0..8 {
            secrets.insert_read(&elsewhere(&format!("large-{number}"), "1234567890"));
        }
        check(&secrets, "mine", Some("12345"));
        for number in 0..8 {
            secrets.insert_read(&elsewhere(&format!("small-{number}"), ""));
        }
        check(&secrets, "mine", Some("12345"));
    }
}
