//! The ports of the controller itself: scripted guests, plugins that tests replace, contexts whose calls wait.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tholepin_controller::{
    ActivePlugin, ActivePlugins, ClosedContextResult, ContextFactory, ReconcileHostCalls,
    ReconcilePurpose, WakeRegistrar,
};
use tholepin_core::{
    Answer, BoxedFuture, Call, CallError, HostCalls, PluginCallerIdentity, PluginName,
    PluginRuntimeCall, ReconcileKey, Reply, RevisionDigest, SubscribedWakes,
    port::{GuestError, PluginExports},
};
use tholepin_schema::{
    manifest::Manifest,
    reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation, WakeTrigger},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What a guest does when it is called for an object.
#[derive(Clone, Debug)]
pub(crate) enum GuestScript {
    Answer(Result<ReconcileOutcome, ReconcileFailure>),
    Trap,
    /// The code cannot be loaded, so the guest is not called.
    NotLoaded,
    /// Waits for a permit of the guests' semaphore, then succeeds.
    Wait,
    /// Makes a call, whose answer needs a permit of the contexts' semaphore; then records the answer.
    Ask,
    /// `validate` finds a violation.
    Invalid,
    /// `validate` traps.
    TrapInValidate,
    /// One script for each call, in order; after the last, calls succeed.
    Sequence(VecDeque<GuestScript>),
}

impl GuestScript {
    /// Returns true if the script is for `validate`; the others are for `reconcile`.
    fn is_of_validate(&self) -> bool {
        matches!(self, Self::Invalid | Self::TrapInValidate)
    }
}

/// The calls of guests: the object's name, the revision, and whether the object was being deleted.
pub(crate) type Calls = Arc<Mutex<Vec<(String, &'static str, bool)>>>;

/// Guests that follow a script for each object name and record their calls.
pub(crate) struct FakeGuests {
    pub(crate) revision: &'static str,
    pub(crate) scripts: Mutex<BTreeMap<String, GuestScript>>,
    pub(crate) invalid: Mutex<BTreeSet<String>>,
    pub(crate) calls: Calls,
    /// The objects that `reconcile` received.
    pub(crate) objects: Arc<Mutex<Vec<Value>>>,
    pub(crate) gate: Arc<Semaphore>,
}

impl FakeGuests {
    /// Returns the next step of the script for an object, if it is for this export.
    fn next_script(&self, name: &str, is_validate: bool) -> Option<GuestScript> {
        let mut scripts = self.scripts.lock().unwrap();
        let script = scripts.get_mut(name)?;
        let is_its = |script: &mut GuestScript| script.is_of_validate() == is_validate;
        if let GuestScript::Sequence(scripts) = script {
            return scripts.pop_front_if(is_its);
        }
        is_its(script).then(|| script.clone())
    }
}

impl PluginExports for FakeGuests {
    fn reconcile<'a>(
        &'a self,
        context: PluginCallerIdentity,
        request: ReconcileRequest,
        perform: Arc<dyn HostCalls>,
    ) -> BoxedFuture<'a, Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError>> {
        Box::pin(async move {
            let name = request.object["metadata"]["name"].as_str().unwrap().to_owned();
            let call = (name.clone(), self.revision, request.deleting);
            self.calls.lock().unwrap().push(call);
            self.objects.lock().unwrap().push(request.object);
            match self
                .next_script(&name, false)
                .unwrap_or(GuestScript::Answer(Ok(ReconcileOutcome::default())))
            {
                GuestScript::Answer(answer) => Ok(answer),
                GuestScript::Trap => {
                    Err(GuestError::Trapped { export: "reconcile", message: "boom".into() })
                }
                GuestScript::NotLoaded => {
                    Err(GuestError::NotLoaded { message: "no memory".into() })
                }
                GuestScript::Wait => {
                    self.gate.acquire().await.unwrap().forget();
                    Ok(Ok(ReconcileOutcome::default()))
                }
                GuestScript::Ask => {
                    let call = Call::Runtime(PluginRuntimeCall::Now);
                    let answer = perform.perform(&context, call).await;
                    let call = (format!("{name}: {answer:?}"), self.revision, request.deleting);
                    self.calls.lock().unwrap().push(call);
                    Ok(Ok(ReconcileOutcome::default()))
                }
                GuestScript::Invalid | GuestScript::TrapInValidate | GuestScript::Sequence(_) => {
                    unreachable!()
                }
            }
        })
    }

    fn validate<'a>(
        &'a self,
        _: PluginCallerIdentity,
        _: Option<Value>,
        new: Value,
    ) -> BoxedFuture<'a, Result<Vec<Violation>, GuestError>> {
        let name = new["metadata"]["name"].as_str().unwrap().to_owned();
        let script = self.next_script(&name, true);
        let invalid = self.invalid.lock().unwrap().contains(&name)
            || matches!(script, Some(GuestScript::Invalid))
            || new["spec"]["x"] == 2;
        let traps = new["spec"]["x"] == "trap";
        let violation = || Violation { field: ".spec.x".into(), message: "must be 1".into() };
        let trap = || GuestError::Trapped { export: "validate", message: "boom".into() };
        let answer = match script {
            Some(GuestScript::TrapInValidate) => Err(trap()),
            _ if traps => Err(trap()),
            _ => Ok(invalid.then(violation).into_iter().collect()),
        };
        Box::pin(async move { answer })
    }
}

/// One plugin, whose revision tests replace.
pub(crate) struct FakePlugins {
    pub(crate) active: Mutex<Option<Arc<ActivePlugin>>>,
    /// The revision that serves after a rollback, if there is one.
    pub(crate) earlier: Mutex<Option<Arc<ActivePlugin>>>,
    /// The reasons of the rollbacks.
    pub(crate) rolled_back: Mutex<Vec<String>>,
}

impl ActivePlugins for FakePlugins {
    fn active(&self, name: &PluginName) -> Option<Arc<ActivePlugin>> {
        self.active.lock().unwrap().clone().filter(|active| active.name == *name)
    }

    fn all(&self) -> Vec<Arc<ActivePlugin>> {
        self.active.lock().unwrap().clone().into_iter().collect()
    }

    fn roll_back<'a>(
        &'a self,
        _: &'a PluginName,
        revision: &'a RevisionDigest,
        why: &'a str,
    ) -> BoxedFuture<'a, Result<RevisionDigest, String>> {
        let earlier = self.earlier.lock().unwrap().take();
        let back = earlier.map(|earlier| {
            self.rolled_back.lock().unwrap().push(format!("{revision}: {why}"));
            let now = earlier.revision.clone();
            *self.active.lock().unwrap() = Some(earlier);
            now
        });
        Box::pin(async { back.ok_or_else(|| "there is none".to_owned()) })
    }
}

pub(crate) fn plugin(guests: Arc<FakeGuests>, manifest: Manifest) -> Arc<ActivePlugin> {
    Arc::new(ActivePlugin {
        name: "p".parse().unwrap(),
        revision: RevisionDigest(guests.revision.into()),
        grants: Arc::new(manifest.grants.clone()),
        manifest: Arc::new(manifest),
        parameters: Arc::new(Value::Null),
        code: guests,
    })
}

/// Contexts in which every call waits for a permit.
pub(crate) struct SlowContexts {
    pub(crate) answers: Arc<Semaphore>,
    /// The number of contexts that were closed.
    pub(crate) closed: Arc<AtomicUsize>,
}

struct SlowContext(Arc<Semaphore>, CancellationToken, Arc<AtomicUsize>);

impl HostCalls for SlowContext {
    fn perform<'a>(&'a self, _: &'a PluginCallerIdentity, _: Call) -> BoxedFuture<'a, Answer> {
        Box::pin(async {
            tokio::select! {
                permit = self.0.acquire() => {
                    permit.unwrap().forget();
                    Ok(Reply::Done)
                }
                () = self.1.cancelled() => Err(CallError::Interrupted),
            }
        })
    }

    fn spend_bytes(&self, _: usize) -> Result<(), CallError> {
        Ok(())
    }
}

impl ReconcileHostCalls for SlowContext {
    fn close(&self) -> BoxedFuture<'_, ClosedContextResult> {
        self.2.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { ClosedContextResult::default() })
    }
}

impl ContextFactory for SlowContexts {
    fn open(
        &self,
        _: &ActivePlugin,
        _: &Arc<ReconcileKey>,
        _: &Arc<Value>,
        purpose: ReconcilePurpose,
    ) -> Arc<dyn ReconcileHostCalls> {
        let urgent = match purpose {
            ReconcilePurpose::Live { urgent } => urgent,
            ReconcilePurpose::Plan => CancellationToken::new(),
        };
        Arc::new(SlowContext(self.answers.clone(), urgent, self.closed.clone()))
    }
}

/// A subscriber of wakes that subscribes nothing and refuses what the test says.
#[derive(Default)]
pub(crate) struct FakeWakes {
    /// The refusal of the next outcomes.
    pub(crate) refusal: Mutex<Option<String>>,
}

impl WakeRegistrar for FakeWakes {
    fn subscribe<'a>(
        &'a self,
        _: &'a ActivePlugin,
        _: &'a Arc<ReconcileKey>,
        _: &'a Arc<Value>,
        _: &'a [WakeTrigger],
    ) -> BoxedFuture<'a, SubscribedWakes> {
        let refusal = self.refusal.lock().unwrap().clone();
        Box::pin(async { SubscribedWakes { requeue: None, refusal } })
    }

    fn unsubscribe(&self, _: &ReconcileKey) {}
}
