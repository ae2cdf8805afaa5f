//! The conditions that the host writes on a reconciled object, and the reasons it gives.
//!
//! They are owned by the field manager `tholepin`; a plugin that applies one of these types with one
//! of these reasons would fight the host, so the gate refuses the types listed in [`RESERVED`].
//!
//! [`READY`] is the plugin's. The host writes it only while no plugin looks at the object, and stops
//! owning it when the plugin has written it again.

use serde_json::Value;

/// The field manager under which the host writes its conditions.
pub const HOST_FIELD_MANAGER: &str = "tholepin";

/// Condition types that only the host writes.
pub const RESERVED: &[&str] = &[RECONCILED, QUARANTINED];

/// Whether the last call of the plugin for this object went through.
pub const RECONCILED: &str = "Reconciled";

/// Whether the plugin is no longer called for this object.
pub const QUARANTINED: &str = "Quarantined";

/// Whether the object does what its spec says: the plugin's condition, where the kind has it.
pub const READY: &str = "Ready";

/// Whether this condition is a [`READY`] that the host wrote because no plugin looks at the object.
#[must_use]
pub fn is_host_ready(condition: &Value) -> bool {
    let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
    let reasons =
        [Reason::PluginMissing, Reason::Quarantined, Reason::InvalidSpec, Reason::ReconcileOverdue];
    text("type") == READY
        && text("status") == ConditionStatus::Unknown.as_str()
        && reasons.iter().any(|reason| reason.as_str() == text("reason"))
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody knows.
    Unknown,
}

impl ConditionStatus {
    /// The status as the condition has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Why a condition of the host has the status it has. The whole set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The last call went well.
    Succeeded,
    /// The plugin said that the spec is invalid.
    InvalidSpec,
    /// The plugin answered with a failure.
    Failed,
    /// The plugin trapped.
    Trapped,
    /// The plugin used more time than allowed.
    TimedOut,
    /// The plugin used more memory than allowed.
    OutOfMemory,
    /// The plugin answered something that the host cannot read.
    BadOutcome,
    /// Two strikes in a row.
    TooManyStrikes,
    /// No plugin that reconciles this kind is loaded.
    PluginMissing,
    /// The plugin is no longer called for this object; [`QUARANTINED`] says why.
    Quarantined,
    /// No pass has looked at this object for two resync intervals.
    ReconcileOverdue,
}

impl Reason {
    /// The reason as conditions, events and labels show it.
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
        }
    }
}

/// One condition that the host writes on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCondition {
    /// One of [`RESERVED`], or [`READY`].
    pub condition_type: &'static str,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why.
    pub reason: Reason,
    /// One line for people, with the way out.
    pub message: String,
    /// The `metadata.generation` that it speaks of; absent for kinds that have none.
    pub observed_generation: Option<i64>,
}
