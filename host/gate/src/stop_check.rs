//! Checks writes to Kubernetes that stop members or drop their volumes.
//!
//! The guards follow the effect: any call that ends a member, drops its volume or shrinks its workload is
//! checked like a verb on Redis, on a snapshot that is taken for it. An object without a ledger has no
//! members, so nothing is checked for it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use tholepin_core::{
    CallError, ObjectMeta, ObjectRef, WriteMode,
    port::{ApplyRequest, WatchedStoreView},
};
use tholepin_schema::{
    guard_id::GuardId,
    instance::Instance,
    manifest::KindName,
    reserved::{self, ReservedObjectPurpose},
};

use crate::{
    grant,
    guard::{self, GuardRefusal, LossClass, PodStoppedByCall},
    instance::{self, container_status, uid},
    ledger_document::LedgerProcessGroup,
    ledger_store::ObjectLedger,
    ownership::{self, text},
    reconcile_context::ReconcileContext,
    stop_effect::{self, ObjectAfterPluginWrite, WriteEffectOnPods},
};

/// The verb whose grant is needed to stop the last copy of some data, in addition to the object's own policy.
const STOP_LAST_COPY: &str = "stop-last-copy";

/// Checks a deletion. The request carries the resource version that was read: after a change it is checked again.
///
/// # Errors
///
/// Fails with the guard that refuses.
pub(crate) async fn before_delete(
    context: &ReconcileContext,
    found: &Value,
) -> Result<(), CallError> {
    admit(context, stop_effect::stops(&*newest(context), found, ObjectAfterPluginWrite::Deleted))
        .await
}

/// Checks an apply to an object that exists. If it may stop something, it is sent as a dry run first, because
/// the fields that it leaves out matter as well.
///
/// # Errors
///
/// As [`before_delete`].
pub(crate) async fn before_apply(
    context: &ReconcileContext,
    found: &Value,
    request: &ApplyRequest,
) -> Result<(), CallError> {
    let view = newest(context);
    if !stop_effect::may_stop(&*view, found, &request.object) {
        return Ok(());
    }
    let dry_run = ApplyRequest { dry_run: true, ..request.clone() };
    let after = context.kubernetes.apply(dry_run).await?;
    admit(context, stop_effect::stops(&*view, found, ObjectAfterPluginWrite::Is(&after))).await
}

/// Checks an apply that creates its object: a new autoscaler can stop Pods.
///
/// # Errors
///
/// As [`before_delete`].
pub(crate) async fn before_create(
    context: &ReconcileContext,
    intent: &Value,
) -> Result<(), CallError> {
    admit(context, stop_effect::begins(&*newest(context), intent)).await
}

/// Checks a merge patch.
///
/// # Errors
///
/// As [`before_delete`].
pub(crate) async fn before_patch(
    context: &ReconcileContext,
    object: &ObjectRef,
    found: &Value,
    patch: &Value,
) -> Result<(), CallError> {
    let view = newest(context);
    // A patch need not repeat the replicas, so it is enough that there are Pods below the object.
    if !stop_effect::may_stop(&*view, found, &Value::Null) {
        return Ok(());
    }
    let (port, manager) = (&context.kubernetes, context.scope.field_manager());
    let after = port.merge_patch(object.clone(), patch.clone(), manager, true).await?;
    admit(context, stop_effect::stops(&*view, found, ObjectAfterPluginWrite::Is(&after))).await
}

/// Members are checked by the newest view, not by that of the reconcile.
fn newest(context: &ReconcileContext) -> Arc<dyn WatchedStoreView> {
    context.gate.ports.kubernetes.view()
}

async fn admit(context: &ReconcileContext, effect: WriteEffectOnPods) -> Result<(), CallError> {
    if effect.is_empty() {
        return Ok(());
    }
    let view = newest(context);
    let claimed = claimed_by(&*view, context, &effect.claims)?;
    let pods: Vec<&Arc<Value>> = effect.pods.iter().chain(&claimed).collect();
    let mut object_ledger = context.own_ledger().await?;
    let mut own: BTreeMap<&str, &Arc<Value>> = BTreeMap::new();
    for pod in pods {
        let recorded = object_ledger.ledger.nodes.values().any(|known| known.pod_uid == uid(pod));
        if recorded || ownership::leads_to(&*view, pod, context.scope.uid()) {
            own.insert(uid(pod), pod);
        } else {
            is_no_other_objects_member(context, &*view, pod).await?;
        }
    }
    // The user deletes the whole object, so its Pods may end. Its volumes are checked all the same.
    let is_deleted = context.scope.object.pointer("/metadata/deletionTimestamp").is_some();
    if object_ledger.ledger.groups.is_empty()
        || own.is_empty()
        || (is_deleted && effect.claims.is_empty())
    {
        return Ok(());
    }
    let groups = object_ledger.ledger.groups.clone();
    for (name, group) in groups {
        let of_group: Vec<PodStoppedByCall> = own
            .values()
            .filter(|pod| instance::belongs_to_group(pod, &object_ledger.ledger, &name))
            .map(|pod| stop(pod, &group, &effect))
            .collect();
        check_group(context, &mut object_ledger, (&name, &group), &of_group).await?;
    }
    Ok(())
}

/// Checks the stops in one group, and records them in the ledger.
async fn check_group(
    context: &ReconcileContext,
    object_ledger: &mut ObjectLedger,
    (name, group): (&str, &LedgerProcessGroup),
    stops: &[PodStoppedByCall],
) -> Result<(), CallError> {
    if stops.is_empty() {
        return Ok(());
    }
    let ports = &context.gate.ports;
    let instance = object_ledger.instance(&context.scope.key.namespace, name, group);
    let members = context.members_by(&object_ledger.ledger, &instance).await?;
    let snapshot = ports.redis.observe(&members, &instance.settings).await;
    let now_ms = ports.clock.now_ms();
    object_ledger.record(&snapshot, now_ms);
    let policy = context.scope.policy();
    let class = guard::stop(&snapshot, &object_ledger.ledger, policy, stops, now_ms)?;
    if class == LossClass::DataLoss {
        grant::redis_verb(&context.scope.grants, STOP_LAST_COPY)?;
    }
    if context.scope.mode == WriteMode::Live {
        guard::record_stops(&mut object_ledger.ledger, stops, now_ms);
        object_ledger.save(&*ports.kubernetes, &context.scope).await?;
    }
    Ok(())
}

fn stop(pod: &Value, group: &LedgerProcessGroup, effect: &WriteEffectOnPods) -> PodStoppedByCall {
    let status = container_status(pod, &group.container);
    let claims = stop_effect::claims(pod);
    PodStoppedByCall {
        pod: text(pod, "/metadata/name").to_owned(),
        uid: uid(pod).to_owned(),
        runs: status.is_some_and(|status| status.pointer("/state/running").is_some()),
        drops_volume: claims.iter().any(|claim| effect.claims.contains(claim)),
    }
}

/// Returns the Pods that mount these claims.
///
/// # Errors
///
/// Fails if no Pod mounts a claim now, because no process can report what is on it.
fn claimed_by(
    view: &dyn WatchedStoreView,
    context: &ReconcileContext,
    claims: &[String],
) -> Result<Vec<Arc<Value>>, CallError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let namespace = &context.scope.key.namespace;
    let pods = view.list(&instance::pod_kind(), namespace, "")?;
    let mut mounting = Vec::new();
    for claim in claims {
        let before = mounting.len();
        let mounts = |pod: &&Arc<Value>| stop_effect::claims(pod).contains(claim);
        mounting.extend(pods.iter().filter(mounts).cloned());
        if mounting.len() == before {
            let text = format!(
                "no Pod mounts the claim `{claim}` now, so it is not known whether another copy of its \
                 data exists; a person may delete it"
            );
            return Err(GuardRefusal::new(GuardId::Stop, text).into());
        }
    }
    Ok(mounting)
}

/// Checks that a Pod is no member of another object: only that object's plugin may stop it.
async fn is_no_other_objects_member(
    context: &ReconcileContext,
    view: &dyn WatchedStoreView,
    pod: &Value,
) -> Result<(), CallError> {
    let Ok(meta) = ObjectMeta::of(pod) else { return Ok(()) };
    let Some((root, root_uid)) = ownership::root(view, &meta) else { return Ok(()) };
    let ledger = ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "ConfigMap".to_owned() },
        namespace: root.namespace.clone(),
        name: reserved::name(ReservedObjectPurpose::Ledger, &root.kind.kind, &root_uid),
    };
    match context.gate.ports.kubernetes.get(ledger).await {
        Err(CallError::NotFound(_)) => Ok(()),
        Ok(_) => {
            let name = &meta.object.name;
            let text = format!("`{name}` is a member of {root}, which alone may stop it");
            Err(GuardRefusal::new(GuardId::Stop, text).into())
        }
        Err(error) => Err(error),
    }
}

impl ObjectLedger {
    /// Returns the instance of a group as a call last named it, or from the ledger.
    fn instance(&self, namespace: &str, name: &str, group: &LedgerProcessGroup) -> Instance {
        self.instances.get(name).cloned().unwrap_or_else(|| Instance {
            namespace: namespace.to_owned(),
            selector: String::new(),
            container: group.container.clone(),
            port: group.port,
            group: Some(name.to_owned()),
            credentials: None,
            owner: None,
            settings: Vec::new(),
        })
    }
}
