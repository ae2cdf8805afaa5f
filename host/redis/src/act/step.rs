//! The verbs that are one command, and what all verbs share.

use std::collections::BTreeMap;

use tholepin_core::{CallError, ErrorChain, RespReply, port::Members};
use tholepin_schema::{
    action::Outcome,
    snapshot::NodeRow,
    word::{ConfigEpoch, NodeId, Role, SlotSet},
};

use crate::{
    connection::Failure,
    error,
    observe::command,
    parse::{ClusterNodes, cluster_nodes},
    pool::{Pool, Target},
};

/// What became of a verb: a note for people, or what went wrong.
pub(super) type Step = Result<String, Failed>;

/// How a verb failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: CallError,
    pub(super) may_have_run: bool,
}

impl Failed {
    /// Nothing was changed.
    pub(super) const fn before(error: CallError) -> Self {
        Self { error, may_have_run: false }
    }

    /// Something may have been changed.
    pub(super) const fn after(error: CallError) -> Self {
        Self { error, may_have_run: true }
    }
}

/// A step as the outcome of its action.
pub(super) fn outcome(step: Step, took_ms: u64) -> Outcome {
    match step {
        Ok(note) => Outcome::Done { took_ms, note },
        Err(Failed { error, may_have_run }) => Outcome::Failed {
            reason: error.reason().to_owned(),
            message: error.to_string(),
            may_have_run,
        },
    }
}

/// Sends one command that changes something, and wants no error for a reply.
pub(super) async fn send(
    pool: &Pool,
    target: Target<'_>,
    words: &[&str],
) -> Result<RespReply, Failed> {
    let pod = &target.member.pod;
    let replies = pool.call(target, &[command(words)], pool.limits().step).await;
    let replies = replies.map_err(|failure| {
        let may_have_run = failure.may_have_run();
        Failed { error: failure.into_call_error(pod), may_have_run }
    })?;
    let reply = replies.into_iter().next().unwrap_or_default();
    if let Some(text) = error::error_text(&reply) {
        let what =
            format!("`{pod}`: {}", words.iter().take(2).copied().collect::<Vec<_>>().join(" "));
        return Err(Failed::before(error::call_error(&what, text)));
    }
    Ok(reply)
}

/// How a node sees the cluster now.
pub(super) async fn look(pool: &Pool, target: Target<'_>) -> Result<ClusterNodes, CallError> {
    let pod = &target.member.pod;
    let failed = |failure: Failure| failure.into_call_error(pod);
    let asked = [command(&["CLUSTER", "NODES"])];
    let replies = pool.call(target, &asked, pool.limits().step).await.map_err(failed)?;
    let reply = replies.into_iter().next().unwrap_or_default();
    if let Some(text) = error::error_text(&reply) {
        return Err(error::call_error(&format!("`{pod}`: CLUSTER NODES"), text));
    }
    let text = error::text(&reply).map_err(|text| CallError::Other(format!("`{pod}`: {text}")))?;
    cluster_nodes(text).map_err(|error| {
        CallError::Other(format!("`{pod}`: CLUSTER NODES: {}", ErrorChain(&error)))
    })
}

/// How a node sees itself now.
pub(super) async fn own_row(pool: &Pool, target: Target<'_>) -> Result<NodeRow, Failed> {
    let nodes = look(pool, target).await.map_err(Failed::before)?;
    // The parser wants exactly one row that is `myself`.
    nodes.own().cloned().ok_or_else(|| Failed::before(CallError::Other("no own row".to_owned())))
}

/// The member in this Pod.
pub(super) fn target<'a>(members: &'a Members, pod: &str) -> Result<Target<'a>, Failed> {
    let found = Target::all(members).find(|target| target.member.pod == pod);
    found.ok_or_else(|| Failed::before(CallError::NotFound(format!("member `{pod}`"))))
}

pub(super) async fn meet(pool: &Pool, target: Target<'_>, other: Target<'_>) -> Step {
    let with = &other.member.pod;
    let address =
        other.address().map_err(|failure| Failed::before(failure.into_call_error(with)))?;
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    send(pool, target, &["CLUSTER", "MEET", &ip, &port]).await?;
    Ok(format!("the handshake with {address} has begun"))
}

pub(super) async fn set_epoch(pool: &Pool, target: Target<'_>, epoch: ConfigEpoch) -> Step {
    if own_row(pool, target).await?.epoch == epoch {
        return Ok(format!("the epoch is {epoch} already"));
    }
    send(pool, target, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]).await?;
    Ok(format!("the epoch is {epoch}"))
}

pub(super) async fn assign(pool: &Pool, target: Target<'_>, slots: &SlotSet) -> Step {
    let missing = slots.difference(&own_row(pool, target).await?.slots);
    if missing.is_empty() {
        return Ok("it owns them already".to_owned());
    }
    let ends = |range: &tholepin_schema::word::SlotRange| {
        [range.first().to_string(), range.last().to_string()]
    };
    let ends: Vec<String> = missing.ranges().iter().flat_map(ends).collect();
    let mut words = vec!["CLUSTER", "ADDSLOTSRANGE"];
    words.extend(ends.iter().map(String::as_str));
    send(pool, target, &words).await?;
    Ok(format!("it owns {missing}"))
}

pub(super) async fn replicate(pool: &Pool, target: Target<'_>, primary: NodeId) -> Step {
    let row = own_row(pool, target).await?;
    if row.role == Role::Replica && row.primary == Some(primary) {
        return Ok(format!("it follows {} already", primary.short()));
    }
    send(pool, target, &["CLUSTER", "REPLICATE", &primary.to_string()]).await?;
    Ok(format!("it follows {}", primary.short()))
}

pub(super) async fn configure(
    pool: &Pool,
    target: Target<'_>,
    settings: &BTreeMap<String, String>,
) -> Step {
    let mut words = vec!["CONFIG", "SET"];
    words.extend(settings.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
    send(pool, target, &words).await?;
    Ok(settings.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
}
