//! What the host answers to a call, as values.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::RespReply;

/// The result of a call.
pub type Answer = Result<Reply, CallError>;

/// What a call that went well returned.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// A document.
    Document(Value),
    /// Several documents.
    Documents(Vec<Value>),
    /// One result per action of an `act`.
    Results(Vec<Result<Value, CallError>>),
    /// A number: a time in milliseconds since 1970.
    Number(u64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// The replies of a pipeline, one per command.
    Replies(Vec<RespReply>),
    /// One result per pipeline of a fan-out.
    FanOut(Vec<Result<Vec<RespReply>, CallError>>),
}

/// Why a call gave no reply. Mirrors the WIT variant `error` case by case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum CallError {
    /// The thing named does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// Somebody else changed or owns it; observe again before repeating.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The plugin's grants do not cover this; the text names the missing grant.
    #[error("denied: {0}")]
    Denied(String),
    /// A guard refused; the text says which and what it saw.
    #[error("refused: {0}")]
    Refused(String),
    /// Another holder has the instance's turn.
    #[error("busy: {0}")]
    Busy(String),
    /// The write is not among those approved.
    #[error("needs approval: {0}")]
    NeedsApproval(String),
    /// No answer in time. A write may have happened all the same.
    #[error("timed out: {0}")]
    Timeout(String),
    /// The process asked has ended.
    #[error("gone: {0}")]
    Gone(String),
    /// Something more urgent has come up; end the pass.
    #[error("interrupted")]
    Interrupted,
    /// Too much; try again after this many milliseconds.
    #[error("throttled for {0} ms")]
    Throttled(u32),
    /// A passing fault; repeating can help.
    #[error("transient: {0}")]
    Transient(String),
    /// The arguments are wrong; repeating cannot help.
    #[error("invalid: {0}")]
    Invalid(String),
    /// This host or this server cannot do it.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The plan ends here: what follows depends on an answer that only a real effect can give.
    #[error("plan ends: {0}")]
    PlanEnds(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl CallError {
    /// Whether the same call can go well later although nobody mends anything.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Conflict(_)
            | Self::Busy(_)
            | Self::Timeout(_)
            | Self::Gone(_)
            | Self::Interrupted
            | Self::Throttled(_)
            | Self::Transient(_) => true,
            Self::NotFound(_)
            | Self::Denied(_)
            | Self::Refused(_)
            | Self::NeedsApproval(_)
            | Self::Invalid(_)
            | Self::Unsupported(_)
            | Self::PlanEnds(_)
            | Self::Other(_) => false,
        }
    }

    /// A stable name for labels and events: few values, no data in them.
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

    /// Whether what was asked may have happened all the same.
    #[must_use]
    pub const fn may_have_run(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Gone(_) => true,
            Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Denied(_)
            | Self::Refused(_)
            | Self::Busy(_)
            | Self::NeedsApproval(_)
            | Self::Interrupted
            | Self::Throttled(_)
            | Self::Transient(_)
            | Self::Invalid(_)
            | Self::Unsupported(_)
            | Self::PlanEnds(_)
            | Self::Other(_) => false,
        }
    }
}
