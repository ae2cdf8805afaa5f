//! Proof of death for primaries whose Pods were deleted without a report of their ends.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};
use tholepin_core::{
    Answer, Call, CallError, HostCalls, KubernetesCall, PluginCallerIdentity, RedisCall, Reply,
    WriteMode, port::Clock,
};
use tholepin_gate::{Gate, GatePorts, ReconcileScope};
use tholepin_schema::manifest::{GrantScope, Grants, KubernetesGrant, RedisGrants, SafetyPaths};

use crate::{
    GateFixture, config_map,
    fixture::{FakeCluster, object, pod},
    grants, instance, kind,
};

/// A time in 2026, so that printed times are realistic.
const START_MS: u64 = 1_795_236_000_000;
const JOINED: &str = "2026-11-20T00:00:00Z";

/// A clock that a test moves.
struct MovedClock(AtomicU64);

impl Clock for MovedClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Primaries `p-0`, `p-1`, … and their replicas `r-0`, `r-1`, … on the Kubernetes node `k`.
struct DeathFixture {
    world: Arc<FakeCluster>,
    clock: Arc<MovedClock>,
    gate: Arc<Gate>,
    scope: ReconcileScope,
    call_context: PluginCallerIdentity,
    shards: usize,
    /// Whether a replica sees the link to the primary of the first shard connected.
    linked: bool,
    renewals: u64,
}

fn node(kind: char, shard: usize) -> String {
    format!("{kind}{shard:039}")
}

fn primary(shard: usize) -> String {
    node('a', shard)
}

fn placed(name: &str, uid: &str) -> Value {
    let mut pod = pod(name);
    pod["metadata"]["uid"] = json!(uid);
    pod["spec"]["nodeName"] = json!("k");
    pod["spec"]["terminationGracePeriodSeconds"] = json!(45);
    pod
}

impl DeathFixture {
    /// All members are healthy and were observed once.
    async fn new(shards: usize) -> Self {
        let redis = RedisGrants {
            commands: vec![],
            verbs: ["observe", "failover"].map(str::to_owned).to_vec(),
        };
        let safety = SafetyPaths { tail_loss: Some(".spec.tailLoss".into()), data_loss: None };
        let granted = Grants { redis, safety, ..grants(GrantScope::Owned) };
        let bench = GateFixture::new(granted, WriteMode::Live);
        bench.world.objects.lock().unwrap().retain(|object, _| object.name != "a-0");
        let clock = Arc::new(MovedClock(AtomicU64::new(START_MS)));
        let gate = Gate::new(GatePorts { clock: clock.clone(), ..bench.ports.clone() });
        let mut me = (*bench.scope.object).clone();
        me["spec"]["tailLoss"] = json!("force");
        let scope = ReconcileScope { object: Arc::new(me), ..bench.scope.clone() };
        let (world, call_context) = (bench.world.clone(), bench.call_context.clone());
        let (linked, renewals) = (false, 0);
        let mut stage = Self { world, clock, gate, scope, call_context, shards, linked, renewals };
        for shard in 0..shards {
            for name in [format!("p-{shard}"), format!("r-{shard}")] {
                stage.world.put(placed(&name, &format!("uid-{name}")));
            }
        }
        let mut kube_node = object("v1", "Node", "k", None);
        kube_node["metadata"]["namespace"] = json!("");
        kube_node["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        stage.world.put(kube_node);
        stage.renew(JOINED);
        stage.show(true);
        stage.observe().await;
        stage
    }

    /// Deletes the primaries' Pods by force; new Pods take their places.
    async fn lose(&mut self) {
        for shard in 0..self.shards {
            let name = format!("p-{shard}");
            self.world.put(placed(&name, &format!("uid-fresh-{shard}")));
        }
        self.world.dials_are_refused.store(true, Ordering::SeqCst);
        self.tick(0).await.unwrap_err();
    }

    /// The Kubernetes node renews its Lease.
    fn renew(&mut self, joined: &str) {
        self.renewals += 1;
        let mut lease = object("coordination.k8s.io/v1", "Lease", "k", None);
        lease["metadata"]["namespace"] = json!("kube-node-lease");
        lease["metadata"]["creationTimestamp"] = json!(joined);
        lease["spec"] = json!({"renewTime": format!("2026-11-21T00:00:{:09.6}Z", self.renewals)});
        self.world.put(lease);
    }

    /// Sets the next snapshot. Of primaries that do not run, it contains only what their replicas report.
    fn show(&self, primaries_run: bool) {
        let now_ms = self.clock.now_ms();
        let (mut view, mut members) = (json!({}), Vec::new());
        for shard in 0..self.shards {
            let connected = primaries_run || (self.linked && shard == 0);
            let (first, last) = (shard * 100, shard * 100 + 99);
            view[primary(shard)] = json!({"role": "primary", "epoch": 1, "connected": connected,
                "slots": [format!("{first}-{last}")]});
            view[node('b', shard)] = json!({"role": "replica", "primary": primary(shard),
                "epoch": 1, "connected": true});
            let facts = |id: &str| {
                json!({"answered": {"answeredAtMs": now_ms, "node": id, "runId": id,
                    "loading": false, "keys": 7, "settings": {"cluster-node-timeout": "5000"},
                    "replication": {"id": "e".repeat(40), "offsetBytes": 7}}})
            };
            let member = |name: String, uid: String, answer: Value| {
                json!({"pod": name, "podUid": uid, "running": true, "kubeNode": "k",
                    "containerId": format!("c-{uid}"), "address": "127.0.0.1:7000",
                    "kubernetes": {"graceSeconds": 45}, "answer": answer})
            };
            let name = format!("r-{shard}");
            members.push(member(name.clone(), format!("uid-{name}"), facts(&node('b', shard))));
            let (name, silent) =
                (format!("p-{shard}"), json!({"reason": "timeout", "message": ""}));
            members.push(if primaries_run {
                member(name.clone(), format!("uid-{name}"), facts(&primary(shard)))
            } else {
                member(name, format!("uid-fresh-{shard}"), json!({"unreachable": silent}))
            });
        }
        let snapshot = json!({"observedAtMs": now_ms, "view": view, "members": members});
        *self.world.snapshot.lock().unwrap() = serde_json::from_value(snapshot).unwrap();
    }

    async fn redis(&self, call: RedisCall) -> Answer {
        self.gate.open(self.scope.clone()).perform(&self.call_context, Call::Redis(call)).await
    }

    async fn observe(&self) {
        self.redis(RedisCall::Observe { instance: instance() }).await.unwrap();
    }

    /// Advances the clock and asks for a takeover. Returns the refusal.
    async fn tick(&mut self, ms: u64) -> Result<(), String> {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
        self.show(false);
        let action = json!({"verb": "failover",
            "args": {"pod": "r-0", "primary": primary(0), "mode": "takeover"}});
        let act = RedisCall::Act { instance: instance(), actions: vec![action] };
        let Ok(Reply::Results(results)) = self.redis(act).await else { panic!() };
        let outcome = &results[0].as_ref().unwrap()["outcome"];
        if outcome.get("done").is_some() {
            return Ok(());
        }
        let text = |field: &str| outcome["refused"][field].as_str().unwrap().to_owned();
        assert_eq!(text("guard"), "death", "{outcome}");
        Err(text("message"))
    }

    /// Asks for a takeover every half second while the Kubernetes node is alive. Returns after how many
    /// milliseconds it was allowed, or the last refusal.
    async fn ask_for(&mut self, seconds: u64) -> Result<u64, String> {
        let mut last = String::new();
        for half in 1..=seconds * 2 {
            if half % 20 == 0 {
                self.renew(JOINED);
            }
            match self.tick(500).await {
                Ok(()) => return Ok(half * 500),
                Err(refusal) => last = refusal,
            }
        }
        Err(last)
    }

    fn change(&self, kind_of: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut objects = self.world.objects.lock().unwrap();
        let found = objects
            .iter_mut()
            .find(|(object, _)| object.kind.kind == kind_of && object.name == name);
        let (_, found) = found.unwrap();
        let mut changed = (**found).clone();
        change(&mut changed);
        *found = Arc::new(changed);
    }

    fn remove(&self, kind: &str) {
        self.world.objects.lock().unwrap().retain(|object, _| object.kind.kind != kind);
    }

    fn annotate(&self, value: &str) {
        let annotations = json!({"tholepin.dev/confirm-dead": value});
        self.change("Thing", "me", |me| me["metadata"]["annotations"] = annotations);
    }
}

#[tokio::test]
async fn primaries_are_replaced_when_their_long_absence_proves_their_end() {
    for shards in [1, 2, 3] {
        let mut stage = DeathFixture::new(shards).await;
        stage.lose().await;
        let took_ms = stage.ask_for(80).await.unwrap();
        // 45 s of grace, 10 s more, and the next renewal of the Lease.
        assert_eq!(took_ms, 60_000, "{shards} shards");
        let done = stage.world.writes.lock().unwrap().iter().any(|it| it == "failover to r-0");
        assert!(done);
    }
}

#[tokio::test]
async fn a_primary_that_may_be_alive_is_not_taken_over() {
    type Change = fn(&mut DeathFixture);
    let cases: [(&str, Change, &str); 6] = [
        (
            "the host alone is cut off, or the process hangs",
            |stage| stage.linked = true,
            "disconnected for 5000 ms",
        ),
        (
            "a cut network: the dial times out",
            |stage| stage.world.dials_are_refused.store(false, Ordering::SeqCst),
            "127.0.0.1:7000, does not refuse connections",
        ),
        (
            "the Kubernetes node and its Lease are gone",
            |stage| {
                stage.remove("Node");
                stage.remove("Lease");
            },
            "the Lease of the Kubernetes node `k` cannot be read",
        ),
        (
            "another machine has the name",
            |stage| stage.renew("2026-11-21T12:00:00Z"),
            "joined after the Pod was gone",
        ),
        ("the Kubernetes node is silent", |_| {}, "must renew its Lease after that"),
        (
            "its Pod is there again",
            |stage| stage.world.put(placed("p-0", "uid-p-0")),
            "its Pod exists",
        ),
    ];
    for (what, change, expected) in cases {
        let mut stage = DeathFixture::new(2).await;
        stage.lose().await;
        change(&mut stage);
        let mut last = String::new();
        for _ in 0..240 {
            last = stage.tick(500).await.unwrap_err();
        }
        assert!(last.contains(expected), "{what}: {last}");
        let named =
            format!("tholepin.dev/confirm-dead={}/uid-p-0,{}/uid-p-1", primary(0), primary(1));
        assert_eq!(last.contains(&named), what != "its Pod is there again", "{what}: {last}");
        assert!(last.contains("taint the Kubernetes node `k`"), "{what}: {last}");
    }
}

#[tokio::test]
async fn a_link_that_was_connected_again_restarts_the_time() {
    let mut stage = DeathFixture::new(1).await;
    stage.lose().await;
    stage.ask_for(58).await.unwrap_err();
    stage.linked = true;
    stage.tick(500).await.unwrap_err();
    stage.linked = false;
    stage.renew(JOINED);
    let took_ms = stage.ask_for(20).await.unwrap();
    assert_eq!(took_ms, 5_500, "the node timeout since the link was seen down");
    // A primary that was not observed meanwhile needs as long.
    let mut stage = DeathFixture::new(1).await;
    stage.lose().await;
    stage.ask_for(58).await.unwrap_err();
    stage.renew(JOINED);
    let refused = stage.tick(6_000).await.unwrap_err();
    assert!(refused.contains("disconnected for 5000 ms"), "{refused}");
}

#[tokio::test]
async fn a_confirmation_is_read_from_the_current_object_and_is_for_one_pod() {
    let right = format!("{}/uid-p-0, {}/uid-p-1", primary(0), primary(1));
    for (value, expected) in [
        (right.clone(), true),
        (format!("{}/uid-p-0", primary(0)), false),
        (format!("{}/uid-fresh-0,{}/uid-p-1", primary(0), primary(1)), false),
        (String::new(), false),
    ] {
        let mut stage = DeathFixture::new(2).await;
        stage.lose().await;
        stage.world.dials_are_refused.store(false, Ordering::SeqCst);
        stage.remove("Lease");
        stage.tick(500).await.unwrap_err();
        stage.annotate(&value);
        assert_eq!(stage.tick(500).await.is_ok(), expected, "{value}");
    }
    // While the Pod exists, no confirmation counts.
    let mut stage = DeathFixture::new(2).await;
    stage.lose().await;
    stage.annotate(&right);
    stage.world.put(placed("p-0", "uid-p-0"));
    let refused = stage.tick(500).await.unwrap_err();
    assert!(refused.contains("its Pod exists"), "{refused}");
    // The object that the reconcile began with is older than the store.
    let mut stage = DeathFixture::new(2).await;
    let mut me = (*stage.scope.object).clone();
    me["metadata"]["annotations"] = json!({"tholepin.dev/confirm-dead": right.clone()});
    stage.scope.object = Arc::new(me);
    stage.lose().await;
    stage.tick(500).await.unwrap_err();
    // Another object of the same name is not the one reconciled.
    stage.annotate(&right);
    stage.change("Thing", "me", |me| me["metadata"]["uid"] = json!("uid-other"));
    stage.tick(500).await.unwrap_err();
}

#[tokio::test]
async fn the_out_of_service_taint_is_a_proof() {
    for pods_are_there in [false, true] {
        let mut stage = DeathFixture::new(2).await;
        stage.lose().await;
        stage.world.dials_are_refused.store(false, Ordering::SeqCst);
        stage.tick(500).await.unwrap_err();
        if pods_are_there {
            stage.world.put(placed("p-0", "uid-p-0"));
        }
        let taint = |key: &str| json!([{"key": key, "value": "x", "effect": "NoExecute"}]);
        let unreachable = taint("node.kubernetes.io/unreachable");
        stage.change("Node", "k", |node| node["spec"] = json!({"taints": unreachable}));
        stage.tick(500).await.unwrap_err();
        let out_of_service = taint("node.kubernetes.io/out-of-service");
        stage.change("Node", "k", |node| node["spec"] = json!({"taints": out_of_service}));
        stage.tick(500).await.unwrap();
    }
}

#[tokio::test]
async fn no_plugin_writes_the_annotations_of_a_person() {
    let mut granted = grants(GrantScope::Owned);
    granted.kubernetes.push(KubernetesGrant {
        name: kind("tests.tholepin.dev/v1", "Thing"),
        verbs: ["apply", "merge-patch"].map(str::to_owned).to_vec(),
        scope: GrantScope::Owned,
        force: false,
    });
    let me = object("tests.tholepin.dev/v1", "Thing", "me", None);
    let with = |mut object: Value, annotations: &Value| {
        object["metadata"]["annotations"] = annotations.clone();
        object
    };
    let forged = json!({"tholepin.dev/confirm-dead": format!("{}/uid", "a".repeat(40))});
    let paused = json!({"a": "b", "tholepin.dev/paused": null});
    for (annotations, expected) in [
        (&forged, "`tholepin.dev/confirm-dead`"),
        (&paused, "`tholepin.dev/paused`"),
        (&Value::Null, "not replace them all"),
    ] {
        let bench = GateFixture::new(granted.clone(), WriteMode::Live);
        let map = with(object("v1", "ConfigMap", "mine", Some("me")), annotations);
        let patch = with(json!({"metadata": {}}), annotations);
        let mine = tholepin_core::ObjectMeta::of(&me).unwrap().object;
        let calls = [
            KubernetesCall::Apply { object: map, force: false },
            KubernetesCall::ApplyStatus { object: with(me.clone(), annotations) },
            KubernetesCall::MergePatch { object: mine, patch: patch.clone() },
            KubernetesCall::MergePatch { object: config_map("mine"), patch },
        ];
        for call in calls {
            let answer = bench.kubernetes(call.clone()).await;
            let Err(CallError::Denied(text)) = &answer else { panic!("{call:?}: {answer:?}") };
            assert!(text.contains(expected), "{call:?}: {text}");
        }
        assert_eq!(bench.writes(), [""; 0]);
    }
    // In a template they would reach the Pods that a controller makes from it.
    let may_start = json!({"tholepin.dev/may-start": format!("{}/9999999999999", "a".repeat(40))});
    let template = json!({"template": with(json!({"metadata": {}}), &may_start)});
    for spec in [template.clone(), json!({"jobTemplate": {"spec": template}}), json!([template])] {
        let bench = GateFixture::new(granted.clone(), WriteMode::Live);
        let mut map = object("v1", "ConfigMap", "mine", Some("me"));
        map["spec"] = spec.clone();
        let (object, patch) = (config_map("mine"), json!({"spec": spec}));
        for call in [
            KubernetesCall::Apply { object: map, force: false },
            KubernetesCall::MergePatch { object, patch },
        ] {
            let answer = bench.kubernetes(call.clone()).await;
            let Err(CallError::Denied(text)) = &answer else { panic!("{call:?}: {answer:?}") };
            assert!(text.contains("`tholepin.dev/may-start`"), "{call:?}: {text}");
        }
        assert_eq!(bench.writes(), [""; 0]);
    }
    let bench = GateFixture::new(granted, WriteMode::Live);
    let harmless = json!({"example.org/a": "b", "x.tholepin.dev/c": "d"});
    let map = with(object("v1", "ConfigMap", "mine", Some("me")), &harmless);
    bench.kubernetes(KubernetesCall::Apply { object: map, force: false }).await.unwrap();
}
