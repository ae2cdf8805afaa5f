//! The argument and the results of `reconcile` and `validate`.

use alloc::{boxed::Box, string::String, vec::Vec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fact::{FACTS_MAX, Fact};

/// The largest memo, in bytes of JSON.
pub const MEMO_BYTES_MAX: usize = 16 * 1024;

/// The most wake triggers of one outcome: as many of the other kinds as facts.
pub const WAKES_MAX: usize = 2 * FACTS_MAX;

/// The argument of `reconcile`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileRequest {
    /// The object as it is in the host's store, without `managedFields`.
    pub object: Value,
    /// Whether the object is being deleted and waits for this plugin's finalizer.
    #[serde(default)]
    pub deleting: bool,
    /// Why the host makes this call. Hints only: several causes can be merged, and a cause can be missing.
    #[serde(default)]
    pub causes: Vec<String>,
    /// The memo of the last outcome, if the host still has it. Safety must not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<Value>,
}

/// The result of a `reconcile` without failure; waiting for something is no failure.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReconcileOutcome {
    /// Milliseconds until the next call if nothing changes; the host's usual interval if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requeue_ms: Option<u64>,
    /// One line for people: what was done or what the plugin waits for.
    #[serde(default)]
    pub summary: String,
    /// Triggers that start the next call before the requeue; at most [`WAKES_MAX`], about at most
    /// [`INSTANCES_PER_OBJECT_MAX`](crate::instance::INSTANCES_PER_OBJECT_MAX) instances. A trigger that is not
    /// granted or exceeds a bound is left out, the earlier ones stay in force, and the reconciled object gets
    /// the condition `Reconciled=False` with the reason `WakeRefused` until an outcome has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wake: Vec<WakeTrigger>,
    /// Passed to the next call, if the host still has it; at most [`MEMO_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<Value>,
    /// With `deleting`: the cleanup is complete and the host removes the finalizer.
    #[serde(default)]
    pub finished: bool,
}

/// What starts the next call before the requeue.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum WakeTrigger {
    /// After a number of milliseconds.
    After {
        /// The wait in milliseconds.
        ms: u64,
    },
    /// When a member of this instance changes its role, epoch, slots, peers or one of the settings that every
    /// snapshot shows, or when a member disappears. Needs the grant of the verb `observe`.
    Change {
        /// The instance, as `redis/topology` takes it.
        instance: Value,
    },
    /// When this fact holds. The host checks facts about members once a second and facts about objects
    /// whenever an object changes. A fact that already holds wakes at the next check. A fact wakes once;
    /// return it again in the next outcome to keep it. A fact about a member or a view needs the grant of
    /// the verb `observe`, a fact about an object that of `get` on its kind. An outcome has at most
    /// [`FACTS_MAX`] of them.
    Fact(Box<Fact>),
}

/// A failure of `reconcile` that the plugin understood.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReconcileFailure {
    /// A stable CamelCase name, for conditions, metrics and events.
    pub reason: String,
    /// One line for people: what failed and how to fix it.
    pub message: String,
    /// Whether the same call can succeed later without a change of the object.
    #[serde(default)]
    pub retry: bool,
}

/// One problem in an object's spec, as `validate` reports it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Violation {
    /// The field, such as `.spec.shards`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}
