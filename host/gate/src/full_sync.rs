//! Limits the full synchronisations that the host starts to one at a time per Kubernetes node.
//!
//! A full synchronisation forks the primary and loads all data on the replica; several at a time on one
//! machine can exhaust its memory. One from a primary without keys costs nothing and is not limited. A
//! replica that reconnects by itself is not started by the host and is not limited either. Other hosts that
//! share the Kubernetes nodes are not known.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tholepin_schema::{
    action::{Action, Verb},
    guard_id::GuardId,
    primitives::{Role, RunId},
    snapshot::{Member, MemberFacts, Snapshot},
};

use crate::guard::GuardRefusal;

/// The assumed node timeout, in milliseconds, of a server that does not report it: Redis' default.
const NODE_TIMEOUT_MS: u64 = 15_000;

/// The longest time without progress, in milliseconds, that a synchronisation counts: the longest node timeout
/// that `configure` sets. A server can report any other, and its object would keep all others on these
/// Kubernetes nodes from synchronising.
const STALL_MS_MAX: u64 = 300_000;

/// The synchronisations under way, of all objects.
#[derive(Debug, Default)]
pub(crate) struct FullSyncLimiter(Mutex<Vec<RunningFullSync>>);

/// A synchronisation that the host has started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RunningFullSync {
    instance: String,
    /// The replica's Pod.
    pod: String,
    run_id: Option<RunId>,
    /// The Kubernetes nodes of the primary and of the replica.
    kube_nodes: [String; 2],
    /// The bytes that the replica had received at the last progress.
    read_bytes: Option<u64>,
    progressed_at_ms: u64,
    /// After this time without progress it no longer counts.
    stall_ms_max: u64,
}

impl FullSyncLimiter {
    /// Records a snapshot of an instance. The synchronisation of a replica that is in sync, or is another
    /// process by now, no longer counts.
    pub(crate) fn update(&self, instance: &str, snapshot: &Snapshot, now_ms: u64) {
        let mut running = self.lock();
        running.retain_mut(|sync| sync.instance != instance || sync.is_running(snapshot, now_ms));
    }

    /// Counts the full synchronisation that the action starts, if it starts one.
    ///
    /// # Errors
    ///
    /// Fails if another one is under way on one of the two Kubernetes nodes.
    pub(crate) fn begin(
        &self,
        instance: &str,
        action: &Action,
        snapshot: &Snapshot,
        now_ms: u64,
    ) -> Result<(), GuardRefusal> {
        let Some(new) = RunningFullSync::of(instance, action, snapshot, now_ms) else {
            return Ok(());
        };
        let mut running = self.lock();
        running.retain(|sync| now_ms <= sync.progressed_at_ms.saturating_add(sync.stall_ms_max));
        let is_same =
            |sync: &&RunningFullSync| sync.instance == new.instance && sync.pod == new.pod;
        if running.iter().any(|sync| is_same(&sync)) {
            return Ok(());
        }
        let shares = |sync: &&RunningFullSync| {
            sync.kube_nodes.iter().find(|node| new.kube_nodes.contains(node)).cloned()
        };
        let other = running.iter().find_map(|sync| Some((sync, shares(&sync)?)));
        if let Some((other, kube_node)) = other {
            let text = format!(
                "`{}` copies its primary's data on the Kubernetes node `{kube_node}`, and one full \
                 synchronisation at a time is started there",
                other.pod
            );
            return Err(GuardRefusal::new(GuardId::FullSync, text));
        }
        running.push(new);
        Ok(())
    }

    /// Removes a synchronisation that was counted and then not started.
    pub(crate) fn release(&self, instance: &str, pod: &str) {
        self.lock().retain(|sync| sync.instance != instance || sync.pod != pod);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RunningFullSync>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningFullSync {
    /// Returns the synchronisation that an action starts; `None` if nothing has to be copied.
    fn of(instance: &str, action: &Action, snapshot: &Snapshot, now_ms: u64) -> Option<Self> {
        let Verb::Replicate { pod, primary } = &action.verb else { return None };
        let replica = snapshot.member(pod)?;
        let own = replica.node().and_then(|node| snapshot.row_seen_by(replica, node));
        let follows = |row: &tholepin_schema::snapshot::ClusterNodesRow| {
            row.role == Role::Replica && row.primary == Some(*primary)
        };
        let source = snapshot.member_of(*primary)?;
        if own.is_some_and(follows) || source.facts().and_then(|facts| facts.keys) == Some(0) {
            return None;
        }
        let facts = replica.facts();
        let stall_ms_max =
            facts.and_then(node_timeout_ms).unwrap_or(NODE_TIMEOUT_MS).min(STALL_MS_MAX);
        Some(Self {
            instance: instance.to_owned(),
            pod: pod.clone(),
            run_id: facts.and_then(|facts| facts.run_id),
            kube_nodes: [source, replica].map(|member| member.kube_node.clone()),
            read_bytes: None,
            progressed_at_ms: now_ms,
            stall_ms_max,
        })
    }

    /// Returns true if it is still under way.
    fn is_running(&mut self, snapshot: &Snapshot, now_ms: u64) -> bool {
        let in_time = now_ms <= self.progressed_at_ms.saturating_add(self.stall_ms_max);
        // A replica that does not answer makes no progress.
        let Some(facts) = snapshot.member(&self.pod).and_then(Member::facts) else {
            return in_time;
        };
        if facts.run_id != self.run_id {
            return false;
        }
        let upstream = facts.replication.as_ref().and_then(|stream| stream.upstream.as_ref());
        let Some(upstream) = upstream else { return in_time };
        if upstream.link_up && !upstream.sync_in_progress {
            return false;
        }
        if upstream.sync_read_bytes != self.read_bytes {
            self.read_bytes = upstream.sync_read_bytes;
            self.progressed_at_ms = now_ms;
            return true;
        }
        in_time
    }
}

fn node_timeout_ms(facts: &MemberFacts) -> Option<u64> {
    facts.settings.get("cluster-node-timeout")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tholepin_schema::{action::Preconditions, snapshot::MemberAnswer};

    use super::*;

    const PRIMARY: &str = "aa";

    fn member(pod: &str, node: &str, kube_node: &str, keys: u64, replication: &Value) -> Value {
        json!({"pod": pod, "podUid": pod, "kubeNode": kube_node, "running": true, "containerId": "c",
            "kubernetes": {}, "answer": {"answered": {"answeredAtMs": 1, "node": node.repeat(20),
                "runId": node.repeat(20), "keys": keys, "replication": replication,
                "settings": {"cluster-node-timeout": "5000"}}}})
    }

    /// A primary with `keys` keys on the Kubernetes node 1, and replicas on the nodes 2 and 3.
    fn snapshot(keys: u64, replication: &Value) -> Snapshot {
        let members = [
            member("p", PRIMARY, "1", keys, &Value::Null),
            member("r", "bb", "2", 0, replication),
            member("s", "cc", "3", 0, &Value::Null),
        ];
        serde_json::from_value(json!({"observedAtMs": 1, "view": {}, "members": members})).unwrap()
    }

    fn replicate(pod: &str) -> Action {
        let primary = PRIMARY.repeat(20).parse().unwrap();
        let verb = Verb::Replicate { pod: pod.into(), primary };
        Action { id: None, verb, presume: Preconditions::default(), after: Vec::new() }
    }

    fn upstream(link_up: bool, read_bytes: Option<u64>) -> Value {
        json!({"role": "replica", "id": "d".repeat(40), "offsetBytes": 0, "upstream": {
            "address": "a:1", "linkUp": link_up, "syncInProgress": !link_up, "syncReadBytes": read_bytes}})
    }

    fn begin(syncs: &FullSyncLimiter, pod: &str, keys: u64, now_ms: u64) -> Result<(), GuardId> {
        let snapshot = snapshot(keys, &Value::Null);
        syncs.begin("i", &replicate(pod), &snapshot, now_ms).map_err(|refusal| refusal.guard)
    }

    #[test]
    fn the_second_waits_until_the_first_is_in_sync() {
        let syncs = FullSyncLimiter::default();
        assert_eq!(begin(&syncs, "r", 7, 0), Ok(()));
        assert_eq!(begin(&syncs, "r", 7, 0), Ok(()), "the same synchronisation");
        assert_eq!(
            begin(&syncs, "s", 7, 0),
            Err(GuardId::FullSync),
            "they share the primary's node"
        );
        assert_eq!(begin(&syncs, "s", 0, 0), Ok(()), "there is nothing to copy");
        syncs.update("i", &snapshot(7, &upstream(false, Some(1))), 4_000);
        assert_eq!(begin(&syncs, "s", 7, 8_000), Err(GuardId::FullSync), "it made progress");
        syncs.update("another", &snapshot(7, &upstream(true, None)), 8_000);
        assert_eq!(
            begin(&syncs, "s", 7, 8_000),
            Err(GuardId::FullSync),
            "the snapshot of another instance"
        );
        syncs.update("i", &snapshot(7, &upstream(true, None)), 8_000);
        assert_eq!(begin(&syncs, "s", 7, 8_000), Ok(()));
    }

    #[test]
    fn a_synchronisation_without_progress_for_the_node_timeout_no_longer_counts() {
        let syncs = FullSyncLimiter::default();
        assert_eq!(begin(&syncs, "r", 7, 0), Ok(()));
        syncs.update("i", &snapshot(7, &upstream(false, Some(1))), 1_000);
        syncs.update("i", &snapshot(7, &upstream(false, Some(1))), 5_000);
        assert_eq!(begin(&syncs, "s", 7, 6_000), Err(GuardId::FullSync));
        assert_eq!(begin(&syncs, "s", 7, 6_001), Ok(()));
        syncs.release("i", "s");
        assert_eq!(begin(&syncs, "r", 7, 6_001), Ok(()), "it was removed");
    }

    #[test]
    fn a_server_with_an_endless_node_timeout_does_not_block_others_without_end() {
        let syncs = FullSyncLimiter::default();
        let mut endless = snapshot(7, &Value::Null);
        let timeout = ("cluster-node-timeout".to_owned(), u64::MAX.to_string());
        for member in &mut endless.members {
            let MemberAnswer::Answered(facts) = &mut member.answer else { panic!("{member:?}") };
            facts.settings.extend([timeout.clone()]);
        }
        assert!(syncs.begin("endless", &replicate("r"), &endless, 0).is_ok());
        assert_eq!(begin(&syncs, "s", 7, STALL_MS_MAX), Err(GuardId::FullSync));
        assert_eq!(begin(&syncs, "s", 7, STALL_MS_MAX + 1), Ok(()));
    }
}
