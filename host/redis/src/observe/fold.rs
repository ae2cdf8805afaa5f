//! Builds a snapshot from the replies of the members: the majority's view once, and for each member its
//! differences from that view.
//!
//! Pure. The order of the replies does not affect the snapshot.

use std::collections::{BTreeMap, BTreeSet};

use tholepin_schema::{
    primitives::{NodeId, Role},
    snapshot::{
        ClusterNodesRow, CredentialsState, Member, MemberAnswer, MemberFacts, NodeFlag, Snapshot,
    },
};

use super::{MemberQueryResult, reply::ParsedMemberReply};

type Rows = BTreeMap<NodeId, ClusterNodesRow>;

/// Builds the snapshot from the replies of the members.
pub(super) fn fold(
    observed_at_ms: u64,
    mut results: Vec<(Member, MemberQueryResult)>,
    mut strangers: Vec<String>,
) -> Snapshot {
    results.sort_by(|(a, _), (b, _)| a.pod.cmp(&b.pod));
    strangers.sort_unstable();
    let replies: Vec<&ParsedMemberReply> =
        results.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    let view = majority(&replies);
    let members = results.into_iter().map(|(member, result)| {
        let answer = match result {
            Ok(reply) => MemberAnswer::Answered(with_differences(reply, &view)),
            Err((reason, message)) => MemberAnswer::Unreachable { reason, message },
        };
        Member { answer, ..member }
    });
    let members = members.collect();
    // The gate fills these in, because it decides which credentials are used.
    let credentials = CredentialsState::default();
    Snapshot { observed_at_ms, view, members, strangers, credentials }
}

/// How much a member knows of the owners of slots. Only the members that know most are voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SlotOwnerKnowledge {
    /// It knows no node but itself.
    Alone,
    /// It knows other nodes, but no owner of a slot.
    NoOwner,
    /// It knows owners of slots and owns none itself.
    Owners,
    /// It reports itself as a primary with slots.
    Serving,
}

impl SlotOwnerKnowledge {
    /// Returns what a member knows; absent if it did not report its own node id.
    fn of(reply: &ParsedMemberReply) -> Option<Self> {
        let node = reply.facts.node?;
        let serves = |row: &ClusterNodesRow| row.role == Role::Primary && !row.slots.is_empty();
        // A node in handshake is not known yet.
        let is_met = |row: &ClusterNodesRow| !row.flags.contains(&NodeFlag::Handshake);
        let mut others = reply.rows.iter().filter(|(id, row)| **id != node && is_met(row));
        Some(if reply.rows.get(&node).is_some_and(serves) {
            Self::Serving
        } else if reply.rows.values().any(|row| !row.slots.is_empty()) {
            Self::Owners
        } else if others.next().is_some() {
            Self::NoOwner
        } else {
            Self::Alone
        })
    }
}

/// Returns the rows that most voters report. The voters are the members that know most. A fresh member is not a
/// voter while another member knows more: its vote would tie with that of the last replica of a dead primary, and
/// the view could then show the primary without slots.
fn majority(replies: &[&ParsedMemberReply]) -> Rows {
    let answered =
        replies.iter().filter_map(|reply| Some((SlotOwnerKnowledge::of(reply)?, &reply.rows)));
    let answered: Vec<(SlotOwnerKnowledge, &Rows)> = answered.collect();
    let most = answered.iter().map(|(knowledge, _)| *knowledge).max();
    let voters: Vec<&Rows> = answered
        .into_iter()
        .filter(|(knowledge, _)| Some(*knowledge) == most)
        .map(|(_, rows)| rows)
        .collect();
    let ids: BTreeSet<NodeId> = voters.iter().flat_map(|rows| rows.keys().copied()).collect();
    let row_of = |id: NodeId| {
        let mut votes: BTreeMap<&ClusterNodesRow, usize> = BTreeMap::new();
        for row in voters.iter().filter_map(|rows| rows.get(&id)) {
            *votes.entry(row).or_default() += 1;
        }
        let knowing: usize = votes.values().sum();
        if knowing * 2 <= voters.len() {
            return None;
        }
        // In a tie the first row in order wins, so that every host builds the same view.
        let most = votes.values().copied().max()?;
        let row = votes.into_iter().find(|(_, count)| *count == most)?.0;
        Some((id, row.clone()))
    };
    ids.into_iter().filter_map(row_of).collect()
}

/// Returns a member's facts with its rows reduced to the differences from the view.
fn with_differences(reply: ParsedMemberReply, view: &Rows) -> MemberFacts {
    let ParsedMemberReply { mut facts, rows } = reply;
    // For a member that did not report its node id, no differences are recorded.
    if facts.node.is_some() {
        facts.lacks = view.keys().filter(|id| !rows.contains_key(id)).copied().collect();
        facts.differs = rows.into_iter().filter(|(id, row)| view.get(id) != Some(row)).collect();
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::cluster_nodes;
    use tholepin_schema::{
        primitives::{SlotRange, SlotSet},
        snapshot::UnreachableReason,
    };

    fn id(digit: char) -> NodeId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    /// Returns the reply of the node `pod`, whose `rows` are node letters with optional slots: `a:0-9 b c`.
    fn answer(pod: &str, rows: &str) -> (Member, MemberQueryResult) {
        let text: Vec<String> = rows
            .split(' ')
            .map(|row| {
                let (node, slots) = row.split_once(':').unwrap_or((row, ""));
                let flags = if node == pod { "myself,master" } else { "master" };
                format!("{} 10.0.0.1:7000@17000 {flags} - 0 0 1 connected {slots}", node.repeat(40))
            })
            .collect();
        let nodes = cluster_nodes(&text.join("\n")).unwrap();
        let facts = MemberFacts { node: Some(nodes.myself), ..MemberFacts::default() };
        (member(pod), Ok(ParsedMemberReply { facts, rows: nodes.rows }))
    }

    fn member(pod: &str) -> Member {
        let json = serde_json::json!({
            "pod": pod, "podUid": pod, "running": true,
            "answer": {"unreachable": {"reason": "timeout", "message": ""}},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_view_is_that_of_most_voters() {
        let answers = || {
            vec![
                answer("a", "a:0-5 b:6-9 c:10-16383"),
                answer("b", "a:0-5 b:6-9 c:10-16383"),
                answer("c", "a:0-5 b:6-9 c:10-16383 d"),
                // Not a voter: its view appears only in its own differences.
                answer("e", "e a:0-5 b:6-10"),
            ]
        };
        let snapshot = fold(1, answers(), vec!["z".into(), "x".into()]);
        assert_eq!(snapshot.view.keys().copied().collect::<Vec<_>>(), [id('a'), id('b'), id('c')]);
        let facts = |pod: &str| snapshot.member(pod).unwrap().facts().unwrap().clone();
        assert!(facts("a").differs.is_empty() && facts("a").lacks.is_empty());
        assert_eq!(facts("c").differs.keys().copied().collect::<Vec<_>>(), [id('d')]);
        assert_eq!(facts("e").differs.keys().copied().collect::<Vec<_>>(), [id('b'), id('e')]);
        assert_eq!(facts("e").lacks, [id('c')].into());
        assert_eq!(snapshot.strangers, ["x", "z"]);
        let quorum = snapshot.quorum();
        assert_eq!((quorum.voters, quorum.heard, quorum.agreeing), (3, 3, 3));
        assert!(!snapshot.is_agreed());

        let mut reversed = answers();
        reversed.reverse();
        assert_eq!(fold(1, reversed, vec!["x".into(), "z".into()]), snapshot);
    }

    #[test]
    fn a_members_own_view_can_be_restored() {
        let answers =
            vec![answer("a", "a:0-5 b:6-9"), answer("b", "a:0-5 b:6-8"), answer("c", "c d")];
        let views: Vec<Rows> =
            answers.iter().map(|(_, result)| result.as_ref().unwrap().rows.clone()).collect();
        let snapshot = fold(1, answers, vec![]);
        for (member, rows) in snapshot.members.iter().zip(views) {
            assert_eq!(snapshot.seen_by(member), Some(rows.clone()), "{}", member.pod);
            for id in ['a', 'b', 'c', 'd'].map(id) {
                assert_eq!(snapshot.row_seen_by(member, id), rows.get(&id));
            }
        }
        let quorum = snapshot.quorum();
        assert_eq!((quorum.voters, quorum.heard, quorum.agreeing), (2, 2, 1));
        assert!(!quorum.is_majority());
    }

    /// Returns the reply of the replica `pod`, with rows for itself, its dead primary and `others`.
    fn replica(pod: &str, primary: &str, slots: &str, others: &str) -> (Member, MemberQueryResult) {
        let (member, result) = answer(pod, format!("{pod} {primary}:{slots} {others}").trim());
        let mut reply = result.unwrap();
        let own = reply.rows.get_mut(&id(pod.chars().next().unwrap())).unwrap();
        own.role = Role::Replica;
        own.primary = Some(id(primary.chars().next().unwrap()));
        (member, Ok(reply))
    }

    /// The primaries of 1, 2 and 3 shards were deleted with their data, and fresh members answer in their Pods,
    /// before and after they met the replicas.
    #[test]
    fn fresh_members_do_not_outvote_the_replicas_of_dead_primaries() {
        let shards = [("1", "a", "0-99"), ("2", "b", "100-199"), ("3", "c", "200-299")];
        for count in 1..=shards.len() {
            let dead = &shards[..count];
            for fresh in ["alone", "met"] {
                let mut answers = Vec::new();
                for (pod, primary, slots) in dead {
                    let rows = dead.iter().filter(|other| other.0 != *pod);
                    let rows = rows.map(|(pod, primary, slots)| format!("{pod} {primary}:{slots}"));
                    let others: Vec<String> = rows.collect();
                    answers.push(replica(pod, primary, slots, &others.join(" ")));
                    let own = ["d", "e", "f"][answers.len() / 2];
                    // A node that it knows by gossip has no slots.
                    let knows = format!("{own} {pod} {primary}");
                    answers.push(answer(own, if fresh == "met" { knows.as_str() } else { own }));
                }
                let snapshot = fold(1, answers, vec![]);
                let owned: Vec<_> =
                    snapshot.primaries().map(|(id, row)| (id, &row.slots)).collect();
                let expected: Vec<SlotSet> = dead
                    .iter()
                    .map(|(_, _, slots)| slots.parse::<SlotRange>().unwrap().into())
                    .collect();
                let expected: Vec<_> =
                    ['a', 'b', 'c'].map(id).into_iter().zip(expected.iter()).collect();
                assert_eq!(owned, expected, "{count} shards, fresh members {fresh}");
                let quorum = snapshot.quorum();
                assert_eq!((quorum.voters, quorum.heard), (count, 0));
                assert!(!snapshot.is_agreed(), "the view must not count as agreed");
            }
        }
    }

    #[test]
    fn a_node_in_handshake_is_not_known() {
        let (member, result) = answer("d", "d a");
        let mut reply = result.unwrap();
        reply.rows.get_mut(&id('a')).unwrap().flags.insert(NodeFlag::Handshake);
        assert_eq!(
            SlotOwnerKnowledge::of(&reply),
            Some(SlotOwnerKnowledge::Alone),
            "{}",
            member.pod
        );
        reply.facts.node = None;
        assert_eq!(SlotOwnerKnowledge::of(&reply), None);
    }

    #[test]
    fn members_that_do_not_know_each_other_have_no_common_view() {
        let snapshot = fold(1, vec![answer("a", "a"), answer("b", "b"), answer("c", "c")], vec![]);
        assert!(snapshot.view.is_empty());
        assert!(!snapshot.is_agreed());
        assert_eq!(snapshot.members[0].facts().unwrap().differs.len(), 1);
    }

    #[test]
    fn a_member_that_did_not_answer_is_listed_with_the_reason() {
        let silent = Err((UnreachableReason::Timeout, "no answer".to_owned()));
        let snapshot = fold(1, vec![(member("b"), silent), answer("a", "a:0-16383")], vec![]);
        assert_eq!(snapshot.members[1].pod, "b");
        assert_eq!(snapshot.members[1].facts(), None);
        assert!(!snapshot.is_agreed());
        let json = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(json["members"][1]["answer"]["unreachable"]["reason"], "timeout");
        assert_eq!(serde_json::from_value::<Snapshot>(json).unwrap(), snapshot);
    }
}
