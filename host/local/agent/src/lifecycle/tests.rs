use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// A Pod with init container `i`, sidecar `s` and application containers `a`, `b`.
fn all_roles(policy: &str) -> PodLifecycle {
    lifecycle(json!({"spec": {
        "restartPolicy": policy,
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}]}}))
}

fn single_container(policy: &str) -> PodLifecycle {
    lifecycle(json!({"spec": {"restartPolicy": policy, "containers": [{"name": "a"}]}}))
}

fn lifecycle(pod: Value) -> PodLifecycle {
    PodLifecycle::new(&serde_json::from_value(pod).unwrap(), at(0))
}

fn run(lifecycle: &mut PodLifecycle, index: usize, second: i64) {
    lifecycle.running(index, format!("id-{index}-{second}"), "local://x".into(), at(second));
    lifecycle.started(index);
}

fn exit(lifecycle: &mut PodLifecycle, index: usize, code: i32, second: i64) {
    let ContainerPhase::Running { id, since, .. } = lifecycle.containers[index].state.clone()
    else {
        panic!("container {index} does not run");
    };
    let reason = ContainerTermination::reason_of(code).into();
    let (message, started_at, finished_at) = (None, since, at(second));
    lifecycle.ended(
        index,
        ContainerTermination { id, code, signal: None, reason, message, started_at, finished_at },
    );
}

#[test]
fn init_containers_run_in_order_before_the_others() {
    let mut pod = all_roles("Always");
    assert_eq!(pod.decide(at(0)), [ContainerAction::Start(0)]);
    assert_eq!(pod.decide(at(0)), [], "asked for once");
    run(&mut pod, 0, 1);
    assert_eq!((pod.decide(at(1)), pod.phase()), (vec![], PodPhase::Pending));
    exit(&mut pod, 0, 0, 2);
    assert_eq!(pod.decide(at(2)), [ContainerAction::Start(1)]);
    pod.running(1, "s".into(), String::new(), at(3));
    assert_eq!(pod.decide(at(3)), [], "a sidecar must have started before the next begins");
    pod.started(1);
    assert_eq!(pod.decide(at(3)), [ContainerAction::Start(2), ContainerAction::Start(3)]);
    assert_eq!(pod.phase(), PodPhase::Pending);
    run(&mut pod, 2, 4);
    run(&mut pod, 3, 4);
    assert_eq!(pod.phase(), PodPhase::Running);
    assert!(pod.initialized);
}

#[test]
fn a_failing_init_container_is_retried_or_fails_the_pod() {
    for (policy, phase, action) in [
        ("Always", PodPhase::Pending, vec![ContainerAction::Start(0)]),
        ("OnFailure", PodPhase::Pending, vec![ContainerAction::Start(0)]),
        ("Never", PodPhase::Failed, vec![]),
    ] {
        let mut pod = all_roles(policy);
        pod.decide(at(0));
        run(&mut pod, 0, 0);
        exit(&mut pod, 0, 1, 1);
        assert_eq!(pod.decide(at(1)), action, "{policy}");
        assert_eq!(pod.phase(), phase, "{policy}");
    }
}

#[test]
fn the_first_restart_is_immediate_and_later_ones_wait() {
    let mut pod = single_container("Always");
    pod.decide(at(0));
    run(&mut pod, 0, 0);
    exit(&mut pod, 0, 137, 5);
    assert!(
        matches!(&pod.containers[0].state, ContainerPhase::Ended { ended, .. } if ended.code == 137)
    );
    assert_eq!(pod.decide(at(5)), [ContainerAction::Start(0)]);
    assert_eq!(pod.containers[0].restart_count, 1);
    assert_eq!(pod.containers[0].last.as_ref().unwrap().id, "id-0-0");
    run(&mut pod, 0, 5);
    exit(&mut pod, 0, 1, 6);
    assert_eq!((pod.decide(at(6)), pod.next_check()), (vec![], Some(at(16))));
    assert_eq!(
        pod.phase(),
        PodPhase::Running,
        "a container that will restart keeps the Pod running"
    );
    assert_eq!(pod.decide(at(16)), [ContainerAction::Start(0)]);
}

#[test]
fn the_policy_decides_the_phase_when_all_have_ended() {
    for (policy, code, phase) in [
        ("Never", 0, PodPhase::Succeeded),
        ("Never", 3, PodPhase::Failed),
        ("OnFailure", 0, PodPhase::Succeeded),
        ("OnFailure", 3, PodPhase::Running),
        ("Always", 0, PodPhase::Running),
    ] {
        let mut pod = single_container(policy);
        pod.decide(at(0));
        run(&mut pod, 0, 0);
        exit(&mut pod, 0, code, 1);
        pod.decide(at(1));
        assert_eq!(pod.phase(), phase, "{policy} {code}");
    }
}

#[test]
fn sidecars_are_stopped_last_and_hold_the_terminal_phase_back() {
    let mut pod = all_roles("Never");
    pod.decide(at(0));
    run(&mut pod, 0, 0);
    exit(&mut pod, 0, 0, 1);
    pod.decide(at(1));
    run(&mut pod, 1, 1);
    pod.decide(at(1));
    run(&mut pod, 2, 1);
    run(&mut pod, 3, 1);
    exit(&mut pod, 2, 0, 2);
    assert_eq!(pod.decide(at(2)), []);
    exit(&mut pod, 3, 0, 3);
    assert_eq!(pod.decide(at(3)), [ContainerAction::Stop(1)]);
    assert_eq!(pod.phase(), PodPhase::Running);
    exit(&mut pod, 1, 143, 4);
    assert_eq!((pod.decide(at(4)), pod.phase()), (vec![], PodPhase::Succeeded));
    assert!(pod.has_ended());
}

#[test]
fn a_deletion_stops_the_application_then_the_sidecars_and_starts_nothing() {
    let mut pod = all_roles("Always");
    pod.decide(at(0));
    run(&mut pod, 0, 0);
    exit(&mut pod, 0, 0, 1);
    pod.decide(at(1));
    run(&mut pod, 1, 1);
    pod.decide(at(1));
    run(&mut pod, 2, 1);
    run(&mut pod, 3, 1);
    pod.end(PodTerminationCause::Deletion);
    assert_eq!(pod.decide(at(2)), [ContainerAction::Stop(2), ContainerAction::Stop(3)]);
    exit(&mut pod, 2, 0, 3);
    assert_eq!((pod.decide(at(3)), pod.has_ended()), (vec![], false));
    exit(&mut pod, 3, 143, 3);
    assert_eq!(pod.decide(at(3)), [ContainerAction::Stop(1)]);
    exit(&mut pod, 1, 0, 4);
    assert_eq!((pod.decide(at(4)), pod.has_ended()), (vec![], true));
    assert_eq!(pod.phase(), PodPhase::Failed);
}

#[test]
fn a_pod_deleted_before_any_start_ends_immediately() {
    let mut pod = single_container("Always");
    pod.end(PodTerminationCause::Deletion);
    assert_eq!((pod.decide(at(0)), pod.has_ended()), (vec![], true));
}

#[test]
fn a_container_being_started_is_stopped_when_it_runs() {
    let mut pod = single_container("Always");
    pod.decide(at(0));
    pod.end(PodTerminationCause::Deletion);
    assert_eq!((pod.decide(at(0)), pod.has_ended()), (vec![], false));
    run(&mut pod, 0, 1);
    assert_eq!(pod.decide(at(1)), [ContainerAction::Stop(0)]);
}

#[test]
fn a_start_that_was_held_back_does_not_keep_the_pod_from_ending() {
    let mut pod = single_container("Always");
    pod.decide(at(0));
    pod.end(PodTerminationCause::Deletion);
    assert!(pod.is_ending() && !pod.has_ended());
    pod.not_started(0);
    assert_eq!((pod.decide(at(0)), pod.has_ended()), (vec![], true));
}

#[test]
fn a_start_that_fails_is_retried_after_a_pause_or_on_request() {
    let fail = |pod: &mut PodLifecycle, reason: &str, second: i64| {
        let failure = StartFailure { reason: reason.into(), message: "m".into() };
        pod.start_failed(0, failure, at(second));
    };
    let mut pod = single_container("Always");
    pod.decide(at(0));
    fail(&mut pod, "CreateContainerConfigError", 0);
    let soon = at(0).checked_add(jiff::SignedDuration::from_millis(100)).unwrap();
    assert_eq!((pod.decide(at(0)), pod.next_check()), (vec![], Some(soon)));
    pod.retry_now();
    assert_eq!(pod.decide(at(0)), [ContainerAction::Start(0)]);
    fail(&mut pod, "ErrImagePull", 1);
    assert_eq!(pod.next_check(), Some(at(11)));
    assert_eq!(pod.decide(at(11)), [ContainerAction::Start(0)]);
    fail(&mut pod, "ErrImagePull", 11);
    assert_eq!(pod.next_check(), Some(at(31)));
    assert_eq!(pod.containers[0].restart_count, 0);
}

#[test]
fn a_deadline_fails_the_pod() {
    let mut pod = lifecycle(json!({"spec": {"restartPolicy": "Never", "activeDeadlineSeconds": 60,
        "containers": [{"name": "a"}]}}));
    pod.decide(at(0));
    run(&mut pod, 0, 0);
    assert_eq!(pod.next_check(), Some(at(60)));
    assert_eq!(pod.decide(at(60)), [ContainerAction::Stop(0)]);
    exit(&mut pod, 0, 0, 61);
    pod.decide(at(61));
    assert_eq!((pod.phase(), pod.failure.unwrap().0), (PodPhase::Failed, "DeadlineExceeded"));
}

#[test]
fn containers_of_an_earlier_agent_are_restarted_in_the_same_pod() {
    let mut pod = lifecycle(json!({
        "spec": {"containers": [{"name": "a"}]},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2,
            "containerID": "tholepin://old",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}}));
    let container = &pod.containers[0];
    assert_eq!(container.restart_count, 3);
    assert_eq!(container.last.as_ref().unwrap().id, "tholepin://old");
    assert_eq!(pod.decide(at(0)), [ContainerAction::Start(0)]);
    assert_eq!(pod.containers[0].restart_count, 3, "counted once");
    assert_eq!(pod.phase(), PodPhase::Running);
}

#[test]
fn a_pod_that_had_ended_stays_ended() {
    let mut pod = lifecycle(json!({
        "spec": {"restartPolicy": "Never", "containers": [{"name": "a"}]},
        "status": {"phase": "Succeeded", "containerStatuses": [{
            "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0}}}]}}));
    assert_eq!((pod.decide(at(0)), pod.phase()), (vec![], PodPhase::Succeeded));
}

#[test]
fn readiness_needs_start_and_probe() {
    let mut pod = lifecycle(json!({"spec": {"containers": [
        {"name": "a", "startupProbe": {}, "readinessProbe": {}}]}}));
    pod.decide(at(0));
    pod.running(0, "id".into(), String::new(), at(0));
    assert!(!pod.containers[0].is_ready());
    pod.started(0);
    assert!(!pod.containers[0].is_ready());
    pod.readiness(0, true);
    assert!(pod.containers[0].is_ready());
    exit(&mut pod, 0, 1, 1);
    assert!(!pod.containers[0].is_ready());
}
