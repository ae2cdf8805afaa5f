//! Ports without a world: a store that tests write, guests that do as told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tholepin_controller::{
    ActivePlugin, ActivePlugins, ClosedContext, ContextFactory, OpenContext, ReconcilePurpose,
    WakeSubscriber,
};
use tholepin_core::{
    AcceptedSpec, Answer, BoxedFuture, Call, CallContext, CallError, HostCalls, ObjectKey,
    ObjectMeta, ObjectRef, PluginName, Reply, RespReply, RevisionDigest, RuntimeCall, StoredObject,
    condition::{HostCondition, QUARANTINED, RECONCILED},
    port::{
        ApplyRequest, Clock, DeleteRequest, GuestError, GuestRuntime, InstanceMembers, Kubernetes,
        PerformedAction, PollDetail, PollStream, PublishRequest, Redis, StatusWriter, StoreChange,
        StoreEvent, StoreSubscription, StoreView, Warning, WatchLease, WatchScope, WatchSource,
        WatchState,
    },
};
use tholepin_schema::{
    action::Action,
    manifest::{KindName, Manifest},
    reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation, WakeTrigger},
    snapshot::Snapshot,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// A store that tests write, and the marks that the host leaves.
#[derive(Default)]
pub(crate) struct FakeStore {
    objects: Mutex<BTreeMap<ObjectRef, Value>>,
    readers: Mutex<Vec<mpsc::UnboundedSender<StoreEvent>>>,
    pub(crate) marks: Mutex<Vec<(String, Vec<HostCondition>)>>,
    /// The events that were published: the object's name and the message.
    pub(crate) published: Mutex<Vec<(String, String)>>,
    /// What was kept as accepted, by the object's uid, and how often something was.
    pub(crate) kept: Mutex<BTreeMap<String, (AcceptedSpec, usize)>>,
    /// While set, no condition can be written.
    pub(crate) away: AtomicBool,
}

impl FakeStore {
    pub(crate) fn put(&self, object: Value) {
        let stored = StoredObject::new(object.clone()).unwrap();
        let reference = stored.meta().object.clone();
        let before = self.objects.lock().unwrap().insert(reference.clone(), object);
        let before = before.map(|before| StoredObject::new(before).unwrap());
        self.publish(StoreChange { object: reference, before, after: Some(stored) });
    }

    pub(crate) fn remove(&self, reference: &ObjectRef) {
        let before = self.objects.lock().unwrap().remove(reference);
        let before = before.map(|before| StoredObject::new(before).unwrap());
        self.publish(StoreChange { object: reference.clone(), before, after: None });
    }

    pub(crate) fn get(&self, reference: &ObjectRef) -> Option<Value> {
        self.objects.lock().unwrap().get(reference).cloned()
    }

    fn publish(&self, change: StoreChange) {
        self.say(StoreEvent::Changed(Box::new(change)));
    }

    pub(crate) fn say(&self, event: StoreEvent) {
        self.readers.lock().unwrap().retain(|reader| reader.send(event.clone()).is_ok());
    }

    fn change(&self, reference: &ObjectRef, change: impl FnOnce(&mut Value)) -> Value {
        let mut object = self.get(reference).unwrap();
        change(&mut object);
        self.put(object.clone());
        object
    }
}

struct FakeView(BTreeMap<ObjectRef, Arc<Value>>);

impl StoreView for FakeView {
    fn get(&self, object: &ObjectRef) -> Option<Arc<Value>> {
        self.0.get(object).cloned()
    }

    fn list(&self, kind: &KindName, _: &str, _: &str) -> Result<Vec<Arc<Value>>, CallError> {
        Ok(self
            .0
            .iter()
            .filter(|(object, _)| object.kind == *kind)
            .map(|(_, v)| v.clone())
            .collect())
    }

    fn owned_by(&self, _: &str) -> Vec<Arc<ObjectMeta>> {
        Vec::new()
    }

    fn covers(&self, _: &KindName) -> bool {
        true
    }

    fn with(&self, _: Value) -> Arc<dyn StoreView> {
        unreachable!("passes are fakes here")
    }

    fn without(&self, _: &ObjectRef) -> Arc<dyn StoreView> {
        unreachable!("passes are fakes here")
    }
}

/// The world behind all Kubernetes ports.
pub(crate) struct FakeKubernetes(pub(crate) Arc<FakeStore>);

impl Kubernetes for FakeKubernetes {
    fn on_behalf_of(self: Arc<Self>, _: &PluginName) -> Arc<dyn Kubernetes> {
        self
    }

    fn view(&self) -> Arc<dyn StoreView> {
        let objects = self.0.objects.lock().unwrap();
        Arc::new(FakeView(objects.iter().map(|(k, v)| (k.clone(), Arc::new(v.clone()))).collect()))
    }

    fn get(&self, object: ObjectRef) -> BoxedFuture<'_, Result<Value, CallError>> {
        let found = self.0.get(&object).ok_or(CallError::NotFound(object.to_string()));
        Box::pin(async { found })
    }

    fn warnings(
        &self,
        _: ObjectRef,
        _: String,
    ) -> BoxedFuture<'_, Result<Vec<Warning>, CallError>> {
        unreachable!("passes are fakes here")
    }

    fn list(
        &self,
        _: KindName,
        _: String,
        _: String,
    ) -> BoxedFuture<'_, Result<Vec<Value>, CallError>> {
        unreachable!()
    }

    fn apply(&self, _: ApplyRequest) -> BoxedFuture<'_, Result<Value, CallError>> {
        unreachable!()
    }

    fn merge_patch(
        &self,
        _: ObjectRef,
        _: Value,
        _: String,
        _: bool,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        unreachable!()
    }

    fn create(&self, _: Value, _: String) -> BoxedFuture<'_, Result<Value, CallError>> {
        unreachable!()
    }

    fn replace(&self, _: Value, _: String) -> BoxedFuture<'_, Result<Value, CallError>> {
        unreachable!()
    }

    fn delete(&self, _: DeleteRequest) -> BoxedFuture<'_, Result<(), CallError>> {
        unreachable!()
    }

    fn publish(&self, request: PublishRequest) -> BoxedFuture<'_, Result<(), CallError>> {
        self.0.published.lock().unwrap().push((request.regarding.name, request.message));
        Box::pin(async { Ok(()) })
    }

    fn secret_value(
        &self,
        _: String,
        _: String,
        _: String,
    ) -> BoxedFuture<'_, Result<Vec<u8>, CallError>> {
        unreachable!()
    }
}

impl StatusWriter for FakeKubernetes {
    fn set_conditions(
        &self,
        object: ObjectRef,
        conditions: Vec<HostCondition>,
    ) -> BoxedFuture<'_, Result<(), CallError>> {
        if self.0.away.load(Ordering::Relaxed) {
            return Box::pin(async { Err(CallError::Transient("away".into())) });
        }
        self.0.change(&object, |object| {
            let known = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_hosts = |known: &Value| {
                let written = |it: &HostCondition| known["type"] == it.condition_type;
                known["type"] == RECONCILED
                    || known["type"] == QUARANTINED
                    || conditions.iter().any(written)
            };
            let hosts = conditions.iter().map(|it| {
                json!({"type": it.condition_type, "status": it.status.as_str(),
                    "reason": it.reason.as_str()})
            });
            let all = known.iter().filter(|it| !is_hosts(it)).cloned().chain(hosts);
            object["status"]["conditions"] = all.collect();
        });
        self.0.marks.lock().unwrap().push((object.name, conditions));
        Box::pin(async { Ok(()) })
    }

    fn add_finalizer(
        &self,
        object: ObjectRef,
        finalizer: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        let stored =
            self.0.change(&object, |object| object["metadata"]["finalizers"] = json!([finalizer]));
        Box::pin(async { Ok(stored) })
    }

    fn remove_finalizer(
        &self,
        object: ObjectRef,
        _: String,
    ) -> BoxedFuture<'_, Result<(), CallError>> {
        if self.0.get(&object).is_some_and(|o| o["metadata"].get("deletionTimestamp").is_some()) {
            self.0.remove(&object);
        } else {
            self.0.change(&object, |object| object["metadata"]["finalizers"] = json!([]));
        }
        Box::pin(async { Ok(()) })
    }

    fn accepted_spec(
        &self,
        _: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Option<AcceptedSpec>, CallError>> {
        let kept = self.0.kept.lock().unwrap().get(&uid).map(|(spec, _)| spec.clone());
        let away = self.0.away.load(Ordering::Relaxed);
        Box::pin(
            async move { if away { Err(CallError::Transient("away".into())) } else { Ok(kept) } },
        )
    }

    fn keep_accepted_spec(
        &self,
        _: ObjectRef,
        uid: String,
        accepted: AcceptedSpec,
    ) -> BoxedFuture<'_, Result<(), CallError>> {
        if self.0.away.load(Ordering::Relaxed) {
            return Box::pin(async { Err(CallError::Transient("away".into())) });
        }
        let mut kept = self.0.kept.lock().unwrap();
        let count = kept.get(&uid).map_or(0, |(_, count)| *count);
        kept.insert(uid, (accepted, count + 1));
        Box::pin(async { Ok(()) })
    }

    fn lacks_accepted_spec(&self, _: &ObjectRef, uid: &str) -> bool {
        !self.0.kept.lock().unwrap().contains_key(uid)
    }
}

struct FakeWatchLease;

impl WatchLease for FakeWatchLease {
    fn state(&self) -> WatchState {
        WatchState::Following
    }

    fn following(&self) -> BoxedFuture<'_, ()> {
        Box::pin(async {})
    }
}

struct FakeSubscription(mpsc::UnboundedReceiver<StoreEvent>);

impl StoreSubscription for FakeSubscription {
    fn next(&mut self) -> BoxedFuture<'_, Option<StoreEvent>> {
        Box::pin(self.0.recv())
    }
}

impl WatchSource for FakeKubernetes {
    fn lease(&self, _: WatchScope) -> Box<dyn WatchLease> {
        Box::new(FakeWatchLease)
    }

    fn changes(&self) -> Box<dyn StoreSubscription> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.readers.lock().unwrap().push(sender);
        Box::new(FakeSubscription(receiver))
    }
}

/// What a guest does when it is called for an object.
#[derive(Clone, Debug)]
pub(crate) enum GuestScript {
    Answer(Result<ReconcileOutcome, ReconcileFailure>),
    Trap,
    /// Is not even called: its code cannot be loaded.
    NotLoaded,
    /// Computes until a permit of the guests' gate is there, then answers well.
    Wait,
    /// Asks the host, whose answer comes with a permit of the world's gate; then notes that it goes on.
    Ask,
    /// `validate` finds a violation.
    Invalid,
    /// `validate` traps.
    TrapInValidate,
    /// One after the other, one for each call; after the last all is well.
    Turns(VecDeque<GuestScript>),
}

impl GuestScript {
    /// Whether `validate` follows it; `reconcile` follows the others.
    fn is_of_validate(&self) -> bool {
        matches!(self, Self::Invalid | Self::TrapInValidate)
    }
}

/// The object's name, the revision and whether it was deleting, of each call.
pub(crate) type Calls = Arc<Mutex<Vec<(String, &'static str, bool)>>>;

/// Guests that follow a script by the object's name and remember how they were called.
pub(crate) struct FakeGuests {
    pub(crate) revision: &'static str,
    pub(crate) scripts: Mutex<BTreeMap<String, GuestScript>>,
    pub(crate) invalid: Mutex<BTreeSet<String>>,
    pub(crate) calls: Calls,
    /// The objects that `reconcile` was given.
    pub(crate) objects: Arc<Mutex<Vec<Value>>>,
    pub(crate) gate: Arc<Semaphore>,
}

impl FakeGuests {
    /// What an export does now for an object, if its script has something for that export.
    fn turn(&self, name: &str, is_validate: bool) -> Option<GuestScript> {
        let mut scripts = self.scripts.lock().unwrap();
        let script = scripts.get_mut(name)?;
        let is_its = |script: &mut GuestScript| script.is_of_validate() == is_validate;
        if let GuestScript::Turns(turns) = script {
            return turns.pop_front_if(is_its);
        }
        is_its(script).then(|| script.clone())
    }
}

impl GuestRuntime for FakeGuests {
    fn reconcile<'a>(
        &'a self,
        context: CallContext,
        request: ReconcileRequest,
        perform: Arc<dyn HostCalls>,
    ) -> BoxedFuture<'a, Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError>> {
        Box::pin(async move {
            let name = request.object["metadata"]["name"].as_str().unwrap().to_owned();
            let call = (name.clone(), self.revision, request.deleting);
            self.calls.lock().unwrap().push(call);
            self.objects.lock().unwrap().push(request.object);
            match self
                .turn(&name, false)
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
                    let call = Call::Runtime(RuntimeCall::Now);
                    let answer = perform.perform(&context, call).await;
                    let call = (format!("{name}: {answer:?}"), self.revision, request.deleting);
                    self.calls.lock().unwrap().push(call);
                    Ok(Ok(ReconcileOutcome::default()))
                }
                GuestScript::Invalid | GuestScript::TrapInValidate | GuestScript::Turns(_) => {
                    unreachable!()
                }
            }
        })
    }

    fn validate<'a>(
        &'a self,
        _: CallContext,
        _: Option<Value>,
        new: Value,
    ) -> BoxedFuture<'a, Result<Vec<Violation>, GuestError>> {
        let name = new["metadata"]["name"].as_str().unwrap().to_owned();
        let turn = self.turn(&name, true);
        let invalid = self.invalid.lock().unwrap().contains(&name)
            || matches!(turn, Some(GuestScript::Invalid))
            || new["spec"]["x"] == 2;
        let traps = new["spec"]["x"] == "trap";
        let violation = || Violation { field: ".spec.x".into(), message: "must be 1".into() };
        let trap = || GuestError::Trapped { export: "validate", message: "boom".into() };
        let answer = match turn {
            Some(GuestScript::TrapInValidate) => Err(trap()),
            _ if traps => Err(trap()),
            _ => Ok(invalid.then(violation).into_iter().collect()),
        };
        Box::pin(async move { answer })
    }
}

/// One plugin whose revision tests replace.
pub(crate) struct FakePlugins {
    pub(crate) active: Mutex<Option<Arc<ActivePlugin>>>,
    /// What serves in place of a revision that is taken back, if anything.
    pub(crate) earlier: Mutex<Option<Arc<ActivePlugin>>>,
    /// Why revisions were taken back.
    pub(crate) taken_back: Mutex<Vec<String>>,
}

impl ActivePlugins for FakePlugins {
    fn active(&self, name: &PluginName) -> Option<Arc<ActivePlugin>> {
        self.active.lock().unwrap().clone().filter(|active| active.name == *name)
    }

    fn all(&self) -> Vec<Arc<ActivePlugin>> {
        self.active.lock().unwrap().clone().into_iter().collect()
    }

    fn take_back<'a>(
        &'a self,
        _: &'a PluginName,
        revision: &'a RevisionDigest,
        why: &'a str,
    ) -> BoxedFuture<'a, Result<RevisionDigest, String>> {
        let earlier = self.earlier.lock().unwrap().take();
        let back = earlier.map(|earlier| {
            self.taken_back.lock().unwrap().push(format!("{revision}: {why}"));
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
        guests,
    })
}

/// Passes whose every call waits for a permit.
pub(crate) struct SlowContexts {
    pub(crate) answers: Arc<Semaphore>,
    /// How many passes were closed.
    pub(crate) closed: Arc<AtomicUsize>,
}

struct SlowContext(Arc<Semaphore>, CancellationToken, Arc<AtomicUsize>);

impl HostCalls for SlowContext {
    fn perform<'a>(&'a self, _: &'a CallContext, _: Call) -> BoxedFuture<'a, Answer> {
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
}

impl OpenContext for SlowContext {
    fn close(&self) -> BoxedFuture<'_, ClosedContext> {
        self.2.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { ClosedContext::default() })
    }
}

impl ContextFactory for SlowContexts {
    fn open(
        &self,
        _: &ActivePlugin,
        _: &Arc<ObjectKey>,
        _: &Arc<Value>,
        purpose: ReconcilePurpose,
    ) -> Arc<dyn OpenContext> {
        let urgent = match purpose {
            ReconcilePurpose::Live { urgent } => urgent,
            ReconcilePurpose::Plan => CancellationToken::new(),
        };
        Arc::new(SlowContext(self.answers.clone(), urgent, self.closed.clone()))
    }
}

/// Wakes and Redis that nobody uses, and a clock that stands still.
pub(crate) struct FakeWakes;

impl Clock for FakeWakes {
    fn now_ms(&self) -> u64 {
        1
    }
}

impl WakeSubscriber for FakeWakes {
    fn subscribe<'a>(
        &'a self,
        _: &'a ActivePlugin,
        _: &'a Arc<ObjectKey>,
        _: &'a Arc<Value>,
        _: &'a [WakeTrigger],
    ) -> BoxedFuture<'a, Option<Duration>> {
        Box::pin(async { None })
    }

    fn disarm(&self, _: &ObjectKey) {}
}

impl Redis for FakeWakes {
    fn pipeline<'a>(
        &'a self,
        _: &'a InstanceMembers,
        _: &'a str,
        _: &'a [Vec<Vec<u8>>],
        _: Duration,
    ) -> BoxedFuture<'a, Result<Vec<RespReply>, CallError>> {
        unreachable!()
    }

    fn observe<'a>(&'a self, _: &'a InstanceMembers, _: &'a [String]) -> BoxedFuture<'a, Snapshot> {
        unreachable!()
    }

    fn act<'a>(
        &'a self,
        _: &'a InstanceMembers,
        _: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        unreachable!()
    }

    fn decide<'a>(
        &'a self,
        _: &'a InstanceMembers,
        _: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        unreachable!()
    }

    fn refuses(&self, _: std::net::SocketAddr) -> BoxedFuture<'_, bool> {
        unreachable!()
    }

    fn member_ended(&self, _: &str) {}

    fn watch(&self, _: &InstanceMembers, _: PollDetail<'_>) -> Result<(), CallError> {
        unreachable!()
    }

    fn join(&self, _: &InstanceMembers, _: &[String]) -> Result<Box<dyn PollStream>, CallError> {
        unreachable!()
    }

    fn unwatch(&self, _: &str) {}
}
