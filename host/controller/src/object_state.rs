//! What the controller remembers of each object between two reconciles. In memory only: nothing here has to
//! survive a restart.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tholepin_core::{AcceptedSpec, ObjectMeta, PluginName, ReconcileKey, RevisionDigest};

/// A version of an object, for one revision of its plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReconciledVersion {
    pub(crate) revision: RevisionDigest,
    pub(crate) uid: String,
    /// The generation, or the resource version of a kind without generations.
    pub(crate) version: String,
}

/// The spec that a plugin accepted last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastAcceptedSpec {
    pub(crate) uid: String,
    pub(crate) spec: AcceptedSpec,
    /// Whether it is stored where a restarted host finds it.
    pub(crate) is_stored: bool,
}

/// What the controller remembers of one object.
#[derive(Clone, Debug, Default)]
pub(crate) struct ControllerObjectState {
    /// The memo of the last outcome, which the next request carries.
    pub(crate) memo: Option<Value>,
    /// The last version that `validate` accepted.
    pub(crate) validated: Option<ReconciledVersion>,
    /// The spec that was accepted last. It stays in force while a later spec is refused.
    pub(crate) accepted: Option<LastAcceptedSpec>,
    /// The message of a quarantine that could not be written on the object yet.
    pub(crate) unwritten_quarantine: Option<String>,
    /// The text that was logged last, so that only changes are logged.
    logged: String,
    /// Whether it was paused at its last reconcile.
    is_paused: bool,
    /// The value of the pause annotation, neither true nor false, for which an event was published.
    unclear_pause: Option<String>,
    /// Whether its last reconcile failed, or used an earlier spec because the plugin refuses this one.
    pub(crate) is_failing: bool,
}

impl ControllerObjectState {
    /// Records whether the object is paused.
    pub(crate) fn record_pause(&mut self, meta: &ObjectMeta) {
        self.is_paused = meta.is_paused();
        if meta.unclear_pause().is_none() {
            self.unclear_pause = None;
        }
    }

    /// Records an unclear value of the pause annotation. Returns true if it is another than the recorded one.
    pub(crate) fn record_unclear_pause(&mut self, value: &str) -> bool {
        let is_new = self.unclear_pause.as_deref() != Some(value);
        self.unclear_pause = Some(value.to_owned());
        is_new
    }
}

/// The states of all objects. The state of an object is dropped when it is deleted.
#[derive(Debug, Default)]
pub(crate) struct ControllerObjectStates {
    states: Mutex<HashMap<ReconcileKey, ControllerObjectState>>,
}

impl ControllerObjectStates {
    /// Returns a copy of an object's state.
    pub(crate) fn get(&self, key: &ReconcileKey) -> ControllerObjectState {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    /// Changes an object's state.
    pub(crate) fn change<T>(
        &self,
        key: &ReconcileKey,
        change: impl FnOnce(&mut ControllerObjectState) -> T,
    ) -> T {
        change(self.lock().entry(key.clone()).or_default())
    }

    /// Returns how many objects are paused.
    pub(crate) fn paused(&self) -> usize {
        self.lock().values().filter(|state| state.is_paused).count()
    }

    /// Returns how many objects of a plugin are paused.
    pub(crate) fn paused_of(&self, plugin: &PluginName) -> usize {
        let states = self.lock();
        states.iter().filter(|(key, state)| key.plugin == *plugin && state.is_paused).count()
    }

    /// Returns how many objects of a plugin fail.
    pub(crate) fn failing(&self, plugin: &PluginName) -> usize {
        let states = self.lock();
        states.iter().filter(|(key, state)| key.plugin == *plugin && state.is_failing).count()
    }

    /// Drops the state of an object.
    pub(crate) fn forget(&self, key: &ReconcileKey) {
        self.lock().remove(key);
    }

    /// Records the text that is logged for an object. Returns true if it is another than the recorded one.
    pub(crate) fn record_logged(&self, key: &ReconcileKey, text: &str) -> bool {
        self.change(key, |state| {
            let is_new = state.logged != text;
            if is_new {
                text.clone_into(&mut state.logged);
            }
            is_new
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ReconcileKey, ControllerObjectState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
