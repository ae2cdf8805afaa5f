//! Checks a plan for actions that no plan may contain.
//!
//! The check works on the snapshot and not on the decisions, so that a bug in a decision cannot hide in its
//! own check. Tests run it on every plan, and the plugin runs it before it acts.

use alloc::{collections::BTreeSet, string::String, vec::Vec};

use tholepin_schema::{
    action::{Action, ActionOrderError, Verb, waves},
    primitives::{NodeId, Role, SlotSet},
    snapshot::{Member, Snapshot},
};

use crate::{ObservedRedisCluster, Plan};

/// An action that a plan must not contain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisClusterPlanViolation {
    /// An action is sent to a Pod that is not a member or did not answer.
    #[error("`{verb}` goes to `{pod}`, which did not answer as a member")]
    NotAMember {
        /// The verb.
        verb: &'static str,
        /// The Pod.
        pod: String,
    },
    /// An action names a node that no member knows.
    #[error("`{verb}` names the node {node}, which no member knows")]
    UnknownNode {
        /// The verb.
        verb: &'static str,
        /// The node.
        node: NodeId,
    },
    /// Slots are assigned that another node claims.
    #[error("slots {slots} are assigned to `{pod}` but claimed by another node")]
    Claimed {
        /// The Pod that would get them.
        pod: String,
        /// The slots.
        slots: SlotSet,
    },
    /// Slots are assigned to two nodes.
    #[error("slots {0} are assigned twice")]
    AssignedTwice(SlotSet),
    /// The plan forgets a node that answers as a member.
    #[error("the member {0} would be forgotten")]
    ForgetsMember(NodeId),
    /// The plan forgets a node that owns slots and that a member follows, so that the member has its data.
    #[error("the node {0} would be forgotten although it owns slots and is followed")]
    ForgetsOwner(NodeId),
    /// The plan contains more than one failover.
    #[error("the plan has {0} failovers, one is allowed")]
    Failovers(usize),
    /// The plan promotes a node that is not a replica of the primary that it replaces.
    #[error("`{pod}` is not a replica of {primary}")]
    NotItsReplica {
        /// The Pod of the node to promote.
        pod: String,
        /// The primary to replace.
        primary: NodeId,
    },
    /// The actions have no valid order.
    #[error(transparent)]
    Order(#[from] ActionOrderError),
}

impl Plan {
    /// Returns the violations of the plan; none for any plan that [`plan`](crate::plan()) makes.
    #[must_use]
    pub fn check(&self, observed: &ObservedRedisCluster) -> Vec<RedisClusterPlanViolation> {
        let snapshot = &observed.snapshot;
        let actions = self.actions();
        let mut violations = Vec::new();
        violations.extend(waves(&actions).err().map(RedisClusterPlanViolation::Order));
        let failovers =
            actions.iter().filter(|action| matches!(action.verb, Verb::Failover { .. })).count();
        if 1 < failovers {
            violations.push(RedisClusterPlanViolation::Failovers(failovers));
        }
        let mut assigned = SlotSet::EMPTY;
        for action in &actions {
            check_pods(snapshot, action, &mut violations);
            check_verb(snapshot, action, &mut assigned, &mut violations);
        }
        violations
    }
}

fn answers(snapshot: &Snapshot, pod: &str) -> bool {
    snapshot.member(pod).is_some_and(|member| member.node().is_some())
}

fn check_pods(
    snapshot: &Snapshot,
    action: &Action,
    violations: &mut Vec<RedisClusterPlanViolation>,
) {
    // A process that may start does not answer yet.
    if matches!(action.verb, Verb::AllowStart { .. }) {
        return;
    }
    let with = if let Verb::Meet { with, .. } = &action.verb { Some(with.as_str()) } else { None };
    for pod in action.verb.pod().into_iter().chain(with) {
        if !answers(snapshot, pod) {
            let verb = action.verb.name();
            violations.push(RedisClusterPlanViolation::NotAMember { verb, pod: pod.into() });
        }
    }
}

fn check_verb(
    snapshot: &Snapshot,
    action: &Action,
    assigned: &mut SlotSet,
    violations: &mut Vec<RedisClusterPlanViolation>,
) {
    match &action.verb {
        Verb::AssignSlots { pod, slots } => {
            let own = snapshot.member(pod).and_then(Member::node);
            let claimed = claimed_by_others(snapshot, own).intersection(slots);
            if !claimed.is_empty() {
                violations
                    .push(RedisClusterPlanViolation::Claimed { pod: pod.clone(), slots: claimed });
            }
            let twice = assigned.intersection(slots);
            if !twice.is_empty() {
                violations.push(RedisClusterPlanViolation::AssignedTwice(twice));
            }
            *assigned = assigned.union(slots);
        }
        Verb::Replicate { primary, .. } => known(snapshot, action, *primary, violations),
        Verb::Failover { pod, primary, .. } => {
            known(snapshot, action, *primary, violations);
            let member = snapshot.member(pod);
            let own = member.and_then(|member| snapshot.row_seen_by(member, member.node()?));
            if !own.is_some_and(|row| row.role == Role::Replica && row.primary == Some(*primary)) {
                let (pod, primary) = (pod.clone(), *primary);
                violations.push(RedisClusterPlanViolation::NotItsReplica { pod, primary });
            }
        }
        Verb::Forget { node } => {
            known(snapshot, action, *node, violations);
            if snapshot.members.iter().any(|member| member.node() == Some(*node)) {
                violations.push(RedisClusterPlanViolation::ForgetsMember(*node));
            }
            let owns = rows(snapshot).any(|(id, row)| id == *node && !row.slots.is_empty());
            let is_followed = snapshot.members.iter().any(|member| {
                let own = member.node().and_then(|id| snapshot.row_seen_by(member, id));
                own.is_some_and(|row| row.primary == Some(*node))
            });
            if owns && is_followed {
                violations.push(RedisClusterPlanViolation::ForgetsOwner(*node));
            }
        }
        Verb::AllowStart { .. }
        | Verb::Meet { .. }
        | Verb::SetConfigEpoch { .. }
        | Verb::Configure { .. } => {}
    }
}

fn rows(
    snapshot: &Snapshot,
) -> impl Iterator<Item = (NodeId, &tholepin_schema::snapshot::ClusterNodesRow)> {
    let facts = snapshot.members.iter().filter_map(Member::facts);
    let rows = snapshot.view.iter().chain(facts.flat_map(|facts| &facts.differs));
    rows.map(|(id, row)| (*id, row))
}

fn claimed_by_others(snapshot: &Snapshot, own: Option<NodeId>) -> SlotSet {
    let others = rows(snapshot).filter(|(id, _)| Some(*id) != own);
    others.fold(SlotSet::EMPTY, |all, (_, row)| all.union(&row.slots))
}

fn known(
    snapshot: &Snapshot,
    action: &Action,
    node: NodeId,
    violations: &mut Vec<RedisClusterPlanViolation>,
) {
    let ids: BTreeSet<NodeId> = rows(snapshot).map(|(id, _)| id).collect();
    if !ids.contains(&node) {
        violations.push(RedisClusterPlanViolation::UnknownNode { verb: action.verb.name(), node });
    }
}
