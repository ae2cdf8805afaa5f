//! The words of Redis Cluster as types: an impossible value cannot be written down.
//!
//! Text is parsed here, once, at the border; inside the host and the planners there are no ids, slots
//! or epochs kept as strings.
//!
//! Invariants:
//! - What is parsed prints as it was parsed, but for upper-case hex digits, which become lower-case.
//! - A [`SlotRange`] is never empty; a [`SlotSet`] has one form for one set of slots, so that equal
//!   sets are equal values and equal JSON.

mod hex;
mod nearest;
mod slot;

pub use nearest::nearest;

pub use hex::{HexIdError, NodeId, ReplicationId, RunId};
pub use slot::{Slot, SlotError, SlotRange, SlotSet};

use serde::{Deserialize, Serialize};

/// A node's configuration epoch: of two nodes that claim one slot, the higher epoch wins.
///
/// Not to be confused with the cluster's *current* epoch, the highest that anybody has seen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize,
)]
#[serde(transparent)]
pub struct ConfigEpoch(pub u64);

impl core::fmt::Display for ConfigEpoch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node is for its shard. Redis' wire says `master` and `slave`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes writes, if it owns slots.
    Primary,
    /// Follows a primary.
    Replica,
}

impl core::fmt::Display for Role {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        })
    }
}
