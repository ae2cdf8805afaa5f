//! Forgetting a node everywhere at once.
//!
//! A node that is told to forget another refuses to hear of it for 60 s. If one member is missed it
//! tells the others afterwards and the node is back, so that all are told within the same moment and
//! one that cannot be told is a failure.

use futures::future::join_all;
use tholepin_core::{CallError, port::Members};
use tholepin_schema::word::NodeId;

use super::step::{Failed, Step, look, send};
use crate::pool::{Pool, Target};

pub(super) async fn forget(pool: &Pool, members: &Members, node: NodeId) -> Step {
    // First all are asked, so that nothing is told if one cannot be.
    let running: Vec<Target<'_>> =
        Target::all(members).filter(|target| target.member.running).collect();
    let looks = join_all(running.iter().map(|target| look(pool, *target))).await;
    let mut knowing = Vec::new();
    for (target, nodes) in running.iter().zip(looks) {
        let nodes = nodes.map_err(Failed::before)?;
        if nodes.myself == node {
            let text = format!("`{}` is the node {} itself", target.member.pod, node.short());
            return Err(Failed::before(CallError::Conflict(text)));
        }
        if nodes.rows.contains_key(&node) {
            knowing.push(*target);
        }
    }
    let id = node.to_string();
    let words = ["CLUSTER", "FORGET", id.as_str()];
    let told = join_all(knowing.iter().map(|target| send(pool, *target, &words))).await;
    let count = told.len();
    for result in told {
        result.map_err(|failed| Failed { may_have_run: 1 < count, ..failed })?;
    }
    Ok(format!("{count} members have forgotten {}", node.short()))
}
