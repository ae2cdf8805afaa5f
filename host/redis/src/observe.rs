//! The snapshot: every member asked once, at the same time, and what they say put together.
//!
//! A slow member costs its own deadline and nobody else's. What a member says is never corrected by
//! what another says.

mod fold;
mod reply;

use std::net::SocketAddr;

use futures::future::join_all;
use tholepin_core::{
    RespReply,
    port::{Clock, InstanceMembers, MemberPod},
};
use tholepin_schema::{
    instance::SETTINGS_SHOWN,
    snapshot::{self, Snapshot, UnreachableReason},
};

use crate::{
    connection::ConnectionError,
    pool::{CallTarget, ConnectionPool},
};
pub(crate) use reply::{MemberReply, setting, setting_commands};

/// What became of asking one member.
pub(crate) type MemberQueryResult = Result<MemberReply, (UnreachableReason, String)>;

/// What every member is asked.
pub(crate) struct MemberQuery {
    /// The settings to show, in the order in which they are asked for.
    names: Vec<String>,
    /// The commands.
    pub(crate) commands: Vec<Vec<Vec<u8>>>,
}

impl MemberQuery {
    /// The usual question, with these settings beside the usual ones.
    pub(crate) fn new(settings: &[String]) -> Self {
        let mut names: Vec<&str> = SETTINGS_SHOWN.to_vec();
        names.extend(settings.iter().map(String::as_str));
        names.sort_unstable();
        names.dedup();
        // A name that the command table would not let a plugin read is not asked here either.
        let may_be_read = |name: &&str| {
            tholepin_schema::command::check(&command(&["CONFIG", "GET", name])).is_ok()
        };
        names.retain(may_be_read);
        let commands = reply::commands(&names);
        Self { names: names.into_iter().map(str::to_owned).collect(), commands }
    }

    /// Reads the replies to the commands.
    pub(crate) fn read(&self, answered_at_ms: u64, replies: &[RespReply]) -> MemberQueryResult {
        reply::member_reply(answered_at_ms, replies, &self.names)
    }
}

/// Why a member told nothing.
pub(crate) fn silent(failure: &ConnectionError) -> (UnreachableReason, String) {
    (failure.reason(), tholepin_core::ErrorChain(failure).to_string())
}

/// Makes a snapshot of what became of asking each member, in the order of the members.
pub(crate) fn put_together(
    observed_at_ms: u64,
    members: &InstanceMembers,
    seen: Vec<MemberQueryResult>,
) -> Snapshot {
    let facts = members.members.iter().map(pod_facts).zip(seen).collect();
    fold::fold(observed_at_ms, facts, members.strangers.clone())
}

/// Looks at every member.
pub(crate) async fn observe(
    pool: &ConnectionPool,
    clock: &dyn Clock,
    members: &InstanceMembers,
    settings: &[String],
) -> Snapshot {
    let observed_at_ms = clock.now_ms();
    let question = MemberQuery::new(settings);
    let asked = join_all(CallTarget::all(members).map(|target| {
        let question = &question;
        async move {
            let replies = pool.call(target, &question.commands, pool.limits().observe).await;
            question.read(clock.now_ms(), &replies.map_err(|failure| silent(&failure))?)
        }
    }));
    put_together(observed_at_ms, members, asked.await)
}

/// A command from its words.
pub(crate) fn command(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// An address as Redis writes it: an IPv6 address has no brackets.
pub(crate) fn as_redis_writes(address: SocketAddr) -> String {
    format!("{}:{}", address.ip(), address.port())
}

/// What Kubernetes says of a member; the answer is filled in later.
fn pod_facts(member: &MemberPod) -> snapshot::Member {
    let MemberPod { pod, pod_uid, kube_node, container_id, running, address, facts } =
        member.clone();
    let is = |field| facts.get(field).and_then(serde_json::Value::as_bool).unwrap_or(false);
    snapshot::Member {
        pod,
        pod_uid,
        kube_node,
        container_id,
        running,
        ready: is("ready"),
        deleting: is("deleting"),
        address: address.map(as_redis_writes),
        answer: snapshot::MemberAnswer::Unreachable {
            reason: UnreachableReason::NotRunning,
            message: String::new(),
        },
        kubernetes: facts,
    }
}
