//! Remembers what each field manager applied last, so that the same intent is not sent twice.
//!
//! In memory only: after a restart the first apply of each object is sent. Bounded: what is forgotten
//! costs one apply that changes nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::changes::lock;

/// How many (manager, object) pairs are remembered; about 150 bytes each.
const REMEMBERED_MAX: usize = 65_536;

/// What an intent was applied to, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) field_manager: String,
    pub(crate) status: bool,
    pub(crate) uid: String,
}

/// The hash of an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IntentHash([u8; 32]);

impl IntentHash {
    /// Hashes an intent: equal documents have equal hashes, whatever the order of their fields.
    pub(crate) fn of(intent: &Value) -> Self {
        // `Value` prints its keys sorted, and never fails.
        Self(Sha256::digest(serde_json::to_vec(intent).unwrap_or_default()).into())
    }
}

/// The hashes applied last.
#[derive(Default)]
pub(crate) struct Applied {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    hashes: HashMap<Target, IntentHash>,
    order: VecDeque<Target>,
}

impl Applied {
    pub(crate) fn is_last(&self, target: &Target, hash: IntentHash) -> bool {
        lock(&self.inner).hashes.get(target) == Some(&hash)
    }

    /// Before a write is sent: its outcome may stay unknown.
    pub(crate) fn forget(&self, target: &Target) {
        lock(&self.inner).hashes.remove(target);
    }

    pub(crate) fn remember(&self, target: Target, hash: IntentHash) {
        let mut inner = lock(&self.inner);
        if inner.hashes.insert(target.clone(), hash).is_none() {
            inner.order.push_back(target);
        }
        while inner.order.len() > REMEMBERED_MAX {
            // A pair that was forgotten and remembered again is in the order twice; then this drops
            // it early, which costs one apply.
            if let Some(oldest) = inner.order.pop_front() {
                inner.hashes.remove(&oldest);
            }
        }
    }
}
