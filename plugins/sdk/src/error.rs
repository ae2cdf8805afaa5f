//! Why a host call gave no reply: the WIT variant `error`, case by case.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a host call gave no reply. Decide by the case; the texts are for people.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Error {
    /// The thing named does not exist.
    NotFound(String),
    /// Somebody else changed it or owns a field of it.
    Conflict(String),
    /// The grants do not cover this; names the missing grant.
    Denied(String),
    /// A guard of the host refused; says which one and what it saw.
    Refused(String),
    /// Another holder has the instance's turn.
    Busy(String),
    /// The write is not among those that were approved.
    NeedsApproval(String),
    /// No answer in time. A write may have happened all the same.
    Timeout(String),
    /// The process asked has ended.
    Gone(String),
    /// Something more urgent has come up: return at once.
    Interrupted,
    /// Too much; this many milliseconds until more is taken.
    Throttled(u32),
    /// A passing fault.
    Transient(String),
    /// The arguments are wrong, or the answer is over 1 MiB.
    Invalid(String),
    /// This host or this server cannot do it.
    Unsupported(String),
    /// In a plan: what follows depends on a reply that only a real effect can give.
    PlanEnds(String),
    /// Anything else.
    Other(String),
}

/// What can help after an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing, until somebody changes something.
    Never,
    /// Looking at the world again and deciding anew.
    Observe,
    /// Ending the pass with a requeue.
    Later,
}

impl Error {
    /// The retry hint that the contract gives for this case.
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

    /// A stable CamelCase name, fit for a condition's reason.
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

/// A call's error as the failure of a pass: for `?` where the plugin can do nothing about it.
impl From<Error> for tholepin_schema::reconcile::ReconcileFailure {
    fn from(error: Error) -> Self {
        Self {
            reason: error.reason().to_owned(),
            message: error.to_string(),
            retry: error.retry() != Retry::Never,
        }
    }
}
