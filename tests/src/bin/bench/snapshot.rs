//! Generated snapshots of a healthy Redis Cluster of any size, as a Redis port would return them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::redis_cluster::NAMESPACE;
use tholepin_core::{
    BoxedFuture, CallError, ObjectRef, RespReply,
    port::{self, Clock, InstanceMembers, PerformedAction, PollDetail, Redis, RedisPollStream},
};
use tholepin_schema::{
    action::{Action, ActionOutcome},
    instance::SETTINGS_SHOWN,
    manifest::KindName,
    primitives::{ConfigEpoch, NodeId, Role, Slot, SlotRange, SlotSet},
    snapshot::{
        AttachedReplica, ClusterInfo, ClusterNodesRow, Member, MemberAnswer, MemberFacts,
        Replication, Snapshot, Upstream,
    },
};

use crate::engine::WallClock;

/// The node timeout that the spec of a generated cluster must have.
pub(crate) const NODE_TIMEOUT_MS: u32 = 5_000;

/// Returns a reference to the RedisCluster with this name.
pub(crate) fn object(name: &str) -> ObjectRef {
    let kind = KindName {
        api_version: "redis.tholepin.dev/v1alpha1".to_owned(),
        kind: "RedisCluster".to_owned(),
    };
    ObjectRef { kind, namespace: NAMESPACE.to_owned(), name: name.to_owned() }
}

/// A Redis port that reports a healthy cluster for any members: those whose names end in `-0` are primaries, as
/// in a newly formed cluster.
pub(crate) struct FakeRedis;

impl Redis for FakeRedis {
    fn observe<'a>(
        &'a self,
        members: &'a InstanceMembers,
        _: &'a [String],
    ) -> BoxedFuture<'a, Snapshot> {
        Box::pin(async { generated(&members.members) })
    }

    fn pipeline<'a>(
        &'a self,
        _: &'a InstanceMembers,
        pod: &'a str,
        _: &'a [Vec<Vec<u8>>],
        _: Duration,
        _: &'a port::ReplyRoom,
    ) -> BoxedFuture<'a, Result<Vec<RespReply>, CallError>> {
        Box::pin(async move { Err(CallError::Unsupported(format!("to ask {pod}"))) })
    }

    fn act<'a>(
        &'a self,
        _: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        Box::pin(async move { wave.iter().map(nothing_to_act_on).collect() })
    }

    fn decide<'a>(
        &'a self,
        _: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        Box::pin(async move { wave.iter().map(nothing_to_act_on).collect() })
    }

    fn refuses(&self, _: SocketAddr) -> BoxedFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn container_ended(&self, _: &str) {}

    fn watch(&self, _: &InstanceMembers, _: PollDetail<'_>) -> Result<(), CallError> {
        Ok(())
    }

    fn join(
        &self,
        _: &InstanceMembers,
        _: &[String],
    ) -> Result<Box<dyn RedisPollStream>, CallError> {
        Err(CallError::Unsupported("to poll".to_owned()))
    }

    fn unwatch(&self, _: &str) {}
}

fn nothing_to_act_on(action: &Action) -> PerformedAction {
    let outcome = ActionOutcome::Failed {
        reason: "Unsupported".to_owned(),
        message: format!("no server to {}", action.verb.name()),
        may_have_run: false,
    };
    PerformedAction { outcome, commands: Vec::new() }
}

/// The position of a member, taken from its Pod's name: which shard, and which Pod of it.
#[derive(Clone, Copy)]
struct FakePosition {
    shard: u16,
    ordinal: u16,
}

fn position(pod: &str) -> FakePosition {
    let mut parts = pod.rsplit('-').map(|part| part.parse().unwrap_or_default());
    let ordinal = parts.next().unwrap_or_default();
    FakePosition { shard: parts.next().unwrap_or_default(), ordinal }
}

fn generated(members: &[port::MemberPod]) -> Snapshot {
    let now_ms = WallClock.now_ms();
    let positions: Vec<FakePosition> = members.iter().map(|member| position(&member.pod)).collect();
    let shards = positions.iter().map(|position| position.shard + 1).max().unwrap_or_default();
    let rows = members.iter().zip(&positions).map(|(member, position)| {
        let row = ClusterNodesRow {
            role: if position.ordinal == 0 { Role::Primary } else { Role::Replica },
            address: member.address.map(|address| address.to_string()),
            primary: (position.ordinal != 0)
                .then(|| node(FakePosition { ordinal: 0, ..*position })),
            epoch: ConfigEpoch(u64::from(position.shard) + 1),
            slots: if position.ordinal == 0 {
                slots(position.shard, shards)
            } else {
                SlotSet::EMPTY
            },
            flags: BTreeSet::new(),
            connected: true,
        };
        (node(*position), row)
    });
    let view: BTreeMap<NodeId, ClusterNodesRow> = rows.collect();
    let member = |(member, position): (&port::MemberPod, &FakePosition)| {
        let is =
            |field: &str| member.kubernetes.get(field).and_then(Value::as_bool).unwrap_or(false);
        Member {
            pod: member.pod.clone(),
            pod_uid: member.pod_uid.clone(),
            kube_node: member.kube_node.clone(),
            container_id: member.container_id.clone(),
            running: member.running,
            ready: is("ready"),
            deleting: is("deleting"),
            address: member.address.map(|address| address.to_string()),
            kubernetes: member.kubernetes.clone(),
            answer: MemberAnswer::Answered(facts(*position, shards, &view, now_ms)),
        }
    };
    Snapshot {
        observed_at_ms: now_ms,
        members: members.iter().zip(&positions).map(member).collect(),
        view,
        strangers: Vec::new(),
        credentials: Default::default(),
    }
}

fn facts(
    position: FakePosition,
    shards: u16,
    view: &BTreeMap<NodeId, ClusterNodesRow>,
    now_ms: u64,
) -> MemberFacts {
    let primary = node(FakePosition { ordinal: 0, ..position });
    let address =
        |id: NodeId| view.get(&id).and_then(|row| row.address.clone()).unwrap_or_default();
    let followers = view.iter().filter(|(_, row)| row.primary == Some(node(position)));
    let replicas = followers.map(|(id, _)| AttachedReplica {
        address: address(*id),
        state: "online".to_owned(),
        offset_bytes: 123_456,
        lag_s: Some(1),
    });
    let upstream = (position.ordinal != 0).then(|| Upstream {
        address: address(primary),
        link_up: true,
        sync_in_progress: false,
        sync_read_bytes: None,
        last_io_s: Some(1),
        down_since_s: None,
    });
    let replication = Replication {
        id: hex(primary),
        previous_id: None,
        offset_bytes: 123_456,
        upstream,
        replicas: replicas.collect(),
    };
    MemberFacts {
        answered_at_ms: now_ms,
        node: Some(node(position)),
        run_id: Some(hex(node(position))),
        version: Some("7.0.15".to_owned()),
        uptime_s: Some(3_600),
        loading: Some(false),
        keys: Some(1_000),
        used_memory_bytes: Some(2_000_000),
        role: Some(if position.ordinal == 0 { Role::Primary } else { Role::Replica }),
        replication: Some(replication),
        cluster: Some(ClusterInfo {
            ok: true,
            known_nodes: view.len() as u64,
            size: shards.into(),
            current_epoch: shards.into(),
            epoch: ConfigEpoch(u64::from(position.shard) + 1),
            slots_assigned: Slot::COUNT.into(),
            slots_ok: Slot::COUNT.into(),
        }),
        settings: settings(&address(node(position))),
        ..MemberFacts::default()
    }
}

/// Returns the settings of every member, as the plugin expects them for a spec with this node timeout.
fn settings(address: &str) -> BTreeMap<String, String> {
    let node_timeout = NODE_TIMEOUT_MS.to_string();
    let own_ip = address.rsplit_once(':').map_or("", |(ip, _)| ip);
    let value = |name: &str| match name {
        "cluster-announce-ip" => own_ip,
        "cluster-node-timeout" => node_timeout.as_str(),
        "cluster-require-full-coverage" => "yes",
        "maxmemory" | "repl-diskless-sync-delay" => "0",
        _ => "no",
    };
    // The plugin reads the last one of every member.
    let names = SETTINGS_SHOWN.iter().copied().chain(["cluster-replica-no-failover"]);
    names.map(|name| (name.to_owned(), value(name).to_owned())).collect()
}

/// Returns a node's id, made from its position.
fn node(position: FakePosition) -> NodeId {
    let digits = format!("{:020x}{:020x}", position.shard + 1, position.ordinal + 1);
    digits.parse().unwrap_or_else(|error| unreachable!("40 hex digits: {error}"))
}

/// Returns another type of identifier with the same 40 digits.
fn hex<T: std::str::FromStr<Err: std::fmt::Display>>(id: NodeId) -> T {
    id.to_string().parse().unwrap_or_else(|error| unreachable!("40 hex digits: {error}"))
}

/// Returns the slots of a shard as the plugin divides them: equal ranges, the first ones have one slot more.
fn slots(shard: u16, shards: u16) -> SlotSet {
    let (each, larger) = (Slot::COUNT / shards, Slot::COUNT % shards);
    let bound = |shard: u16| u32::from(shard) * u32::from(each) + u32::from(shard.min(larger));
    let slot = |number: u32| u16::try_from(number).ok().and_then(|number| Slot::new(number).ok());
    let (first, last) = (slot(bound(shard)), slot(bound(shard + 1).saturating_sub(1)));
    let range = first.zip(last).and_then(|(first, last)| SlotRange::new(first, last).ok());
    range.map(SlotSet::from).unwrap_or_default()
}

/// Checks that a generated snapshot has exactly the fields of a real one.
pub(crate) fn check_shape(real: &Snapshot) -> Result<()> {
    let members = real.members.iter().map(|member| port::MemberPod {
        pod: member.pod.clone(),
        pod_uid: member.pod_uid.clone(),
        kube_node: member.kube_node.clone(),
        container_id: member.container_id.clone(),
        running: member.running,
        address: member.address.as_ref().and_then(|address| address.parse().ok()),
        kubernetes: member.kubernetes.clone(),
    });
    let fields = |snapshot: &Snapshot| -> Result<BTreeSet<String>> {
        let mut fields = BTreeSet::new();
        collect("", &serde_json::to_value(snapshot)?, &mut fields);
        Ok(fields)
    };
    let (real, generated) = (fields(real)?, fields(&generated(&members.collect::<Vec<_>>()))?);
    let different: Vec<_> = real.symmetric_difference(&generated).cloned().collect();
    ensure!(
        different.is_empty(),
        "generated snapshots differ from real ones in: {}",
        different.join(", ")
    );
    Ok(())
}

/// Collects the paths of all fields; list items and ids count as one.
fn collect(path: &str, value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = if name.parse::<NodeId>().is_ok() { "ID" } else { name };
                collect(&format!("{path}.{name}"), value, into);
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| collect(&format!("{path}[]"), item, into));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            into.insert(path.to_owned());
        }
    }
}
