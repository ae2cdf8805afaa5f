//! Tests of the controller against fake ports.
#![cfg(test)]

mod accepted;
mod fake;
mod plan;
mod wakes;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fake::{Calls, FakeGuests, FakePlugins, FakeWakes, GuestScript, SlowContexts, plugin};
use serde_json::{Value, json};
use tholepin_controller::{ActivePluginChange, Controller, ControllerPorts, ControllerSettings};
use tholepin_core::{ObjectRef, condition::Reason, port::WatchedStoreEvent};
use tholepin_fakes::{FakeCluster, FixedClock};
use tholepin_schema::{
    manifest::{KindName, Manifest, ReconciledKind, WatchMapping, WatchedKind},
    reconcile::{ReconcileFailure, ReconcileOutcome},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

struct ControllerFixture {
    world: Arc<FakeCluster>,
    controller: Arc<Controller>,
    plugins: Arc<FakePlugins>,
    calls: Calls,
    /// The objects that `reconcile` was given.
    objects: Arc<Mutex<Vec<Value>>>,
    gate: Arc<Semaphore>,
    /// One permit per answer to a guest's call.
    answers: Arc<Semaphore>,
    /// How many contexts were closed.
    closed: Arc<AtomicUsize>,
    wakes: Arc<FakeWakes>,
    events: mpsc::Sender<ActivePluginChange>,
    stop: CancellationToken,
    running: JoinSet<()>,
    serving: Mutex<Option<Arc<FakeGuests>>>,
}

fn kind(kind: &str) -> KindName {
    KindName { api_version: "tests.tholepin.dev/v1".into(), kind: kind.into() }
}

fn manifest(finalizer: bool) -> Manifest {
    let secret = KindName { api_version: "v1".into(), kind: "Secret".into() };
    let watches =
        vec![WatchedKind { name: secret, leads: WatchMapping::ReferredBy(".spec.secret".into()) }];
    Manifest {
        name: "p".into(),
        version: "1".into(),
        reconciles: vec![ReconciledKind { name: kind("Thing"), crd: None }],
        finalizer,
        watches,
        grants: Default::default(),
        parameters: None,
        secret_fields: Vec::new(),
    }
}

fn thing(name: &str, generation: i64) -> Value {
    json!({
        "apiVersion": "tests.tholepin.dev/v1", "kind": "Thing",
        "metadata": {"name": name, "namespace": "n", "uid": name, "generation": generation},
        "spec": {"secret": format!("{name}-secret")}
    })
}

fn reference(name: &str) -> ObjectRef {
    ObjectRef { kind: kind("Thing"), namespace: "n".into(), name: name.into() }
}

impl ControllerFixture {
    fn start(finalizer: bool) -> Self {
        Self::start_with(finalizer, 2, 8)
    }

    fn start_with(finalizer: bool, concurrency: usize, in_flight: usize) -> Self {
        let resync = Duration::from_secs(3600);
        Self::start_as(finalizer, ControllerSettings { concurrency, in_flight, resync })
    }

    fn start_as(finalizer: bool, settings: ControllerSettings) -> Self {
        let world = Arc::new(FakeCluster::default());
        let plugins = Arc::new(FakePlugins {
            active: Mutex::default(),
            earlier: Mutex::default(),
            rolled_back: Mutex::default(),
        });
        let (events, receiver) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let answers = Arc::new(Semaphore::new(0));
        let closed = Arc::new(AtomicUsize::new(0));
        let wakes = Arc::new(FakeWakes::default());
        let ports = ControllerPorts {
            kubernetes: world.clone(),
            watches: world.clone(),
            host_fields: world.clone(),
            redis: world.clone(),
            plugins: plugins.clone(),
            contexts: Arc::new(SlowContexts { answers: answers.clone(), closed: closed.clone() }),
            wakes: wakes.clone(),
            clock: Arc::new(FixedClock),
        };
        let controller = Arc::new(Controller::new(ports, settings));
        let mut fixture = Self {
            world,
            controller: controller.clone(),
            plugins,
            calls: Calls::default(),
            objects: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            answers,
            closed,
            wakes,
            events,
            stop: stop.clone(),
            running: JoinSet::new(),
            serving: Mutex::default(),
        };
        *fixture.plugins.active.lock().unwrap() =
            Some(plugin(Arc::new(fixture.guests("1")), manifest(finalizer)));
        let running = controller.clone();
        fixture.running.spawn(async move { running.run(receiver, stop).await });
        fixture
    }

    fn guests(&self, revision: &'static str) -> FakeGuests {
        FakeGuests {
            revision,
            scripts: Mutex::default(),
            invalid: Mutex::default(),
            calls: self.calls.clone(),
            objects: self.objects.clone(),
            gate: self.gate.clone(),
        }
    }

    /// Replaces the active revision by one that follows these scripts.
    async fn swap(&self, revision: &'static str, scripts: &[(&str, GuestScript)]) {
        let guests = Arc::new(self.guests(revision));
        let scripts = scripts.iter().map(|(name, script)| ((*name).to_owned(), script.clone()));
        guests.scripts.lock().unwrap().extend(scripts);
        *self.serving.lock().unwrap() = Some(guests.clone());
        let manifest = self
            .plugins
            .active
            .lock()
            .unwrap()
            .as_ref()
            .map_or_else(|| manifest(false), |active| (*active.manifest).clone());
        *self.plugins.active.lock().unwrap() = Some(plugin(guests, manifest));
        self.events.send(ActivePluginChange::Changed("p".parse().unwrap())).await.unwrap();
    }

    /// Sets what the active revision does from now on for an object.
    fn script(&self, name: &str, script: GuestScript) {
        let serving = self.serving.lock().unwrap();
        serving.as_ref().unwrap().scripts.lock().unwrap().insert(name.to_owned(), script);
    }

    /// Returns how many scripts of an object are left.
    fn scripts_left(&self, name: &str) -> usize {
        let serving = self.serving.lock().unwrap();
        match serving.as_ref().unwrap().scripts.lock().unwrap().get(name) {
            Some(GuestScript::Sequence(scripts)) => scripts.len(),
            _ => 0,
        }
    }

    fn calls_of(&self, name: &str, revision: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.0 == name && call.1 == revision).count()
    }

    fn reasons_of(&self, name: &str) -> Vec<Reason> {
        let conditions = self.world.conditions.lock().unwrap();
        let of_name = conditions.iter().filter(|(object, _)| object == name);
        of_name.flat_map(|(_, conditions)| conditions.iter().map(|c| c.reason)).collect()
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.running.join_next().await.unwrap().unwrap();
    }
}

#[track_caller]
fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(5), "waited too long at {caller}");
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn an_object_that_appears_is_reconciled_and_one_whose_status_changes_is_not() {
    let fixture = ControllerFixture::start(false);
    fixture.swap("1", &[]).await;
    fixture.world.put(thing("a", 1));
    until(|| fixture.calls_of("a", "1") == 1).await;
    let mut with_status = thing("a", 1);
    with_status["status"]["x"] = json!(1);
    fixture.world.put(with_status);
    fixture.world.put(thing("b", 1));
    until(|| fixture.calls_of("b", "1") == 1).await;
    assert_eq!(fixture.calls_of("a", "1"), 1, "a change of its status does not enqueue it");
    fixture.world.put(thing("a", 2));
    until(|| fixture.calls_of("a", "1") == 2).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_change_of_a_referred_object_enqueues_the_one_that_refers_to_it() {
    let fixture = ControllerFixture::start(false);
    for name in ["a", "b"] {
        fixture.world.put(thing(name, 1));
    }
    fixture.swap("1", &[]).await;
    until(|| fixture.calls_of("a", "1") == 1 && fixture.calls_of("b", "1") == 1).await;
    fixture.world.put(secret_of("a"));
    until(|| fixture.calls_of("a", "1") == 2).await;
    assert_eq!(fixture.calls_of("b", "1"), 1);
    fixture.end().await;
}

#[tokio::test]
async fn a_failure_is_a_condition_until_a_call_succeeds() {
    let fixture = ControllerFixture::start(false);
    fixture.world.put(thing("a", 1));
    let failure = ReconcileFailure { reason: "NoLuck".into(), message: "try".into(), retry: true };
    fixture.swap("1", &[("a", GuestScript::Answer(Err(failure)))]).await;
    until(|| 3 <= fixture.calls_of("a", "1")).await;
    assert!(fixture.reasons_of("a").iter().all(|reason| *reason == Reason::Failed));
    fixture.swap("2", &[]).await;
    until(|| 1 <= fixture.calls_of("a", "2")).await;
    until(|| fixture.world.conditions.lock().unwrap().last().unwrap().1.is_empty()).await;
    fixture.end().await;
}

#[tokio::test]
async fn two_traps_quarantine_one_object_and_a_new_revision_frees_it() {
    let fixture = ControllerFixture::start(false);
    for name in ["bad", "good"] {
        fixture.world.put(thing(name, 1));
    }
    fixture.swap("1", &[("bad", GuestScript::Trap)]).await;
    until(|| fixture.reasons_of("bad").contains(&Reason::TooManyStrikes)).await;
    assert_eq!(fixture.calls_of("bad", "1"), 2);
    for generation in 2..5 {
        fixture.world.put(thing("good", generation));
    }
    until(|| 2 <= fixture.calls_of("good", "1")).await;
    assert_eq!(fixture.calls_of("bad", "1"), 2, "it is not called any more");
    // The context is closed however the guest ended.
    let calls = fixture.calls_of("good", "1") + 2;
    until(|| fixture.closed.load(Ordering::SeqCst) == calls).await;
    fixture.swap("2", &[]).await;
    until(|| fixture.calls_of("bad", "2") == 1).await;
    fixture.end().await;
}

/// Three objects of four trap, or all of two.
#[tokio::test]
async fn a_revision_that_traps_for_many_objects_is_rolled_back() {
    for (count, trapping, is_rolled_back) in [(4, 3, true), (4, 2, false), (2, 2, true)] {
        let fixture = ControllerFixture::start(false);
        let names = &["a", "b", "c", "d"][..count];
        for name in names {
            fixture.world.put(thing(name, 1));
        }
        fixture.swap("good", &[]).await;
        until(|| names.iter().all(|name| fixture.calls_of(name, "good") == 1)).await;
        *fixture.plugins.earlier.lock().unwrap() = fixture.plugins.active.lock().unwrap().clone();
        let traps: Vec<_> =
            names[..trapping].iter().map(|name| (*name, GuestScript::Trap)).collect();
        fixture.swap("bad", &traps).await;
        if !is_rolled_back {
            let is_quarantined =
                |name: &&str| fixture.reasons_of(name).contains(&Reason::TooManyStrikes);
            until(|| names[..trapping].iter().all(is_quarantined)).await;
            assert!(fixture.plugins.rolled_back.lock().unwrap().is_empty());
            fixture.end().await;
            continue;
        }
        until(|| !fixture.plugins.rolled_back.lock().unwrap().is_empty()).await;
        let why = fixture.plugins.rolled_back.lock().unwrap().concat();
        assert!(why.contains(&format!("bad: it failed twice in a row for {trapping} of {count}")));
        assert!(why.contains("boom"), "{why}");
        fixture.events.send(ActivePluginChange::Changed("p".parse().unwrap())).await.unwrap();
        until(|| names.iter().all(|name| fixture.calls_of(name, "good") == 2)).await;
        fixture.end().await;
    }
}

#[tokio::test]
async fn code_that_cannot_be_loaded_does_not_count_as_a_strike() {
    let fixture = ControllerFixture::start(false);
    fixture.world.put(thing("a", 1));
    fixture.swap("1", &[("a", GuestScript::NotLoaded)]).await;
    until(|| 3 <= fixture.calls_of("a", "1")).await;
    let reasons = fixture.reasons_of("a");
    assert!(reasons.iter().all(|reason| *reason == Reason::Failed), "{reasons:?}");
    fixture.end().await;
}

/// The secret that an object refers to: its creation enqueues the object.
fn secret_of(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": format!("{name}-secret"), "namespace": "n", "uid": "s"}
    })
}

fn failure() -> GuestScript {
    let failure = ReconcileFailure { reason: "NoLuck".into(), message: "try".into(), retry: true };
    GuestScript::Answer(Err(failure))
}

#[tokio::test]
async fn only_traps_in_a_row_quarantine() {
    let (trap, refused) = (GuestScript::Trap, GuestScript::TrapInValidate);
    let answered = GuestScript::Answer(Ok(soon()));
    // The scripts of each object, how often `reconcile` is called in all, and whether it ends in quarantine.
    let rows = [
        ("failed", vec![trap.clone(), failure(), trap.clone()], 4, false),
        ("answered", vec![trap.clone(), answered, trap.clone()], 4, false),
        ("invalid", vec![refused.clone(), GuestScript::Invalid, refused.clone()], 1, false),
        // A fault of the host neither counts nor clears.
        ("not-loaded", vec![trap.clone(), GuestScript::NotLoaded, trap.clone()], 3, true),
        // A trap in `validate` and one in `reconcile` count alike.
        ("both-exports", vec![refused, trap], 1, true),
    ];
    for (name, scripts, calls, is_quarantined) in rows {
        let fixture = ControllerFixture::start(false);
        fixture.world.put(thing(name, 1));
        fixture.swap("1", &[(name, GuestScript::Sequence(scripts.into()))]).await;
        if name == "invalid" {
            until(|| fixture.reasons_of(name).contains(&Reason::InvalidSpec)).await;
            fixture.world.put(secret_of(name));
        }
        until(|| fixture.calls_of(name, "1") == calls).await;
        // A call that succeeds removes the host's conditions.
        let expected: &[Reason] = if is_quarantined { &[Reason::TooManyStrikes] } else { &[] };
        let conditions =
            || fixture.world.conditions.lock().unwrap().last().cloned().unwrap_or_default().1;
        let reasons = || conditions().iter().map(|it| it.reason).collect::<Vec<_>>();
        until(|| reasons() == expected).await;
        assert_eq!(fixture.calls_of(name, "1"), calls, "{name}");
        fixture.end().await;
    }
}

/// An outcome that requests a requeue after 1 ms.
fn soon() -> ReconcileOutcome {
    ReconcileOutcome { requeue_ms: Some(1), ..ReconcileOutcome::default() }
}

#[tokio::test]
async fn a_reconcile_that_was_interrupted_and_answered_clears_the_strikes() {
    let fixture = ControllerFixture::start(false);
    fixture.world.put(thing("a", 1));
    let scripts = [GuestScript::Trap, GuestScript::Ask, GuestScript::Trap];
    fixture.swap("1", &[("a", GuestScript::Sequence(scripts.into()))]).await;
    until(|| fixture.scripts_left("a") == 1).await;
    let mut paused = thing("a", 1);
    paused["metadata"]["annotations"] = json!({"tholepin.dev/paused": "true"});
    fixture.world.put(paused);
    until(|| fixture.calls_of("a: Err(Interrupted)", "1") == 1).await;
    fixture.world.put(thing("a", 1));
    until(|| fixture.calls_of("a", "1") == 4).await;
    assert!(!fixture.reasons_of("a").contains(&Reason::TooManyStrikes));
    fixture.end().await;
}

#[tokio::test]
async fn a_condition_that_could_not_be_written_is_written_when_the_server_is_back() {
    let fixture = ControllerFixture::start(false);
    let guests = fixture.guests("1");
    guests.scripts.lock().unwrap().insert("bad".into(), GuestScript::Trap);
    guests.invalid.lock().unwrap().insert("wrong".into());
    *fixture.plugins.active.lock().unwrap() = Some(plugin(Arc::new(guests), manifest(false)));
    fixture.world.api_server_is_away.store(true, Ordering::Relaxed);
    for name in ["bad", "wrong"] {
        fixture.world.put(thing(name, 1));
    }
    fixture.events.send(ActivePluginChange::Changed("p".parse().unwrap())).await.unwrap();
    until(|| fixture.calls_of("bad", "1") == 2).await;
    fixture.world.api_server_is_away.store(false, Ordering::Relaxed);
    fixture.world.send_store_event(&WatchedStoreEvent::Resumed);
    until(|| fixture.reasons_of("bad") == [Reason::TooManyStrikes]).await;
    until(|| fixture.reasons_of("wrong") == [Reason::InvalidSpec]).await;
    assert_eq!(fixture.calls_of("bad", "1"), 2, "the write is retried without a call");
    fixture.end().await;
}

#[tokio::test]
async fn a_key_in_a_long_backoff_is_retried_when_a_watch_resumes() {
    let fixture = ControllerFixture::start(false);
    fixture.world.put(thing("a", 1));
    let failure = ReconcileFailure { reason: "Away".into(), message: "away".into(), retry: true };
    fixture.swap("1", &[("a", GuestScript::Answer(Err(failure)))]).await;
    // After nine failures the backoff is at least 0.64 s.
    until(|| 9 <= fixture.calls_of("a", "1")).await;
    let start = Instant::now();
    // Repeated, because the ninth reconcile may still run: its key is not in the backoff yet.
    until(|| {
        fixture.world.send_store_event(&WatchedStoreEvent::Resumed);
        10 <= fixture.calls_of("a", "1")
    })
    .await;
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    fixture.end().await;
}

#[tokio::test]
async fn a_running_call_finishes_on_the_old_revision_while_others_continue() {
    let fixture = ControllerFixture::start(false);
    fixture.world.put(thing("slow", 1));
    fixture.swap("1", &[("slow", GuestScript::Wait)]).await;
    until(|| fixture.calls_of("slow", "1") == 1).await;
    fixture.swap("2", &[]).await;
    fixture.world.put(thing("other", 1));
    until(|| fixture.calls_of("other", "2") == 1).await;
    assert_eq!(fixture.calls_of("slow", "2"), 0, "at most one reconcile per object");
    fixture.gate.add_permits(1);
    until(|| fixture.calls_of("slow", "2") == 1).await;
    fixture.end().await;
}

#[tokio::test]
async fn an_invalid_spec_is_a_condition_and_is_not_reconciled() {
    let fixture = ControllerFixture::start(false);
    let guests = fixture.guests("1");
    guests.invalid.lock().unwrap().insert("a".into());
    *fixture.plugins.active.lock().unwrap() = Some(plugin(Arc::new(guests), manifest(false)));
    fixture.world.put(thing("a", 1));
    fixture.events.send(ActivePluginChange::Changed("p".parse().unwrap())).await.unwrap();
    until(|| fixture.reasons_of("a") == [Reason::InvalidSpec]).await;
    assert_eq!(fixture.calls_of("a", "1"), 0);
    fixture.end().await;
}

#[tokio::test]
async fn a_finalizer_is_removed_when_the_plugin_has_finished() {
    let fixture = ControllerFixture::start(true);
    fixture.world.put(thing("a", 1));
    fixture.swap("1", &[]).await;
    let finalizers =
        || fixture.world.object(&reference("a")).map(|a| a["metadata"]["finalizers"].clone());
    until(|| finalizers() == Some(json!(["tholepin.dev/p"]))).await;
    let finished = ReconcileOutcome { finished: true, ..ReconcileOutcome::default() };
    fixture.swap("2", &[("a", GuestScript::Answer(Ok(finished)))]).await;
    until(|| fixture.calls_of("a", "2") == 1).await;
    assert!(
        fixture.world.object(&reference("a")).is_some(),
        "`finished` has no meaning without a deletion"
    );
    let mut deleting = fixture.world.object(&reference("a")).unwrap();
    deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    fixture.world.put(deleting);
    until(|| fixture.world.object(&reference("a")).is_none()).await;
    assert!(fixture.calls.lock().unwrap().contains(&("a".into(), "2", true)));
    fixture.end().await;
}

#[tokio::test]
async fn a_paused_object_is_not_reconciled() {
    let fixture = ControllerFixture::start(false);
    let mut paused = thing("a", 1);
    paused["metadata"]["annotations"] = json!({"tholepin.dev/paused": "True"});
    fixture.world.put(paused);
    fixture.world.put(thing("b", 1));
    fixture.swap("1", &[]).await;
    until(|| fixture.calls_of("b", "1") == 1).await;
    assert_eq!(fixture.calls_of("a", "1"), 0);
    fixture.world.put(thing("a", 1));
    until(|| fixture.calls_of("a", "1") == 1).await;
    assert!(fixture.world.events.lock().unwrap().is_empty());
    fixture.end().await;
}

#[tokio::test]
async fn an_unclear_pause_publishes_one_event_per_value() {
    let fixture = ControllerFixture::start(false);
    fixture.swap("1", &[]).await;
    let annotate = |value: &str, generation: i64| {
        let mut paused = thing("a", generation);
        paused["metadata"]["annotations"] = json!({"tholepin.dev/paused": value});
        fixture.world.put(paused);
    };
    let published = || fixture.world.events.lock().unwrap().len();
    annotate("yes", 1);
    until(|| published() == 1).await;
    let how_to_fix = "`kubectl annotate thing a --namespace n tholepin.dev/paused-`";
    let (name, message) = fixture.world.events.lock().unwrap()[0].clone();
    assert!(message.contains("\"yes\"") && message.contains(how_to_fix), "{name}: {message}");
    // Another change of the paused object publishes nothing; another value does.
    annotate("yes", 2);
    annotate("", 2);
    until(|| published() == 2).await;
    // The object was paused all the time.
    fixture.world.put(thing("a", 2));
    until(|| fixture.calls_of("a", "1") == 1).await;
    assert_eq!(published(), 2);
    fixture.end().await;
}

#[tokio::test]
async fn an_outcome_sets_the_requeue() {
    let fixture = ControllerFixture::start(false);
    fixture.world.put(thing("a", 1));
    let soon = ReconcileOutcome { requeue_ms: Some(20), ..ReconcileOutcome::default() };
    fixture.swap("1", &[("a", GuestScript::Answer(Ok(soon)))]).await;
    until(|| 4 <= fixture.calls_of("a", "1")).await;
    fixture.end().await;
}

#[tokio::test]
async fn objects_of_an_unloaded_plugin_get_a_condition_also_new_ones() {
    let fixture = ControllerFixture::start(false);
    fixture.world.put(thing("old", 1));
    fixture.swap("1", &[]).await;
    until(|| fixture.calls_of("old", "1") == 1).await;
    *fixture.plugins.active.lock().unwrap() = None;
    fixture.events.send(ActivePluginChange::Changed("p".parse().unwrap())).await.unwrap();
    until(|| fixture.reasons_of("old") == [Reason::PluginMissing]).await;
    fixture.world.put(thing("new", 1));
    until(|| fixture.reasons_of("new") == [Reason::PluginMissing]).await;
    assert_eq!(fixture.calls_of("new", "1"), 0);
    fixture.end().await;
}

#[tokio::test]
async fn a_finalizer_that_the_manifest_no_longer_requests_is_removed() {
    let fixture = ControllerFixture::start(false);
    let mut left = thing("a", 1);
    left["metadata"]["finalizers"] = json!(["tholepin.dev/p"]);
    fixture.world.put(left);
    fixture.swap("1", &[]).await;
    until(|| fixture.calls_of("a", "1") == 1).await;
    let stored = fixture.world.object(&reference("a")).unwrap();
    assert_eq!(stored["metadata"]["finalizers"], json!([]));
    fixture.end().await;
}

#[tokio::test]
async fn a_waiting_reconcile_lets_another_compute_and_continues_after_it() {
    let fixture = ControllerFixture::start_with(false, 1, 8);
    fixture.swap("1", &[("waits", GuestScript::Ask), ("computes", GuestScript::Wait)]).await;
    fixture.world.put(thing("waits", 1));
    until(|| fixture.calls_of("waits", "1") == 1).await;
    // It is due again, but one reconcile of it runs already.
    fixture.world.put(thing("waits", 2));
    for name in ["b", "c"] {
        fixture.world.put(thing(name, 1));
        until(|| fixture.calls_of(name, "1") == 1).await;
    }
    fixture.world.put(thing("computes", 1));
    until(|| fixture.calls_of("computes", "1") == 1).await;
    fixture.answers.add_permits(1);
    until(|| fixture.answers.available_permits() == 0).await;
    fixture.world.put(thing("d", 1));
    assert_eq!(fixture.calls_of("waits", "1"), 1, "at most one reconcile per object");
    assert_eq!(fixture.calls_of("waits: Ok(Done)", "1"), 0, "another reconcile computes");
    fixture.gate.add_permits(1);
    until(|| fixture.calls_of("waits: Ok(Done)", "1") == 1 && fixture.calls_of("d", "1") == 1)
        .await;
    until(|| fixture.calls_of("waits", "1") == 2).await;
    fixture.answers.add_permits(1);
    fixture.end().await;
}

#[tokio::test]
async fn a_waiting_reconcile_is_interrupted_by_an_urgent_change_only() {
    let fixture = ControllerFixture::start_with(false, 2, 8);
    fixture.swap("1", &[("a", GuestScript::Ask)]).await;
    fixture.world.put(thing("a", 1));
    until(|| fixture.calls_of("a", "1") == 1).await;
    fixture.world.put(secret_of("a"));
    fixture.world.put(thing("b", 1));
    until(|| fixture.calls_of("b", "1") == 1).await;
    let interrupted = || fixture.calls_of("a: Err(Interrupted)", "1");
    assert_eq!(interrupted(), 0, "a change of a referred object is not urgent");

    let mut paused = thing("a", 1);
    paused["metadata"]["annotations"] = json!({"tholepin.dev/paused": "true"});
    fixture.world.put(paused);
    until(|| interrupted() == 1).await;
    fixture.world.put(thing("a", 1));
    until(|| fixture.calls_of("a", "1") == 2).await;

    *fixture.plugins.active.lock().unwrap() = None;
    fixture.events.send(ActivePluginChange::Changed("p".parse().unwrap())).await.unwrap();
    until(|| interrupted() == 2 && fixture.reasons_of("a").contains(&Reason::PluginMissing)).await;

    fixture.swap("2", &[("a", GuestScript::Ask)]).await;
    until(|| fixture.calls_of("a", "2") == 1).await;
    // Without an interruption the stop would wait for an answer that never comes.
    let since = Instant::now();
    fixture.end().await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn objects_of_a_plugin_of_an_earlier_host_get_a_condition() {
    let fixture = ControllerFixture::start(false);
    let mut orphan = thing("a", 1);
    orphan["kind"] = json!("Other");
    fixture.world.put(orphan);
    fixture.world.put(thing("b", 1));
    fixture.swap("1", &[]).await;
    let missing =
        |kinds: Vec<KindName>| ActivePluginChange::Missing("gone".parse().unwrap(), kinds);
    fixture.events.send(missing(vec![kind("Other")])).await.unwrap();
    until(|| fixture.reasons_of("a") == [Reason::PluginMissing]).await;
    // The condition is not written on a kind that an active plugin reconciles.
    fixture.events.send(missing(vec![kind("Thing")])).await.unwrap();
    fixture.world.put(thing("b", 2));
    until(|| fixture.calls_of("b", "1") == 2).await;
    assert_eq!(fixture.reasons_of("b"), []);
    fixture.end().await;
}

#[tokio::test]
async fn an_overdue_object_has_a_condition_until_its_reconcile_ends() {
    let resync = Duration::from_millis(100);
    let fixture = ControllerFixture::start_as(
        false,
        ControllerSettings { concurrency: 2, in_flight: 8, resync },
    );
    fixture.swap("1", &[("a", GuestScript::Wait)]).await;
    let mut object = thing("a", 1);
    object["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    fixture.world.put(object);
    fixture.world.put(thing("b", 1));
    let overdue = || {
        let reasons = fixture.reasons_of("a").into_iter();
        reasons.filter(|reason| *reason == Reason::ReconcileOverdue).count()
    };
    until(|| 0 < overdue()).await;
    assert_eq!(overdue(), 2, "in `Reconciled` and in `Ready`");
    let seen = fixture.calls_of("b", "1");
    until(|| seen + 5 < fixture.calls_of("b", "1")).await;
    assert_eq!(overdue(), 2, "it is written once");
    assert!(!fixture.reasons_of("b").contains(&Reason::ReconcileOverdue));
    fixture.gate.add_permits(2);
    until(|| fixture.reasons_of("a").contains(&Reason::Succeeded)).await;
    fixture.gate.add_permits(1000);
    fixture.end().await;
}
