//! The columns of Pods, StatefulSets and Services.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{TableColumn, age_since, items, labels, or_none, text, text_or_none};

/// Returns the columns of Pods.
pub(super) fn columns() -> Vec<TableColumn> {
    vec![
        TableColumn::name(),
        TableColumn::computed("Ready", "string", |pod, _| json!(PodTableRow::of(pod).ready_text())),
        TableColumn::computed("Status", "string", |pod, _| json!(PodTableRow::of(pod).status)),
        TableColumn::computed("Restarts", "string", |pod, now| {
            json!(PodTableRow::of(pod).restarts_text(now))
        }),
        TableColumn::age(),
        TableColumn::computed("IP", "string", |pod, _| text_or_none(pod, "/status/podIP")).wide(),
        TableColumn::computed("Node", "string", |pod, _| text_or_none(pod, "/spec/nodeName"))
            .wide(),
        TableColumn::computed("Nominated Node", "string", |pod, _| {
            text_or_none(pod, "/status/nominatedNodeName")
        })
        .wide(),
        TableColumn::computed("Readiness Gates", "string", |pod, _| json!(readiness_gates(pod)))
            .wide(),
    ]
}

/// Returns the columns of StatefulSets.
pub(super) fn stateful_set_columns() -> Vec<TableColumn> {
    vec![
        TableColumn::name(),
        TableColumn::computed("Ready", "string", |set, _| {
            let count = |pointer: &str, default: i64| {
                set.pointer(pointer).and_then(Value::as_i64).unwrap_or(default)
            };
            json!(format!("{}/{}", count("/status/readyReplicas", 0), count("/spec/replicas", 1)))
        }),
        TableColumn::age(),
        TableColumn::computed("Containers", "string", |set, _| json!(containers(set, "name")))
            .wide(),
        TableColumn::computed("Images", "string", |set, _| json!(containers(set, "image"))).wide(),
    ]
}

fn containers(set: &Value, field: &str) -> String {
    let containers = items(set, "/spec/template/spec/containers").iter();
    let fields = containers.filter_map(|container| container.get(field).and_then(Value::as_str));
    fields.collect::<Vec<_>>().join(",")
}

/// Returns the columns of Services.
pub(super) fn service_columns() -> Vec<TableColumn> {
    vec![
        TableColumn::name(),
        TableColumn::computed("Type", "string", |service, _| json!(text(service, "/spec/type"))),
        TableColumn::computed("Cluster-IP", "string", |service, _| {
            text_or_none(service, "/spec/clusterIP")
        }),
        TableColumn::computed("External-IP", "string", |service, _| json!(external_ip(service))),
        TableColumn::computed("Port(s)", "string", |service, _| json!(ports(service))),
        TableColumn::age(),
        TableColumn::computed("Selector", "string", |service, _| {
            json!(labels(service.pointer("/spec/selector")))
        })
        .wide(),
    ]
}

fn external_ip(service: &Value) -> String {
    let listed = items(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    let listed: Vec<&str> = listed.collect();
    match text(service, "/spec/type") {
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = items(service, "/status/loadBalancer/ingress").iter();
            let address = |item: &'_ Value| {
                let found = item.get("ip").or_else(|| item.get("hostname"));
                found.and_then(Value::as_str).map(str::to_owned)
            };
            let mut addresses: Vec<String> = ingress.filter_map(address).collect();
            addresses.extend(listed.iter().map(|address| (*address).to_owned()));
            if addresses.is_empty() { "<pending>".to_owned() } else { addresses.join(",") }
        }
        _ => or_none(listed.join(",")),
    }
}

fn ports(service: &Value) -> String {
    let port = |port: &Value| {
        let number = |name: &str| port.get(name).and_then(Value::as_i64).unwrap_or_default();
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
        match number("nodePort") {
            0 => format!("{}/{protocol}", number("port")),
            node_port => format!("{}:{node_port}/{protocol}", number("port")),
        }
    };
    let ports: Vec<String> = items(service, "/spec/ports").iter().map(port).collect();
    or_none(ports.join(","))
}

/// The values of a Pod's row.
struct PodTableRow<'a> {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<&'a Value>,
}

impl<'a> PodTableRow<'a> {
    fn of(pod: &'a Value) -> Self {
        let init = items(pod, "/spec/initContainers");
        let sidecars = init.iter().filter(|container| is_sidecar(container)).count();
        let reason = text(pod, "/status/reason");
        let phase = text(pod, "/status/phase");
        let mut summary = Self {
            status: if reason.is_empty() { phase } else { reason }.to_owned(),
            ready: 0,
            total: items(pod, "/spec/containers").len() + sidecars,
            restarts: 0,
            last_restart: None,
        };
        if condition(pod, "PodScheduled", "reason") == Some("SchedulingGated") {
            summary.status = "SchedulingGated".to_owned();
        }
        if !summary.read_init_containers(pod, init) {
            summary.read_containers(pod);
        }
        let is_terminal = matches!(phase, "Succeeded" | "Failed");
        if pod.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string) {
            if reason == "NodeLost" {
                summary.status = "Unknown".to_owned();
            } else if !is_terminal {
                summary.status = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Reads the init containers. Returns true if the Pod still initialises; the main containers are not read then.
    fn read_init_containers(&mut self, pod: &'a Value, specs: &[Value]) -> bool {
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        for (index, status) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
            self.count_restarts(status);
            let name = status.get("name");
            let spec = specs.iter().find(|spec| spec.get("name") == name);
            let is_sidecar = spec.is_some_and(is_sidecar);
            if is_sidecar {
                sidecar_restarts += restarts(status);
                sidecar_last = later(sidecar_last, last_finished(status));
            }
            let terminated = status.pointer("/state/terminated");
            let exit_code =
                terminated.and_then(|state| state.get("exitCode")).and_then(Value::as_i64);
            if exit_code == Some(0) {
                continue;
            }
            if is_sidecar && status.get("started") == Some(&Value::Bool(true)) {
                self.ready += usize::from(is_ready(status));
                continue;
            }
            let waiting = text(status, "/state/waiting/reason");
            self.status = match terminated {
                Some(state) => format!("Init:{}", termination(state)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => {
                    format!("Init:{waiting}")
                }
                None => format!("Init:{index}/{}", specs.len()),
            };
            return true;
        }
        (self.restarts, self.last_restart) = (sidecar_restarts, sidecar_last);
        false
    }

    fn read_containers(&mut self, pod: &'a Value) {
        let mut any_running = false;
        for status in items(pod, "/status/containerStatuses").iter().rev() {
            self.count_restarts(status);
            let waiting = text(status, "/state/waiting/reason");
            let terminated = status.pointer("/state/terminated").filter(|state| state.is_object());
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.status);
            } else if let Some(state) = terminated {
                self.status = termination(state);
            } else if is_ready(status) && status.pointer("/state/running").is_some() {
                any_running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && any_running {
            let is_ready = condition(pod, "Ready", "status") == Some("True");
            self.status = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn count_restarts(&mut self, status: &'a Value) {
        self.restarts += restarts(status);
        self.last_restart = later(self.last_restart, last_finished(status));
    }

    fn ready_text(&self) -> String {
        format!("{}/{}", self.ready, self.total)
    }

    fn restarts_text(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(moment) if self.restarts != 0 => {
                format!("{} ({} ago)", self.restarts, age_since(Some(moment), now))
            }
            _ => self.restarts.to_string(),
        }
    }
}

fn is_sidecar(container: &Value) -> bool {
    container.get("restartPolicy").and_then(Value::as_str) == Some("Always")
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true))
}

fn restarts(status: &Value) -> i64 {
    status.get("restartCount").and_then(Value::as_i64).unwrap_or_default()
}

fn last_finished(status: &Value) -> Option<&Value> {
    status.pointer("/lastState/terminated/finishedAt")
}

/// Returns the later of two times.
fn later<'a>(one: Option<&'a Value>, other: Option<&'a Value>) -> Option<&'a Value> {
    let moment = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    if other.and_then(moment) > one.and_then(moment) { other } else { one }
}

fn termination(state: &Value) -> String {
    let number = |name: &str| state.get(name).and_then(Value::as_i64).unwrap_or_default();
    match (text(state, "/reason"), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn condition<'a>(pod: &'a Value, kind: &str, field: &str) -> Option<&'a str> {
    let mut conditions = items(pod, "/status/conditions").iter();
    conditions.find(|condition| text(condition, "/type") == kind)?.get(field)?.as_str()
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return super::NONE.to_owned();
    }
    let holds =
        |gate: &&Value| condition(pod, text(gate, "/conditionType"), "status") == Some("True");
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}
