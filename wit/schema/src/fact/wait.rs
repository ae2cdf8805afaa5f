//! The outcome of waiting for facts.

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::FactCheckOutcome;

use crate::open_enum::open_enum;

/// The longest wait during a reconcile, in milliseconds.
pub const WAIT_MS_MAX: u32 = 2_000;

/// The outcome of a wait.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
#[non_exhaustive]
pub enum WaitOutcome {
    /// All facts held in the same poll.
    #[serde(rename_all = "camelCase")]
    Held {
        /// How long the wait took, in milliseconds.
        took_ms: u64,
    },
    /// The deadline passed before all facts held.
    #[serde(rename_all = "camelCase")]
    TimedOut {
        /// How long the wait took, in milliseconds.
        took_ms: u64,
        /// The facts that did not hold in the last poll, in the order of the request.
        missing: Vec<UnmetAwaitedFact>,
    },
    /// A case that this version does not name.
    Other,
}

open_enum!(WaitOutcome: "held", "timedOut", "other");

impl WaitOutcome {
    /// Returns true if all facts held.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

/// A fact that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmetAwaitedFact {
    /// The fact's index in the list of the request.
    pub index: usize,
    /// The result of checking it in the last poll.
    pub held: FactCheckOutcome,
}

impl fmt::Display for UnmetAwaitedFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, held } = self;
        write!(f, "fact {index}: {held}")
    }
}
