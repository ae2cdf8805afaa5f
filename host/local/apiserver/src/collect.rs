//! The garbage collector: deletes dependents whose owners do not exist, the contents of terminating namespaces, the
//! objects of terminating CRDs, and old events.
//!
//! It is one task, woken by changes. It deletes through the same code as a client's request, so finalizers and grace
//! periods apply.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::audit::ApiAuditEvent;
use crate::kinds::crd;
use crate::object::{is_deleting, name, text};
use crate::server_state::ServerState;
use crate::status::ApiError;
use crate::store::{GroupResource, NamespacedName, ObjectLocation, StoreSize, owner_uids};
use crate::verbs::delete::{self, DeleteOptions};
use crate::verbs::update::{ObjectEditResult, update};
use crate::write_context::MainOrStatusPart;
use crate::write_context::ObjectWriteContext;

/// The collector's name in `managedFields` and in the audit log.
const MANAGER: &str = "tholepin-collector";

/// How long an event is kept after its last occurrence, as in Kubernetes.
const EVENT_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// The interval between searches for old events.
const EVENT_SWEEP: Duration = Duration::from_secs(60);
/// The most events that are kept, and the most memory that they may use, whatever their age.
const EVENTS_MAX: StoreSize = StoreSize { objects: 2_048, bytes: 16 * 1024 * 1024 };

/// Runs the collector until the server stops.
pub(crate) async fn run(server: Arc<ServerState>) {
    let mut sweep = tokio::time::interval(EVENT_SWEEP);
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            () = server.store.work() => {}
            _ = sweep.tick() => {
                server.store.expire(Instant::now());
                expire_events(&server, Timestamp::now()).await;
            }
        }
        limit_events(&server, EVENTS_MAX).await;
        let (orphans, namespaces) = server.store.take_pending();
        for location in orphans {
            collect_orphan(&server, &location).await;
        }
        for key in namespaces {
            purge_namespace(&server, &key).await;
        }
        purge_definitions(&server).await;
    }
}

fn context(
    server: &Arc<ServerState>,
    (resource, key): &ObjectLocation,
) -> Option<ObjectWriteContext> {
    Some(ObjectWriteContext {
        server: Arc::clone(server),
        served: server.registry.of_resource(resource)?,
        namespace: key.namespace.to_string(),
        now: Timestamp::now(),
        manager: MANAGER.to_owned(),
        dry_run: false,
    })
}

/// Deletes an object if none of its owners exists; else removes its references to owners that do not exist.
async fn collect_orphan(server: &Arc<ServerState>, location: &ObjectLocation) {
    let (resource, key) = location;
    let Some(object) = server.store.get(resource, key) else { return };
    let Some(cx) = context(server, location) else { return };
    let is_absent = |uid: &str| !server.store.owner_is_present(uid, &key.namespace);
    if !owner_uids(&object).any(is_absent) {
        return;
    }
    if !owner_uids(&object).all(is_absent) {
        delete::drop_owners(&cx, location, &is_absent);
        return;
    }
    debug!(
        resource = &*resource.plural,
        name = &*key.name,
        "deleting an object without existing owners"
    );
    // The uid is a precondition: another object of the same name may exist by now.
    let options = DeleteOptions {
        uid: text(&object, "/metadata/uid").map(str::to_owned),
        ..DeleteOptions::default()
    };
    remove(server, location, &options).await;
}

/// Deletes the objects in a terminating namespace, or the namespace itself if it is empty.
async fn purge_namespace(server: &Arc<ServerState>, key: &NamespacedName) {
    let location = (GroupResource::new("", "namespaces"), key.clone());
    let Some(namespace) = server.store.get(&location.0, key) else { return };
    if !is_deleting(&namespace) {
        return;
    }
    let contents = server.store.in_namespace(&key.name);
    if contents.is_empty() {
        let options = DeleteOptions { is_final: true, ..DeleteOptions::default() };
        remove(server, &location, &options).await;
        return;
    }
    for (dependent_location, object) in contents {
        delete_inside(server, &dependent_location, &object).await;
    }
}

/// Deletes the objects of terminating CRDs, and each CRD once it has no objects.
async fn purge_definitions(server: &Arc<ServerState>) {
    let definitions = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
    let all = server.store.all(&definitions);
    for definition in all.iter().filter(|definition| is_deleting(definition)) {
        let group = text(definition, "/spec/group").unwrap_or("");
        let plural = text(definition, "/spec/names/plural").unwrap_or("");
        let resource = GroupResource::new(group, plural);
        let objects = server.store.all(&resource);
        let location = (definitions.clone(), NamespacedName::new("", name(definition)));
        if objects.is_empty() {
            release_definition(server, &location).await;
        }
        for object in objects {
            let namespace = text(&object, "/metadata/namespace").unwrap_or("");
            let dependent_location =
                (resource.clone(), NamespacedName::new(namespace, name(&object)));
            delete_inside(server, &dependent_location, &object).await;
        }
    }
}

async fn delete_inside(server: &Arc<ServerState>, location: &ObjectLocation, object: &Value) {
    if !is_deleting(object) {
        remove(server, location, &DeleteOptions::default()).await;
    }
}

/// Deletes the events whose last occurrence is older than [`EVENT_LIFE`].
async fn expire_events(server: &Arc<ServerState>, now: Timestamp) {
    let all = server.store.all(&event_resource());
    drop_events(server, all.iter().filter(|event| is_old(event, now))).await;
}

/// Deletes the oldest eighth of the events if there are too many. Fewer deletions would mean that each new event
/// causes a search through all of them.
async fn limit_events(server: &Arc<ServerState>, max: StoreSize) {
    let size = server.store.size(&event_resource());
    if size.objects <= max.objects && size.bytes <= max.bytes {
        return;
    }
    let mut all = server.store.all(&event_resource());
    all.sort_by_cached_key(|event| last_seen(event));
    drop_events(server, all.iter().take(all.len().div_ceil(8))).await;
}

/// Deletes events, without lines in the audit log, because they can be hundreds at a time.
async fn drop_events(server: &Arc<ServerState>, old: impl Iterator<Item = &Arc<Value>>) {
    for event in old {
        let namespace = text(event, "/metadata/namespace").unwrap_or("");
        let location = (event_resource(), NamespacedName::new(namespace, name(event)));
        let Some(cx) = context(server, &location) else { return };
        if let Err(failure) = delete::delete_object(&cx, name(event), &DeleteOptions::default()) {
            debug!(message = %failure.message, "cannot delete an old event");
        }
        tokio::task::yield_now().await;
    }
}

fn event_resource() -> GroupResource {
    GroupResource::new("", "events")
}

fn is_old(event: &Value, now: Timestamp) -> bool {
    last_seen(event).is_none_or(|seen| EVENT_LIFE < now.duration_since(seen))
}

/// Returns the time of an event's last occurrence; `None`, which sorts as the oldest, if the event has no time.
fn last_seen(event: &Value) -> Option<Timestamp> {
    let times = ["/metadata/creationTimestamp", "/lastTimestamp", "/series/lastObservedTime"];
    times.iter().filter_map(|at| text(event, at)?.parse::<Timestamp>().ok()).max()
}

/// Deletes one object, and writes an audit line.
async fn remove(server: &Arc<ServerState>, location: &ObjectLocation, options: &DeleteOptions) {
    let Some(cx) = context(server, location) else { return };
    let deleted = delete::delete_object(&cx, &location.1.name, options).map(drop);
    audit(&cx, location, "delete", deleted).await;
}

/// Removes the server's finalizer from a CRD, whose deletion ends when it has no finalizer left.
async fn release_definition(server: &Arc<ServerState>, location: &ObjectLocation) {
    let Some(cx) = context(server, location) else { return };
    let edit = |old: &Value| {
        let mut new = old.clone();
        let list = new.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut);
        if let Some(list) = list {
            list.retain(|finalizer| finalizer.as_str() != Some(crd::FINALIZER));
        }
        Ok(ObjectEditResult::Put(new))
    };
    let released = update(&cx, &location.1.name, MainOrStatusPart::Main, &edit).map(drop);
    audit(&cx, location, "patch", released).await;
}

/// Writes an audit line for a write, except if the object did not exist any more.
async fn audit(
    cx: &ObjectWriteContext,
    (resource, key): &ObjectLocation,
    verb: &'static str,
    result: Result<(), ApiError>,
) {
    let code = match &result {
        Ok(()) => 200,
        Err(failure) if failure.code == 404 => return,
        Err(failure) => {
            let (name, message) = (&*key.name, &failure.message);
            warn!(resource = &*resource.plural, name, %message, "the collector cannot write an object");
            failure.code
        }
    };
    let event = ApiAuditEvent {
        time: format!("{:.6}", cx.now),
        user: MANAGER.to_owned(),
        field_manager: MANAGER.to_owned(),
        verb,
        group: resource.group.to_string(),
        resource: resource.plural.to_string(),
        subresource: String::new(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        dry_run: false,
        code,
    };
    cx.server.audit.write(event).await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_expires_an_hour_after_its_last_occurrence() {
        let now = "2026-01-02T12:00:00Z".parse().unwrap();
        let made = json!({"creationTimestamp": "2026-01-02T09:00:00Z"});
        let cases = [
            (json!({"metadata": {"creationTimestamp": "2026-01-02T11:00:00Z"}}), false),
            (json!({"metadata": made}), true),
            (json!({"metadata": made, "lastTimestamp": "2026-01-02T11:30:00Z"}), false),
            (
                json!({"metadata": made, "series": {"lastObservedTime": "2026-01-02T11:30:00.000000Z"}}),
                false,
            ),
            (json!({"metadata": made, "lastTimestamp": null}), true),
        ];
        for (event, expected) in cases {
            assert_eq!(is_old(&event, now), expected, "{event}");
        }
    }
}
