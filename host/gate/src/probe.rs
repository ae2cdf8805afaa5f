//! Probes a port of a Pod that belongs to the reconciled object.

use std::{net::IpAddr, time::Duration};

use tholepin_core::{Answer, CallError, ObjectRef, Reply, port::WatchedStoreView};
use tholepin_schema::{
    manifest::{Grants, KindName},
    probe::{NetworkProbeOutcome, PROBE_MS_MAX, PodPortProbe},
};

use crate::{
    ownership::{leads_to, text},
    reconcile_context::ReconcileContext,
};

/// Probes the port if that is granted. A probe is a read, so a plan performs it too.
pub(crate) async fn probe(context: &ReconcileContext, probe: &PodPortProbe) -> Answer {
    admit(&context.scope.grants, probe)?;
    let view = context.gate.ports.kubernetes.view();
    let address = address(context, &*view, &probe.pod)?;
    let deadline = Duration::from_millis(probe.deadline_ms.into());
    let outcome = match address {
        Some(address) => {
            let asked = context.gate.ports.prober.probe(
                (address, probe.port).into(),
                probe.get.as_deref(),
                deadline,
            );
            tokio::select! {
                biased;
                () = context.scope.urgent.cancelled() => return Err(CallError::Interrupted),
                outcome = asked => outcome,
            }
        }
        None => NetworkProbeOutcome::Silent { why: "the Pod has no address yet".to_owned() },
    };
    let document = serde_json::to_value(outcome);
    document.map(Reply::Document).map_err(|error| CallError::Other(error.to_string()))
}

/// Checks that such a probe is granted and well-formed, for any Pod.
fn admit(grants: &Grants, probe: &PodPortProbe) -> Result<(), CallError> {
    let PodPortProbe { pod: _, port, get, deadline_ms } = probe;
    if !grants.probes.contains(port) {
        return Err(CallError::Denied(format!(
            "no grant to probe port {port}; the Plugin's spec.grants.probes needs {port}"
        )));
    }
    if *deadline_ms == 0 || PROBE_MS_MAX < *deadline_ms {
        let text = format!("`deadlineMs` must be 1 to {PROBE_MS_MAX}, not {deadline_ms}");
        return Err(CallError::Invalid(text));
    }
    // Any other byte could end the request line and begin another request.
    let is_path =
        |path: &str| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    match get.as_deref().filter(|path| !is_path(path)) {
        Some(path) => {
            let text =
                format!("`get` must be a path that begins with `/`, percent-encoded, not {path:?}");
            Err(CallError::Invalid(text))
        }
        None => Ok(()),
    }
}

/// Returns the address of a Pod of the object; `None` if it has no address yet.
fn address(
    context: &ReconcileContext,
    view: &dyn WatchedStoreView,
    pod: &str,
) -> Result<Option<IpAddr>, CallError> {
    let kind = KindName { api_version: "v1".to_owned(), kind: "Pod".to_owned() };
    if !view.covers(&kind) {
        let text = "Pods are not watched (yet): the manifest's `watches` must name v1/Pod";
        return Err(CallError::Transient(text.to_owned()));
    }
    let namespace = context.scope.key.namespace.clone();
    let reference = ObjectRef { kind, namespace, name: pod.to_owned() };
    let found = view.get(&reference).ok_or_else(|| CallError::NotFound(reference.to_string()))?;
    if !leads_to(view, &found, context.scope.uid()) {
        let text = format!("{reference} does not belong to the reconciled object");
        return Err(CallError::Denied(text));
    }
    if found.pointer("/spec/hostNetwork").and_then(serde_json::Value::as_bool) == Some(true) {
        let text = format!(
            "{reference} uses the network of its Kubernetes node, whose ports are not probed"
        );
        return Err(CallError::Denied(text));
    }
    Ok(text(&found, "/status/podIP").parse().ok())
}
