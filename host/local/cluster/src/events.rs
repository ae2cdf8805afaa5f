//! Records in Kubernetes events what a controller did, or why it cannot do something.
//!
//! The name of an event is derived from its object, reason and message. Recording the same event again raises
//! the counter of the existing object, so no memory of earlier events is needed. A failure is logged and has
//! no other effect, because no work depends on events.
//!
//! kube's `Recorder` is not used: it counts events with equal object, reason and action together, whatever
//! their messages are, so that "create Pod db-1" would only raise the counter of "create Pod db-0".

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::time::timeout;
use tracing::debug;

use crate::name_hash::hash;

/// How long recording an event may take. The controller waits for it.
const RECORD_DEADLINE: Duration = Duration::from_secs(5);

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSeverity {
    /// Something happened as it should.
    Normal,
    /// A user may have to do something.
    Warning,
}

/// Records events on behalf of one controller.
#[derive(Clone)]
pub struct EventRecorder {
    client: Client,
    component: &'static str,
}

impl EventRecorder {
    /// Creates a recorder for the controller `component`.
    pub fn new(client: Client, component: &'static str) -> Self {
        Self { client, component }
    }

    /// Records an event about an object. `reason` is one CamelCase word of a closed set.
    pub async fn record<K>(
        &self,
        object: &K,
        severity: EventSeverity,
        reason: &'static str,
        message: &str,
    ) where
        K: Resource<DynamicType = ()>,
    {
        let event = self.event(object, severity, reason, message, Timestamp::now());
        match timeout(RECORD_DEADLINE, self.publish(&event)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(reason, %error, "event not published"),
            Err(_) => debug!(reason, "event not published in time"),
        }
    }

    async fn publish(&self, event: &Event) -> kube::Result<()> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let params =
            PostParams { field_manager: Some(self.component.to_owned()), ..PostParams::default() };
        match api.create(&params, event).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => return other.map(|_| ()),
        }
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let count = api.get(name).await?.count.unwrap_or(1).saturating_add(1);
        let patch = json!({"count": count, "lastTimestamp": event.last_timestamp});
        let params = PatchParams {
            field_manager: Some(self.component.to_owned()),
            ..PatchParams::default()
        };
        api.patch(name, &params, &Patch::Merge(patch)).await.map(|_| ())
    }

    fn event<K>(
        &self,
        object: &K,
        severity: EventSeverity,
        reason: &'static str,
        message: &str,
        now: Timestamp,
    ) -> Event
    where
        K: Resource<DynamicType = ()>,
    {
        let meta = object.meta();
        let name = meta.name.clone().unwrap_or_default();
        let uid = meta.uid.clone().unwrap_or_default();
        let identity = hash(&format!("{uid}\n{reason}\n{message}"));
        let namespace = meta.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let severity = match severity {
            EventSeverity::Normal => "Normal",
            EventSeverity::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{identity}")),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(K::api_version(&()).into_owned()),
                kind: Some(K::kind(&()).into_owned()),
                name: Some(name),
                namespace: meta.namespace.clone(),
                uid: Some(uid),
                resource_version: meta.resource_version.clone(),
                field_path: None,
            },
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            type_: Some(severity.to_owned()),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: None }),
            reporting_component: Some(self.component.to_owned()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        }
    }
}
