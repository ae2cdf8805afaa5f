//! The conditions that the host writes on a reconciled object, and their reasons.
//!
//! The field manager `tholepin` owns them. A plugin that applied one of these types would take it from the host and
//! lose it again, so the gate refuses the types in [`RESERVED`].
//!
//! [`READY`] is the plugin's. The host writes it only while no plugin reconciles the object, and stops owning it when
//! the plugin has written it again.

use serde_json::Value;

/// The field manager under which the host writes its conditions.
pub const HOST_FIELD_MANAGER: &str = "tholepin";

/// Condition types that only the host writes.
pub const RESERVED: &[&str] = &[RECONCILED, QUARANTINED];

/// The condition type that reports whether the last call of the plugin for this object succeeded, and its outcome is in
/// force.
pub const RECONCILED: &str = "Reconciled";

/// The condition type that reports that the plugin is no longer called for this object.
pub const QUARANTINED: &str = "Quarantined";

/// The condition type that reports whether the object is as its spec says. The plugin writes it, if the kind has it.
pub const READY: &str = "Ready";

/// Returns true if this condition is a [`READY`] that the host wrote because no plugin reconciles the object.
#[must_use]
pub fn is_host_ready(condition: &Value) -> bool {
    let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
    let reasons =
        [Reason::PluginMissing, Reason::Quarantined, Reason::InvalidSpec, Reason::ReconcileOverdue];
    text("type") == READY
        && text("status") == ConditionStatus::Unknown.as_str()
        && reasons.iter().any(|reason| reason.as_str() == text("reason"))
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known whether it holds.
    Unknown,
}

impl ConditionStatus {
    /// Returns the status as the condition shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The reasons of the host's conditions; the set is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The last call succeeded.
    Succeeded,
    /// The plugin refuses the spec.
    InvalidSpec,
    /// The plugin returned a failure.
    Failed,
    /// The plugin trapped.
    Trapped,
    /// The plugin used more time than allowed.
    TimedOut,
    /// The plugin used more memory than allowed.
    OutOfMemory,
    /// The plugin returned something that the host cannot read.
    BadOutcome,
    /// Two strikes in a row.
    TooManyStrikes,
    /// No plugin that reconciles this kind is loaded.
    PluginMissing,
    /// The plugin is no longer called for this object; the condition [`QUARANTINED`] has the cause.
    Quarantined,
    /// The object was not reconciled for two resync intervals.
    ReconcileOverdue,
    /// The last call succeeded, and triggers of its outcome do not wake the object: a grant is missing, or a bound is
    /// exceeded.
    WakeRefused,
}

impl Reason {
    /// Returns the reason as conditions, events and labels show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::InvalidSpec => "InvalidSpec",
            Self::Failed => "Failed",
            Self::Trapped => "Trapped",
            Self::TimedOut => "TimedOut",
            Self::OutOfMemory => "OutOfMemory",
            Self::BadOutcome => "BadOutcome",
            Self::TooManyStrikes => "TooManyStrikes",
            Self::PluginMissing => "PluginMissing",
            Self::Quarantined => "Quarantined",
            Self::ReconcileOverdue => "ReconcileOverdue",
            Self::WakeRefused => "WakeRefused",
        }
    }
}

/// One condition that the host writes on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostWrittenCondition {
    /// One of [`RESERVED`], or [`READY`].
    pub condition_type: &'static str,
    /// Its status.
    pub status: ConditionStatus,
    /// Its reason.
    pub reason: Reason,
    /// One line for people, with how to fix it.
    pub message: String,
    /// The `metadata.generation` that it is about; absent for kinds without generations.
    pub observed_generation: Option<i64>,
}
