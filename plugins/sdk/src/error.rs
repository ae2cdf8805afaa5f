//! Why a host call failed: the cases of the WIT variant `error`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a host call failed. Decide by the case; the texts are for people.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Error {
    /// The object named does not exist.
    NotFound(String),
    /// Somebody else changed the object or owns a field of it.
    Conflict(String),
    /// The grants do not cover the call; the text names the missing grant.
    Denied(String),
    /// A guard of the host refused; the text names the guard and the value that it saw.
    Refused(String),
    /// Another holder uses the instance. Reserved: the host does not return it yet.
    Busy(String),
    /// The write is not among the approved ones. Reserved: the host does not return it yet.
    NeedsApproval(String),
    /// No answer in time. A write may have happened all the same.
    Timeout(String),
    /// The process asked has ended; what was sent to it may have run.
    Gone(String),
    /// The object was paused, an urgent event came while the call waited, or the host stops: return immediately.
    Interrupted,
    /// Too many calls or bytes; the value is the number of milliseconds until more are accepted.
    Throttled(u32),
    /// A temporary failure.
    Transient(String),
    /// The arguments are wrong, or the answer is larger than 1 MiB.
    Invalid(String),
    /// This host or this server does not support the call.
    Unsupported(String),
    /// In a plan (dry run): what follows depends on a reply that only the real call can give.
    PlanEnds(String),
    /// A case that this version does not name.
    Other(String),
}

/// What can help after an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The call fails until somebody changes something.
    Never,
    /// Observe again, then decide.
    Observe,
    /// End the reconcile with a requeue.
    Later,
}

impl Error {
    /// Returns the retry hint that the contract gives for this case.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Denied(_) | Self::Invalid(_) | Self::Unsupported(_) => Retry::Never,
            Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Refused(_)
            | Self::Timeout(_)
            | Self::Gone(_) => Retry::Observe,
            Self::Busy(_)
            | Self::NeedsApproval(_)
            | Self::Interrupted
            | Self::Throttled(_)
            | Self::Transient(_)
            | Self::PlanEnds(_)
            | Self::Other(_) => Retry::Later,
        }
    }

    /// Returns a stable CamelCase name, usable as a condition's reason.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "NotFound",
            Self::Conflict(_) => "Conflict",
            Self::Denied(_) => "Denied",
            Self::Refused(_) => "Refused",
            Self::Busy(_) => "Busy",
            Self::NeedsApproval(_) => "NeedsApproval",
            Self::Timeout(_) => "Timeout",
            Self::Gone(_) => "Gone",
            Self::Interrupted => "Interrupted",
            Self::Throttled(_) => "Throttled",
            Self::Transient(_) => "Transient",
            Self::Invalid(_) => "Invalid",
            Self::Unsupported(_) => "Unsupported",
            Self::PlanEnds(_) => "PlanEnds",
            Self::Other(_) => "Other",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(text) => write!(f, "{text} does not exist"),
            Self::Conflict(text) => write!(f, "conflict: {text}"),
            Self::Denied(text) => write!(f, "denied: {text}"),
            Self::Refused(text) => write!(f, "refused: {text}"),
            Self::Busy(text) => write!(f, "busy: {text}"),
            Self::NeedsApproval(text) => write!(f, "needs approval: {text}"),
            Self::Timeout(text) => write!(f, "timed out: {text}"),
            Self::Gone(text) => write!(f, "gone: {text}"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Throttled(ms) => write!(f, "throttled for {ms} ms"),
            Self::Transient(text) => write!(f, "transient: {text}"),
            Self::Invalid(text) => write!(f, "invalid: {text}"),
            Self::Unsupported(text) => write!(f, "unsupported: {text}"),
            Self::PlanEnds(text) => write!(f, "plan ends: {text}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// Ends the reconcile with a call's error: for `?` where the plugin can do nothing about it.
impl From<Error> for tholepin_schema::reconcile::ReconcileFailure {
    fn from(error: Error) -> Self {
        Self {
            reason: error.reason().to_owned(),
            message: error.to_string(),
            retry: error.retry() != Retry::Never,
        }
    }
}
