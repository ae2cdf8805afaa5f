//! The failure of a verb, with whether it may have changed something.

use tholepin_core::CallError;
use tholepin_schema::action::ActionOutcome;

/// The failure of a verb.
#[derive(Debug)]
pub(super) struct RedisVerbSendFailure {
    pub(super) error: CallError,
    pub(super) may_have_run: bool,
}

impl RedisVerbSendFailure {
    /// Returns a failure that changed nothing.
    pub(super) const fn before(error: CallError) -> Self {
        Self { error, may_have_run: false }
    }

    /// Returns a failure that may have changed something.
    pub(super) const fn after(error: CallError) -> Self {
        Self { error, may_have_run: true }
    }
}

impl From<RedisVerbSendFailure> for ActionOutcome {
    fn from(RedisVerbSendFailure { error, may_have_run }: RedisVerbSendFailure) -> Self {
        Self::Failed { reason: error.reason().to_owned(), message: error.to_string(), may_have_run }
    }
}
