//! Decides what does not concern a single shard: settings that Tholepin manages, first epochs, handshakes,
//! forgetting nodes.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

use tholepin_schema::{
    action::{Action, Preconditions, Verb},
    primitives::{ConfigEpoch, NodeId, Role, Slot},
    snapshot::{ClusterNodesRow, NodeFlag},
};

use crate::{
    ClusterPlanWaitReason, FORMING_NODE_TIMEOUT_MS, HANDSHAKES_MAX, RedisPlanDecision,
    cluster_model::{AnsweringMember, ObservedClusterModel},
    configuration::{NODE_TIMEOUT, of_failover},
};

const ANNOUNCE_IP: &str = "cluster-announce-ip";

/// Decides about the cluster as a whole.
pub(super) fn decide(model: &ObservedClusterModel<'_>) -> RedisPlanDecision {
    let mut actions: Vec<Action> = Vec::new();
    actions.extend(
        model.answering.values().filter_map(|answering| managed_settings(model, answering)),
    );
    actions.extend(model.answering.values().filter_map(|answering| first_epoch(model, answering)));
    actions.extend(handshakes(model));
    let unknown = unknown(model);
    actions.extend(forget(model, &unknown));
    if !actions.is_empty() {
        return RedisPlanDecision::Act(actions);
    }
    match unknown.into_iter().find(|(_, rows)| !rows.iter().all(|row| is_unreachable(row))) {
        Some((node, rows)) => {
            let address = rows.iter().find_map(|row| row.address.clone()).unwrap_or_default();
            RedisPlanDecision::Wait(ClusterPlanWaitReason::ForeignNode { node, address })
        }
        None => RedisPlanDecision::Done,
    }
}

/// Gives a node that knows no other its first epoch while the cluster is being formed. Two primaries with the
/// same epoch would have to resolve the conflict between them, which takes time. A node that joins later
/// needs no epoch, because it becomes a replica.
fn first_epoch(
    model: &ObservedClusterModel<'_>,
    answering: &AnsweringMember<'_>,
) -> Option<Action> {
    let id = first_epoch_id(model, answering)?;
    let pod = answering.member.pod.clone();
    // The member that gets slots in this plan is the first empty one, as in `shard::begin`.
    let mut primaries = model
        .answering_of(answering.position.shard)
        .filter(|answering| answering.own.role == Role::Primary);
    let is_primary =
        answering.serves() || primaries.next().is_some_and(|first| first.node == answering.node);
    let epoch = model.layout.first_epoch(answering.position, is_primary);
    let presume = Preconditions {
        node: Some(answering.node),
        run_id: answering.facts.run_id,
        epoch: Some(ConfigEpoch(0)),
        ..Preconditions::default()
    };
    let verb = Verb::SetConfigEpoch { pod, epoch };
    Some(Action { id: Some(id), verb, presume, after: Vec::new() })
}

/// Returns the id of the action that gives a node its first epoch, if it needs one.
pub(super) fn first_epoch_id(
    model: &ObservedClusterModel<'_>,
    answering: &AnsweringMember<'_>,
) -> Option<String> {
    let cluster = answering.facts.cluster.as_ref()?;
    let needed = answering.is_alone() && cluster.epoch == ConfigEpoch(0) && !model.is_covered();
    needed.then(|| format!("epoch:{}", answering.member.pod))
}

/// Plans `meet` for members that do not know each other, or know an old address. The member that lacks the
/// other receives the command, so that the other needs no change. This introduces a forgotten node
/// immediately, although the other nodes refuse for 60 s to learn it by gossip.
fn handshakes(model: &ObservedClusterModel<'_>) -> Vec<Action> {
    let answering: Vec<&AnsweringMember<'_>> = model.answering.values().collect();
    let mut handshakes = Vec::new();
    for (index, a) in answering.iter().enumerate() {
        for b in answering.iter().skip(index + 1) {
            let pair = match (lacks(model, a, b), lacks(model, b, a)) {
                (false, false) => continue,
                (true, _) => (a, b),
                (false, true) => (b, a),
            };
            if has_handshake_with(model, pair.0, pair.1)
                || has_handshake_with(model, pair.1, pair.0)
            {
                continue;
            }
            handshakes.push(meet(model, pair.0, pair.1));
            if handshakes.len() == HANDSHAKES_MAX {
                return handshakes;
            }
        }
    }
    handshakes
}

fn meet(
    model: &ObservedClusterModel<'_>,
    a: &AnsweringMember<'_>,
    b: &AnsweringMember<'_>,
) -> Action {
    let verb = Verb::Meet { pod: a.member.pod.clone(), with: b.member.pod.clone() };
    let presume =
        Preconditions { node: Some(a.node), run_id: a.facts.run_id, ..Preconditions::default() };
    let after =
        [a, b].into_iter().filter_map(|answering| first_epoch_id(model, answering)).collect();
    Action { id: None, verb, presume, after }
}

/// Returns true if `a` does not know `b` at its present address.
fn lacks(
    model: &ObservedClusterModel<'_>,
    a: &AnsweringMember<'_>,
    b: &AnsweringMember<'_>,
) -> bool {
    let Some(row) = model.snapshot().row_seen_by(a.member, b.node) else { return true };
    b.member.address.is_some() && row.address != b.member.address
}

/// Returns true if `a` has a handshake in progress with the node at `b`'s address.
fn has_handshake_with(
    model: &ObservedClusterModel<'_>,
    a: &AnsweringMember<'_>,
    b: &AnsweringMember<'_>,
) -> bool {
    let rows = a.facts.differs.values().chain(model.snapshot().view.values());
    let mut handshakes = rows.filter(|row| row.flags.contains(&NodeFlag::Handshake));
    handshakes.any(|row| row.address.is_some() && row.address == b.member.address)
}

/// Plans the settings that Tholepin manages and that a member does not have. The spec's settings are planned
/// separately (`settings`), because one that a server refuses must not delay these.
fn managed_settings(
    model: &ObservedClusterModel<'_>,
    answering: &AnsweringMember<'_>,
) -> Option<Action> {
    let mut desired = common_settings(model);
    desired.insert(NODE_TIMEOUT.into(), node_timeout_ms(model, answering).to_string());
    if let Some((ip, _)) =
        answering.member.address.as_deref().and_then(|address| address.rsplit_once(':'))
    {
        desired.insert(ANNOUNCE_IP.into(), ip.into());
    }
    // Skips settings that the member does not report: they would be set again in every reconcile.
    desired.retain(|name, value| answering.facts.settings.get(name).is_some_and(|is| is != value));
    if desired.is_empty() {
        return None;
    }
    let pod = answering.member.pod.clone();
    let presume = Preconditions {
        node: Some(answering.node),
        run_id: answering.facts.run_id,
        ..Preconditions::default()
    };
    let id = Some(format!("configure:{pod}"));
    let verb = Verb::Configure { pod, settings: desired, temporary: false };
    Some(Action { id, verb, presume, after: Vec::new() })
}

/// Returns the settings that every member should have, whatever the spec's settings are.
fn common_settings(model: &ObservedClusterModel<'_>) -> BTreeMap<String, String> {
    let mut desired = of_failover(model.spec);
    desired.extend([
        (String::from("cluster-allow-replica-migration"), String::from("no")),
        (String::from("repl-diskless-sync-delay"), String::from("0")),
    ]);
    desired
}

/// Returns the node timeout that a member should have now.
///
/// It is short while the member does not know the owner of every slot, and stays short until the member
/// reports `cluster_state:ok`: with the long timeout it would refuse writes for up to 5 s more. It does not
/// become short again when a node fails: then a node is flagged as failing, and the slots still have owners.
fn node_timeout_ms(model: &ObservedClusterModel<'_>, answering: &AnsweringMember<'_>) -> u32 {
    let usual = model.spec.failover.node_timeout_ms;
    let Some(cluster) = &answering.facts.cluster else { return usual };
    let short = usual.min(FORMING_NODE_TIMEOUT_MS);
    let knows_all = cluster.slots_assigned == u64::from(Slot::COUNT);
    let is_short = answering.facts.settings.get(NODE_TIMEOUT) == Some(&short.to_string());
    let a_node_fails = || model.rows().any(|(_, row)| row.is_failing());
    let unsettled = !knows_all || is_short && !cluster.ok && !a_node_fails();
    if unsettled { short } else { usual }
}

/// Returns the nodes that some member knows and that are not members that answer, with all their rows.
fn unknown<'a>(model: &ObservedClusterModel<'a>) -> BTreeMap<NodeId, Vec<&'a ClusterNodesRow>> {
    let members: BTreeSet<NodeId> = model
        .snapshot()
        .members
        .iter()
        .filter_map(tholepin_schema::snapshot::Member::node)
        .collect();
    let mut unknown: BTreeMap<NodeId, Vec<&ClusterNodesRow>> = BTreeMap::new();
    // While the Pod at a desired position does not answer, any unknown node may be its node.
    let all_answer =
        model.layout.positions().all(|position| model.answering.contains_key(&position));
    if all_answer {
        for (id, row) in model.rows().filter(|(id, _)| !members.contains(id)) {
            unknown.entry(id).or_default().push(row);
        }
    }
    unknown
}

/// Plans `forget` for nodes that no member reaches, that own no slots and that no member follows.
fn forget(
    model: &ObservedClusterModel<'_>,
    unknown: &BTreeMap<NodeId, Vec<&ClusterNodesRow>>,
) -> Vec<Action> {
    let followed = |node: NodeId| {
        let mut rows = model.rows().filter(|(id, _)| model.answering_node(*id).is_some());
        rows.any(|(_, row)| row.primary == Some(node))
    };
    let gone = unknown.iter().filter(|(node, rows)| {
        rows.iter().all(|row| is_unreachable(row) && row.slots.is_empty()) && !followed(**node)
    });
    let forget = |node: NodeId| Action {
        id: Some(format!("forget:{node}")),
        presume: Preconditions {
            epoch: model.snapshot().view.get(&node).map(|row| row.epoch),
            ..Preconditions::default()
        },
        verb: Verb::Forget { node },
        after: Vec::new(),
    };
    gone.map(|(node, _)| forget(*node)).collect()
}

/// Returns true if the reporting node does not reach this node.
fn is_unreachable(row: &ClusterNodesRow) -> bool {
    row.is_failing() || !row.connected || row.flags.contains(&NodeFlag::NoAddress)
}
