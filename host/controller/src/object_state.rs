//! What the host remembers of an object between two passes. In memory only: nothing that must survive
//! is here.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tholepin_core::{AcceptedSpec, ObjectKey, ObjectMeta, PluginName, RevisionDigest};

/// A state of an object that a revision has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedVersion {
    pub(crate) revision: RevisionDigest,
    pub(crate) uid: String,
    /// The generation, or the resource version of a kind that has none.
    pub(crate) version: String,
}

/// What a plugin accepted last of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AcceptedByPlugin {
    pub(crate) uid: String,
    pub(crate) spec: AcceptedSpec,
    /// Whether a restarted host finds it.
    pub(crate) is_stored: bool,
}

/// What is remembered of one object.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObjectState {
    /// What the last outcome kept.
    pub(crate) memo: Option<Value>,
    /// The last state for which `validate` found nothing.
    pub(crate) valid: Option<ObservedVersion>,
    /// What was accepted last: it stays in force while a later spec is refused.
    pub(crate) kept: Option<AcceptedByPlugin>,
    /// Why it is quarantined, while the object does not say so because that could not be written.
    pub(crate) untold: Option<String>,
    /// What was said last, so that only changes are logged.
    pub(crate) said: String,
    /// Whether it was found paused when it was looked at last.
    pub(crate) paused: bool,
    /// The value of the annotation that pauses it which an event has told of, as neither true nor false.
    unclear_pause: Option<String>,
    /// Whether its last pass failed, or went on with an earlier spec because this one is refused.
    pub(crate) failing: bool,
}

impl ObjectState {
    /// Notes whether the object is paused.
    pub(crate) fn note_pause(&mut self, meta: &ObjectMeta) {
        self.paused = meta.is_paused();
        if meta.unclear_pause().is_none() {
            self.unclear_pause = None;
        }
    }

    /// Notes that an event tells of this unclear value, and says whether that is news.
    pub(crate) fn is_news_of_pause(&mut self, value: &str) -> bool {
        let is_new = self.unclear_pause.as_deref() != Some(value);
        self.unclear_pause = Some(value.to_owned());
        is_new
    }
}

/// The notes of all objects; an object's note goes with it.
#[derive(Debug, Default)]
pub(crate) struct ObjectStates {
    notes: Mutex<HashMap<ObjectKey, ObjectState>>,
}

impl ObjectStates {
    /// A copy of an object's note.
    pub(crate) fn get(&self, key: &ObjectKey) -> ObjectState {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    /// Changes an object's note.
    pub(crate) fn change<T>(
        &self,
        key: &ObjectKey,
        change: impl FnOnce(&mut ObjectState) -> T,
    ) -> T {
        change(self.lock().entry(key.clone()).or_default())
    }

    /// How many objects are paused.
    pub(crate) fn paused(&self) -> usize {
        self.lock().values().filter(|note| note.paused).count()
    }

    /// How many objects of a plugin are paused.
    pub(crate) fn paused_of(&self, plugin: &PluginName) -> usize {
        let notes = self.lock();
        notes.iter().filter(|(key, note)| key.plugin == *plugin && note.paused).count()
    }

    /// How many objects of a plugin fail.
    pub(crate) fn failing(&self, plugin: &PluginName) -> usize {
        let notes = self.lock();
        notes.iter().filter(|(key, note)| key.plugin == *plugin && note.failing).count()
    }

    /// Forgets an object.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }

    /// Notes what is said of an object, and tells whether that is news.
    pub(crate) fn is_news(&self, key: &ObjectKey, said: &str) -> bool {
        self.change(key, |note| {
            let news = note.said != said;
            if news {
                said.clone_into(&mut note.said);
            }
            news
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, ObjectState>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
