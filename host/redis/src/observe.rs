//! The snapshot: every member asked once, at the same time, and what they say put together.
//!
//! A slow member costs its own deadline and nobody else's. What a member says is never corrected by
//! what another says.

mod fold;
mod told;

use std::net::SocketAddr;

use futures::future::join_all;
use tholepin_core::port::{Clock, Member, Members};
use tholepin_schema::{
    instance::SETTINGS_SHOWN,
    snapshot::{self, Snapshot, UnreachableReason},
};

use crate::pool::{Pool, Target};
use told::Told;

/// What became of asking one member.
pub(crate) type Seen = Result<Told, (UnreachableReason, String)>;

/// Looks at every member.
pub(crate) async fn observe(
    pool: &Pool,
    clock: &dyn Clock,
    members: &Members,
    settings: &[String],
) -> Snapshot {
    let observed_at_ms = clock.now_ms();
    let mut names: Vec<&str> = SETTINGS_SHOWN.to_vec();
    names.extend(settings.iter().map(String::as_str));
    names.sort_unstable();
    names.dedup();
    // A name that the command table would not let a plugin read is not asked here either.
    names
        .retain(|name| tholepin_schema::command::check(&command(&["CONFIG", "GET", name])).is_ok());
    let commands = told::commands(&names);
    let asked = join_all(Target::all(members).map(|target| {
        let (commands, names) = (&commands, &names);
        async move {
            let replies = pool.call(target, commands, pool.limits().observe).await;
            let seen = match replies {
                Ok(replies) => told::told(clock.now_ms(), &replies, names),
                Err(failure) => {
                    Err((failure.reason(), tholepin_core::ErrorChain(&failure).to_string()))
                }
            };
            (pod_facts(target.member), seen)
        }
    }));
    fold::fold(observed_at_ms, asked.await, members.strangers.clone())
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
fn pod_facts(member: &Member) -> snapshot::Member {
    let Member { pod, pod_uid, kube_node, container_id, running, address, facts } = member.clone();
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
