//! Types for the ids, slots and epochs of Redis Cluster. They can hold valid values only.
//!
//! Texts are parsed into these types once, where a document is read. The host and the planners keep no ids,
//! slots or epochs as strings.
//!
//! Invariants:
//! - A value is written as it was read, except that upper-case hex digits become lower-case.
//! - A [`SlotRange`] is never empty. A [`SlotSet`] has one form for each set of slots, so equal sets are
//!   equal values and equal JSON.

mod hex;
mod nearest;
mod slot;

pub use nearest::nearest;

pub use hex::{HexIdError, NodeId, ReplicationId, RunId};
pub use slot::{Slot, SlotError, SlotRange, SlotSet};

use serde::{Deserialize, Serialize};

/// A node's configuration epoch. If two nodes claim the same slot, the higher epoch wins.
///
/// This is not the cluster's *current* epoch, which is the highest epoch that any node has seen.
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

/// The role of a node in its shard. Redis calls these `master` and `slave` in its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Accepts writes, if it owns slots.
    Primary,
    /// Follows a primary.
    Replica,
    /// A role that this version does not name: neither of the others.
    #[serde(other)]
    Other,
}

impl core::fmt::Display for Role {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Other => "other",
        })
    }
}
