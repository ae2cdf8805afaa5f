//! The conditions that the host writes on a reconciled object, and the reasons it gives.
//!
//! They are owned by the field manager `tholepin`; a plugin that applies one of these types with one
//! of these reasons would fight the host, so the gate refuses the types listed in [`RESERVED`].

/// The field manager under which the host writes its conditions.
pub const HOST_FIELD_MANAGER: &str = "tholepin";

/// Condition types that only the host writes.
pub const RESERVED: &[&str] = &[RECONCILED, QUARANTINED];

/// Whether the last call of the plugin for this object went through.
pub const RECONCILED: &str = "Reconciled";

/// Whether the plugin is no longer called for this object.
pub const QUARANTINED: &str = "Quarantined";

/// Why [`RECONCILED`] or [`QUARANTINED`] has the status it has. The whole set.
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
        }
    }
}

/// One condition that the host writes on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCondition {
    /// One of [`RESERVED`].
    pub condition_type: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// Why.
    pub reason: Reason,
    /// One line for people, with the way out.
    pub message: String,
    /// The `metadata.generation` that it speaks of; absent for kinds that have none.
    pub observed_generation: Option<i64>,
}
