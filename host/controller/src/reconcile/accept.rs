//! Asks the plugin about the spec of an object, and finds the spec that stays in force while the plugin
//! refuses it.
//!
//! Invariants:
//! - A refused spec never reaches `reconcile`.
//! - The spec in force was accepted before, and this revision accepts it too.
//! - An object of which no spec was accepted is not reconciled.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{
    AcceptedSpec, CallContext, CallError, ErrorChain, ObjectKey, ObjectMeta, ReconcileResult,
    condition::Reason, port::GuestError,
};
use tholepin_schema::reconcile::Violation;
use tracing::warn;

use super::{ReconcileInProgress, reason, say};
use crate::{
    conditions::{HostConditionUpdate, ReconcilerPresence},
    mapper::reference_of,
    metrics::{self, ErrorClass},
    object_state::{AcceptedByPlugin, ObjectState, ObservedVersion},
    plugins::ActivePlugin,
    queue::KeyCompletion,
    report_builder::{ReportBuilder, went_wrong},
    shared_state::SharedState,
};

/// What a pass reconciles.
pub(crate) struct AcceptedObject {
    /// The object with the spec in force.
    pub(crate) object: Arc<Value>,
    /// Why that is not the object's own spec, if it is not.
    pub(crate) refusal: Option<RejectedSpec>,
}

/// Why a spec is not reconciled.
#[derive(Clone, Debug)]
pub(crate) struct RejectedSpec {
    pub(crate) reason: Reason,
    /// For people, with the spec that stays in force.
    pub(crate) message: String,
}

/// The spec that stays in force in place of a refused one.
pub(crate) enum SpecInForce {
    /// The object with that spec, and the generation it is of.
    Earlier(Arc<Value>, i64),
    /// None, for this reason.
    None(&'static str),
}

impl RejectedSpec {
    /// The refusal of a spec in place of which an earlier one stays in force.
    pub(crate) fn with_earlier(reason: Reason, why: &str, generation: i64) -> Self {
        let message = format!("{why}; the spec of generation {generation} stays in force");
        Self { reason, message }
    }
}

/// The violations in one line.
pub(crate) fn lines(violations: &[Violation]) -> String {
    let lines = violations.iter().map(|it| format!("{}: {}", it.field, it.message));
    lines.collect::<Vec<_>>().join("; ")
}

/// What the host kept of an object as accepted last.
///
/// # Errors
///
/// Fails if the API server cannot be asked.
pub(crate) async fn kept(
    shared: &SharedState,
    key: &ObjectKey,
    meta: &ObjectMeta,
) -> Result<Option<AcceptedSpec>, CallError> {
    let noted = shared.notes.get(key).kept.filter(|kept| kept.uid == meta.uid);
    match noted {
        Some(kept) => Ok(Some(kept.spec)),
        None => shared.parts.marks.accepted_spec(reference_of(key), meta.uid.clone()).await,
    }
}

/// Puts what was kept in place of the refused spec of an object, if this revision accepts it.
pub(crate) async fn in_force(
    plugin: &ActivePlugin,
    context: CallContext,
    object: &Value,
    kept: Option<&AcceptedSpec>,
    is_known_valid: bool,
) -> SpecInForce {
    let Some(kept) = kept else {
        return SpecInForce::None("no earlier spec of this object was accepted");
    };
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    if generation == Some(kept.generation) {
        return SpecInForce::None(
            "an earlier revision of the plugin accepted it, and this one does not",
        );
    }
    let Some(earlier) = kept.put_into(object) else {
        return SpecInForce::None("what was kept of the last accepted spec cannot be used");
    };
    if !is_known_valid {
        match plugin.guests.validate(context, None, earlier.clone()).await {
            Ok(violations) if violations.is_empty() => {}
            Ok(_) | Err(_) => {
                return SpecInForce::None(
                    "this revision of the plugin refuses the last accepted spec too",
                );
            }
        }
    }
    SpecInForce::Earlier(Arc::new(earlier), kept.generation)
}

impl ReconcileInProgress<'_> {
    /// Asks the plugin about a generation that it has not seen, and finds what is to be reconciled.
    ///
    /// # Errors
    ///
    /// Fails with what the queue is told if nothing is reconciled in this pass.
    pub(super) async fn accept(
        &self,
        object: Arc<Value>,
        note: &ObjectState,
        story: &mut ReportBuilder,
    ) -> Result<AcceptedObject, KeyCompletion> {
        let seen = self.seen(match self.meta.generation {
            Some(generation) => generation.to_string(),
            None => self.meta.resource_version.clone(),
        });
        if self.meta.deleting || note.valid.as_ref() == Some(&seen) {
            return Ok(AcceptedObject { object, refusal: None });
        }
        match self.plugin.guests.validate(self.context(), None, (*object).clone()).await {
            Ok(violations) if violations.is_empty() => {
                self.note_accepted(&object, seen);
                Ok(AcceptedObject { object, refusal: None })
            }
            Ok(violations) => {
                let text = lines(&violations);
                let end = ReconcileResult::Invalid { violations };
                self.fall_back(object, note, story, (Reason::InvalidSpec, text, end), None).await
            }
            // The host's fault says nothing of the spec.
            Err(error) if error.as_failure().is_some() => {
                self.run.permit.give_back();
                story.end = Some(went_wrong(&error));
                Err(self.strike(&error, None).await)
            }
            Err(error) => {
                let refused = (reason(&error), ErrorChain(&error).to_string(), went_wrong(&error));
                self.fall_back(object, note, story, refused, Some(error)).await
            }
        }
    }

    /// Goes on with the last accepted spec, if there is one.
    async fn fall_back(
        &self,
        object: Arc<Value>,
        note: &ObjectState,
        story: &mut ReportBuilder,
        (reason, text, end): (Reason, String, ReconcileResult),
        fault: Option<GuestError>,
    ) -> Result<AcceptedObject, KeyCompletion> {
        let why = match self.earlier(&object, note).await {
            Ok(SpecInForce::Earlier(object, generation)) => {
                let refusal = RejectedSpec::with_earlier(reason, &text, generation);
                story.remarks.push(format!("the spec is refused: {}", refusal.message));
                return Ok(AcceptedObject { object, refusal: Some(refusal) });
            }
            Ok(SpecInForce::None(why)) => why.to_owned(),
            Err(error) if error.is_passing() => {
                self.run.permit.give_back();
                say(self.shared, self.key, &format!("cannot read the last accepted spec: {error}"));
                return Err(KeyCompletion::Retry);
            }
            Err(error) => format!("the last accepted spec cannot be read: {error}"),
        };
        self.run.permit.give_back();
        story.end = Some(end);
        if let Some(fault) = fault {
            return Err(self.strike(&fault, None).await);
        }
        // The plugin has answered, and the pass ends with this answer.
        self.shared.strikes(|strikes| strikes.clear(self.key));
        self.shared.notes.change(self.key, |note| note.failing = true);
        metrics::failed(&self.key.plugin, ErrorClass::Terminal);
        let message = format!("{text}; nothing is reconciled: {why}");
        say(self.shared, self.key, &format!("the spec is invalid: {message}"));
        Err(self
            .mark(HostConditionUpdate { reason, message, attention: ReconcilerPresence::Nobody })
            .await)
    }

    /// The object with the spec that was accepted last.
    async fn earlier(&self, object: &Value, note: &ObjectState) -> Result<SpecInForce, CallError> {
        let kept = self.run.permit.lend(kept(self.shared, self.key, self.meta)).await?;
        let seen = kept.as_ref().map(|kept| self.seen(kept.generation.to_string()));
        let is_known_valid = seen.is_some() && note.valid == seen;
        let found =
            in_force(self.plugin, self.context(), object, kept.as_ref(), is_known_valid).await;
        if let (SpecInForce::Earlier(..), Some(spec), Some(seen)) = (&found, kept, seen) {
            let uid = self.meta.uid.clone();
            self.shared.notes.change(self.key, |note| {
                note.valid = Some(seen);
                note.kept.get_or_insert(AcceptedByPlugin { uid, spec, is_stored: true });
            });
        }
        Ok(found)
    }

    /// Notes that the plugin accepted the object as it is. A kind whose objects have no generation is not
    /// kept: nothing tells its spec from the rest.
    fn note_accepted(&self, object: &Value, seen: ObservedVersion) {
        let spec = self.meta.generation.map(|generation| AcceptedSpec::of(object, generation));
        self.shared.notes.change(self.key, |note| {
            note.valid = Some(seen);
            let Some(spec) = spec else { return };
            let known = note.kept.as_ref();
            let is_known = known.is_some_and(|kept| kept.uid == self.meta.uid && kept.spec == spec);
            if !is_known {
                note.kept =
                    Some(AcceptedByPlugin { uid: self.meta.uid.clone(), spec, is_stored: false });
            }
        });
    }

    /// Keeps what was accepted where a restarted host and another one find it, and again if somebody deletes
    /// it there. After the call, so that no repair waits for it: until then this host remembers it.
    pub(super) async fn keep_accepted(&self) {
        let marks = &self.shared.parts.marks;
        let is_due = |kept: &AcceptedByPlugin| {
            !kept.is_stored || marks.lacks_accepted_spec(&reference_of(self.key), &kept.uid)
        };
        let kept = self.shared.notes.get(self.key).kept.filter(is_due);
        let Some(AcceptedByPlugin { uid, spec, .. }) = kept else { return };
        if self.meta.deleting || self.shared.is_paused(self.key) {
            return;
        }
        match marks.keep_accepted_spec(reference_of(self.key), uid, spec.clone()).await {
            Ok(()) => self.shared.notes.change(self.key, |note| {
                if let Some(kept) = note.kept.as_mut().filter(|kept| kept.spec == spec) {
                    kept.is_stored = true;
                }
            }),
            Err(error) => warn!(%error, "cannot keep the accepted spec; the next pass tries again"),
        }
    }

    fn seen(&self, version: String) -> ObservedVersion {
        ObservedVersion {
            revision: self.plugin.revision.clone(),
            uid: self.meta.uid.clone(),
            version,
        }
    }
}
