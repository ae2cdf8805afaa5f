//! What goes into `reconcile` and what comes out.

use alloc::{boxed::Box, string::String, vec::Vec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fact::Fact;

/// The longest memo in bytes of JSON.
pub const MEMO_BYTES_MAX: usize = 16 * 1024;

/// The argument of `reconcile`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileRequest {
    /// The object as the store has it, without `managedFields`.
    pub object: Value,
    /// Whether the object waits for this plugin's finalizer.
    #[serde(default)]
    pub deleting: bool,
    /// Why this call happens. Hints only: causes can be merged and can be missing.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What the last outcome kept, if the host still has it. No safety may rest on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<Value>,
}

/// The result of `reconcile` when it went well, waiting included.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReconcileOutcome {
    /// Milliseconds until the next call, change or no change; absent for the host's usual interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requeue_ms: Option<u64>,
    /// One line for people: what was done or what is waited for.
    #[serde(default)]
    pub summary: String,
    /// Facts that bring the object back before the requeue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wake: Vec<WakeTrigger>,
    /// Handed to the next call, if the host still has it; at most [`MEMO_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<Value>,
    /// With `deleting`: everything is cleaned up, the finalizer may go.
    #[serde(default)]
    pub finished: bool,
}

/// What brings an object back before its requeue.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WakeTrigger {
    /// After this many milliseconds.
    After {
        /// The wait in milliseconds.
        ms: u64,
    },
    /// When a member of this instance changes its role, epoch, slots, peers or one of the settings that every
    /// snapshot shows, or goes away.
    Change {
        /// The instance, as `redis/topology` takes it.
        instance: Value,
    },
    /// When this holds. Looked at once a second, at once when an object changes; an outcome has at most
    /// [`FACTS_MAX`](crate::fact::FACTS_MAX) of them. It wakes once: the outcome after that says whether
    /// it is wanted again. One that holds already wakes at the next look.
    Fact(Box<Fact>),
}

/// The result of `reconcile` when it failed in a way that the plugin understood.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileFailure {
    /// A stable CamelCase name, for conditions, metrics and events.
    pub reason: String,
    /// One line for people, with the way out.
    pub message: String,
    /// Whether trying again without a change can help.
    #[serde(default)]
    pub retry: bool,
}

/// One thing that is wrong with an object's spec, as `validate` reports it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Violation {
    /// The field, such as `.spec.shards`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}
