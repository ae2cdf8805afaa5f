//! Each guard, accepting and refusing, on a cluster of three primaries (pods 0-2) and three replicas (pods
//! 3-5; pod 3 replicates pod 0, and so on).

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use tholepin_schema::{
    action::{Action, FailoverMode, Preconditions, Verb},
    fact::Fact,
    primitives::{ConfigEpoch, NodeId, Role, Slot, SlotRange, SlotSet},
    snapshot::{
        ClusterNodesRow, MemberAnswer, MemberFacts, NodeFlag, OpenSlot, SlotDirection, Snapshot,
        UnreachableReason,
    },
};

use super::*;
use crate::{
    ledger::record,
    ledger_document::{KnownNode, Ledger},
};

const NOW_MS: u64 = 1_000_000;

/// The input of the guards, which a test changes.
struct GuardFixture {
    snapshot: Snapshot,
    ledger: Ledger,
    policy: SafetyPolicy,
    deaths: BTreeMap<NodeId, DeathProof>,
    approved: DataLossApproval,
}

fn node(index: usize) -> NodeId {
    format!("{index:040x}").parse().unwrap()
}

fn pod(index: usize) -> String {
    format!("pod-{index}")
}

fn slots(text: &str) -> SlotSet {
    text.split(' ').map(|range| range.parse::<SlotRange>().unwrap()).collect()
}

fn address(index: usize) -> String {
    format!("10.0.0.{index}:7000")
}

fn row(index: usize) -> ClusterNodesRow {
    let owned = ["0-5460", "5461-10922", "10923-16383"];
    let primary = index.checked_sub(3).map(node);
    ClusterNodesRow {
        role: if primary.is_some() { Role::Replica } else { Role::Primary },
        address: Some(address(index)),
        primary,
        epoch: ConfigEpoch(index as u64 % 3 + 1),
        slots: owned.get(index).map(|text| slots(text)).unwrap_or_default(),
        flags: Default::default(),
        connected: true,
    }
}

fn facts(index: usize) -> MemberFacts {
    let replication = if index < 3 {
        json!({"id": "a".repeat(40), "offsetBytes": 1000, "replicas": [
            {"address": address(index + 3), "state": "online", "offsetBytes": 1000, "lagS": 0},
        ]})
    } else {
        json!({"id": "a".repeat(40), "offsetBytes": 1000, "upstream": {
            "address": address(index - 3), "linkUp": true, "syncInProgress": false,
        }})
    };
    serde_json::from_value(json!({
        "answeredAtMs": NOW_MS, "node": node(index), "runId": format!("{index:a>40}"),
        "loading": false, "keys": 7, "replication": replication,
        "settings": {"cluster-node-timeout": "2000", "save": ""},
    }))
    .unwrap()
}

impl GuardFixture {
    fn healthy() -> Self {
        let members = (0..6).map(|index| {
            serde_json::from_value(json!({
                "pod": pod(index), "podUid": format!("uid-{index}"), "kubeNode": "n",
                "containerId": format!("c-{index}"), "running": true, "ready": true,
                "address": address(index), "kubernetes": {},
                "answer": {"answered": facts(index)},
            }))
            .unwrap()
        });
        let snapshot = Snapshot {
            observed_at_ms: NOW_MS - 10,
            view: (0..6).map(|index| (node(index), row(index))).collect(),
            members: members.collect(),
            strangers: vec!["stranger".to_owned()],
            ..Snapshot::default()
        };
        let mut ledger = Ledger::default();
        record(&mut ledger, &snapshot, NOW_MS - 60_000);
        let policy = SafetyPolicy { tail_loss: true, data_loss: false };
        let (deaths, approved) = (BTreeMap::new(), DataLossApproval::default());
        Self { snapshot, ledger, policy, deaths, approved }
    }

    /// Six nodes that know only themselves and own no slots.
    fn unformed() -> Self {
        let mut fixture = Self::healthy();
        fixture.snapshot.view.clear();
        for index in 0..6 {
            let lone = ClusterNodesRow {
                role: Role::Primary,
                primary: None,
                epoch: ConfigEpoch(0),
                slots: SlotSet::EMPTY,
                ..row(index)
            };
            let facts = fixture.facts(index);
            facts.keys = Some(0);
            facts.differs = [(node(index), lone)].into();
        }
        fixture.ledger = Ledger::default();
        let GuardFixture { snapshot, ledger, .. } = &mut fixture;
        record(ledger, snapshot, NOW_MS);
        fixture
    }

    fn facts(&mut self, index: usize) -> &mut MemberFacts {
        match &mut self.snapshot.members[index].answer {
            MemberAnswer::Answered(facts) => facts,
            MemberAnswer::Unreachable { .. } | MemberAnswer::Other => {
                panic!("pod-{index} does not answer")
            }
        }
    }

    fn own(&mut self, index: usize) -> &mut ClusterNodesRow {
        self.facts(index).differs.get_mut(&node(index)).unwrap()
    }

    fn silence(&mut self, index: usize) {
        let reason = UnreachableReason::Timeout;
        let message = "no answer".to_owned();
        self.snapshot.members[index].answer = MemberAnswer::Unreachable { reason, message };
    }

    /// Ends the process: it does not answer, and its recorded container is reported as terminated.
    fn kill(&mut self, index: usize) {
        self.silence(index);
        self.snapshot.members[index].running = false;
        self.snapshot.members[index].kubernetes =
            json!({"state": {"terminated": {"containerID": format!("c-{index}")}}});
        self.deaths = deaths(&self.snapshot, &self.ledger);
    }

    fn evaluate<T>(&self, question: impl FnOnce(&GuardInput<'_>) -> T) -> T {
        let Self { snapshot, ledger, policy, deaths, approved } = self;
        let (objects, unproven, policy) = (&ObservedObjects::new(), &BTreeMap::new(), *policy);
        let now_ms = NOW_MS;
        question(&GuardInput {
            snapshot,
            ledger,
            policy,
            deaths,
            unproven,
            approved,
            objects,
            now_ms,
        })
    }

    /// Returns the message with which an action is refused.
    fn refusal(&self, action: impl Into<Action>) -> String {
        self.evaluate(|input| check(&action.into(), input)).unwrap_err().message
    }

    fn check(&self, action: impl Into<Action>) -> Result<(), &'static str> {
        self.evaluate(|input| check(&action.into(), input)).map_err(|refusal| {
            assert!(!refusal.message.is_empty());
            refusal.guard.as_str()
        })
    }
}

fn fail_over(index: usize, primary: usize, mode: FailoverMode) -> Verb {
    Verb::Failover { pod: pod(index), primary: node(primary), mode }
}

fn meet(one: usize, other: usize) -> Verb {
    Verb::Meet { pod: pod(one), with: pod(other) }
}

use FailoverMode::{Force, Graceful, Takeover};

/// Changes a healthy cluster and checks the guards' result.
#[track_caller]
fn check_that(verb: Verb, expected: Result<(), &str>, change: impl FnOnce(&mut GuardFixture)) {
    let mut fixture = GuardFixture::healthy();
    change(&mut fixture);
    assert_eq!(fixture.check(verb), expected);
}

/// Changes an unformed instance and checks the guards' result.
#[track_caller]
fn check_unformed(verb: Verb, expected: Result<(), &str>, change: impl FnOnce(&mut GuardFixture)) {
    let mut fixture = GuardFixture::unformed();
    change(&mut fixture);
    assert_eq!(fixture.check(verb), expected);
}

#[test]
fn an_old_snapshot_is_not_acted_on() {
    check_that(meet(0, 1), Ok(()), |fixture| fixture.snapshot.observed_at_ms = NOW_MS - 2_000);
    check_that(meet(0, 1), Err("fresh"), |fixture| {
        fixture.snapshot.observed_at_ms = NOW_MS - 2_001
    });
    // The clock went back since the snapshot was taken, so its age is not known.
    check_that(meet(0, 1), Err("fresh"), |fixture| fixture.snapshot.observed_at_ms = NOW_MS + 1);
}

fn fact_about(pod: &str, field: &str, value: &str) -> Fact {
    let text = json!({"subject": {"member": {"pod": pod}}, "field": field, "op": "equals",
        "value": value});
    serde_json::from_value(text).unwrap()
}

#[test]
fn preconditions_must_hold() {
    let check_with = |presume: Preconditions| {
        let verb = fail_over(3, 0, Graceful);
        GuardFixture::healthy().check(Action { presume, ..verb.into() })
    };
    let right = Preconditions {
        approved: false,
        node: Some(node(3)),
        run_id: facts(3).run_id,
        role: Some(Role::Replica),
        epoch: Some(ConfigEpoch(1)),
        facts: vec![fact_about("pod-0", ".podUid", "uid-0")],
    };
    assert_eq!(check_with(right.clone()), Ok(()));
    let wrong = [
        Preconditions { node: Some(node(4)), ..right.clone() },
        Preconditions { run_id: facts(4).run_id, ..right.clone() },
        Preconditions { role: Some(Role::Primary), ..right.clone() },
        Preconditions { epoch: Some(ConfigEpoch(2)), ..right.clone() },
        Preconditions { facts: vec![fact_about("pod-0", ".podUid", "uid-1")], ..right.clone() },
        Preconditions { facts: vec![fact_about("nobody", ".podUid", "x")], ..right },
    ];
    for presume in wrong {
        assert_eq!(check_with(presume.clone()), Err("presume"), "{presume:?}");
    }
}

#[test]
fn a_fact_that_is_not_known_does_not_hold() {
    check_that(fail_over(3, 0, Graceful), Err("member"), |fixture| fixture.silence(3));
    let presume = Preconditions { node: Some(node(3)), ..Preconditions::default() };
    let mut fixture = GuardFixture::healthy();
    fixture.silence(3);
    let action = Action { presume, ..fail_over(3, 0, Graceful).into() };
    assert_eq!(fixture.check(action), Err("presume"));
}

#[test]
fn actions_are_sent_only_to_members_that_run_and_answer() {
    let stranger = Verb::Meet { pod: "stranger".into(), with: pod(1) };
    check_that(stranger, Err("member"), |_| {});
    check_that(Verb::Meet { pod: pod(0), with: "stranger".into() }, Err("member"), |_| {});
    check_that(Verb::Meet { pod: pod(0), with: "nobody".into() }, Err("member"), |_| {});
    check_that(meet(0, 1), Err("member"), |fixture| fixture.silence(1));
    check_that(meet(0, 1), Err("member"), |fixture| fixture.snapshot.members[0].running = false);
    check_that(meet(0, 1), Err("member"), |fixture| fixture.snapshot.members[1].address = None);
    check_that(meet(0, 0), Err("meet"), |_| {});
}

#[test]
fn a_foreign_node_blocks_all_actions_but_settings() {
    let foreign = |fixture: &mut GuardFixture| {
        fixture.facts(4).differs.insert(node(99), row(1));
    };
    check_that(fail_over(3, 0, Graceful), Err("foreign"), foreign);
    check_that(meet(0, 1), Err("foreign"), foreign);
    let settings = [("cluster-node-timeout".to_owned(), "5000".to_owned())].into();
    check_that(Verb::Configure { pod: pod(0), settings, temporary: true }, Ok(()), foreign);
    check_that(fail_over(3, 0, Graceful), Ok(()), |fixture| {
        foreign(fixture);
        fixture.facts(4).differs.get_mut(&node(99)).unwrap().connected = false;
    });
}

#[test]
fn only_a_node_that_is_gone_for_good_is_forgotten() {
    let unreachable = |fixture: &mut GuardFixture, change: fn(&mut ClusterNodesRow)| {
        let mut row = ClusterNodesRow { slots: SlotSet::EMPTY, connected: false, ..row(0) };
        change(&mut row);
        fixture.snapshot.view.insert(node(99), row);
    };
    let verb = || Verb::Forget { node: node(99) };
    check_that(verb(), Ok(()), |fixture| unreachable(fixture, |_| {}));
    check_that(verb(), Err("ghost"), |fixture| unreachable(fixture, |row| row.connected = true));
    check_that(verb(), Err("ghost"), |fixture| unreachable(fixture, |row| row.slots = slots("5")));
    check_that(verb(), Err("ghost"), |fixture| {
        unreachable(fixture, |_| {});
        fixture.snapshot.view.get_mut(&node(3)).unwrap().primary = Some(node(99));
    });
    check_that(verb(), Err("ghost"), |fixture| {
        unreachable(fixture, |_| {});
        fixture.silence(5);
    });
    check_that(verb(), Ok(()), |fixture| {
        unreachable(fixture, |_| {});
        fixture.silence(5);
        fixture.snapshot.members[5].running = false;
    });
    // A Pod that never answered has the node's address: it may be that node.
    check_that(verb(), Err("ghost"), |fixture| {
        unreachable(fixture, |row| row.address = Some(address(5)));
        fixture.silence(5);
        fixture.snapshot.members[5].running = false;
    });
    check_that(Verb::Forget { node: node(4) }, Err("ghost"), |_| {});
    // Its Pod exists and does not answer: it may return with this id.
    check_that(Verb::Forget { node: node(4) }, Err("ghost"), |fixture| fixture.kill(4));
    check_that(Verb::Forget { node: node(4) }, Ok(()), |fixture| {
        fixture.snapshot.members.remove(4);
    });
}

#[test]
fn settings_are_in_the_table_and_can_be_restored() {
    let verb = |name: &str, value: &str, temporary| Verb::Configure {
        pod: pod(0),
        settings: [(name.to_owned(), value.to_owned())].into(),
        temporary,
    };
    check_that(verb("cluster-node-timeout", "500", true), Ok(()), |_| {});
    check_that(verb("cluster-node-timeout", "1", true), Err("setting"), |_| {});
    check_that(verb("requirepass", "x", false), Err("setting"), |_| {});
    check_that(verb("slowlog-max-len", "5", true), Err("restore"), |_| {});
    check_that(verb("slowlog-max-len", "5", false), Ok(()), |_| {});
    check_that(verb("cluster-announce-ip", "10.0.0.0", false), Ok(()), |_| {});
    check_that(verb("cluster-announce-ip", "10.0.0.1", false), Err("setting"), |_| {});
}

#[test]
fn actions_of_one_list_must_fit_together() {
    let assign = |index, text: &str| Verb::AssignSlots { pod: pod(index), slots: slots(text) };
    let list = |verbs: Vec<Verb>| {
        let list: Vec<Action> = verbs.into_iter().map(Action::from).collect();
        check_list(&list).map_err(|refusal| refusal.guard.as_str())
    };
    assert_eq!(list(vec![assign(0, "0-9"), assign(1, "10-19"), assign(0, "5-9")]), Ok(()));
    assert_eq!(list(vec![assign(0, "0-9"), assign(1, "9-19")]), Err("list"));
    assert_eq!(list(vec![fail_over(3, 0, Force), fail_over(4, 1, Force)]), Ok(()));
    assert_eq!(list(vec![fail_over(3, 0, Force), fail_over(4, 0, Force)]), Err("list"));
}

#[test]
fn death_is_proven_by_the_end_of_the_recorded_container_or_the_deletion_of_the_pod() {
    let known = &GuardFixture::healthy().ledger.nodes[&node(0)];
    let terminated = |id: &str| json!({"lastState": {"terminated": {"containerID": id}}});
    let liveness = |container_status, kube_node_ready, dial| {
        proof_of_death(known, &RedisNodeLiveReads { container_status, kube_node_ready, dial })
    };
    use DialOutcome::{Inconclusive, Refused};
    assert_eq!(
        liveness(Some(terminated("c-0")), false, Inconclusive),
        Some(DeathProof::Terminated)
    );
    assert_eq!(liveness(Some(terminated("c-1")), true, Refused), None);
    assert_eq!(liveness(Some(json!({"state": {"running": {}}})), true, Refused), None);
    assert_eq!(liveness(None, true, Refused), Some(DeathProof::PodGone));
    assert_eq!(liveness(None, true, Inconclusive), None);
    assert_eq!(liveness(None, false, Refused), None);
    // Its container restarted several times, so the last state names another container.
    let started_again = |now: u64, then: Option<u64>| {
        let known = KnownNode { restart_count: then, ..known.clone() };
        let status =
            json!({"restartCount": now, "lastState": {"terminated": {"containerID": "c-7"}}});
        let container_status = Some(status);
        proof_of_death(
            &known,
            &RedisNodeLiveReads { container_status, kube_node_ready: true, dial: Refused },
        )
    };
    assert_eq!(started_again(3, Some(1)), Some(DeathProof::Terminated));
    assert_eq!(started_again(1, Some(1)), None);
    assert_eq!(started_again(3, None), None, "an older host did not record held keys");
    let uncertain = KnownNode { container_id: String::new(), ..known.clone() };
    let liveness = RedisNodeLiveReads {
        container_status: Some(terminated("")),
        kube_node_ready: true,
        dial: Refused,
    };
    assert_eq!(proof_of_death(&uncertain, &liveness), None);
}

#[test]
fn a_node_that_answers_is_not_dead() {
    let mut fixture = GuardFixture::healthy();
    fixture.snapshot.members[0].kubernetes =
        json!({"lastState": {"terminated": {"containerID": "c-0"}}});
    assert!(deaths(&fixture.snapshot, &fixture.ledger).is_empty());
    fixture.silence(0);
    assert_eq!(
        deaths(&fixture.snapshot, &fixture.ledger),
        [(node(0), DeathProof::Terminated)].into()
    );
    // A recorded end stays proven after the Pod is gone, until the node answers again.
    let mut later = GuardFixture::healthy();
    record(&mut later.ledger, &fixture.snapshot, NOW_MS);
    let mut gone = fixture.snapshot.clone();
    gone.members.remove(0);
    assert_eq!(deaths(&gone, &later.ledger), [(node(0), DeathProof::Terminated)].into());
    assert!(deaths(&later.snapshot, &later.ledger).is_empty());
    record(&mut later.ledger, &later.snapshot, NOW_MS);
    assert!(deaths(&gone, &later.ledger).is_empty());
    // Another Pod of the same name proves nothing about the recorded one.
    fixture.snapshot.members[0].pod_uid = "another".to_owned();
    assert!(deaths(&fixture.snapshot, &fixture.ledger).is_empty());
}

#[test]
fn classes_follow_what_can_be_lost() {
    let fixture = GuardFixture::healthy();
    let class = |verb: Verb| fixture.evaluate(|input| class(&verb.into(), input));
    assert_eq!(class(fail_over(3, 0, Graceful)), LossClass::Safe);
    assert_eq!(class(fail_over(3, 0, Force)), LossClass::TailLoss);
    assert_eq!(class(fail_over(3, 0, Takeover)), LossClass::TailLoss);
    assert_eq!(class(meet(0, 1)), LossClass::Safe);
    assert_eq!(class(Verb::AssignSlots { pod: pod(0), slots: slots("0-9") }), LossClass::Safe);
    assert_eq!(class(Verb::AssignSlots { pod: pod(1), slots: slots("0-9") }), LossClass::DataLoss);
}

fn verbs_for(pod: &str, other: &str) -> Vec<Verb> {
    let (pod, with) = (pod.to_owned(), other.to_owned());
    let settings: BTreeMap<String, String> =
        [("cluster-node-timeout".to_owned(), "500".to_owned())].into();
    let failover = |mode| Verb::Failover { pod: pod.clone(), primary: node(0), mode };
    vec![
        Verb::Meet { pod: pod.clone(), with: with.clone() },
        Verb::Meet { pod: with, with: pod.clone() },
        Verb::SetConfigEpoch { pod: pod.clone(), epoch: ConfigEpoch(1) },
        Verb::AssignSlots { pod: pod.clone(), slots: slots("0-5460") },
        Verb::Replicate { pod: pod.clone(), primary: node(0) },
        failover(Graceful),
        failover(Force),
        failover(Takeover),
        Verb::Configure { pod: pod.clone(), settings, temporary: false },
    ]
}

proptest! {
    #[test]
    fn no_guard_accepts_an_unknown_pod(
        name in "[a-z0-9-]{0,12}",
        formed in any::<bool>(),
        dead in proptest::collection::btree_set(0_usize..6, 0..4),
        policy in any::<(bool, bool)>(),
    ) {
        prop_assume!((0..6).all(|index| pod(index) != name));
        let mut fixture = if formed { GuardFixture::healthy() } else { GuardFixture::unformed() };
        fixture.ledger.adopted_at_ms = Some(1);
        fixture.policy = SafetyPolicy { tail_loss: policy.0, data_loss: policy.1 };
        for index in dead {
            fixture.kill(index);
        }
        for verb in verbs_for(&name, "pod-1").into_iter().chain(verbs_for("stranger", "pod-1")) {
            prop_assert!(fixture.check(verb.clone()).is_err(), "{verb:?}");
        }
    }

    #[test]
    fn nothing_that_can_lose_data_passes_without_a_policy(
        silent in proptest::collection::btree_set(0_usize..6, 0..4),
        dead in proptest::collection::btree_set(0_usize..6, 0..4),
        replica in 3_usize..6,
    ) {
        let mut fixture = GuardFixture::healthy();
        fixture.policy = SafetyPolicy::default();
        silent.into_iter().for_each(|index| fixture.silence(index));
        dead.into_iter().for_each(|index| fixture.kill(index));
        for mode in [Force, Takeover] {
            prop_assert!(fixture.check(fail_over(replica, replica - 3, mode)).is_err());
        }
    }
}

mod failover;
mod start;
mod stop;
mod topology;

#[test]
fn a_refusal_before_adoption_names_the_member_that_has_never_answered() {
    let text = |change: fn(&mut GuardFixture)| {
        let mut fixture = GuardFixture::healthy();
        fixture.kill(0);
        fixture.ledger.adopted_at_ms = None;
        change(&mut fixture);
        fixture.refusal(fail_over(3, 0, Force))
    };
    let disagree = "the members that answer do not agree yet";
    assert!(text(|_| {}).contains(disagree), "one that ended is in the ledger");
    let never = text(|fixture| {
        fixture.silence(5);
        fixture.ledger.nodes.remove(&node(5));
    });
    assert!(never.contains("`pod-5` has never answered"), "{never}");
}
