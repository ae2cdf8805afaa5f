//! Computes the status of a Pod, as shown in the API, from the state of its life cycle.
//!
//! This module is pure. The agent owns the status as a whole under its own field manager. It reads the
//! conditions of other writers (`PodScheduled`, readiness gates) but never writes them.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::lifecycle::{
    ContainerPhase, ContainerRole, ContainerTermination, PodLifecycle, PodPhase,
    PodTerminationCause, TrackedContainer,
};

/// The addresses of a Pod and of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodStatusAddresses {
    pub host: Ipv4Addr,
    pub pod: Option<Ipv4Addr>,
}

/// Returns the status of `pod`. `previous` is the status before, from which a condition that did not change
/// keeps its transition time.
pub(crate) fn status(
    pod: &Pod,
    lifecycle: &PodLifecycle,
    addresses: PodStatusAddresses,
    previous: &PodStatus,
    now: Timestamp,
) -> PodStatus {
    let statuses = |init: bool| {
        let containers = lifecycle
            .containers
            .iter()
            .filter(move |container| (container.role != ContainerRole::Main) == init);
        let statuses: Vec<_> =
            containers.map(|container| container_status(container, lifecycle)).collect();
        (!statuses.is_empty()).then_some(statuses)
    };
    let phase = lifecycle.phase();
    PodStatus {
        phase: Some(phase_name(phase).into()),
        reason: lifecycle.failure.as_ref().map(|(reason, _)| (*reason).into()),
        message: lifecycle.failure.as_ref().map(|(_, message)| message.clone()),
        observed_generation: pod.metadata.generation,
        start_time: Some(Time(whole_seconds(lifecycle.start_time()))),
        host_ip: Some(addresses.host.to_string()),
        host_ips: Some(vec![HostIP { ip: addresses.host.to_string() }]),
        pod_ip: addresses.pod.map(|ip| ip.to_string()),
        pod_ips: addresses.pod.map(|ip| vec![PodIP { ip: ip.to_string() }]),
        conditions: Some(conditions(pod, lifecycle, addresses, previous, now)),
        init_container_statuses: statuses(true),
        container_statuses: statuses(false),
        ..PodStatus::default()
    }
}

const fn phase_name(phase: PodPhase) -> &'static str {
    match phase {
        PodPhase::Pending => "Pending",
        PodPhase::Running => "Running",
        PodPhase::Succeeded => "Succeeded",
        PodPhase::Failed => "Failed",
    }
}

fn container_status(container: &TrackedContainer, lifecycle: &PodLifecycle) -> ContainerStatus {
    let mut last = container.last.as_ref();
    let (state, id) = match &container.state {
        ContainerPhase::Waiting { reason, message, .. }
        | ContainerPhase::Starting { reason, message } => {
            (waiting(waiting_reason(container, reason, lifecycle), message.clone()), None)
        }
        ContainerPhase::Running { id, since, .. } => (
            ContainerState {
                running: Some(ContainerStateRunning {
                    started_at: Some(Time(whole_seconds(*since))),
                }),
                ..ContainerState::default()
            },
            Some(id.clone()),
        ),
        // The container will be started again, but only after a back-off.
        ContainerPhase::Ended { ended, restart_at: Some(at) } if ended.finished_at < *at => {
            last = Some(ended);
            (
                waiting("CrashLoopBackOff".into(), Some(back_off_message(container, ended, *at))),
                None,
            )
        }
        ContainerPhase::Ended { ended, .. } => (terminated(ended), Some(ended.id.clone())),
    };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: container.image_id.clone(),
        container_id: id.or_else(|| last.map(|last| last.id.clone())),
        ready: container.is_ready(),
        started: Some(
            container.started && matches!(container.state, ContainerPhase::Running { .. }),
        ),
        restart_count: i32::try_from(container.restart_count).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: last.map(terminated),
        ..ContainerStatus::default()
    }
}

fn back_off_message(
    container: &TrackedContainer,
    ended: &ContainerTermination,
    at: Timestamp,
) -> String {
    let pause_seconds = at.duration_since(ended.finished_at).as_secs();
    format!("back-off {pause_seconds}s restarting failed container={}", container.name)
}

/// Returns the reason to report for a waiting container: `PodInitializing` only while an application
/// container waits for init containers, otherwise `ContainerCreating` or the reason of the last failed start.
fn waiting_reason(container: &TrackedContainer, reason: &str, lifecycle: &PodLifecycle) -> String {
    match reason {
        "PodInitializing"
            if container.role == ContainerRole::Main
                && !lifecycle.initialized
                && has_init(lifecycle) =>
        {
            reason.into()
        }
        "PodInitializing" => "ContainerCreating".into(),
        _ => reason.into(),
    }
}

fn has_init(lifecycle: &PodLifecycle) -> bool {
    lifecycle.containers.iter().any(|container| container.role != ContainerRole::Main)
}

fn waiting(reason: String, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason), message }),
        ..ContainerState::default()
    }
}

fn terminated(ended: &ContainerTermination) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(ended.id.clone()),
            exit_code: ended.code,
            signal: ended.signal,
            reason: Some(ended.reason.clone()),
            message: ended.message.clone(),
            started_at: Some(Time(whole_seconds(ended.started_at))),
            finished_at: Some(Time(whole_seconds(ended.finished_at))),
        }),
        ..ContainerState::default()
    }
}

/// Rounds to whole seconds, because Kubernetes' `Time` has only these: a real API server would return a finer
/// time changed.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn conditions(
    pod: &Pod,
    lifecycle: &PodLifecycle,
    addresses: PodStatusAddresses,
    previous: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let is_over = matches!(lifecycle.phase(), PodPhase::Succeeded | PodPhase::Failed);
    let succeeded = lifecycle.phase() == PodPhase::Succeeded;
    let is_being_deleted = lifecycle.ending == Some(PodTerminationCause::Deletion);
    let not_ready = unready(lifecycle);
    let containers_ready = if succeeded {
        ConditionValue::no("PodCompleted", String::new())
    } else if is_over {
        ConditionValue::no("PodFailed", String::new())
    } else if not_ready.is_empty() {
        ConditionValue::YES
    } else {
        ConditionValue::no(
            "ContainersNotReady",
            format!("containers with unready status: [{}]", not_ready.join(" ")),
        )
    };
    let ready = if is_being_deleted {
        ConditionValue::no("PodTerminating", "the pod is being deleted".into())
    } else if !containers_ready.holds {
        containers_ready.clone()
    } else if let Some(gate) = closed_gate(pod) {
        ConditionValue::no("ReadinessGatesNotReady", format!("condition `{gate}` is not True"))
    } else {
        ConditionValue::YES
    };
    let initialized = if lifecycle.initialized {
        ConditionValue { reason: succeeded.then_some("PodCompleted"), ..ConditionValue::YES }
    } else {
        let waits = lifecycle
            .containers
            .iter()
            .filter(|container| container.role != ContainerRole::Main && !container.is_ready());
        let names: Vec<_> = waits.map(|container| container.name.as_str()).collect();
        let message = format!("containers with incomplete status: [{}]", names.join(" "));
        ConditionValue::no("ContainersNotInitialized", message)
    };
    let sandbox =
        ConditionValue { holds: addresses.pod.is_some() && !is_over, ..ConditionValue::YES };
    let all = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    all.map(|(name, value)| condition(name, value, pod, previous, now)).into()
}

#[derive(Clone)]
struct ConditionValue {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl ConditionValue {
    const YES: Self = Self { holds: true, reason: None, message: None };

    fn no(reason: &'static str, message: String) -> Self {
        let message = (!message.is_empty()).then_some(message);
        Self { holds: false, reason: Some(reason), message }
    }
}

fn condition(
    name: &str,
    value: ConditionValue,
    pod: &Pod,
    previous: &PodStatus,
    now: Timestamp,
) -> PodCondition {
    let status = if value.holds { "True" } else { "False" };
    let before = previous.conditions.iter().flatten().find(|before| before.type_ == name);
    let unchanged = before.filter(|before| before.status == status);
    let since = unchanged.and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: name.into(),
        status: status.into(),
        reason: value.reason.map(str::to_owned),
        message: value.message,
        last_transition_time: Some(since.unwrap_or_else(|| Time(whole_seconds(now)))),
        last_probe_time: None,
        observed_generation: pod.metadata.generation,
    }
}

fn unready(lifecycle: &PodLifecycle) -> Vec<&str> {
    let is_unready = |container: &&TrackedContainer| {
        container.role != ContainerRole::Init && !container.is_ready()
    };
    lifecycle
        .containers
        .iter()
        .filter(is_unready)
        .map(|container| container.name.as_str())
        .collect()
}

/// Returns the first readiness gate whose condition is not `True`.
fn closed_gate(pod: &Pod) -> Option<&str> {
    let gates = pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let open = |gate: &str| {
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == gate && condition.status == "True")
    };
    gates.iter().map(|gate| gate.condition_type.as_str()).find(|gate| !open(gate))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn addresses() -> PodStatusAddresses {
        let pod = Some(Ipv4Addr::new(127, 23, 1, 7));
        PodStatusAddresses { host: Ipv4Addr::new(127, 23, 0, 2), pod }
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a", "generation": 4}, "spec": {
            "readinessGates": [{"conditionType": "example.com/open"}],
            "containers": [{"name": "a", "image": "redis:7"}]}}))
        .unwrap()
    }

    fn condition<'a>(status: &'a PodStatus, name: &str) -> &'a PodCondition {
        status
            .conditions
            .as_ref()
            .unwrap()
            .iter()
            .find(|condition| condition.type_ == name)
            .unwrap()
    }

    #[test]
    fn condition_times_change_only_with_the_condition() {
        let (pod, empty) = (pod(), PodStatus::default());
        let mut lifecycle = PodLifecycle::new(&pod, at(0));
        let first = status(&pod, &lifecycle, addresses(), &empty, at(0));
        assert_eq!(first.phase.as_deref(), Some("Pending"));
        assert_eq!(condition(&first, "ContainersReady").status, "False");
        let again = status(&pod, &lifecycle, addresses(), &first, at(5));
        assert_eq!(again, first, "nothing happened, so nothing differs");

        lifecycle.decide(at(6));
        lifecycle.running(0, "tholepin://1".into(), "local://x".into(), at(6));
        lifecycle.started(0);
        let ready = status(&pod, &lifecycle, addresses(), &again, at(7));
        let since = |name: &str| condition(&ready, name).last_transition_time.clone();
        assert_eq!(since("ContainersReady"), Some(Time(at(7))));
        assert_eq!(since("PodReadyToStartContainers"), Some(Time(at(0))));
        assert_eq!(condition(&ready, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
        assert_eq!(ready.observed_generation, Some(4));
        assert_eq!(ready.pod_ip.as_deref(), Some("127.23.1.7"));
    }

    #[test]
    fn an_open_gate_lets_the_pod_be_ready_until_it_is_deleted() {
        let mut pod = pod();
        pod.status = Some(PodStatus {
            conditions: Some(vec![PodCondition {
                type_: "example.com/open".into(),
                status: "True".into(),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        });
        let mut lifecycle = PodLifecycle::new(&pod, at(0));
        lifecycle.decide(at(0));
        lifecycle.running(0, "tholepin://1".into(), "local://x".into(), at(0));
        lifecycle.started(0);
        let ready = status(&pod, &lifecycle, addresses(), &PodStatus::default(), at(1));
        assert_eq!(condition(&ready, "Ready").status, "True");
        lifecycle.end(PodTerminationCause::Deletion);
        let deleted = status(&pod, &lifecycle, addresses(), &ready, at(2));
        assert_eq!(condition(&deleted, "Ready").status, "False");
        assert_eq!(condition(&deleted, "ContainersReady").status, "True");
    }

    #[test]
    fn an_end_is_shown_with_its_container_id_and_kept_as_last_state() {
        let pod = pod();
        let mut lifecycle = PodLifecycle::new(&pod, at(0));
        lifecycle.decide(at(0));
        lifecycle.running(0, "tholepin://1".into(), "local://x".into(), at(0));
        let ended = ContainerTermination {
            id: "tholepin://1".into(),
            code: 137,
            signal: Some(9),
            reason: "Error".into(),
            message: None,
            started_at: at(0),
            finished_at: at(3),
        };
        lifecycle.ended(0, ended);
        let first = status(&pod, &lifecycle, addresses(), &PodStatus::default(), at(3));
        let container = &first.container_statuses.as_ref().unwrap()[0];
        let terminated = container.state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((terminated.exit_code, terminated.signal), (137, Some(9)));
        assert_eq!(terminated.container_id.as_deref(), Some("tholepin://1"));
        lifecycle.decide(at(3));
        lifecycle.running(0, "tholepin://2".into(), "local://x".into(), at(3));
        let second = status(&pod, &lifecycle, addresses(), &first, at(3));
        let container = &second.container_statuses.as_ref().unwrap()[0];
        assert_eq!(
            (container.restart_count, container.container_id.as_deref()),
            (1, Some("tholepin://2"))
        );
        let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!(last.container_id.as_deref(), Some("tholepin://1"));
    }

    #[test]
    fn a_waiting_restart_reports_back_off_and_keeps_the_end_as_last_state() {
        let pod = pod();
        let mut lifecycle = PodLifecycle::new(&pod, at(0));
        for second in 0..2 {
            lifecycle.decide(at(second));
            lifecycle.running(0, format!("tholepin://{second}"), String::new(), at(second));
            let (started_at, finished_at) = (at(second), at(second));
            let (id, reason) = (format!("tholepin://{second}"), "Error".into());
            let (code, signal, message) = (1, None, None);
            lifecycle.ended(
                0,
                ContainerTermination { id, code, signal, reason, message, started_at, finished_at },
            );
        }
        let found = status(&pod, &lifecycle, addresses(), &PodStatus::default(), at(2));
        let container = &found.container_statuses.as_ref().unwrap()[0];
        let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
        assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
        let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!(last.container_id.as_deref(), Some("tholepin://1"));
        assert_eq!(found.phase.as_deref(), Some("Running"));
    }
}
