//! Reports the result: the status, an event when a foreign change was corrected, and one line for people.

use serde_json::{Value, json};
use tholepin_sdk::{EventType, Host, ReconcileFailure, ReconcileOutcome, time};

use crate::{
    act::SiteConfigWriteSummary,
    kind::{API_VERSION, KIND, ParsedSiteConfig, digest},
};

/// Writes the status. It changes only when something changed, so the status of an object in the desired state
/// is not written.
///
/// # Errors
///
/// Fails if the host cannot write it.
pub(crate) fn report(
    host: &dyn Host,
    target: &ParsedSiteConfig,
    acted: &SiteConfigWriteSummary,
) -> Result<ReconcileOutcome, ReconcileFailure> {
    let summary = summary(acted);
    let desired = digest(&target.desired_objects());
    let mut repairs = target.status.get("repairs").and_then(Value::as_u64).unwrap_or_default();
    if is_repair(target, &desired, acted) {
        repairs += 1;
        host.publish(EventType::Normal, "Repaired", &summary)?;
        host.info(&summary);
    }
    host.apply_status(&json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": target.name.name, "namespace": target.name.namespace},
        "status": {
            "observedGeneration": target.generation,
            "repairs": repairs,
            "wantedDigest": desired,
            "conditions": [ready(target, acted, host.now_ms()?)],
        },
    }))?;
    Ok(ReconcileOutcome { summary, ..ReconcileOutcome::default() })
}

/// Returns true if this reconcile corrected a foreign change or deletion. A change that follows from a new
/// spec or a new revision of this plugin is not a repair: then the desired objects differ from those that
/// were applied last.
fn is_repair(target: &ParsedSiteConfig, desired: &str, acted: &SiteConfigWriteSummary) -> bool {
    let applied = target.status.get("wantedDigest").and_then(Value::as_str);
    let is_written = !acted.created.is_empty() || !acted.corrected.is_empty();
    is_written && applied == Some(desired)
}

/// Returns the condition `Ready`.
fn ready<'a>(target: &'a ParsedSiteConfig, acted: &SiteConfigWriteSummary, now_ms: u64) -> Value {
    let objects = acted.kept.len() + acted.created.len() + acted.corrected.len();
    let (status, reason, message) = if acted.left_to_owner.is_empty() {
        ("True", "AsWanted", format!("{objects} objects are up to date"))
    } else {
        let left = acted.left_to_owner.iter();
        let left: Vec<String> = left
            .map(|(title, why)| {
                format!(
                    "{title} belongs to another owner (delete it, or give this object another name) or is \
                     not granted: {why}"
                )
            })
            .collect();
        let message = left.join("; ");
        ("False", "NameTaken", message)
    };
    let before = target.status.pointer("/conditions").and_then(Value::as_array);
    let text = |condition: &'a Value, field: &str| condition.get(field).and_then(Value::as_str);
    let before = before.into_iter().flatten().find(|before| text(before, "type") == Some("Ready"));
    let since = before.filter(|before| text(before, "status") == Some(status));
    let since = since.and_then(|before| text(before, "lastTransitionTime"));
    json!({
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since.map_or_else(|| time::rfc3339(now_ms), str::to_owned),
        "observedGeneration": target.generation,
    })
}

/// Returns one line for people; the host logs it when it changes.
fn summary(acted: &SiteConfigWriteSummary) -> String {
    let SiteConfigWriteSummary { kept, created, corrected, left_to_owner } = acted;
    let left = left_to_owner.iter().map(|(title, _)| title.clone()).collect();
    let parts = [
        ("created", created),
        ("corrected", corrected),
        ("left to its owner", &left),
        ("kept", kept),
    ];
    let named = parts.iter().filter(|(_, titles)| !titles.is_empty());
    named
        .map(|(verb, titles)| format!("{verb} {}", titles.join(", ")))
        .collect::<Vec<_>>()
        .join("; ")
}
