//! The columns of the built-in kinds, except those in `pod`, `event` and `storage`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    NONE, TableColumn, event, items, member_count, member_text, or_none, pod, storage, text,
};
use crate::Kind;

/// Returns the columns of a built-in kind; `None` for custom kinds and for kinds with Name and Age only.
pub(super) fn columns(kind: &Kind) -> Option<Vec<TableColumn>> {
    if kind.custom {
        return None;
    }
    let columns = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => pod::columns(),
        ("", "services") => pod::service_columns(),
        ("apps", "statefulsets") => pod::stateful_set_columns(),
        ("" | "events.k8s.io", "events") => event::columns(),
        ("", "persistentvolumeclaims") => storage::claim_columns(),
        ("", "persistentvolumes") => storage::volume_columns(),
        ("storage.k8s.io", "storageclasses") => storage::class_columns(),
        ("", "nodes") => node_columns(),
        ("", "endpoints") => vec![
            TableColumn::name(),
            TableColumn::computed("Endpoints", "string", |endpoints, _| {
                json!(endpoints_text(endpoints))
            }),
            TableColumn::age(),
        ],
        ("discovery.k8s.io", "endpointslices") => slice_columns(),
        ("policy", "poddisruptionbudgets") => budget_columns(),
        ("apiextensions.k8s.io", "customresourcedefinitions") => vec![
            TableColumn::name(),
            TableColumn::computed("Created At", "date", |crd, _| {
                member_text(crd, "/metadata/creationTimestamp")
            }),
        ],
        (group, plural) => return short_columns(group, plural),
    };
    Some(columns)
}

fn short_columns(group: &str, plural: &str) -> Option<Vec<TableColumn>> {
    let middle = match (group, plural) {
        ("", "configmaps") => vec![TableColumn::computed("Data", "integer", |map, _| {
            json!(member_count(map, "/data") + member_count(map, "/binaryData"))
        })],
        ("", "secrets") => vec![
            TableColumn::computed("Type", "string", |secret, _| member_text(secret, "/type")),
            TableColumn::computed("Data", "integer", |secret, _| {
                json!(member_count(secret, "/data"))
            }),
        ],
        ("", "namespaces") => vec![TableColumn::computed("Status", "string", |namespace, _| {
            member_text(namespace, "/status/phase")
        })],
        ("", "serviceaccounts") => {
            vec![TableColumn::computed("Secrets", "integer", |account, _| {
                json!(items(account, "/secrets").len())
            })]
        }
        ("coordination.k8s.io", "leases") => {
            vec![TableColumn::computed("Holder", "string", |lease, _| {
                member_text(lease, "/spec/holderIdentity")
            })]
        }
        ("apps", "controllerrevisions") => vec![
            TableColumn::computed("Controller", "string", |revision, _| {
                json!(controller(revision))
            }),
            TableColumn::computed("Revision", "integer", |revision, _| {
                revision.get("revision").cloned().unwrap_or(Value::Null)
            }),
        ],
        _ => return None,
    };
    Some([vec![TableColumn::name()], middle, vec![TableColumn::age()]].concat())
}

fn node_columns() -> Vec<TableColumn> {
    vec![
        TableColumn::name(),
        TableColumn::computed("Status", "string", |node, _| json!(node_status(node))),
        TableColumn::computed("Roles", "string", |node, _| json!(node_roles(node))),
        TableColumn::age(),
        TableColumn::computed("Version", "string", |node, _| {
            member_text(node, "/status/nodeInfo/kubeletVersion")
        }),
        TableColumn::computed("Internal-IP", "string", |node, _| {
            json!(address(node, "InternalIP"))
        })
        .wide(),
        TableColumn::computed("External-IP", "string", |node, _| {
            json!(address(node, "ExternalIP"))
        })
        .wide(),
        TableColumn::computed("OS-Image", "string", |node, _| {
            text_or_unknown(node, "/status/nodeInfo/osImage")
        })
        .wide(),
        TableColumn::computed("Kernel-Version", "string", |node, _| {
            text_or_unknown(node, "/status/nodeInfo/kernelVersion")
        })
        .wide(),
        TableColumn::computed("Container-Runtime", "string", |node, _| {
            text_or_unknown(node, "/status/nodeInfo/containerRuntimeVersion")
        })
        .wide(),
    ]
}

fn text_or_unknown(object: &Value, pointer: &str) -> Value {
    let found = text(object, pointer);
    json!(if found.is_empty() { "<unknown>" } else { found })
}

fn node_status(node: &Value) -> String {
    let conditions = items(node, "/status/conditions");
    let ready = conditions.iter().find(|condition| text(condition, "/type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let role = |(label, value): (&String, &Value)| match label.as_str() {
        "kubernetes.io/role" => value.as_str().map(str::to_owned),
        label => label.strip_prefix("node-role.kubernetes.io/").map(str::to_owned),
    };
    let roles: BTreeSet<String> =
        labels.into_iter().flatten().filter_map(role).filter(|role| !role.is_empty()).collect();
    or_none(roles.into_iter().collect::<Vec<_>>().join(","))
}

fn address(node: &Value, kind: &str) -> String {
    let mut addresses = items(node, "/status/addresses").iter();
    let found = addresses.find(|address| text(address, "/type") == kind);
    or_none(found.map(|address| text(address, "/address").to_owned()).unwrap_or_default())
}

/// Formats the ready endpoints as `address:port`: at most three, then the number of others.
fn endpoints_text(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(endpoints, "/subsets") {
        for address in items(subset, "/addresses") {
            let ip = text(address, "/ip");
            let ports = items(subset, "/ports").iter();
            let ports: Vec<i64> =
                ports.filter_map(|port| port.get("port").and_then(Value::as_i64)).collect();
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.into_iter().map(|port| format!("{ip}:{port}")));
        }
    }
    abbreviated(&all, "<none>")
}

/// Joins the first three texts, and adds the number of others.
fn abbreviated(all: &[String], nothing: &str) -> String {
    match all {
        [] => nothing.to_owned(),
        [one, two, three, rest @ ..] if !rest.is_empty() => {
            format!("{one},{two},{three} + {} more...", rest.len())
        }
        few => few.join(","),
    }
}

fn slice_columns() -> Vec<TableColumn> {
    vec![
        TableColumn::name(),
        TableColumn::computed("AddressType", "string", |slice, _| {
            member_text(slice, "/addressType")
        }),
        TableColumn::computed("Ports", "string", |slice, _| {
            let port = |port: &Value| match port.get("port").and_then(Value::as_i64) {
                Some(number) => number.to_string(),
                None => "*".to_owned(),
            };
            let ports: Vec<String> = items(slice, "/ports").iter().map(port).collect();
            json!(abbreviated(&ports, "<unset>"))
        }),
        TableColumn::computed("Endpoints", "string", |slice, _| {
            let endpoints = items(slice, "/endpoints").iter();
            let addresses = endpoints.flat_map(|endpoint| items(endpoint, "/addresses"));
            let addresses: Vec<String> =
                addresses.filter_map(Value::as_str).map(str::to_owned).collect();
            json!(abbreviated(&addresses, "<unset>"))
        }),
        TableColumn::age(),
    ]
}

fn budget_columns() -> Vec<TableColumn> {
    vec![
        TableColumn::name(),
        TableColumn::computed("Min Available", "string", |budget, _| {
            json!(number_or_percent(budget, "/spec/minAvailable"))
        }),
        TableColumn::computed("Max Unavailable", "string", |budget, _| {
            json!(number_or_percent(budget, "/spec/maxUnavailable"))
        }),
        TableColumn::computed("Allowed Disruptions", "integer", |budget, _| {
            let allowed = budget.pointer("/status/disruptionsAllowed").and_then(Value::as_i64);
            json!(allowed.unwrap_or_default())
        }),
        TableColumn::age(),
    ]
}

fn number_or_percent(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "N/A".to_owned(),
    }
}

fn controller(revision: &Value) -> String {
    let mut owners = items(revision, "/metadata/ownerReferences").iter();
    let Some(owner) = owners.find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
    else {
        return NONE.to_owned();
    };
    let kind = text(owner, "/kind").to_lowercase();
    let api_version = text(owner, "/apiVersion");
    let group = api_version.split_once('/').map(|(group, _)| format!(".{group}"));
    format!("{kind}{}/{}", group.unwrap_or_default(), text(owner, "/name"))
}
