//! The plan: plain data, made by `decide::plan` and performed by the plugin.
//!
//! Two parts of it concern settings: `common` has those that Tholepin manages, and `settings` has those of the spec
//! and the ban on elections, which is the first step of fencing.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use tholepin_redis_types::redis_cluster::MemberRole;
use tholepin_schema::{
    action::Action,
    primitives::{NodeId, SlotSet},
};

use crate::{BUSY_REQUEUE_MS, ClusterPlanWaitReason, HEALTHY_REQUEUE_MS, WAITING_REQUEUE_MS};

/// What to do next, and what the cluster waits for.
#[must_use = "a plan has no effect unless it is performed and reported"]
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The stage that the cluster has reached.
    pub stage: ClusterStage,
    /// The shards, in order of their numbers.
    pub shards: Vec<ShardPlan>,
    /// The decision about everything that does not concern a single shard: settings that Tholepin manages,
    /// handshakes, forgetting nodes.
    pub common: RedisPlanDecision,
    /// The settings of the spec to change on running servers, and the ban on the election of replicas, each an
    /// action of its own. They are performed after the other actions, and a cluster is in the desired state
    /// without them.
    pub settings: Vec<Action>,
    /// The Pods of an older template.
    pub outdated: OutdatedPods,
    /// Pods to replace, each with its uid: they are of an older template and never ran or never answered.
    pub stuck: Vec<(String, String)>,
    /// Pods to delete, each with its uid, because their processes hang and replicas are to take over.
    pub fenced: Vec<(String, String)>,
    /// The number of slots whose primary answers.
    pub slots_served: u16,
}

/// The stage that a cluster has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterStage {
    /// Some slots have no owner yet.
    Forming,
    /// All slots have an owner, and something is not in the desired state.
    Healing,
    /// Everything is in the desired state.
    Steady,
}

/// The plan for one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardPlan {
    /// The shard's name.
    pub name: String,
    /// The slots that it serves; the slots that it should serve while it serves none.
    pub slots: SlotSet,
    /// The Pod of its primary, if the primary answers.
    pub primary: Option<String>,
    /// The members by Pod.
    pub members: BTreeMap<String, MemberState>,
    /// What to do next.
    pub decision: RedisPlanDecision,
}

/// The state of a member that a plan reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// The node id that it reports, or last reported.
    pub node: Option<NodeId>,
    /// The role.
    pub role: MemberRole,
    /// Whether it is in sync, or was in sync when its primary last answered.
    pub in_sync: bool,
}

impl MemberState {
    /// Returns true if it answers as a replica and is in sync.
    #[must_use]
    pub fn is_replica_in_sync(&self) -> bool {
        self.role == MemberRole::Replica && self.in_sync
    }

    /// Returns true if `in_sync` is to be reported: always for a replica; for a member that does not answer,
    /// if it was in sync when its primary last answered.
    #[must_use]
    pub fn reports_sync(&self) -> bool {
        self.role == MemberRole::Replica || self.in_sync
    }
}

/// The Pods of an older template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutdatedPods {
    /// The revision of a StatefulSet's template is not known (yet).
    Unknown,
    /// All Pods are of their StatefulSet's present template.
    UpToDate,
    /// Some Pods are of an older template.
    Some {
        /// The number of these Pods.
        count: usize,
        /// The number of all Pods.
        of: usize,
        /// The Pod that may be deleted now.
        next: OutdatedRedisPodChoice,
    },
}

/// Which Pod of an older template may be deleted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutdatedRedisPodChoice {
    /// This Pod: a replica if there is one.
    Pod(String),
    /// None, because the cluster is not in the desired state: the Pod deleted last may not be back.
    NotYet,
    /// None, because each holds the only copy of its shard's data, in memory. Names the first one.
    OnlyCopy(String),
}

/// A decision about what to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum RedisPlanDecision {
    /// Perform these actions, then observe again.
    Act(Vec<Action>),
    /// Nothing can be done yet, for this reason.
    Wait(ClusterPlanWaitReason),
    /// Everything is in the desired state.
    Done,
}

impl RedisPlanDecision {
    /// Returns the actions; empty if there are none.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        match self {
            Self::Act(actions) => actions,
            Self::Wait(_) | Self::Done => &[],
        }
    }

    /// Returns the reason for waiting.
    #[must_use]
    pub const fn reason(&self) -> Option<&ClusterPlanWaitReason> {
        match self {
            Self::Wait(reason) => Some(reason),
            Self::Act(_) | Self::Done => None,
        }
    }
}

impl Plan {
    /// Returns all actions but those for settings as one list, ordered only by `after`.
    #[must_use]
    pub fn actions(&self) -> Vec<Action> {
        self.decisions().flat_map(RedisPlanDecision::actions).cloned().collect()
    }

    /// Iterates over all reasons for waiting.
    pub fn reasons(&self) -> impl Iterator<Item = &ClusterPlanWaitReason> {
        self.decisions().filter_map(RedisPlanDecision::reason)
    }

    /// Returns the number of shards in the desired state.
    #[must_use]
    pub fn shards_done(&self) -> usize {
        self.shards.iter().filter(|shard| shard.decision == RedisPlanDecision::Done).count()
    }

    /// Returns the milliseconds until the cluster should be observed again if nothing changes.
    #[must_use]
    pub fn requeue_ms(&self) -> u64 {
        let acts = self.decisions().any(|decision| !decision.actions().is_empty());
        let continues = |reason: &ClusterPlanWaitReason| {
            matches!(
                reason,
                ClusterPlanWaitReason::Gossip
                    | ClusterPlanWaitReason::StateNotOk { .. }
                    | ClusterPlanWaitReason::OtherShardFirst
            )
        };
        // Frequent observation does not help where a person is needed.
        let mut faults = self.reasons().filter(|reason| reason.is_fault());
        let is_stuck = faults.any(|reason| *reason != ClusterPlanWaitReason::OtherShardFirst);
        match self.stage {
            ClusterStage::Steady => HEALTHY_REQUEUE_MS,
            ClusterStage::Forming | ClusterStage::Healing
                if acts || !is_stuck && self.reasons().any(continues) =>
            {
                BUSY_REQUEUE_MS
            }
            ClusterStage::Forming | ClusterStage::Healing => WAITING_REQUEUE_MS,
        }
    }

    fn decisions(&self) -> impl Iterator<Item = &RedisPlanDecision> {
        core::iter::once(&self.common).chain(self.shards.iter().map(|shard| &shard.decision))
    }
}
