//! Remembers which objects want to hear of a change inside which instance.
//!
//! Invariants:
//! - An instance is looked at as long as at least one object wants it, and no longer.
//! - What an outcome does not repeat ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tholepin_core::{ObjectKey, port::Members};
use tholepin_schema::{instance::Instance, reconcile::Wake};
use tracing::debug;

use crate::{Gate, instance};

/// Who wants to hear of what.
#[derive(Debug, Default)]
pub(crate) struct Armed {
    by_instance: Mutex<BTreeMap<String, BTreeSet<ObjectKey>>>,
}

impl Gate {
    /// Arms the wakes of an outcome in place of those of the last one. An instance that cannot be
    /// looked at now is left out: the requeue brings the object back, and then it is tried again.
    pub async fn arm(&self, key: &ObjectKey, object: &Value, wakes: &[Wake]) {
        let mut wanted = BTreeMap::new();
        for wake in wakes {
            let Wake::Change { instance } = wake else { continue };
            match self.resolve(key, object, instance).await {
                Ok(members) => {
                    wanted.insert(members.instance.clone(), members);
                }
                Err(reason) => debug!(%key, reason, "cannot look for changes"),
            }
        }
        for (instance, members) in &wanted {
            match self.ports.redis.watch(members) {
                Ok(()) => {
                    self.armed().entry(instance.clone()).or_default().insert(key.clone());
                }
                Err(error) => debug!(%key, %error, "cannot look for changes"),
            }
        }
        self.end_wakes(key, |instance| wanted.contains_key(instance));
    }

    /// Ends the wakes of an object.
    pub fn disarm(&self, key: &ObjectKey) {
        self.end_wakes(key, |_| false);
    }

    /// The objects that want to hear of a change inside an instance.
    #[must_use]
    pub fn woken_by(&self, instance: &str) -> Vec<ObjectKey> {
        self.armed().get(instance).into_iter().flatten().cloned().collect()
    }

    async fn resolve(
        &self,
        key: &ObjectKey,
        object: &Value,
        instance: &Value,
    ) -> Result<Members, String> {
        let instance: Instance =
            serde_json::from_value(instance.clone()).map_err(|error| error.to_string())?;
        instance::members(&*self.ports.kubernetes, key, object, &instance)
            .await
            .map_err(|error| error.to_string())
    }

    fn end_wakes(&self, key: &ObjectKey, keep: impl Fn(&str) -> bool) {
        let mut armed = self.armed();
        armed.retain(|instance, keys| {
            if !keep(instance) && keys.remove(key) && keys.is_empty() {
                self.ports.redis.unwatch(instance);
            }
            !keys.is_empty()
        });
    }

    fn armed(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<ObjectKey>>> {
        self.armed.by_instance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
