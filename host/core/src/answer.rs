//! The answers of the host to calls, as values.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::RespReply;

/// The result of a call.
pub type Answer = Result<Reply, CallError>;

/// The reply of a call that succeeded.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done, without a value.
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

/// The error of a call. Mirrors the WIT variant `error` case by case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum CallError {
    /// The named object or member does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// Another writer changed or owns it; observe again before repeating the call.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The plugin's grants do not cover this; the text names the missing grant.
    #[error("denied: {0}")]
    Denied(String),
    /// A guard refused; the text names the guard and what it observed.
    #[error("refused: {0}")]
    Refused(String),
    /// Another plugin holds the instance.
    #[error("busy: {0}")]
    Busy(String),
    /// The write is not among those approved.
    #[error("needs approval: {0}")]
    NeedsApproval(String),
    /// No answer in time. A write may have happened nevertheless.
    #[error("timed out: {0}")]
    Timeout(String),
    /// The process that was called has ended.
    #[error("gone: {0}")]
    Gone(String),
    /// The object was paused, or, in `wait` and `probe`, an urgent event came for it or the host stops. The plugin must
    /// end this reconcile.
    #[error("interrupted")]
    Interrupted,
    /// Too many calls; retry after this many milliseconds.
    #[error("throttled for {0} ms")]
    Throttled(u32),
    /// A transient fault; repeating the call can help.
    #[error("transient: {0}")]
    Transient(String),
    /// The arguments are wrong; repeating the call cannot help.
    #[error("invalid: {0}")]
    Invalid(String),
    /// This host or this server cannot do it.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The plan ends here: the next steps depend on an answer that only a real effect can give.
    #[error("plan ends: {0}")]
    PlanEnds(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl CallError {
    /// Returns true if the same call can succeed later without anyone fixing something.
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

    /// Returns the text of the error, which can repeat what the plugin passed.
    #[must_use]
    pub const fn text(&self) -> Option<&String> {
        match self {
            Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Denied(text)
            | Self::Refused(text)
            | Self::Busy(text)
            | Self::NeedsApproval(text)
            | Self::Timeout(text)
            | Self::Gone(text)
            | Self::Transient(text)
            | Self::Invalid(text)
            | Self::Unsupported(text)
            | Self::PlanEnds(text)
            | Self::Other(text) => Some(text),
            Self::Interrupted | Self::Throttled(_) => None,
        }
    }

    /// Cuts the text to this many bytes, because it can repeat what the plugin passed.
    #[must_use]
    pub fn cut(mut self, bytes_max: usize) -> Self {
        match &mut self {
            Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Denied(text)
            | Self::Refused(text)
            | Self::Busy(text)
            | Self::NeedsApproval(text)
            | Self::Timeout(text)
            | Self::Gone(text)
            | Self::Transient(text)
            | Self::Invalid(text)
            | Self::Unsupported(text)
            | Self::PlanEnds(text)
            | Self::Other(text) => {
                if bytes_max < text.len() {
                    text.truncate(text.floor_char_boundary(bytes_max));
                    text.push_str("…(cut)");
                    text.shrink_to_fit();
                }
            }
            Self::Interrupted | Self::Throttled(_) => {}
        }
        self
    }

    /// Returns a stable name for labels and events, from a closed set.
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

    /// Returns true if the call may have taken effect although it failed.
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
