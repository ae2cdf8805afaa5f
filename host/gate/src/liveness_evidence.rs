//! Collects evidence about recorded processes that may have ended, from Kubernetes and from the network, and
//! reads the annotations by which a person confirms their end or gives up their data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use futures::future::{join, join_all};
use serde_json::Value;
use tholepin_core::{CallError, ObjectRef};
use tholepin_schema::{
    instance::Instance,
    manifest::KindName,
    primitives::{NodeId, RunId},
    reserved::APPROVE_DATA_LOSS,
    snapshot::Snapshot,
};
use tokio::time::timeout;

use crate::{
    absence_tracker::{ObservedNodeLease, node_timeout_ms},
    guard::{
        self, AbsentNodeEvidence, DataLossApproval, DeathProof, DialOutcome, MissingDeathProof,
        NodesConfirmedByPerson, OUT_OF_SERVICE, RedisNodeDeathVerdict, RedisNodeLiveReads,
    },
    instance::container_status,
    ledger_document::{KnownNode, Ledger},
    ledger_store::ObjectLedger,
    ownership::text,
    reconcile_context::ReconcileContext,
};

/// The time limit for all reads about one node. A snapshot may be acted on until it is two seconds old.
const DEADLINE: Duration = Duration::from_secs(1);

/// How many characters of an unknown approval a message repeats.
const APPROVAL_CHARS_MAX: usize = 90;

/// The evidence about nodes that may be dead.
#[derive(Debug, Default)]
pub(crate) struct LivenessEvidence {
    /// The nodes that are proven dead.
    pub(crate) deaths: BTreeMap<NodeId, DeathProof>,
    /// For other nodes, what is missing for a takeover.
    pub(crate) unproven: BTreeMap<NodeId, MissingDeathProof>,
}

/// Live reads about one node.
struct NodeLivenessReads {
    liveness: RedisNodeLiveReads,
    out_of_service: bool,
    lease: Result<ObservedNodeLease, String>,
}

/// Collects evidence about these nodes: from the Pods of the snapshot, and by live reads for those that the
/// Pods do not prove dead.
pub(crate) async fn examine(
    context: &ReconcileContext,
    instance: &Instance,
    object_ledger: &mut ObjectLedger,
    snapshot: &Snapshot,
    suspects: BTreeSet<NodeId>,
) -> LivenessEvidence {
    let deaths = guard::deaths(snapshot, &object_ledger.ledger);
    let mut evidence = LivenessEvidence { deaths, unproven: BTreeMap::new() };
    let answers = |node| snapshot.members.iter().any(|member| member.node() == Some(node));
    let open = suspects.into_iter().filter(|node| !evidence.deaths.contains_key(node));
    let open = open.filter(|node| !answers(*node));
    let open = open.filter_map(|node| Some((node, object_ledger.ledger.nodes.get(&node)?.clone())));
    let open: Vec<(NodeId, KnownNode)> = open.collect();
    if open.is_empty() {
        return evidence;
    }
    let confirmed = confirmed(context, &object_ledger.ledger);
    let all_reads =
        join_all(open.iter().map(|(_, known)| read_in_time(context, instance, known))).await;
    let now_ms = context.gate.ports.clock.now_ms();
    for ((node, known), reads) in open.into_iter().zip(all_reads) {
        let NodeLivenessReads { liveness, out_of_service, lease } = reads;
        let absence = AbsentNodeEvidence {
            liveness,
            out_of_service,
            confirmed: confirmed.nodes.contains(&(node, known.pod_uid.clone())),
            unknown_entry: confirmed.unknown.clone(),
            renewed: object_ledger.absences.renewed((node, &known), &lease, now_ms),
            link_down_ms: object_ledger.absences.link_down_ms(node),
            node_timeout_ms: node_timeout_ms(snapshot),
            now_ms,
        };
        let RedisNodeDeathVerdict { proof, unproven } = guard::conclude(&known, &absence);
        evidence.deaths.extend(proof.map(|proof| (node, proof)));
        evidence.unproven.extend(unproven.map(|unproven| (node, unproven)));
    }
    evidence
}

/// Returns what a person confirmed on the reconciled object, by the current store.
fn confirmed(context: &ReconcileContext, ledger: &Ledger) -> NodesConfirmedByPerson {
    let is_known =
        |node: &NodeId, uid: &str| ledger.nodes.get(node).is_some_and(|known| known.pod_uid == uid);
    let view = context.gate.ports.kubernetes.view();
    let object = view.meta(&context.scope.reference());
    let object = object.filter(|object| object.uid == context.scope.uid());
    object.map(|object| guard::confirmed(&object.annotations, is_known)).unwrap_or_default()
}

/// Returns the nodes whose data a person gives up, by the annotation that the object has now. An approval
/// names the process whose data is given up, so that it does not apply to the next process of that node.
pub(crate) fn approved(context: &ReconcileContext, ledger: &Ledger) -> DataLossApproval {
    let view = context.gate.ports.kubernetes.view();
    let meta = view.meta(&context.scope.reference());
    let text = meta.as_ref().and_then(|meta| meta.annotations.get(APPROVE_DATA_LOSS));
    let text = text.map(String::as_str).unwrap_or_default();
    let mut approved = DataLossApproval::default();
    for approval in text.split([',', ' ']).filter(|approval| !approval.is_empty()) {
        let known = || {
            let (node, run_id) = approval.split_once('/')?;
            let (node, run_id): (NodeId, RunId) = (node.parse().ok()?, run_id.parse().ok()?);
            ledger.nodes.get(&node).filter(|known| known.run_id == run_id).map(|_| node)
        };
        match known() {
            Some(node) => drop(approved.nodes.insert(node)),
            None => approved.unknown.push(approval.chars().take(APPROVAL_CHARS_MAX).collect()),
        }
    }
    approved
}

/// Performs the live reads. A read error, or an answer that comes too late, counts as possibly alive.
async fn read_in_time(
    context: &ReconcileContext,
    instance: &Instance,
    known: &KnownNode,
) -> NodeLivenessReads {
    let reads = timeout(DEADLINE, read_all(context, instance, known)).await;
    reads.unwrap_or_else(|_| NodeLivenessReads {
        liveness: RedisNodeLiveReads {
            container_status: Some(Value::Null),
            kube_node_ready: false,
            dial: DialOutcome::Inconclusive,
        },
        out_of_service: false,
        lease: Err(format!("no answer within {} ms", DEADLINE.as_millis())),
    })
}

async fn read_all(
    context: &ReconcileContext,
    instance: &Instance,
    known: &KnownNode,
) -> NodeLivenessReads {
    let kubernetes = &context.gate.ports.kubernetes;
    let name = &known.kube_node;
    let pod = kubernetes.get(reference("v1", "Pod", &instance.namespace, &known.pod));
    let node = kubernetes.get(reference("v1", "Node", "", name));
    let lease =
        kubernetes.get(reference("coordination.k8s.io/v1", "Lease", "kube-node-lease", name));
    let ((pod, node), (lease, dial)) =
        join(join(pod, node), join(lease, dial(context, known))).await;
    let container_status = match &pod {
        Ok(pod) if text(pod, "/metadata/uid") == known.pod_uid => {
            Some(container_status(pod, &instance.container).cloned().unwrap_or_default())
        }
        Ok(_) | Err(CallError::NotFound(_)) => None,
        // An empty status proves nothing.
        Err(_) => Some(Value::Null),
    };
    let lease = lease.map_err(|error| error.to_string()).and_then(|lease| {
        ObservedNodeLease::of(&lease).ok_or_else(|| "it has no `spec.renewTime`".to_owned())
    });
    let kube_node_ready = node.as_ref().is_ok_and(is_ready);
    let out_of_service = node.as_ref().is_ok_and(is_out_of_service);
    NodeLivenessReads {
        liveness: RedisNodeLiveReads { container_status, kube_node_ready, dial },
        out_of_service,
        lease,
    }
}

async fn dial(context: &ReconcileContext, known: &KnownNode) -> DialOutcome {
    let address: Option<SocketAddr> = known.address.as_ref().and_then(|text| text.parse().ok());
    match address {
        Some(address) if context.gate.ports.redis.refuses(address).await => DialOutcome::Refused,
        _ => DialOutcome::Inconclusive,
    }
}

fn is_ready(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
    })
}

/// Returns true if a Kubernetes node has the taint by which a person states that it is switched off.
fn is_out_of_service(node: &Value) -> bool {
    let taints = node.pointer("/spec/taints").and_then(Value::as_array);
    taints.into_iter().flatten().any(|taint| text(taint, "/key") == OUT_OF_SERVICE)
}

fn reference(api_version: &str, kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: api_version.to_owned(), kind: kind.to_owned() },
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}
