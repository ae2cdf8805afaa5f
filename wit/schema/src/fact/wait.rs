//! What became of waiting for facts.

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::FactOutcome;

/// The longest wait within a pass, in milliseconds.
pub const WAIT_MS_MAX: u32 = 2_000;

/// What became of a wait.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum WaitOutcome {
    /// All facts held in one look.
    #[serde(rename_all = "camelCase")]
    Held {
        /// How long it took.
        took_ms: u64,
    },
    /// The time was over before that.
    #[serde(rename_all = "camelCase")]
    TimedOut {
        /// How long was waited.
        took_ms: u64,
        /// The facts that did not hold at the last look, in their order.
        missing: Vec<UnmetFact>,
    },
}

impl WaitOutcome {
    /// Whether all facts held.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

/// A fact that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmetFact {
    /// Its place in the list that was waited for.
    pub index: usize,
    /// What was there instead.
    pub held: FactOutcome,
}

impl fmt::Display for UnmetFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, held } = self;
        write!(f, "fact {index}: {held}")
    }
}
