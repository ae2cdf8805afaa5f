//! Shows in Kubernetes what the registry reports: a `Plugin` object per file, with its status.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tholepin_core::{
    CallError, ObjectRef, PluginName,
    condition::HOST_FIELD_MANAGER,
    port::{ApplyRequest, DeleteRequest, Kubernetes},
};
use tholepin_guest::{PluginReport, Stage};
use tracing::{info, warn};

use crate::commands::plugin_reference;

/// Writes the `Plugin` object that a report speaks of. Says whether that is done with: what cannot be
/// written is logged, and `false` means that it can be later.
pub(crate) async fn show(kubernetes: &Arc<dyn Kubernetes>, report: &PluginReport) -> bool {
    let written = match (report.stage, &report.object) {
        (Some(Stage::Unloaded), _) => remove(kubernetes, &report.name).await,
        (_, object) => write(kubernetes, report, object.as_deref()).await,
    };
    match written {
        Ok(()) => true,
        Err(error) => {
            warn!(plugin = %report.name, %error, "cannot show the plugin's state in Kubernetes");
            !error.is_passing()
        }
    }
}

/// Says what a report tells, for people.
pub(crate) fn log(report: &PluginReport) {
    let PluginReport { name, stage, reason, message, .. } = report;
    match (reason, stage) {
        (Some(reason), _) => warn!(plugin = %name, %reason, message, "the new revision is refused"),
        (None, Some(stage @ (Stage::Active | Stage::Unloaded))) => {
            let revision = report.active.as_ref().map(|digest| digest.short().to_owned());
            info!(plugin = %name, revision, "{stage}");
        }
        (None, _) => {}
    }
}

async fn write(
    kubernetes: &Arc<dyn Kubernetes>,
    report: &PluginReport,
    object: Option<&Value>,
) -> Result<(), CallError> {
    let reference = plugin_reference(report.name.as_str());
    // A file that cannot be read leaves the object as it was; if there is none, there is a component
    // without settings, which is shown with the least that the definition asks for.
    let stored = match object {
        Some(_) => None,
        None => kubernetes.get(reference.clone()).await.ok(),
    };
    let stored = match stored {
        Some(stored) => stored,
        None => {
            let file = format!("{}.wasm", report.name);
            let without = json!({"source": {"file": file}, "grants": {}});
            let spec = object.and_then(|object| object.get("spec")).cloned().unwrap_or(without);
            apply(kubernetes, named(&reference, "spec", spec), false).await?
        }
    };
    let mut status = status(report);
    if let Some(generation) = stored.pointer("/metadata/generation") {
        status.insert("observedGeneration".to_owned(), generation.clone());
    }
    apply(kubernetes, named(&reference, "status", status.into()), true).await.map(drop)
}

async fn remove(kubernetes: &Arc<dyn Kubernetes>, name: &PluginName) -> Result<(), CallError> {
    let request = DeleteRequest {
        object: plugin_reference(name.as_str()),
        uid: None,
        resource_version: None,
        grace_seconds: None,
        dry_run: false,
    };
    match kubernetes.delete(request).await {
        Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn status(report: &PluginReport) -> Map<String, Value> {
    let PluginReport { name: _, stage, candidate, active, version, reason, message, object: _ } =
        report;
    let mut status = Map::new();
    let mut say = |field: &str, text: Option<String>| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            status.insert(field.to_owned(), Value::String(text));
        }
    };
    say("stage", stage.map(|stage| stage.to_string()));
    say("active", active.as_ref().map(ToString::to_string));
    say("revision", active.as_ref().map(|active| active.short().to_owned()));
    say("candidate", candidate.as_ref().filter(|_| candidate != active).map(ToString::to_string));
    say("version", version.clone());
    say("reason", reason.map(|reason| reason.to_string()));
    say("message", Some(message.clone()));
    status
}

async fn apply(
    kubernetes: &Arc<dyn Kubernetes>,
    object: Value,
    is_status: bool,
) -> Result<Value, CallError> {
    let request = ApplyRequest {
        field_manager: HOST_FIELD_MANAGER.to_owned(),
        object,
        // The file is the truth: whoever edited the object by hand is overruled.
        force: true,
        status: is_status,
        dry_run: false,
    };
    kubernetes.apply(request).await
}

fn named(reference: &ObjectRef, field: &str, value: Value) -> Value {
    json!({
        "apiVersion": reference.kind.api_version,
        "kind": reference.kind.kind,
        "metadata": {"name": reference.name},
        field: value,
    })
}
