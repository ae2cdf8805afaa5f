//! Proof that a process has ended whose Pod is gone, and the texts about what is missing.

use serde_json::json;
use tholepin_schema::{
    action::{FailoverMode, Verb},
    snapshot::Snapshot,
};

use super::*;
use crate::{
    guard::{self, DataLossApproval, GuardInput, ObservedObjects, SafetyPolicy},
    ledger_document::Ledger,
};

/// The Pod has been gone for 55 s.
const GONE_AT_MS: u64 = 1_000_000;
const NOW_MS: u64 = GONE_AT_MS + 55_000;

fn node(digit: char) -> NodeId {
    digit.to_string().repeat(40).parse().unwrap()
}

fn known(pod: &str) -> KnownNode {
    serde_json::from_value(json!({
        "pod": pod, "podUid": format!("uid-{pod}"), "containerId": "c", "runId": "b".repeat(40),
        "kubeNode": "n", "address": "10.0.0.1:6379", "role": "primary", "changedAtMs": 1,
        "graceS": 45, "goneAtMs": GONE_AT_MS, "slots": ["0-16383"],
    }))
    .unwrap()
}

/// An absence that fulfils all conditions of a takeover.
fn whole() -> AbsentNodeEvidence {
    AbsentNodeEvidence {
        liveness: RedisNodeLiveReads {
            container_status: None,
            kube_node_ready: true,
            dial: DialOutcome::Refused,
        },
        out_of_service: false,
        confirmed: false,
        unknown_entry: None,
        renewed: Ok(()),
        link_down_ms: Some(5_000),
        node_timeout_ms: Some(5_000),
        now_ms: NOW_MS,
    }
}

#[track_caller]
fn check(
    change: impl FnOnce(&mut KnownNode, &mut AbsentNodeEvidence),
    proof: Option<DeathProof>,
    missing: Option<&str>,
) {
    let (mut known, mut absence) = (known("p"), whole());
    change(&mut known, &mut absence);
    let found = conclude(&known, &absence);
    assert_eq!(found.proof, proof);
    let text = found.unproven.map(|unproven| unproven.missing.join("; "));
    match missing {
        None => assert_eq!(text, None),
        Some(wanted) => {
            let text = text.unwrap_or_default();
            assert!(text.contains(wanted) && !text.contains("; "), "{text}");
        }
    }
}

#[test]
fn a_long_absence_needs_all_conditions() {
    check(|_, _| {}, Some(DeathProof::LongGone), None);
    let weak = Some(DeathProof::PodGone);
    let gone_for =
        |_: &mut KnownNode, absence: &mut AbsentNodeEvidence| absence.now_ms = NOW_MS - 1;
    check(gone_for, weak, Some("grace period of 45 s and 10 s more"));
    check(|known, _| known.grace_s = None, weak, Some("the grace period of its Pod is not known"));
    check(|known, _| known.grace_s = Some(46), weak, Some("grace period of 46 s"));
    check(|known, _| known.gone_at_ms = None, weak, Some("grace period of 45 s"));
    check(|known, _| known.grace_s = Some(u64::MAX), weak, Some("grace period"));
    check(|_, absence| absence.renewed = Err("no Lease".into()), weak, Some("no Lease"));
    check(|_, absence| absence.link_down_ms = Some(4_999), weak, Some("disconnected for 5000 ms"));
    // A member sees a link: the process hangs, or the host alone cannot reach it.
    check(|_, absence| absence.link_down_ms = None, weak, Some("disconnected for 5000 ms"));
    check(|_, absence| absence.node_timeout_ms = None, weak, Some("no member reports"));
    check(
        |_, absence| absence.node_timeout_ms = Some(5_001),
        weak,
        Some("disconnected for 5001 ms"),
    );
    // A time-out proves nothing, not even enough for a failover by vote.
    check(
        |_, absence| absence.liveness.dial = DialOutcome::Inconclusive,
        None,
        Some("does not refuse"),
    );
    check(
        |_, absence| absence.liveness.container_status = Some(json!({})),
        None,
        Some("its Pod exists"),
    );
    check(
        |_, absence| absence.liveness.container_status = Some(Value::Null),
        None,
        Some("cannot be read"),
    );
}

#[test]
fn a_confirmation_counts_where_the_pod_is_gone_and_a_taint_always() {
    let ended = || Some(json!({"state": {"terminated": {"containerID": "c"}}}));
    // confirmed by a person, Kubernetes node tainted, status of the container
    let cases = [
        (true, false, None, Some(DeathProof::Confirmed), None),
        (false, true, None, Some(DeathProof::Confirmed), None),
        (false, true, Some(json!({})), Some(DeathProof::Confirmed), None),
        (true, false, Some(json!({})), None, Some("its Pod exists")),
        (true, false, Some(Value::Null), None, Some("cannot be read")),
        (false, false, None, None, Some("no Lease")),
        // A reported end needs no confirmation.
        (false, false, ended(), Some(DeathProof::Terminated), None),
        (false, true, ended(), Some(DeathProof::Terminated), None),
    ];
    for (confirmed, out_of_service, container_status, proof, missing) in cases {
        let dial = DialOutcome::Inconclusive;
        let liveness = RedisNodeLiveReads { container_status, kube_node_ready: false, dial };
        let renewed = Err("no Lease".to_owned());
        let absence =
            AbsentNodeEvidence { liveness, out_of_service, confirmed, renewed, ..whole() };
        let found = conclude(&known("p"), &absence);
        assert_eq!(found.proof, proof, "{absence:?}");
        let text = found.unproven.map(|unproven| unproven.missing.join("; "));
        let is_said = match (&text, missing) {
            (Some(text), Some(missing)) => text.contains(missing),
            (text, missing) => text.is_none() && missing.is_none(),
        };
        assert!(is_said, "{absence:?}: {text:?}");
    }
}

#[test]
fn an_annotation_names_nodes_each_with_its_pod() {
    let (a, b) = ("a".repeat(40), "b".repeat(40));
    let is_known = |node: &NodeId, uid: &str| {
        [("a", "u"), ("b", "v")]
            .iter()
            .any(|(digit, known)| node.to_string() == digit.repeat(40) && uid == *known)
    };
    let read = |text: &str| {
        let found = confirmed(&[(CONFIRM_DEAD.to_owned(), text.to_owned())].into(), is_known);
        let name = |(node, uid): (NodeId, String)| format!("{}/{uid}", node.short());
        (found.nodes.into_iter().map(name).collect::<Vec<_>>(), found.unknown)
    };
    let short = |digit: char| node(digit).short();
    assert_eq!(read(&format!("{a}/u")), (vec![format!("{}/u", short('a'))], None));
    let both = vec![format!("{}/u", short('a')), format!("{}/v", short('b'))];
    for text in [format!("{a}/u,{b}/v"), format!(" {b}/v  {a}/u,\n")] {
        assert_eq!(read(&text), (both.clone(), None), "{text}");
    }
    assert_eq!(read(&format!("x/y {a}/u,{b}/v /")), (both, Some("x/y".to_owned())));
    for text in [a.clone(), format!("{a}/"), "true".to_owned(), format!("/{a}"), format!("{a}/v")] {
        assert_eq!(read(&text), (Vec::new(), Some(text.clone())));
    }
    assert_eq!(confirmed(&BTreeMap::new(), is_known), NodesConfirmedByPerson::default());
}

/// Two dead primaries `a` and `b` with half of the slots each, and their replicas `c` and `d`.
fn two_dead() -> (Snapshot, Ledger) {
    let row = |primary: Option<char>, slots: &[&str]| {
        json!({"role": if primary.is_some() { "replica" } else { "primary" }, "epoch": 1,
            "primary": primary.map(node), "slots": slots, "connected": primary.is_some()})
    };
    let member = |pod: &str, digit: char| {
        json!({"pod": pod, "podUid": pod, "running": true, "address": "10.0.0.9:6379",
            "answer": {"answered": {"answeredAtMs": NOW_MS, "node": node(digit), "loading": false,
                "replication": {"id": "e".repeat(40), "offsetBytes": 7},
                "settings": {"cluster-node-timeout": "5000"}}}})
    };
    let snapshot = json!({"observedAtMs": NOW_MS, "view": {
        node('a').to_string(): row(None, &["0-8191"]),
        node('b').to_string(): row(None, &["8192-16383"]),
        node('c').to_string(): row(Some('a'), &[]),
        node('d').to_string(): row(Some('b'), &[]),
    }, "members": [member("c", 'c'), member("d", 'd')]});
    let ledger = json!({"adoptedAtMs": 1, "nodes": {
        node('a').to_string(): known("p"), node('b').to_string(): known("q"),
    }});
    (serde_json::from_value(snapshot).unwrap(), serde_json::from_value(ledger).unwrap())
}

fn check_verb(
    deaths: &[(char, DeathProof)],
    absences: &[(char, AbsentNodeEvidence)],
    mode: FailoverMode,
) -> Result<(), String> {
    let (snapshot, ledger) = two_dead();
    let deaths = deaths.iter().map(|(digit, proof)| (node(*digit), *proof)).collect();
    let unproven = absences.iter().filter_map(|(digit, absence)| {
        Some((node(*digit), conclude(&ledger.nodes[&node(*digit)], absence).unproven?))
    });
    let input = GuardInput {
        snapshot: &snapshot,
        ledger: &ledger,
        policy: SafetyPolicy { tail_loss: true, data_loss: false },
        deaths: &deaths,
        unproven: &unproven.collect(),
        approved: &DataLossApproval::default(),
        objects: &ObservedObjects::new(),
        now_ms: NOW_MS,
    };
    let verb = Verb::Failover { pod: "c".to_owned(), primary: node('a'), mode };
    guard::check(&verb.into(), &input).map_err(|refusal| refusal.to_string())
}

#[test]
fn a_takeover_accepts_every_strong_proof_and_needs_one_for_each_primary() {
    use FailoverMode::Takeover;
    let strong = [DeathProof::Terminated, DeathProof::Confirmed, DeathProof::LongGone];
    for one in strong {
        for other in strong {
            assert_eq!(check_verb(&[('a', one), ('b', other)], &[], Takeover), Ok(()));
        }
        for weak in [&[('a', one)][..], &[('a', one), ('b', DeathProof::PodGone)]] {
            let refused = check_verb(weak, &[], Takeover).unwrap_err();
            assert!(refused.starts_with("death: ") && refused.contains(&node('b').short()));
        }
    }
}

#[test]
fn a_refusal_names_what_is_missing_and_both_confirmations() {
    let early = AbsentNodeEvidence { now_ms: NOW_MS - 1, ..whole() };
    let cut = AbsentNodeEvidence {
        liveness: RedisNodeLiveReads {
            dial: DialOutcome::Inconclusive,
            kube_node_ready: false,
            ..early.liveness.clone()
        },
        ..early.clone()
    };
    let absences = [('a', early), ('b', cut)];
    let refused =
        check_verb(&[('a', DeathProof::PodGone)], &absences, FailoverMode::Takeover).unwrap_err();
    let annotation = format!("`tholepin.dev/confirm-dead={}/uid-p,{}/uid-q`", node('a'), node('b'));
    let expected = [
        "(Pod `p`): its Pod must be gone for its grace period of 45 s and 10 s more. ",
        "(Pod `q`): its Pod must be gone for",
        "its last address, 10.0.0.1:6379, does not refuse connections",
        &annotation,
        "taint the Kubernetes node `n` with `node.kubernetes.io/out-of-service`",
    ];
    for text in expected {
        assert!(refused.contains(text), "{text}: {refused}");
    }
    // A Pod that exists cannot be confirmed as dead.
    let there = AbsentNodeEvidence {
        liveness: RedisNodeLiveReads { container_status: Some(json!({})), ..whole().liveness },
        ..whole()
    };
    let absences = [('a', there.clone()), ('b', there)];
    let refused = check_verb(&[], &absences, FailoverMode::Takeover).unwrap_err();
    assert!(!refused.contains("confirm-dead") && refused.contains("out-of-service"), "{refused}");
}
