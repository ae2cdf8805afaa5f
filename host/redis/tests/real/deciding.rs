//! The decision of a verb's commands: a plan shows the commands and sends none of them.

use tholepin_core::{RespNode, port::PerformedAction};
use tholepin_schema::{
    action::{ActionOutcome, FailoverMode, Verb},
    primitives::{ConfigEpoch, SlotRange},
};

use crate::server::{TestServers, node, pod};

fn lines(results: &[PerformedAction]) -> Vec<Vec<String>> {
    let line = |result: &PerformedAction| {
        let shown = result.commands.iter().map(|sent| format!("{}> {}", sent.pod, sent.command));
        shown.collect()
    };
    results.iter().map(line).collect()
}

/// Returns the names of the commands that a server has run since its start.
async fn commands_run(fleet: &TestServers, index: usize) -> Vec<String> {
    let replies = fleet.pipeline(index, &["INFO commandstats"]).await.unwrap();
    let RespNode::Bulk(text) = &replies[0].nodes[0] else { panic!("{replies:?}") };
    let text = String::from_utf8_lossy(text).into_owned();
    let names = text.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    names.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decided_commands_are_sent_and_deciding_sends_none() {
    let fleet = TestServers::start(3, true, None);
    let (meet, epoch, slots) = (
        Verb::Meet { pod: pod(0), with: pod(1) },
        Verb::SetConfigEpoch { pod: pod(2), epoch: ConfigEpoch(7) },
        Verb::AssignSlots { pod: pod(1), slots: SlotRange::ALL.into() },
    );
    let verbs = vec![meet, epoch, slots];
    let decided = fleet.decide(verbs.clone()).await;
    let there = fleet.members.members[1].address.unwrap();
    assert_eq!(
        lines(&decided),
        [
            vec![format!("pod-0> CLUSTER MEET {} {}", there.ip(), there.port())],
            vec!["pod-2> CLUSTER SET-CONFIG-EPOCH 7".to_owned()],
            vec!["pod-1> CLUSTER ADDSLOTSRANGE 0 16383".to_owned()],
        ]
    );
    assert!(decided.iter().all(|result| result.outcome.is_done()), "{decided:?}");
    for index in 0..3 {
        let writes = ["meet", "set-config-epoch", "addslotsrange"];
        let commands_run = commands_run(&fleet, index).await;
        assert!(
            !commands_run.iter().any(|name| writes.iter().any(|write| name.ends_with(write))),
            "{commands_run:?}"
        );
    }
    let done = fleet.perform(verbs.clone()).await;
    assert_eq!(lines(&done), lines(&decided));
    for (index, write) in [(0, "meet"), (2, "set-config-epoch"), (1, "addslotsrange")] {
        let commands_run = commands_run(&fleet, index).await;
        assert!(commands_run.iter().any(|name| name.ends_with(write)), "{commands_run:?}");
    }
    // Repeated, the two verbs whose effect can be read need no command.
    let again = fleet.decide(verbs.get(1..).unwrap().to_vec()).await;
    assert_eq!(lines(&again), [[""; 0], [""; 0]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn deciding_and_performing_fail_alike() {
    let fleet = TestServers::cluster().await;
    let snapshot = fleet.observe().await;
    let verbs = vec![
        Verb::Forget { node: node(&snapshot, 5) },
        Verb::Meet { pod: pod(4), with: "pod-99".into() },
        Verb::Failover { pod: pod(3), primary: node(&snapshot, 1), mode: FailoverMode::Graceful },
    ];
    let decided = fleet.decide(verbs.clone()).await;
    assert!(decided.iter().all(|result| matches!(result.outcome, ActionOutcome::Failed { .. })));
    assert_eq!(fleet.perform(verbs).await, decided);
}
