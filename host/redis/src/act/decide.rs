//! Decides which commands a verb needs, from the present state of the members. Reads members and changes nothing.
//! A plan shows these commands, and [`send`](super::send) sends them.
//!
//! Invariants:
//! - A verb whose effect is already there needs no command, except for `meet` and `configure`: their commands are
//!   always sent, and change nothing the second time.
//! - The commands of one decision go to different members.

use std::collections::BTreeMap;

use futures::future::join_all;
use tholepin_core::{CallError, ErrorChain, port::InstanceMembers, step};
use tholepin_schema::{
    action::{FailoverMode, Verb},
    primitives::{ConfigEpoch, NodeId, Role, SlotRange, SlotSet},
    snapshot::ClusterNodesRow,
};

use super::send_failure::RedisVerbSendFailure;
use crate::{
    connection::ConnectionError,
    error,
    observe::{as_redis_writes, command},
    parse::{ClusterNodesReply, cluster_nodes},
    pool::{ConnectionPool, RedisCallTarget},
};

/// The commands of a verb.
#[derive(Debug, Default)]
pub(super) struct RedisVerbCommands<'a> {
    /// The commands, which are sent concurrently.
    pub(super) commands: Vec<MemberCommand<'a>>,
    /// The roles that must be observed afterwards, in this order, before the verb is done.
    pub(super) roles: Vec<(RedisCallTarget<'a>, Role)>,
    /// The state after the verb, for people.
    pub(super) note: String,
}

/// One command for one member.
#[derive(Debug)]
pub(super) struct MemberCommand<'a> {
    pub(super) target: RedisCallTarget<'a>,
    pub(super) arguments: Vec<String>,
}

impl MemberCommand<'_> {
    /// Returns the command as plans and reports show it.
    pub(super) fn shown(&self) -> step::RedisCliCommand {
        let Self { target, arguments } = self;
        step::RedisCliCommand {
            pod: target.member.pod.clone(),
            command: step::redis_cli(arguments),
        }
    }
}

impl<'a> RedisVerbCommands<'a> {
    /// Returns a decision without commands.
    fn unchanged(note: String) -> Self {
        Self { note, ..Self::default() }
    }

    /// Returns a decision with one command, which is done with its reply.
    fn single(target: RedisCallTarget<'a>, arguments: Vec<String>, note: String) -> Self {
        Self { commands: vec![MemberCommand { target, arguments }], roles: Vec::new(), note }
    }
}

/// Decides a verb.
///
/// # Errors
///
/// Fails, and changes nothing, if the state of a member does not allow the verb, or if a member cannot be read.
pub(super) async fn decide<'a>(
    pool: &ConnectionPool,
    members: &'a InstanceMembers,
    verb: &Verb,
) -> Result<RedisVerbCommands<'a>, RedisVerbSendFailure> {
    let at = |pod: &str| target(members, pod);
    match verb {
        Verb::Meet { pod, with } => meet(at(pod)?, at(with)?),
        Verb::SetConfigEpoch { pod, epoch } => set_epoch(pool, at(pod)?, *epoch).await,
        Verb::AssignSlots { pod, slots } => assign(pool, at(pod)?, slots).await,
        Verb::Replicate { pod, primary } => replicate(pool, at(pod)?, *primary).await,
        Verb::Failover { pod, primary, mode } => {
            failover(pool, members, at(pod)?, *primary, *mode).await
        }
        Verb::Forget { node } => forget(pool, members, *node).await,
        // The gate performs this verb by an annotation on the Pod.
        Verb::AllowStart { .. } => {
            let text = "`allow-start` is not a Redis command".to_owned();
            Err(RedisVerbSendFailure::before(CallError::Unsupported(text)))
        }
        // The gate restores temporary settings.
        Verb::Configure { pod, settings, temporary: _ } => Ok(configure(at(pod)?, settings)),
    }
}

/// Reads the row of a node about itself.
pub(super) async fn own_row(
    pool: &ConnectionPool,
    target: RedisCallTarget<'_>,
) -> Result<ClusterNodesRow, RedisVerbSendFailure> {
    let nodes = read_nodes(pool, target).await.map_err(RedisVerbSendFailure::before)?;
    // The parser has checked that exactly one row is `myself`.
    nodes
        .own()
        .cloned()
        .ok_or_else(|| RedisVerbSendFailure::before(CallError::Other("no own row".to_owned())))
}

/// Returns the member in this Pod.
fn target<'a>(
    members: &'a InstanceMembers,
    pod: &str,
) -> Result<RedisCallTarget<'a>, RedisVerbSendFailure> {
    let found = RedisCallTarget::all(members).find(|target| target.member.pod == pod);
    found
        .ok_or_else(|| RedisVerbSendFailure::before(CallError::NotFound(format!("member `{pod}`"))))
}

/// Reads a node's view of the cluster.
async fn read_nodes(
    pool: &ConnectionPool,
    target: RedisCallTarget<'_>,
) -> Result<ClusterNodesReply, CallError> {
    let pod = &target.member.pod;
    let failed = |failure: ConnectionError| failure.into_call_error(pod);
    let query = [command(&["CLUSTER", "NODES"])];
    let replies = pool.call(target, &query, pool.limits().step).await.map_err(failed)?;
    let reply = replies.into_iter().next().unwrap_or_default();
    if let Some(text) = error::error_text(&reply) {
        return Err(error::call_error(&format!("`{pod}`: CLUSTER NODES"), text));
    }
    let text = error::text(&reply).map_err(|text| CallError::Other(format!("`{pod}`: {text}")))?;
    cluster_nodes(text).map_err(|error| {
        CallError::Other(format!("`{pod}`: CLUSTER NODES: {}", ErrorChain(&error)))
    })
}

fn to_arguments(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

fn meet<'a>(
    target: RedisCallTarget<'a>,
    other: RedisCallTarget<'a>,
) -> Result<RedisVerbCommands<'a>, RedisVerbSendFailure> {
    let with = &other.member.pod;
    let address = other
        .address()
        .map_err(|failure| RedisVerbSendFailure::before(failure.into_call_error(with)))?;
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let note = format!("the handshake with {address} has started");
    Ok(RedisVerbCommands::single(target, to_arguments(&["CLUSTER", "MEET", &ip, &port]), note))
}

async fn set_epoch<'a>(
    pool: &ConnectionPool,
    target: RedisCallTarget<'a>,
    epoch: ConfigEpoch,
) -> Result<RedisVerbCommands<'a>, RedisVerbSendFailure> {
    if own_row(pool, target).await?.epoch == epoch {
        return Ok(RedisVerbCommands::unchanged(format!("the epoch is already {epoch}")));
    }
    let arguments = to_arguments(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]);
    Ok(RedisVerbCommands::single(target, arguments, format!("the epoch is {epoch}")))
}

async fn assign<'a>(
    pool: &ConnectionPool,
    target: RedisCallTarget<'a>,
    slots: &SlotSet,
) -> Result<RedisVerbCommands<'a>, RedisVerbSendFailure> {
    let missing = slots.difference(&own_row(pool, target).await?.slots);
    if missing.is_empty() {
        return Ok(RedisVerbCommands::unchanged("it already owns the slots".to_owned()));
    }
    let ends = |range: &SlotRange| [range.first().to_string(), range.last().to_string()];
    let mut arguments = to_arguments(&["CLUSTER", "ADDSLOTSRANGE"]);
    arguments.extend(missing.ranges().iter().flat_map(ends));
    Ok(RedisVerbCommands::single(target, arguments, format!("it owns {missing}")))
}

async fn replicate<'a>(
    pool: &ConnectionPool,
    target: RedisCallTarget<'a>,
    primary: NodeId,
) -> Result<RedisVerbCommands<'a>, RedisVerbSendFailure> {
    let row = own_row(pool, target).await?;
    if row.role == Role::Replica && row.primary == Some(primary) {
        return Ok(RedisVerbCommands::unchanged(format!(
            "it already replicates {}",
            primary.short()
        )));
    }
    let arguments = to_arguments(&["CLUSTER", "REPLICATE", &primary.to_string()]);
    Ok(RedisVerbCommands::single(target, arguments, format!("it replicates {}", primary.short())))
}

fn configure<'a>(
    target: RedisCallTarget<'a>,
    settings: &BTreeMap<String, String>,
) -> RedisVerbCommands<'a> {
    let mut arguments = to_arguments(&["CONFIG", "SET"]);
    arguments.extend(settings.iter().flat_map(|(name, value)| [name.clone(), value.clone()]));
    let note = settings.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    RedisVerbCommands::single(target, arguments, note)
}

/// Decides the commands that make every member forget a node.
///
/// After `CLUSTER FORGET` a node ignores gossip about the forgotten node for 60 s. A member that was left out would
/// spread the node again after that, so the command is sent to all members concurrently, and a running member that
/// cannot be read is an error.
async fn forget<'a>(
    pool: &ConnectionPool,
    members: &'a InstanceMembers,
    node: NodeId,
) -> Result<RedisVerbCommands<'a>, RedisVerbSendFailure> {
    let running: Vec<RedisCallTarget<'_>> =
        RedisCallTarget::all(members).filter(|target| target.member.running).collect();
    let views = join_all(running.iter().map(|target| read_nodes(pool, *target))).await;
    let id = node.to_string();
    let mut commands = Vec::new();
    for (target, nodes) in running.iter().zip(views) {
        let nodes = nodes.map_err(RedisVerbSendFailure::before)?;
        if nodes.myself == node {
            return Err(conflict(&target.member.pod, &format!("it is {} itself", node.short())));
        }
        if nodes.rows.contains_key(&node) {
            commands.push(MemberCommand {
                target: *target,
                arguments: to_arguments(&["CLUSTER", "FORGET", &id]),
            });
        }
    }
    let note = format!("{} members have forgotten {}", commands.len(), node.short());
    Ok(RedisVerbCommands { commands, roles: Vec::new(), note })
}

/// Decides the command of a failover, and the roles that end it.
///
/// The reply `OK` to `CLUSTER FAILOVER` means only that the failover is scheduled. Redis gives it up after 5 s
/// without an error; during a graceful failover the primary may hold writes for that time.
async fn failover<'a>(
    pool: &ConnectionPool,
    members: &'a InstanceMembers,
    target: RedisCallTarget<'a>,
    primary: NodeId,
    mode: FailoverMode,
) -> Result<RedisVerbCommands<'a>, RedisVerbSendFailure> {
    let pod = &target.member.pod;
    let nodes = read_nodes(pool, target).await.map_err(RedisVerbSendFailure::before)?;
    let Some(row) = nodes.own() else { return Err(conflict(pod, "it has no row of itself")) };
    if has_replaced(row, primary, nodes.rows.get(&primary)) {
        return Ok(RedisVerbCommands::unchanged(format!(
            "it has already replaced {}",
            primary.short()
        )));
    }
    if row.role != Role::Replica || row.primary != Some(primary) {
        return Err(conflict(pod, &format!("it is not a replica of {}", primary.short())));
    }
    let arguments = match mode {
        FailoverMode::Graceful => to_arguments(&["CLUSTER", "FAILOVER"]),
        FailoverMode::Force => to_arguments(&["CLUSTER", "FAILOVER", "FORCE"]),
        FailoverMode::Takeover => to_arguments(&["CLUSTER", "FAILOVER", "TAKEOVER"]),
    };
    let mut roles = vec![(target, Role::Primary)];
    if mode == FailoverMode::Graceful {
        // The old primary is read only if it is a member.
        let address = nodes.rows.get(&primary).and_then(|row| row.address.clone());
        let old = RedisCallTarget::all(members).find(|old| {
            old.member.address.is_some_and(|there| Some(as_redis_writes(there)) == address)
        });
        roles.extend(old.map(|old| (old, Role::Replica)));
    }
    let note = format!("it has replaced {}", primary.short());
    Ok(RedisVerbCommands { commands: vec![MemberCommand { target, arguments }], roles, note })
}

/// Returns true if the failover has happened already: the node owns slots, and the old primary owns none.
fn has_replaced(row: &ClusterNodesRow, primary: NodeId, old: Option<&ClusterNodesRow>) -> bool {
    row.role == Role::Primary
        && !row.slots.is_empty()
        && old.is_some_and(|old| old.slots.is_empty())
        && row.primary != Some(primary)
}

fn conflict(pod: &str, why: &str) -> RedisVerbSendFailure {
    RedisVerbSendFailure::before(CallError::Conflict(format!("`{pod}`: {why}")))
}
