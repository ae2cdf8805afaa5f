//! Asks the plugin about the spec of an object, and finds the spec that stays in force while the plugin refuses it.
//!
//! Invariants:
//! - The spec in force was accepted before, and this revision of the plugin accepts it too.
//! - An object of which no spec was ever accepted is not reconciled.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::AcceptedSpec;

use super::{
    LiveOrDryRunEffects, NoSpecInForce, ReconcileOnceResult, ReconcileTarget, RejectedSpecReason,
    SpecRejectedReconcile, SpecRejection,
};
use crate::object_state::ReconciledVersion;

/// The object to reconcile.
pub(super) struct ObjectWithAcceptedSpec {
    /// The object with the spec in force.
    pub(super) object: Arc<Value>,
    /// Why that is not the object's own spec, if it is not.
    pub(super) refusal: Option<RejectedSpecReason>,
}

/// Asks the plugin about a version of the object that it has not accepted before. If it refuses, returns the
/// object with the spec that was accepted last.
///
/// # Errors
///
/// Fails with the end of the reconcile if there is nothing to reconcile.
pub(super) async fn accept(
    target: &ReconcileTarget<'_>,
    effects: &impl LiveOrDryRunEffects,
    object: Arc<Value>,
) -> Result<ObjectWithAcceptedSpec, ReconcileOnceResult> {
    let meta = target.meta;
    let version = match meta.generation {
        Some(generation) => generation.to_string(),
        None => meta.resource_version.clone(),
    };
    let version = observed(target, version);
    if meta.deleting || effects.is_validated(&version) {
        return Ok(ObjectWithAcceptedSpec { object, refusal: None });
    }
    let code = &target.plugin.code;
    let rejection = match code.validate(target.call_context(), None, (*object).clone()).await {
        Ok(violations) if violations.is_empty() => {
            effects.record_validated(&object, version);
            return Ok(ObjectWithAcceptedSpec { object, refusal: None });
        }
        Ok(violations) => SpecRejection::Invalid(violations),
        // A fault of the host says nothing about the spec.
        Err(error) if error.as_failure().is_some() => {
            return Err(ReconcileOnceResult::NotValidated(error));
        }
        Err(error) => SpecRejection::Fault(error),
    };
    match in_force(target, effects, &object).await {
        Ok((object, generation)) => {
            let (reason, why) = (rejection.reason(), rejection.text());
            let message = format!("{why}; the spec of generation {generation} stays in force");
            Ok(ObjectWithAcceptedSpec {
                object,
                refusal: Some(RejectedSpecReason { reason, message }),
            })
        }
        Err(cause) => {
            Err(ReconcileOnceResult::Rejected(SpecRejectedReconcile { rejection, cause }))
        }
    }
}

/// Returns the object with the spec that was accepted last, and the generation of that spec.
///
/// # Errors
///
/// Fails if there is none, if it cannot be read, or if this revision refuses it.
async fn in_force(
    target: &ReconcileTarget<'_>,
    effects: &impl LiveOrDryRunEffects,
    object: &Value,
) -> Result<(Arc<Value>, i64), NoSpecInForce> {
    let unusable = |why| Err(NoSpecInForce::Unusable(why));
    let accepted = target.permit.release_during(effects.accepted_spec()).await;
    let accepted: Option<AcceptedSpec> = accepted.map_err(NoSpecInForce::Unreadable)?;
    let Some(accepted) = accepted else {
        return unusable("no earlier spec of this object was accepted");
    };
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    if generation == Some(accepted.generation) {
        return unusable("an earlier revision of the plugin accepted it, and this one does not");
    }
    let Some(earlier) = accepted.put_into(object) else {
        return unusable("what was kept of the last accepted spec cannot be used");
    };
    let version = observed(target, accepted.generation.to_string());
    if !effects.is_validated(&version) {
        let code = &target.plugin.code;
        match code.validate(target.call_context(), None, earlier.clone()).await {
            Ok(violations) if violations.is_empty() => {}
            Ok(_) | Err(_) => {
                return unusable("this revision of the plugin refuses the last accepted spec too");
            }
        }
    }
    let generation = accepted.generation;
    effects.record_in_force(accepted, version);
    Ok((Arc::new(earlier), generation))
}

fn observed(target: &ReconcileTarget<'_>, version: String) -> ReconciledVersion {
    ReconciledVersion {
        revision: target.plugin.revision.clone(),
        uid: target.meta.uid.clone(),
        version,
    }
}
