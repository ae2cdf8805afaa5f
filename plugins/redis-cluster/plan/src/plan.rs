//! What a plan is: plain data between the one who decides and the one who does.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use tholepin_redis_types::redis_cluster::MemberRole;
use tholepin_schema::{
    action::Action,
    primitives::{NodeId, SlotSet},
};

use crate::{BUSY_REQUEUE_MS, HEALTHY_REQUEUE_MS, WAITING_REQUEUE_MS, WaitReason};

/// What to do next, and what is waited for.
#[must_use = "a plan nobody acts on or reports leaves the cluster as it is"]
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How far the cluster is.
    pub stage: ClusterStage,
    /// The shards, in order of their numbers.
    pub shards: Vec<ShardPlan>,
    /// What concerns no single shard: settings, introductions, forgetting.
    pub common: Decision,
    /// The spec's settings that running servers are to be given, each an action of its own. They are
    /// performed after everything else, and a cluster is as wanted without them.
    pub settings: Vec<Action>,
    /// How many Pods are of an older template.
    pub outdated: OutdatedPods,
    /// Pods to replace, each with its uid: of an older template, and nothing ever ran in them.
    pub stuck: Vec<(String, String)>,
    /// Pods to delete because their processes hang and others are to take their places, each with its uid.
    pub fenced: Vec<(String, String)>,
    /// How many slots a primary serves that answers.
    pub slots_served: u16,
}

/// How far a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterStage {
    /// Some slots have no owner yet.
    Forming,
    /// All slots have an owner, and something is not as wanted.
    Healing,
    /// Everything is as wanted.
    Steady,
}

/// What to do about one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardPlan {
    /// Its name.
    pub name: String,
    /// The slots it serves; those it should serve while it serves none.
    pub slots: SlotSet,
    /// The Pod of its primary, if that answers.
    pub primary: Option<String>,
    /// Its members by Pod.
    pub members: BTreeMap<String, MemberView>,
    /// What to do next.
    pub decision: Decision,
}

/// A member as a plan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its id: what it says, or what it said last.
    pub node: Option<NodeId>,
    /// What it is.
    pub role: MemberRole,
    /// Whether it is, or was when its primary was last heard, in sync.
    pub in_sync: bool,
}

impl MemberView {
    /// Whether it answers as a replica and is in sync.
    #[must_use]
    pub fn is_replica_in_sync(&self) -> bool {
        self.role == MemberRole::Replica && self.in_sync
    }

    /// Whether there is something to report of it: of a replica always, of one that does not answer what was
    /// so when its primary was last heard.
    #[must_use]
    pub fn tells_sync(&self) -> bool {
        self.role == MemberRole::Replica || self.in_sync
    }
}

/// How many Pods are of an older template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutdatedPods {
    /// A StatefulSet does not tell the revision of its template (yet).
    Unknown,
    /// All Pods are of their StatefulSet's template.
    Nobody,
    /// Some are of an older one.
    Some {
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// Which may be deleted now.
        next: NextPod,
    },
}

/// Which Pod of an older template may be deleted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextPod {
    /// This one: a replica if there is one.
    Pod(String),
    /// None while the cluster is not as wanted: the last one that was deleted may not be back.
    NotYet,
    /// None: each holds the only copy of its shard's data, in memory. The first is named.
    OnlyCopy(String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Perform these, then observe again.
    Act(Vec<Action>),
    /// Nothing may be done yet, for this reason.
    Wait(WaitReason),
    /// All is as wanted.
    Done,
}

impl Decision {
    /// The actions, if there are any.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        match self {
            Self::Act(actions) => actions,
            Self::Wait(_) | Self::Done => &[],
        }
    }

    /// What is waited for.
    #[must_use]
    pub const fn reason(&self) -> Option<&WaitReason> {
        match self {
            Self::Wait(reason) => Some(reason),
            Self::Act(_) | Self::Done => None,
        }
    }
}

impl Plan {
    /// All actions but the settings' as one list, ordered by `after` alone.
    #[must_use]
    pub fn actions(&self) -> Vec<Action> {
        self.decisions().flat_map(Decision::actions).cloned().collect()
    }

    /// Everything that is waited for.
    pub fn reasons(&self) -> impl Iterator<Item = &WaitReason> {
        self.decisions().filter_map(Decision::reason)
    }

    /// How many shards are as wanted.
    #[must_use]
    pub fn shards_done(&self) -> usize {
        self.shards.iter().filter(|shard| shard.decision == Decision::Done).count()
    }

    /// Milliseconds until the cluster should be looked at again, change or no change.
    #[must_use]
    pub fn requeue_ms(&self) -> u64 {
        let acts = self.decisions().any(|decision| !decision.actions().is_empty());
        let goes_on = |reason: &WaitReason| {
            matches!(
                reason,
                WaitReason::Gossip | WaitReason::StateNotOk { .. } | WaitReason::OtherShardFirst
            )
        };
        // What needs a person does not come sooner by being looked at all the time.
        let mut faults = self.reasons().filter(|reason| reason.is_fault());
        let is_stuck = faults.any(|reason| *reason != WaitReason::OtherShardFirst);
        match self.stage {
            ClusterStage::Steady => HEALTHY_REQUEUE_MS,
            ClusterStage::Forming | ClusterStage::Healing
                if acts || !is_stuck && self.reasons().any(goes_on) =>
            {
                BUSY_REQUEUE_MS
            }
            ClusterStage::Forming | ClusterStage::Healing => WAITING_REQUEUE_MS,
        }
    }

    fn decisions(&self) -> impl Iterator<Item = &Decision> {
        core::iter::once(&self.common).chain(self.shards.iter().map(|shard| &shard.decision))
    }
}
