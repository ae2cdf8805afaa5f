//! Decides what concerns no single shard: first epochs, introductions, settings, forgetting.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

use tholepin_schema::{
    action::{Action, Preconditions, Verb},
    primitives::{ConfigEpoch, NodeId, Role, Slot},
    snapshot::{NodeFlag, NodeRow},
};

use crate::{
    Decision, FORMING_NODE_TIMEOUT_MS, MEETINGS_MAX, WaitReason,
    cluster_model::{ClusterModel, LiveMember},
    configuration::{NODE_TIMEOUT, of_failover},
};

const ANNOUNCE_IP: &str = "cluster-announce-ip";

/// Decides about the cluster as a whole.
pub(super) fn decide(picture: &ClusterModel<'_>) -> Decision {
    let mut actions: Vec<Action> = Vec::new();
    actions.extend(picture.live.values().filter_map(|live| configure(picture, live)));
    actions.extend(picture.live.values().filter_map(|live| first_epoch(picture, live)));
    actions.extend(meetings(picture));
    let unknown = unknown(picture);
    actions.extend(forget(picture, &unknown));
    if !actions.is_empty() {
        return Decision::Act(actions);
    }
    match unknown.into_iter().find(|(_, rows)| !rows.iter().all(|row| is_ghost(row))) {
        Some((node, rows)) => {
            let address = rows.iter().find_map(|row| row.address.clone()).unwrap_or_default();
            Decision::Wait(WaitReason::ForeignNode { node, address })
        }
        None => Decision::Done,
    }
}

/// Gives a node that is alone its first epoch, while the cluster is being formed. Two primaries with
/// one epoch would have to settle it between them, which takes time. A node that joins later needs
/// none: it follows.
fn first_epoch(picture: &ClusterModel<'_>, live: &LiveMember<'_>) -> Option<Action> {
    let id = first_epoch_id(picture, live)?;
    let pod = live.member.pod.clone();
    // The one that is given slots in this pass is the first that is empty, as `shard::begin` has it.
    let mut primaries =
        picture.live_of(live.position.shard).filter(|live| live.own.role == Role::Primary);
    let is_primary = live.serves() || primaries.next().is_some_and(|first| first.node == live.node);
    let epoch = picture.layout.first_epoch(live.position, is_primary);
    let presume = Preconditions {
        node: Some(live.node),
        run_id: live.facts.run_id,
        epoch: Some(ConfigEpoch(0)),
        ..Preconditions::default()
    };
    let verb = Verb::SetConfigEpoch { pod, epoch };
    Some(Action { id: Some(id), verb, presume, after: Vec::new() })
}

/// The id of the action that gives a node its first epoch, if it needs one.
pub(super) fn first_epoch_id(picture: &ClusterModel<'_>, live: &LiveMember<'_>) -> Option<String> {
    let cluster = live.facts.cluster.as_ref()?;
    let needed = live.is_alone() && cluster.epoch == ConfigEpoch(0) && !picture.is_covered();
    needed.then(|| format!("epoch:{}", live.member.pod))
}

/// Introduces members that do not know each other, or know an old address. The one that lacks the
/// other does it, so that the other needs no change: a node that was forgotten is known again at
/// once, although the minute is not over in which nobody takes it back by hearsay.
fn meetings(picture: &ClusterModel<'_>) -> Vec<Action> {
    let live: Vec<&LiveMember<'_>> = picture.live.values().collect();
    let mut meetings = Vec::new();
    for (index, a) in live.iter().enumerate() {
        for b in live.iter().skip(index + 1) {
            let pair = match (lacks(picture, a, b), lacks(picture, b, a)) {
                (false, false) => continue,
                (true, _) => (a, b),
                (false, true) => (b, a),
            };
            if is_meeting(picture, pair.0, pair.1) || is_meeting(picture, pair.1, pair.0) {
                continue;
            }
            meetings.push(meet(picture, pair.0, pair.1));
            if meetings.len() == MEETINGS_MAX {
                return meetings;
            }
        }
    }
    meetings
}

fn meet(picture: &ClusterModel<'_>, a: &LiveMember<'_>, b: &LiveMember<'_>) -> Action {
    let verb = Verb::Meet { pod: a.member.pod.clone(), with: b.member.pod.clone() };
    let presume =
        Preconditions { node: Some(a.node), run_id: a.facts.run_id, ..Preconditions::default() };
    let after = [a, b].into_iter().filter_map(|live| first_epoch_id(picture, live)).collect();
    Action { id: None, verb, presume, after }
}

/// Whether `a` does not know `b` where it is.
fn lacks(picture: &ClusterModel<'_>, a: &LiveMember<'_>, b: &LiveMember<'_>) -> bool {
    let Some(row) = picture.snapshot().row_seen_by(a.member, b.node) else { return true };
    b.member.address.is_some() && row.address != b.member.address
}

/// Whether `a` is shaking hands with whoever is at `b`'s address.
fn is_meeting(picture: &ClusterModel<'_>, a: &LiveMember<'_>, b: &LiveMember<'_>) -> bool {
    let rows = a.facts.differs.values().chain(picture.snapshot().view.values());
    let mut meeting = rows.filter(|row| row.flags.contains(&NodeFlag::Handshake));
    meeting.any(|row| row.address.is_some() && row.address == b.member.address)
}

/// What Tholepin itself sets and a member has not. The spec's settings are set apart from these
/// (`settings`): one that the server refuses must not hold these up.
fn configure(picture: &ClusterModel<'_>, live: &LiveMember<'_>) -> Option<Action> {
    let mut wanted = standing(picture);
    wanted.insert(NODE_TIMEOUT.into(), node_timeout_ms(picture, live).to_string());
    if let Some((ip, _)) = live.member.address.as_deref().and_then(|it| it.rsplit_once(':')) {
        wanted.insert(ANNOUNCE_IP.into(), ip.into());
    }
    // What the member does not tell is left alone: setting it again and again would never end.
    wanted.retain(|name, value| live.facts.settings.get(name).is_some_and(|is| is != value));
    if wanted.is_empty() {
        return None;
    }
    let pod = live.member.pod.clone();
    let presume = Preconditions {
        node: Some(live.node),
        run_id: live.facts.run_id,
        ..Preconditions::default()
    };
    let id = Some(format!("configure:{pod}"));
    let verb = Verb::Configure { pod, settings: wanted, temporary: false };
    Some(Action { id, verb, presume, after: Vec::new() })
}

/// What every member should have, whatever the spec's settings say.
fn standing(picture: &ClusterModel<'_>) -> BTreeMap<String, String> {
    let mut wanted = of_failover(picture.spec);
    wanted.extend([
        (String::from("cluster-allow-replica-migration"), String::from("no")),
        (String::from("repl-diskless-sync-delay"), String::from("0")),
    ]);
    wanted
}

/// The node timeout that a member should have now.
///
/// It is short while the member does not know the owner of every slot, and stays short until it finds
/// the cluster well: with the long one it would refuse writes for up to 5 s more. It does not become
/// short because something fails: then somebody is flagged, and the slots still have owners.
fn node_timeout_ms(picture: &ClusterModel<'_>, live: &LiveMember<'_>) -> u32 {
    let usual = picture.spec.failover.node_timeout_ms;
    let Some(cluster) = &live.facts.cluster else { return usual };
    let short = usual.min(FORMING_NODE_TIMEOUT_MS);
    let knows_all = cluster.slots_assigned == u64::from(Slot::COUNT);
    let is_short = live.facts.settings.get(NODE_TIMEOUT) == Some(&short.to_string());
    let somebody_fails = || picture.rows().any(|(_, row)| row.is_failing());
    let unsettled = !knows_all || is_short && !cluster.ok && !somebody_fails();
    if unsettled { short } else { usual }
}

/// Nodes that somebody knows and that are no member that answers, with all that is said of them.
fn unknown<'a>(picture: &ClusterModel<'a>) -> BTreeMap<NodeId, Vec<&'a NodeRow>> {
    let members: BTreeSet<NodeId> = picture
        .snapshot()
        .members
        .iter()
        .filter_map(tholepin_schema::snapshot::Member::node)
        .collect();
    let mut unknown: BTreeMap<NodeId, Vec<&NodeRow>> = BTreeMap::new();
    // While a wanted Pod does not answer, any of them may be its node.
    let all_answer = picture.layout.positions().all(|seat| picture.live.contains_key(&seat));
    if all_answer {
        for (id, row) in picture.rows().filter(|(id, _)| !members.contains(id)) {
            unknown.entry(id).or_default().push(row);
        }
    }
    unknown
}

/// Forgets nodes that nobody reaches, that own nothing and that nobody follows.
fn forget(picture: &ClusterModel<'_>, unknown: &BTreeMap<NodeId, Vec<&NodeRow>>) -> Vec<Action> {
    let followed = |node: NodeId| {
        let mut rows = picture.rows().filter(|(id, _)| picture.live_node(*id).is_some());
        rows.any(|(_, row)| row.primary == Some(node))
    };
    let gone = unknown.iter().filter(|(node, rows)| {
        rows.iter().all(|row| is_ghost(row) && row.slots.is_empty()) && !followed(**node)
    });
    let forget = |node: NodeId| Action {
        id: Some(format!("forget:{node}")),
        presume: Preconditions {
            epoch: picture.snapshot().view.get(&node).map(|row| row.epoch),
            ..Preconditions::default()
        },
        verb: Verb::Forget { node },
        after: Vec::new(),
    };
    gone.map(|(node, _)| forget(*node)).collect()
}

/// Whether the one who says this does not reach the node.
fn is_ghost(row: &NodeRow) -> bool {
    row.is_failing() || !row.connected || row.flags.contains(&NodeFlag::NoAddress)
}
