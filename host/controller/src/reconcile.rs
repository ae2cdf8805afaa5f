//! One pass for one key: from the object in the store to what the queue is told.

pub(crate) mod accept;
mod pause;

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tholepin_core::{
    CallContext, ErrorChain, ObjectKey, ObjectMeta, PluginName,
    condition::{HostCondition, Reason},
    port::GuestError,
};
use tholepin_schema::{
    fact::FACTS_MAX,
    reconcile::{
        MEMO_BYTES_MAX, ReconcileFailure, ReconcileOutcome, ReconcileRequest, WakeTrigger,
    },
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, field::Empty, info, instrument, warn};

use crate::{
    conditions::{self, HostConditionUpdate, ReconcilerPresence},
    mapper::{self, reference_of},
    metrics::{self, ErrorClass},
    object_state::ObjectState,
    permit::{ComputePermit, PermitLender},
    phase::{ObjectPhase, finalizer_of, phase},
    plugins::{ActivePlugin, ClosedContext, ReconcilePurpose},
    queue::KeyCompletion,
    report_builder::{ReportBuilder, end, finalizer_step, not_called, went_wrong},
    shared_state::SharedState,
    strikes::{ObjectVersion, StrikeDecision},
};
use accept::{AcceptedObject, RejectedSpec};

/// The shortest and the longest wait that an outcome can ask for.
const REQUEUE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(3600));

/// Reconciles one key and tells when it is due again.
#[instrument(
    skip_all,
    fields(plugin = %key.plugin, object = %key, revision = Empty, outcome = Empty)
)]
pub(crate) async fn reconcile(
    shared: &SharedState,
    key: &Arc<ObjectKey>,
    causes: Vec<String>,
    run: &ReconcileSettings,
) -> KeyCompletion {
    let Some(object) = shared.parts.kubernetes.view().get(&reference_of(key)) else {
        forget(shared, key);
        return KeyCompletion::AwaitChange;
    };
    let Ok(meta) = ObjectMeta::of(&object) else { return KeyCompletion::AwaitChange };
    let plugin = shared.parts.plugins.active(&key.plugin);
    shared.notes.change(key, |note| note.note_pause(&meta));
    if meta.is_paused() {
        pause::pause(shared, key, &meta, plugin.as_deref()).await;
        return KeyCompletion::AwaitChange;
    }
    let Some(plugin) = plugin else {
        let message = missing(&key.plugin, meta.deleting);
        let (reason, attention) = (Reason::PluginMissing, ReconcilerPresence::Nobody);
        run.permit.give_back();
        return mark(shared, key, &meta, HostConditionUpdate { reason, message, attention }).await;
    };
    Span::current().record("revision", plugin.revision.short());
    let pass = ReconcileInProgress { shared, key, plugin: &plugin, meta: &meta, run };
    let (since, mut story) = (Instant::now(), ReportBuilder::begin(shared, causes));
    let done = pass.run(object, &mut story).await;
    let took = since.elapsed();
    metrics::reconciled(&key.plugin, took);
    Span::current().record("outcome", name(done));
    shared.history.extend(story.build(key, &plugin, took));
    done
}

/// What a pass runs under.
pub(crate) struct ReconcileSettings {
    /// Its right to compute.
    pub(crate) permit: Arc<ComputePermit>,
    /// Cancelled when something more urgent has come up for its key, or the host stops.
    pub(crate) urgent: CancellationToken,
}

/// One pass with what it began with.
struct ReconcileInProgress<'a> {
    shared: &'a SharedState,
    key: &'a Arc<ObjectKey>,
    plugin: &'a Arc<ActivePlugin>,
    meta: &'a ObjectMeta,
    run: &'a ReconcileSettings,
}

impl ReconcileInProgress<'_> {
    async fn run(&self, mut object: Arc<Value>, story: &mut ReportBuilder) -> KeyCompletion {
        let finalizer = finalizer_of(self.key);
        let phase = phase(self.meta, &finalizer, self.plugin.manifest.finalizer);
        match phase {
            ObjectPhase::Call => {}
            ObjectPhase::Leave => return KeyCompletion::AwaitChange,
            ObjectPhase::Release => {
                story.end = Some(not_called(phase));
                return self.finish(&finalizer, story).await;
            }
            ObjectPhase::Adopt => {
                let marks = &self.shared.parts.marks;
                let added = marks.add_finalizer(reference_of(self.key), finalizer.clone());
                match self.run.permit.lend(added).await {
                    Ok(stored) => object = Arc::new(stored),
                    Err(error) => {
                        say(self.shared, self.key, &format!("cannot add the finalizer: {error}"));
                        return KeyCompletion::Retry;
                    }
                }
                story.before.push(finalizer_step("add-finalizer", self.key, &finalizer));
            }
        }
        let (revision, state) = (&self.plugin.revision, self.state());
        let note = self.shared.notes.get(self.key);
        if self.shared.strikes(|strikes| strikes.is_quarantined(revision, self.key, &state)) {
            return match note.untold {
                Some(message) => self.quarantine(&message).await,
                None => KeyCompletion::AwaitChange,
            };
        }
        let accepted = match self.accept(object, &note, story).await {
            Ok(accepted) => accepted,
            Err(done) => return done,
        };
        let outcome = self.call(&accepted.object, note, story).await;
        self.keep_accepted().await;
        self.conclude(&accepted, &finalizer, outcome, story).await
    }

    fn state(&self) -> ObjectVersion {
        ObjectVersion { uid: self.meta.uid.clone(), generation: self.meta.generation }
    }

    fn context(&self) -> CallContext {
        CallContext {
            plugin: self.key.plugin.clone(),
            revision: self.plugin.revision.clone(),
            object: Some(self.key.clone()),
        }
    }

    async fn call(
        &self,
        object: &Arc<Value>,
        note: ObjectState,
        story: &mut ReportBuilder,
    ) -> Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError> {
        let request = ReconcileRequest {
            object: (**object).clone(),
            deleting: self.meta.deleting,
            causes: story.causes.clone(),
            memo: note.memo,
        };
        let ReconcileSettings { permit, urgent } = self.run;
        let purpose = ReconcilePurpose::Live { urgent: urgent.clone() };
        let pass = self.shared.parts.passes.open(self.plugin, self.key, object, purpose);
        let lending = PermitLender { permit: permit.clone(), perform: pass.clone() };
        let outcome =
            self.plugin.guests.reconcile(self.context(), request, Arc::new(lending)).await;
        permit.give_back();
        let ClosedContext { recording, put_back } = pass.close().await;
        story.recording = recording;
        story.after.extend(put_back);
        story.end = Some(end(&outcome));
        outcome
    }

    async fn conclude(
        &self,
        accepted: &AcceptedObject,
        finalizer: &str,
        outcome: Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError>,
        story: &mut ReportBuilder,
    ) -> KeyCompletion {
        let AcceptedObject { object, refusal } = accepted;
        let refusal = refusal.as_ref();
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(failure)) => {
                self.shared.strikes(|strikes| strikes.clear(self.key));
                return self.fail(failure, refusal).await;
            }
            Err(error) => return self.strike(&error, refusal).await,
        };
        if let Some(message) = excess(&outcome) {
            let error = GuestError::BadAnswer { export: "reconcile", message };
            story.end = Some(went_wrong(&error));
            return self.strike(&error, refusal).await;
        }
        self.shared.strikes(|strikes| strikes.clear(self.key));
        self.shared.notes.change(self.key, |note| note.failing = refusal.is_some());
        self.log_outcome(object, &outcome.summary, refusal).await;
        let done = if outcome.finished && self.meta.deleting {
            self.finish(finalizer, story).await
        } else {
            self.take_in(object, outcome).await
        };
        match refusal {
            None => metrics::succeeded(&self.key.plugin, done, self.shared.settings.resync),
            Some(_) => metrics::failed(&self.key.plugin, ErrorClass::Terminal),
        }
        done
    }

    /// Says how the call went: nothing on the object if all is well, and that its spec is refused if it is.
    async fn log_outcome(&self, object: &Value, summary: &str, refusal: Option<&RejectedSpec>) {
        let Some(RejectedSpec { reason, message }) = refusal else {
            if !summary.is_empty() {
                say(self.shared, self.key, summary);
            }
            return self.clear_findings(object).await;
        };
        say(self.shared, self.key, &format!("the spec is refused: {message}; {summary}"));
        let (reason, message) = (*reason, message.clone());
        // What cannot be written now is written by the next pass.
        self.mark(HostConditionUpdate { reason, message, attention: ReconcilerPresence::Plugin })
            .await;
    }

    /// Keeps what an outcome wants kept, and says when the object is due again.
    async fn take_in(&self, object: &Arc<Value>, outcome: ReconcileOutcome) -> KeyCompletion {
        let ReconcileOutcome { requeue_ms, summary: _, wake, memo, finished: _ } = outcome;
        self.shared.notes.change(self.key, |note| note.memo = memo);
        let at_latest =
            self.shared.parts.wakes.subscribe(self.plugin, self.key, object, &wake).await;
        let after = wake.iter().filter_map(|wake| match wake {
            WakeTrigger::After { ms } => Some(*ms),
            WakeTrigger::Change { .. } | WakeTrigger::Fact(_) | _ => None,
        });
        let asked = after.chain(requeue_ms).map(Duration::from_millis).chain(at_latest).min();
        let (shortest, longest) = REQUEUE;
        KeyCompletion::After(asked.unwrap_or(self.shared.settings.resync).clamp(shortest, longest))
    }

    async fn finish(&self, finalizer: &str, story: &mut ReportBuilder) -> KeyCompletion {
        if self.shared.is_paused(self.key) {
            return KeyCompletion::AwaitChange;
        }
        let marks = &self.shared.parts.marks;
        match marks.remove_finalizer(reference_of(self.key), finalizer.to_owned()).await {
            Ok(()) => {
                story.after.push(finalizer_step("remove-finalizer", self.key, finalizer));
                KeyCompletion::AwaitChange
            }
            Err(error) => {
                say(self.shared, self.key, &format!("cannot remove the finalizer: {error}"));
                KeyCompletion::Retry
            }
        }
    }

    async fn fail(
        &self,
        failure: ReconcileFailure,
        refusal: Option<&RejectedSpec>,
    ) -> KeyCompletion {
        let ReconcileFailure { reason, message, retry } = failure;
        metrics::failed(
            &self.key.plugin,
            if retry { ErrorClass::Retried } else { ErrorClass::Terminal },
        );
        self.shared.notes.change(self.key, |note| note.failing = true);
        let text = format!("{reason}: {message}");
        say(self.shared, self.key, &text);
        self.mark(went_badly(Reason::Failed, text, refusal)).await;
        if retry { KeyCompletion::Retry } else { KeyCompletion::After(self.shared.settings.resync) }
    }

    async fn strike(&self, error: &GuestError, refusal: Option<&RejectedSpec>) -> KeyCompletion {
        if let Some(failure) = error.as_failure() {
            return self.fail(failure, refusal).await;
        }
        let text = ErrorChain(error).to_string();
        warn!(error = text, "strike");
        metrics::struck(&self.key.plugin, error, reason(error).as_str());
        self.shared.notes.change(self.key, |note| note.failing = true);
        let (revision, state) = (&self.plugin.revision, self.state());
        match self
            .shared
            .strikes(|strikes| strikes.strike(revision, self.key, state, Instant::now()))
        {
            StrikeDecision::Retry => {
                metrics::failed(&self.key.plugin, ErrorClass::Retried);
                self.mark(went_badly(reason(error), text, refusal)).await;
                return KeyCompletion::Retry;
            }
            StrikeDecision::Quarantine => metrics::failed(&self.key.plugin, ErrorClass::Terminal),
        }
        if self.takes_back(&text).await {
            // All objects are called again with the revision that serves from now on.
            return KeyCompletion::AwaitChange;
        }
        let way_out = "change the object or the plugin to have it called again";
        let message = format!("two strikes in a row, {way_out}; the last: {text}");
        self.quarantine(&message).await
    }

    /// Takes the revision back if it has gone wrong for many objects by now. Whether it did.
    async fn takes_back(&self, last: &str) -> bool {
        let (view, revision) = (self.shared.parts.kubernetes.view(), &self.plugin.revision);
        let objects = mapper::all(&self.key.plugin, &self.plugin.manifest, &*view);
        let is_called =
            |key: &&ObjectKey| view.meta(&reference_of(key)).is_some_and(|meta| !meta.is_paused());
        let called = objects.iter().filter(is_called).count();
        let condemning = self.shared.strikes(|strikes| {
            let struck = strikes.condemning(revision, called, Instant::now()).into_iter();
            struck.map(|key| format!("{}/{}", key.namespace, key.name)).collect::<Vec<_>>()
        });
        let Some(first) = condemning.first() else { return false };
        let why = format!(
            "it failed twice in a row for {} of {called} objects, {first} among them; the last time: {last}",
            condemning.len()
        );
        let (plugins, since) = (&self.shared.parts.plugins, Instant::now());
        match plugins.take_back(&self.key.plugin, revision, &why).await {
            Ok(now) => {
                let (bad, now) = (revision.short(), now.short());
                let took = since.elapsed();
                warn!(bad, now, why, ?took, "the revision is taken back");
                true
            }
            Err(error) => {
                warn!(
                    revision = revision.short(),
                    why, error, "no other revision can take its place"
                );
                false
            }
        }
    }

    /// Says on the object that it is quarantined. While that cannot be written it is tried again, and
    /// the plugin is not called for it.
    async fn quarantine(&self, message: &str) -> KeyCompletion {
        let (reason, attention) = (Reason::TooManyStrikes, ReconcilerPresence::Nobody);
        let done =
            self.mark(HostConditionUpdate { reason, message: message.to_owned(), attention }).await;
        let untold = (done == KeyCompletion::Retry).then(|| message.to_owned());
        self.shared.notes.change(self.key, |note| note.untold = untold);
        done
    }

    async fn mark(&self, statement: HostConditionUpdate) -> KeyCompletion {
        mark(self.shared, self.key, self.meta, statement).await
    }

    /// All is well: the host has nothing to say on the object. Asked only where it has said something,
    /// so that a kind without conditions is never written.
    async fn clear_findings(&self, object: &Value) {
        // As it is now: the host may have said something while the pass was under way.
        let now = self.shared.parts.kubernetes.view().get(&reference_of(self.key));
        let now = now.as_deref().unwrap_or(object);
        if !conditions::has_hosts(now) || self.shared.is_paused(self.key) {
            return;
        }
        let left = conditions::of_success(now, self.meta);
        let marks = &self.shared.parts.marks;
        if let Err(error) = marks.set_conditions(reference_of(self.key), left).await {
            warn!(%error, "cannot clear the host's conditions");
        }
    }
}

/// What an outcome has too much of, if anything.
fn excess(outcome: &ReconcileOutcome) -> Option<String> {
    let memo_bytes = outcome.memo.as_ref().map_or(0, |memo| memo.to_string().len());
    let facts = outcome.wake.iter().filter(|wake| matches!(wake, WakeTrigger::Fact(_))).count();
    if MEMO_BYTES_MAX < memo_bytes {
        return Some(format!("a memo of {memo_bytes} bytes; {MEMO_BYTES_MAX} are allowed"));
    }
    let text = || format!("{facts} facts to be woken by; {FACTS_MAX} are allowed");
    (FACTS_MAX < facts).then(text)
}

/// What is said of a call that went badly. A refused spec is said first: it stays when the call goes well
/// again.
fn went_badly(
    reason: Reason,
    message: String,
    refusal: Option<&RejectedSpec>,
) -> HostConditionUpdate {
    let attention = ReconcilerPresence::Plugin;
    match refusal {
        None => HostConditionUpdate { reason, message, attention },
        Some(refused) => HostConditionUpdate {
            reason: refused.reason,
            message: format!("{}; its last pass: {message}", refused.message),
            attention,
        },
    }
}

/// [`mark`] for an object of which nothing is known.
pub(crate) async fn write_finding_of(
    shared: &SharedState,
    key: &ObjectKey,
    statement: HostConditionUpdate,
) -> KeyCompletion {
    let meta = shared.parts.kubernetes.view().meta(&reference_of(key));
    match meta {
        Some(meta) => mark(shared, key, &meta, statement).await,
        None => KeyCompletion::AwaitChange,
    }
}

/// Writes what the host has to say in place of what it said on the object before. Nothing more is due
/// then until something changes; what cannot be written for a reason that passes is tried again, or
/// nobody would ever be told.
async fn mark(
    shared: &SharedState,
    key: &ObjectKey,
    meta: &ObjectMeta,
    statement: HostConditionUpdate,
) -> KeyCompletion {
    // As it is now: the pass may have reported on it.
    let Some(object) = shared.parts.kubernetes.view().get(&reference_of(key)) else {
        return KeyCompletion::AwaitChange;
    };
    if shared.is_paused(key) {
        return KeyCompletion::AwaitChange;
    }
    let conditions: Vec<HostCondition> = statement.conditions(&object, meta);
    match shared.parts.marks.set_conditions(reference_of(key), conditions).await {
        Ok(()) => KeyCompletion::AwaitChange,
        Err(error) => {
            warn!(%error, "cannot write the host's condition");
            if error.is_passing() { KeyCompletion::Retry } else { KeyCompletion::AwaitChange }
        }
    }
}

/// Says what an object waits for whose plugin serves no more, and how that ends.
fn missing(plugin: &PluginName, deleting: bool) -> String {
    let put_back = format!(
        "the Plugin object `{plugin}` says why; if its files are gone, put `{plugin}.wasm` and `{plugin}.yaml` \
         back into the directory of plugins"
    );
    if deleting {
        return format!(
            "the plugin `{plugin}` is not loaded, so nothing cleans up: {put_back}, or remove the \
             finalizer `tholepin.dev/{plugin}` to let the object go as it is"
        );
    }
    format!("the plugin `{plugin}` is not loaded, so nothing is reconciled: {put_back}")
}

fn forget(shared: &SharedState, key: &ObjectKey) {
    shared.notes.forget(key);
    shared.strikes(|strikes| strikes.clear(key));
    shared.history.gone(key, shared.parts.clock.now_ms());
    shared.parts.wakes.disarm(key);
}

/// Logs what is said of an object when it is news.
fn say(shared: &SharedState, key: &ObjectKey, text: &str) {
    if shared.notes.is_news(key, text) {
        info!("{text}");
    }
}

const fn reason(error: &GuestError) -> Reason {
    match error {
        GuestError::Trapped { .. } => Reason::Trapped,
        GuestError::TimedOut { .. } => Reason::TimedOut,
        GuestError::OutOfMemory { .. } => Reason::OutOfMemory,
        GuestError::BadAnswer { .. } => Reason::BadOutcome,
        GuestError::NotLoaded { .. } => Reason::Failed,
    }
}

const fn name(done: KeyCompletion) -> &'static str {
    match done {
        KeyCompletion::AwaitChange => "idle",
        KeyCompletion::After(_) => "requeued",
        KeyCompletion::Retry => "failed",
    }
}
