//! Takes snapshots: reads every member once, concurrently, and combines their replies.
//!
//! Each member has its own deadline, so a slow member does not make others time out. The reply of one member never
//! changes what is recorded of another.

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
    pool::{ConnectionPool, RedisCallTarget},
};
pub(crate) use reply::{ParsedMemberReply, setting, setting_commands};

/// The result of reading one member.
pub(crate) type MemberQueryResult = Result<ParsedMemberReply, (UnreachableReason, String)>;

/// The query that reads a member.
pub(crate) struct MemberQuery {
    /// The settings to read, in the order of their commands.
    names: Vec<String>,
    /// The commands.
    pub(crate) commands: Vec<Vec<Vec<u8>>>,
}

impl MemberQuery {
    /// Creates a query for `SETTINGS_SHOWN` and these settings.
    pub(crate) fn new(settings: &[String]) -> Self {
        let mut names: Vec<&str> = SETTINGS_SHOWN.to_vec();
        names.extend(settings.iter().map(String::as_str));
        names.sort_unstable();
        names.dedup();
        // Leaves out settings that the command table does not let a plugin read, such as passwords.
        let may_be_read = |name: &&str| {
            tholepin_schema::command::check(&command(&["CONFIG", "GET", name])).is_ok()
        };
        names.retain(may_be_read);
        let commands = reply::commands(&names);
        Self { names: names.into_iter().map(str::to_owned).collect(), commands }
    }

    /// Parses the replies to the commands.
    pub(crate) fn read(&self, answered_at_ms: u64, replies: &[RespReply]) -> MemberQueryResult {
        reply::member_reply(answered_at_ms, replies, &self.names)
    }
}

/// Converts a failed call to the reason why a member is unreachable.
pub(crate) fn unreachable(failure: &ConnectionError) -> (UnreachableReason, String) {
    (failure.reason(), tholepin_core::ErrorChain(failure).to_string())
}

/// Builds a snapshot from the results, which are in the order of the members.
pub(crate) fn build_snapshot(
    observed_at_ms: u64,
    members: &InstanceMembers,
    results: Vec<MemberQueryResult>,
) -> Snapshot {
    let facts = members.members.iter().map(pod_facts).zip(results).collect();
    fold::fold(observed_at_ms, facts, members.strangers.clone())
}

/// Takes a snapshot of an instance.
pub(crate) async fn observe(
    pool: &ConnectionPool,
    clock: &dyn Clock,
    members: &InstanceMembers,
    settings: &[String],
) -> Snapshot {
    let observed_at_ms = clock.now_ms();
    let query = MemberQuery::new(settings);
    let results = join_all(RedisCallTarget::all(members).map(|target| {
        let query = &query;
        async move {
            let replies = pool.call(target, &query.commands, pool.limits().observe).await;
            query.read(clock.now_ms(), &replies.map_err(|failure| unreachable(&failure))?)
        }
    }));
    build_snapshot(observed_at_ms, members, results.await)
}

/// Converts the arguments of a command to bytes.
pub(crate) fn command(arguments: &[&str]) -> Vec<Vec<u8>> {
    arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect()
}

/// Formats an address as Redis does: without brackets around an IPv6 address.
pub(crate) fn as_redis_writes(address: SocketAddr) -> String {
    format!("{}:{}", address.ip(), address.port())
}

/// Returns the Kubernetes facts of a member; the answer is filled in later.
fn pod_facts(member: &MemberPod) -> snapshot::Member {
    let MemberPod { pod, pod_uid, kube_node, container_id, running, address, kubernetes } =
        member.clone();
    let is = |field| kubernetes.get(field).and_then(serde_json::Value::as_bool).unwrap_or(false);
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
        kubernetes,
    }
}
