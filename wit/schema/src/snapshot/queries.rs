//! Questions about a snapshot that planners and guards must answer in the same way.

use alloc::{collections::BTreeMap, string::String};

use super::{ClusterNodesRow, Member, MemberFacts, NodeFlag, Snapshot};
use crate::primitives::{NodeId, Role, SlotSet};

/// The longest time, in seconds, since the last acknowledgement of a replica that is in sync. Redis replicas
/// acknowledge once a second.
pub const SYNC_LAG_S_MAX: u64 = 1;

/// The voters of a cluster, and how many of them answered and agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    /// The number of primaries with slots in the majority's view.
    pub voters: usize,
    /// The number of voters that answered.
    pub heard: usize,
    /// The number of voters that answered and whose own view gives every slot the same owner as the
    /// majority's view. Their `cluster_state` is not considered.
    pub agreeing: usize,
}

impl Quorum {
    /// Returns true if more than half of the voters answered and agree on the owners of all slots.
    #[must_use]
    pub const fn is_majority(self) -> bool {
        self.voters < self.agreeing * 2
    }
}

/// Why a replica does not count as in sync with its primary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInSyncReason {
    /// The member did not answer, or is not a replica.
    #[error("`{0}` does not answer as a replica")]
    NoReplica(String),
    /// Its primary is not a member, or did not answer.
    #[error("the primary of `{0}` does not answer")]
    NoPrimary(String),
    /// The link to the primary is down.
    #[error("the link of `{0}` to its primary is down")]
    LinkDown(String),
    /// A full synchronisation is in progress.
    #[error("`{0}` is being synchronised")]
    Syncing(String),
    /// It follows another address than the one that its primary has.
    #[error("`{pod}` follows {follows}, its primary listens on {address}")]
    WrongAddress {
        /// The replica's Pod.
        pod: String,
        /// The address it follows.
        follows: String,
        /// The primary's address.
        address: String,
    },
    /// It replicates another history of writes than its primary has.
    #[error("`{0}` has another history of writes than its primary")]
    OtherHistory(String),
    /// The primary does not report it as online.
    #[error("the primary of `{pod}` reports it as {state}")]
    NotOnline {
        /// The replica's Pod.
        pod: String,
        /// The state that the primary reports.
        state: String,
    },
    /// It is too far behind.
    #[error("`{pod}` is {behind_bytes} bytes behind, {allowed_bytes} are allowed")]
    Behind {
        /// The replica's Pod.
        pod: String,
        /// How far it is behind, in bytes of the stream.
        behind_bytes: u64,
        /// How far it may be behind, in bytes of the stream.
        allowed_bytes: u64,
    },
    /// Its last acknowledgement is older than [`SYNC_LAG_S_MAX`].
    #[error("`{pod}` acknowledged {lag_s} s ago")]
    Silent {
        /// The replica's Pod.
        pod: String,
        /// Seconds since its last acknowledgement.
        lag_s: u64,
    },
}

impl Snapshot {
    /// Returns the member in this Pod.
    #[must_use]
    pub fn member(&self, pod: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.pod == pod)
    }

    /// Returns the member whose process reports this node id; `None` if several do, which happens only with
    /// copied data.
    #[must_use]
    pub fn member_of(&self, node: NodeId) -> Option<&Member> {
        let mut found = self.members.iter().filter(|member| member.node() == Some(node));
        found.next().filter(|_| found.next().is_none())
    }

    /// Returns the nodes in this member's own view; `None` if it did not answer or did not report its own id.
    #[must_use]
    pub fn seen_by(&self, member: &Member) -> Option<BTreeMap<NodeId, ClusterNodesRow>> {
        let facts = member.facts().filter(|facts| facts.node.is_some())?;
        let mut rows = self.view.clone();
        rows.retain(|id, _| !facts.lacks.contains(id));
        rows.extend(facts.differs.iter().map(|(id, row)| (*id, row.clone())));
        Some(rows)
    }

    /// Returns one node in this member's own view.
    #[must_use]
    pub fn row_seen_by<'a>(
        &'a self,
        member: &'a Member,
        node: NodeId,
    ) -> Option<&'a ClusterNodesRow> {
        let facts = member.facts().filter(|facts| facts.node.is_some())?;
        if facts.lacks.contains(&node) {
            return None;
        }
        facts.differs.get(&node).or_else(|| self.view.get(&node))
    }

    /// Iterates over the primaries with slots in the majority's view.
    pub fn primaries(&self) -> impl Iterator<Item = (NodeId, &ClusterNodesRow)> {
        let serving = |row: &ClusterNodesRow| row.role == Role::Primary && !row.slots.is_empty();
        self.view.iter().filter(move |(_, row)| serving(row)).map(|(id, row)| (*id, row))
    }

    /// Iterates over the replicas of a primary in the majority's view.
    pub fn replicas_of(&self, primary: NodeId) -> impl Iterator<Item = (NodeId, &ClusterNodesRow)> {
        let follows = move |row: &ClusterNodesRow| row.primary == Some(primary);
        self.view.iter().filter(move |(_, row)| follows(row)).map(|(id, row)| (*id, row))
    }

    /// Returns true if all members answered, know the same nodes, and give each slot the same owner. A
    /// member's view of another member's replica does not count: the replica itself reports which primary it
    /// follows, and other nodes learn it up to half a node timeout later.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        self.is_agreed_but_for(|_| false)
    }

    /// Like [`is_agreed`](Self::is_agreed), except that the members selected by `need_not` need not answer.
    #[must_use]
    pub fn is_agreed_but_for(&self, need_not: impl Fn(&Member) -> bool) -> bool {
        let agrees = |facts: &MemberFacts| {
            let owned_alike = |(id, row): (&NodeId, &ClusterNodesRow)| {
                self.view.get(id).is_some_and(|agreed| agreed.owns_the_same(row))
            };
            facts.node.is_some() && facts.lacks.is_empty() && facts.differs.iter().all(owned_alike)
        };
        self.members.iter().any(|member| member.facts().is_some())
            && self.members.iter().all(|member| member.facts().map_or(need_not(member), agrees))
    }

    /// Counts the voters, and those that answered and agree.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        let mut quorum = Quorum::default();
        let owners = |rows: &BTreeMap<NodeId, ClusterNodesRow>| -> BTreeMap<NodeId, SlotSet> {
            let owning = rows.iter().filter(|(_, row)| !row.slots.is_empty());
            owning.map(|(id, row)| (*id, row.slots.clone())).collect()
        };
        let agreed = owners(&self.view);
        for (id, _) in self.primaries() {
            quorum.voters += 1;
            let Some(rows) = self.member_of(id).and_then(|member| self.seen_by(member)) else {
                continue;
            };
            quorum.heard += 1;
            quorum.agreeing += usize::from(owners(&rows) == agreed);
        }
        quorum
    }

    /// Checks that a promotion of this replica now would lose at most `behind_bytes_max` bytes of the stream.
    /// Checks both the replica's and the primary's report: a link that is up is not enough, because a primary
    /// holds the stream back for up to a second after a synchronisation.
    ///
    /// # Errors
    ///
    /// Fails with the first condition that does not hold.
    pub fn check_in_sync(&self, pod: &str, behind_bytes_max: u64) -> Result<(), NotInSyncReason> {
        let pod = String::from(pod);
        let member = self.member(&pod);
        let replica_stream =
            member.and_then(Member::facts).and_then(|facts| facts.replication.as_ref());
        let (Some(member), Some(replica_stream)) = (member, replica_stream) else {
            return Err(NotInSyncReason::NoReplica(pod));
        };
        let Some(upstream) = &replica_stream.upstream else {
            return Err(NotInSyncReason::NoReplica(pod));
        };
        let own = member.node().and_then(|id| self.row_seen_by(member, id));
        let primary = own.and_then(|row| row.primary).and_then(|id| self.member_of(id));
        let stream = primary.and_then(Member::facts).and_then(|facts| facts.replication.as_ref());
        let (Some(primary), Some(stream)) = (primary, stream) else {
            return Err(NotInSyncReason::NoPrimary(pod));
        };
        if !upstream.link_up {
            return Err(NotInSyncReason::LinkDown(pod));
        }
        if upstream.sync_in_progress {
            return Err(NotInSyncReason::Syncing(pod));
        }
        let address = primary.address.clone().unwrap_or_default();
        if upstream.address != address {
            let follows = upstream.address.clone();
            return Err(NotInSyncReason::WrongAddress { pod, follows, address });
        }
        if replica_stream.id != stream.id {
            return Err(NotInSyncReason::OtherHistory(pod));
        }
        let attached =
            stream.replicas.iter().find(|seen| Some(&seen.address) == member.address.as_ref());
        let Some(attached) = attached else {
            return Err(NotInSyncReason::NotOnline { pod, state: "unknown".into() });
        };
        if attached.state != "online" {
            return Err(NotInSyncReason::NotOnline { pod, state: attached.state.clone() });
        }
        let lag_s = attached.lag_s.unwrap_or(u64::MAX);
        if SYNC_LAG_S_MAX < lag_s {
            return Err(NotInSyncReason::Silent { pod, lag_s });
        }
        let behind_bytes = stream
            .offset_bytes
            .saturating_sub(replica_stream.offset_bytes.max(attached.offset_bytes));
        if behind_bytes_max < behind_bytes {
            return Err(NotInSyncReason::Behind {
                pod,
                behind_bytes,
                allowed_bytes: behind_bytes_max,
            });
        }
        Ok(())
    }
}

impl MemberFacts {
    /// Returns true if the process has no keys and has received nothing from its primary since it started, so
    /// that promoting it would give up all data of the primary. Such a replica has an offset of at most 1.
    #[must_use]
    pub fn has_never_synced(&self) -> bool {
        let offset_bytes = self.replication.as_ref().map(|stream| stream.offset_bytes);
        self.keys == Some(0) && offset_bytes.is_none_or(|offset_bytes| offset_bytes <= 1)
    }
}

impl ClusterNodesRow {
    /// Returns true if both rows agree on what the node owns: the same slots, and if there are any, the same
    /// role and epoch.
    #[must_use]
    pub fn owns_the_same(&self, other: &Self) -> bool {
        let is_same = (self.role, self.epoch) == (other.role, other.epoch);
        self.slots == other.slots && (self.slots.is_empty() || is_same)
    }

    /// Returns true if the reporting node considers this node failed (`fail`) or suspects it (`fail?`).
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.flags.contains(&NodeFlag::Fail) || self.flags.contains(&NodeFlag::MaybeFail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use serde_json::{Value, json};

    /// Returns a snapshot as JSON: node `a` in Pod `a` is a primary with all slots, node `b` in Pod `b` is
    /// its replica.
    fn pair() -> Value {
        let id = |digit: &str| digit.repeat(40);
        let member = |pod: &str, replication: Value| {
            json!({
                "pod": pod, "podUid": pod, "running": true, "address": format!("{pod}:7000"),
                "answer": {"answered": {
                    "answeredAtMs": 1, "node": id(pod), "replication": replication,
                }},
            })
        };
        let stream = json!({"id": id("c"), "offsetBytes": 1000, "replicas": [
            {"address": "b:7000", "state": "online", "offsetBytes": 990, "lagS": 1},
        ]});
        let link = json!({"id": id("c"), "offsetBytes": 995, "upstream": {
            "address": "a:7000", "linkUp": true, "syncInProgress": false,
        }});
        json!({
            "observedAtMs": 1,
            "view": {
                id("a"): {"role": "primary", "epoch": 1, "slots": ["0-16383"], "connected": true},
                id("b"): {"role": "replica", "primary": id("a"), "epoch": 1, "connected": true},
            },
            "members": [member("a", stream), member("b", link)],
        })
    }

    /// Sets one field and checks whether `b` is in sync, with five bytes allowed.
    fn check(path: &str, value: Value) -> Result<(), NotInSyncReason> {
        let mut json = pair();
        *json.pointer_mut(path).unwrap() = value;
        serde_json::from_value::<Snapshot>(json).unwrap().check_in_sync("b", 5)
    }

    #[test]
    fn in_sync_needs_both_reports() {
        const A: &str = "/members/0/answer/answered/replication";
        const B: &str = "/members/1/answer/answered/replication";
        let pod = || String::from("b");
        assert_eq!(check("/observedAtMs", json!(2)), Ok(()));
        let unreachable = json!({"unreachable": {"reason": "timeout", "message": ""}});
        let cases = [
            (
                String::from("/members/1/answer"),
                unreachable.clone(),
                NotInSyncReason::NoReplica(pod()),
            ),
            (format!("{B}/upstream"), Value::Null, NotInSyncReason::NoReplica(pod())),
            (String::from("/members/0/answer"), unreachable, NotInSyncReason::NoPrimary(pod())),
            (format!("{B}/upstream/linkUp"), json!(false), NotInSyncReason::LinkDown(pod())),
            (format!("{B}/upstream/syncInProgress"), json!(true), NotInSyncReason::Syncing(pod())),
            (format!("{B}/id"), json!("d".repeat(40)), NotInSyncReason::OtherHistory(pod())),
            (
                format!("{A}/replicas/0/lagS"),
                json!(2),
                NotInSyncReason::Silent { pod: pod(), lag_s: 2 },
            ),
            (
                format!("{B}/upstream/address"),
                json!("x:7000"),
                NotInSyncReason::WrongAddress {
                    pod: pod(),
                    follows: "x:7000".into(),
                    address: "a:7000".into(),
                },
            ),
            (
                format!("{A}/replicas/0/state"),
                json!("wait_bgsave"),
                NotInSyncReason::NotOnline { pod: pod(), state: "wait_bgsave".into() },
            ),
            (
                format!("{A}/replicas"),
                json!([]),
                NotInSyncReason::NotOnline { pod: pod(), state: "unknown".into() },
            ),
            (
                format!("{A}/offsetBytes"),
                json!(1001),
                NotInSyncReason::Behind { pod: pod(), behind_bytes: 6, allowed_bytes: 5 },
            ),
        ];
        for (path, value, expected) in cases {
            assert_eq!(check(&path, value), Err(expected), "{path}");
        }
    }

    #[test]
    fn members_agree_if_they_give_each_slot_the_same_owner() {
        let id = |digit: &str| digit.repeat(40);
        // Sets how `b` sees one node, different from the majority's view.
        let agreed = |node: &str, row: Value| {
            let mut json = pair();
            json["members"][1]["answer"]["answered"]["differs"] = json!({id(node): row});
            serde_json::from_value::<Snapshot>(json).unwrap().is_agreed()
        };
        let owner = |slots: &str, epoch: u64| json!({"role": "primary", "epoch": epoch, "slots": [slots], "connected": false});
        assert!(agreed("a", owner("0-16383", 1)), "reachability may differ");
        assert!(!agreed("a", owner("0-16382", 1)) && !agreed("a", owner("0-16383", 2)));
        let other = json!({"role": "primary", "epoch": 2, "slots": [], "connected": true});
        assert!(agreed("b", other.clone()), "its role reaches others late");
        assert!(!agreed("c", other), "no other member knows that node");
    }

    #[test]
    fn a_majority_is_more_than_half_of_those_who_vote() {
        let quorum = |voters, agreeing| Quorum { voters, heard: voters, agreeing };
        assert!(quorum(3, 2).is_majority() && quorum(1, 1).is_majority());
        assert!(!quorum(3, 1).is_majority() && !quorum(2, 1).is_majority());
        assert!(!quorum(0, 0).is_majority());
    }

    #[test]
    fn a_node_id_of_two_processes_finds_no_member() {
        let mut json = pair();
        json["members"][1]["answer"]["answered"]["node"] = json!("a".repeat(40));
        let snapshot: Snapshot = serde_json::from_value(json).unwrap();
        assert!(snapshot.member_of("a".repeat(40).parse().unwrap()).is_none());
    }
}
