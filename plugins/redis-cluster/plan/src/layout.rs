//! The slots and the positions that a spec asks for.

use tholepin_redis_types::redis_cluster::RedisClusterSpec;
use tholepin_schema::primitives::{ConfigEpoch, Slot, SlotRange, SlotSet};

/// The position of a member: its shard, and its Pod in the StatefulSet of that shard. It is independent of
/// the member's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberPosition {
    /// The shard's number, from 0.
    pub shard: u16,
    /// The Pod's number in its StatefulSet, from 0.
    pub ordinal: u16,
}

/// The shards and replicas that a spec asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardAndReplicaCounts {
    /// The number of shards; the definition allows 1 to 100.
    pub shards: u16,
    /// The number of replicas of each shard.
    pub replicas: u16,
}

impl ShardAndReplicaCounts {
    /// Returns the layout of a spec.
    #[must_use]
    pub const fn of(spec: &RedisClusterSpec) -> Self {
        Self { shards: spec.shards, replicas: spec.replicas_per_shard }
    }

    /// Returns the slots of a shard: one range per shard, as even as possible, the larger ones first.
    ///
    /// Empty for a shard that the layout does not have, and for shards beyond the number of slots.
    #[must_use]
    pub fn slots(self, shard: u16) -> SlotSet {
        if self.shards <= shard {
            return SlotSet::EMPTY;
        }
        let (each, larger) = (Slot::COUNT / self.shards, Slot::COUNT % self.shards);
        let first = shard * each + shard.min(larger);
        let count = each + u16::from(shard < larger);
        let last = first + count.saturating_sub(1);
        let run = Slot::new(first).and_then(|first| SlotRange::new(first, Slot::new(last)?));
        run.ok().filter(|_| count != 0).map_or(SlotSet::EMPTY, SlotSet::from)
    }

    /// Returns true if the layout has this position.
    #[must_use]
    pub const fn has(self, position: MemberPosition) -> bool {
        position.shard < self.shards && position.ordinal <= self.replicas
    }

    /// Iterates over all positions, in order.
    pub fn positions(self) -> impl Iterator<Item = MemberPosition> {
        (0..self.shards).flat_map(move |shard| self.positions_of(shard))
    }

    /// Iterates over the positions of a shard, in order.
    pub fn positions_of(self, shard: u16) -> impl Iterator<Item = MemberPosition> {
        (0..=self.replicas).map(move |ordinal| MemberPosition { shard, ordinal })
    }

    /// Returns the first epoch of the node at a position. It differs for each position, so that no two nodes
    /// have to resolve a conflict of epochs; primaries come first.
    #[must_use]
    pub fn first_epoch(self, position: MemberPosition, is_primary: bool) -> ConfigEpoch {
        let epoch = if is_primary {
            u64::from(position.shard) + 1
        } else {
            let before = u64::from(position.shard) * (u64::from(self.replicas) + 1);
            u64::from(self.shards) + before + u64::from(position.ordinal) + 1
        };
        ConfigEpoch(epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeSet, string::ToString, vec::Vec};

    #[test]
    fn slots_are_even_and_cover_everything() {
        for shards in [1, 2, 3, 7, 100] {
            let layout = ShardAndReplicaCounts { shards, replicas: 0 };
            let sets: Vec<SlotSet> = (0..shards).map(|shard| layout.slots(shard)).collect();
            let all = sets.iter().fold(SlotSet::EMPTY, |all, set| all.union(set));
            assert_eq!(all, SlotSet::from(SlotRange::ALL), "{shards}");
            let counts: BTreeSet<u16> = sets.iter().map(SlotSet::slot_count).collect();
            assert!(counts.last().unwrap() - counts.first().unwrap() <= 1, "{shards}: {counts:?}");
            assert!(layout.slots(shards).is_empty());
        }
        assert_eq!(ShardAndReplicaCounts { shards: 3, replicas: 0 }.slots(0).to_string(), "0-5461");
    }

    #[test]
    fn no_two_positions_have_the_same_first_epoch() {
        let layout = ShardAndReplicaCounts { shards: 3, replicas: 2 };
        for primary in 0..=2 {
            let epochs: BTreeSet<_> = layout
                .positions()
                .map(|position| layout.first_epoch(position, position.ordinal == primary))
                .collect();
            assert_eq!(epochs.len(), 9);
        }
    }

    #[test]
    fn primaries_have_the_lowest_epochs_in_the_order_of_their_shards() {
        let layout = ShardAndReplicaCounts { shards: 3, replicas: 1 };
        let epochs: Vec<u64> = layout
            .positions()
            .map(|position| layout.first_epoch(position, position.ordinal == 0).0)
            .collect();
        assert_eq!(epochs, [1, 5, 2, 7, 3, 9]);
    }

    #[test]
    fn only_positions_of_the_spec_are_in_the_layout() {
        let layout = ShardAndReplicaCounts { shards: 3, replicas: 1 };
        for (shard, ordinal, expected) in
            [(2, 1, true), (3, 0, false), (0, 2, false), (3, 2, false)]
        {
            assert_eq!(
                layout.has(MemberPosition { shard, ordinal }),
                expected,
                "{shard} {ordinal}"
            );
        }
    }
}
