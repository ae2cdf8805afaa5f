//! The imports of the package `tholepin:kubernetes`.

use serde::Deserialize;
use tholepin_core::{Call, EventType, KubernetesCall, ObjectRef, ReadMode};
use tholepin_schema::manifest::KindName;

use super::done;
use crate::{
    bindings::tholepin::{
        kubernetes::{events, objects},
        types::types::Error,
    },
    state::GuestState,
};

/// The options of `delete`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeleteOptions {
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    grace_seconds: Option<u32>,
}

impl objects::Host for GuestState {
    async fn get(
        &mut self,
        object: objects::ObjectRef,
        read: objects::ReadMode,
        fields: Vec<String>,
    ) -> Result<String, Error> {
        let call = KubernetesCall::Get { object: object.into(), read: read.into(), fields };
        let answer = self.call_host(Call::Kubernetes(call)).await;
        self.document(answer)
    }

    async fn list(
        &mut self,
        api_version: String,
        kind: String,
        namespace: String,
        selector: String,
        read: objects::ReadMode,
        fields: Vec<String>,
    ) -> Result<Vec<String>, Error> {
        let kind = KindName { api_version, kind };
        let call = KubernetesCall::List { kind, namespace, selector, read: read.into(), fields };
        let answer = self.call_host(Call::Kubernetes(call)).await;
        self.documents(answer)
    }

    async fn apply(&mut self, object: String, force: bool) -> Result<String, Error> {
        let call = KubernetesCall::Apply { object: self.parse_argument("object", &object)?, force };
        let answer = self.call_host(Call::Kubernetes(call)).await;
        self.document(answer)
    }

    async fn apply_status(&mut self, object: String) -> Result<String, Error> {
        let call = KubernetesCall::ApplyStatus { object: self.parse_argument("object", &object)? };
        let answer = self.call_host(Call::Kubernetes(call)).await;
        self.document(answer)
    }

    async fn merge_patch(
        &mut self,
        object: objects::ObjectRef,
        patch: String,
    ) -> Result<String, Error> {
        let patch = self.parse_argument("patch", &patch)?;
        let call = KubernetesCall::MergePatch { object: object.into(), patch };
        let answer = self.call_host(Call::Kubernetes(call)).await;
        self.document(answer)
    }

    async fn delete(&mut self, object: objects::ObjectRef, options: String) -> Result<(), Error> {
        let options: DeleteOptions = self.parse_argument("options", &options)?;
        let DeleteOptions { uid, resource_version, grace_seconds } = options;
        let object = object.into();
        let call = KubernetesCall::Delete { object, uid, resource_version, grace_seconds };
        done(self.call_host(Call::Kubernetes(call)).await)
    }
}

impl events::Host for GuestState {
    async fn publish(
        &mut self,
        event_type: events::EventType,
        reason: String,
        message: String,
    ) -> Result<(), Error> {
        let event_type = match event_type {
            events::EventType::Normal => EventType::Normal,
            events::EventType::Warning => EventType::Warning,
        };
        let call = KubernetesCall::Publish { event_type, reason, message };
        done(self.call_host(Call::Kubernetes(call)).await)
    }

    async fn warnings(&mut self, object: objects::ObjectRef) -> Result<Vec<String>, Error> {
        let call = KubernetesCall::Warnings { object: object.into() };
        let answer = self.call_host(Call::Kubernetes(call)).await;
        self.documents(answer)
    }
}

impl From<objects::ObjectRef> for ObjectRef {
    fn from(object: objects::ObjectRef) -> Self {
        let objects::ObjectRef { api_version, kind, namespace, name } = object;
        Self { kind: KindName { api_version, kind }, namespace, name }
    }
}

impl From<objects::ReadMode> for ReadMode {
    fn from(read: objects::ReadMode) -> Self {
        match read {
            objects::ReadMode::Cached => Self::Cached,
            objects::ReadMode::Live => Self::Live,
        }
    }
}
