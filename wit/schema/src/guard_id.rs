//! The ids of the host's guards, as they stand in [`ActionOutcome::Refused`](crate::action::ActionOutcome).
//!
//! A plugin may match on an id. The set grows: a plugin must treat an id that it does not know like any other
//! refusal.

use core::fmt;

/// Defines [`GuardId`] with its names from one table.
macro_rules! guard_ids {
    ($($(#[$doc:meta])* $id:ident = $name:literal,)*) => {
        /// A guard of the host: a check that an action must pass before it is sent.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum GuardId {
            $($(#[$doc])* $id,)*
        }

        impl GuardId {
            /// All guards.
            pub const ALL: &[Self] = &[$(Self::$id,)*];

            /// Returns the name of the guard in a refusal.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$id => $name,)*
                }
            }
        }
    };
}

guard_ids! {
    /// All members have answered and agreed once, before anything that can lose data.
    Adopted = "adopted",
    /// A repair is not tried again right after the last try.
    BackOff = "back-off",
    /// No other copy of the data can exist, before a node starts without data or a dead owner is forgotten.
    Copies = "copies",
    /// The object's policy or a person's approval allows giving up data.
    DataLoss = "data-loss",
    /// A node that is replaced is proven dead, or reported as failed by the majority.
    Death = "death",
    /// A primary that becomes a replica has no keys of its own.
    Empty = "empty",
    /// No member knows a reachable node of another cluster.
    Foreign = "foreign",
    /// The snapshot is young enough.
    Fresh = "fresh",
    /// One full synchronisation at a time is started per Kubernetes node.
    FullSync = "full-sync",
    /// No other replica has received more of the primary's writes.
    Furthest = "furthest",
    /// A node that is forgotten cannot return.
    Ghost = "ghost",
    /// A replica of a graceful failover is in sync.
    InSync = "in-sync",
    /// The actions of one list do not contradict each other.
    List = "list",
    /// The plugin is granted `lose-data`, besides the policy or approval that allows giving up data.
    LoseData = "lose-data",
    /// A config epoch is set only on a node that knows no other.
    LoneNode = "lone-node",
    /// The majority of the primaries answers and agrees, before a failover by vote.
    Majority = "majority",
    /// A member meets another member, not itself.
    Meet = "meet",
    /// A member that is met knows only nodes of this instance.
    MeetForeign = "meet-foreign",
    /// Two members that meet do not claim the same slots.
    MeetSlots = "meet-slots",
    /// The Pod is a member of the instance, runs and has answered.
    Member = "member",
    /// The primaries cannot vote, before a takeover.
    NoMajority = "no-majority",
    /// A person has approved giving up the data that an in-sync replica is not known to have.
    NotInSyncReason = "not-in-sync",
    /// A replica that leaves its shard is not the shard's only copy.
    OnlyCopy = "only-copy",
    /// No slot of the shard is being moved, before a failover.
    OpenSlots = "open-slots",
    /// The object's policy allows losing writes that were not replicated.
    Policy = "policy",
    /// The action's preconditions (`presume`) hold.
    Presume = "presume",
    /// The node to follow is a primary of this instance that answers.
    Primary = "primary",
    /// The shard has not changed roles recently, before a failover.
    Quiet = "quiet",
    /// A repair that fails or recurs is not repeated without limit.
    RepairBudget = "repair-budget",
    /// The node that is promoted is a replica of the primary and has loaded its data.
    Replica = "replica",
    /// The present value of a temporary setting is known, so that it can be restored.
    Restore = "restore",
    /// Slots are assigned to a primary.
    Role = "role",
    /// A setting and its value are in the table of settings.
    Setting = "setting",
    /// No other node can own the slots.
    Slots = "slots",
    /// A process that may start without data is proven to wait in its Pod.
    Start = "start",
    /// A member may be stopped: one at a time, and no owner of slots that a replica can replace.
    Stop = "stop",
}

impl fmt::Display for GuardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = GuardId::ALL.iter().map(|id| id.as_str()).collect();
        assert_eq!(names.len(), GuardId::ALL.len());
    }
}
