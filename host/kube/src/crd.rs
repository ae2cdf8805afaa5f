//! Installs CustomResourceDefinitions and waits until the server serves them.
//!
//! It polls, because `kube::runtime::wait` covers the condition `Established` only, and discovery follows later.

use std::time::Duration;

use serde_json::Value;
use tholepin_core::{
    CallError, ObjectMeta,
    condition::HOST_FIELD_MANAGER,
    port::{ApplyRequest, Kubernetes},
};
use tholepin_schema::manifest::KindName;
use tokio::time::{Instant, sleep};

use crate::{KubernetesApi, kinds::KindLookupError};

/// How long the server may take to serve a kind after its definition was applied.
const SERVED_WITHIN: Duration = Duration::from_secs(10);
/// The pause between two polls of the definition.
const POLL_PAUSE: Duration = Duration::from_millis(50);

impl KubernetesApi {
    /// Applies a CustomResourceDefinition and waits until its kind is served: the definition is `Established`,
    /// and the kind is in discovery, which follows a little later. Watches that wait for the kind are notified
    /// and run discovery immediately.
    ///
    /// # Errors
    ///
    /// Fails if the server refuses the definition, or does not serve the kind within ten seconds.
    pub async fn install_crd(&self, definition: &Value) -> Result<(), CallError> {
        let invalid = |text: &str| CallError::Invalid(text.to_owned());
        let meta = ObjectMeta::of(definition).map_err(|error| invalid(&error.to_string()))?;
        let kind = defined_kind(definition)
            .ok_or_else(|| invalid("the CustomResourceDefinition names no served version"))?;
        let request = ApplyRequest {
            field_manager: HOST_FIELD_MANAGER.to_owned(),
            object: definition.clone(),
            // Forced: definitions come from the host and its plugins, and edits by hand are reverted.
            force: true,
            status: false,
            dry_run: false,
        };
        Kubernetes::apply(self, request).await?;
        let deadline = Instant::now() + SERVED_WITHIN;
        while !(self.is_established(&meta).await? && self.is_served(&kind).await?) {
            if Instant::now() >= deadline {
                let seconds = SERVED_WITHIN.as_secs();
                return Err(CallError::Timeout(format!(
                    "the API server does not serve {kind} {seconds} s after its definition was \
                     applied; see `kubectl describe crd {}`",
                    meta.object.name
                )));
            }
            sleep(POLL_PAUSE).await;
        }
        self.kinds.installed.notify_waiters();
        Ok(())
    }

    async fn is_established(&self, meta: &ObjectMeta) -> Result<bool, CallError> {
        let stored = Kubernetes::get(self, meta.object.clone()).await?;
        let conditions = stored.pointer("/status/conditions").and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        Ok(conditions.any(|condition| {
            condition.get("type").is_some_and(|name| name == "Established")
                && condition.get("status").is_some_and(|status| status == "True")
        }))
    }

    async fn is_served(&self, kind: &KindName) -> Result<bool, CallError> {
        match self.kinds.find(kind).await {
            Ok(_) => Ok(true),
            Err(KindLookupError::Missing) => Ok(false),
            Err(KindLookupError::Failed(error)) => Err(error),
        }
    }
}

/// Returns the kind of a definition in the first version that it serves.
fn defined_kind(definition: &Value) -> Option<KindName> {
    let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str);
    let versions = definition.pointer("/spec/versions")?.as_array()?;
    let served = |version: &&Value| version.get("served") == Some(&Value::Bool(true));
    let version = versions.iter().find(served)?.get("name")?.as_str()?;
    let api_version = format!("{}/{version}", text("/spec/group")?);
    Some(KindName { api_version, kind: text("/spec/names/kind")?.to_owned() })
}
