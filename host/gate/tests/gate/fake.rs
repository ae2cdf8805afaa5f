//! Ports that remember what reached them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tholepin_core::{
    BoxedFuture, CallError, ObjectMeta, ObjectRef, RespReply,
    port::{
        ApplyRequest, Clock, DeleteRequest, Entropy, InstanceMembers, Kubernetes, PerformedAction,
        PollDetail, PollStream, Prober, PublishRequest, Redis, StoreView, Warning,
    },
    step::MemberCommandLine,
};
use tholepin_schema::{
    action::{Action, ActionOutcome, Verb},
    manifest::KindName,
    probe::ProbeOutcome,
    snapshot::{MemberAnswer, Snapshot, UnreachableReason},
};
use tokio::sync::watch;

type Objects = BTreeMap<ObjectRef, Arc<Value>>;

/// A world of objects; writes are remembered as lines.
#[derive(Default)]
pub(crate) struct FakeCluster {
    pub(crate) objects: Mutex<Objects>,
    pub(crate) writes: Mutex<Vec<String>>,
    /// The Secrets whose values were read.
    pub(crate) read: Mutex<Vec<String>>,
    /// The passwords of the instances looked at.
    pub(crate) passwords: Mutex<Vec<Option<String>>>,
    pub(crate) snapshot: Mutex<Snapshot>,
    /// The password that the servers have; any will do if there is none here.
    pub(crate) accepted: Mutex<Option<String>>,
    /// Whether no server answers.
    pub(crate) silent: AtomicBool,
    /// What looks show, one after the other, to those who have joined.
    pub(crate) shown: watch::Sender<Option<Arc<Snapshot>>>,
    /// How the instances are watched.
    pub(crate) watched: Mutex<BTreeMap<String, String>>,
    /// The members of the last look, and whether their containers run.
    pub(crate) looked_at: Mutex<Vec<String>>,
    pub(crate) running: Mutex<Vec<bool>>,
    /// Whether the API server takes no writes of the ledger.
    pub(crate) away: AtomicBool,
    /// Whether actions fail.
    pub(crate) deaf: AtomicBool,
    /// Whether every dial is refused.
    pub(crate) refusing: AtomicBool,
    /// The last resource version given.
    versions: AtomicU64,
}

fn version(object: &Value) -> Option<&str> {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str)
}

#[derive(Clone)]
struct FakeView(Objects);

struct FakePollStream(watch::Receiver<Option<Arc<Snapshot>>>);

impl PollStream for FakePollStream {
    fn next(&mut self) -> BoxedFuture<'_, Arc<Snapshot>> {
        Box::pin(async {
            self.0.changed().await.unwrap();
            self.0.borrow_and_update().clone().unwrap()
        })
    }
}

impl FakeCluster {
    pub(crate) fn put(&self, object: Value) {
        let reference = ObjectMeta::of(&object).unwrap().object;
        self.objects.lock().unwrap().insert(reference, Arc::new(object));
    }

    /// What an action does: a setting is there from then on.
    fn take_in(&self, action: &Action) {
        let (name, pod) = (action.verb.name(), action.verb.pod().unwrap_or("all"));
        let Verb::Configure { settings, .. } = &action.verb else {
            return self.wrote(format!("{name} to {pod}"));
        };
        let pairs: Vec<_> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.wrote(format!("{name} to {pod}: {}", pairs.join(" ")));
        let mut snapshot = self.snapshot.lock().unwrap();
        let member = snapshot.members.iter_mut().find(|member| member.pod == pod);
        if let Some(MemberAnswer::Answered(facts)) = member.map(|member| &mut member.answer)
            && !self.deaf.load(Ordering::SeqCst)
        {
            facts.settings.extend(settings.clone());
        }
    }

    fn next_version(&self) -> String {
        (self.versions.fetch_add(1, Ordering::SeqCst) + 1).to_string()
    }

    fn wrote(&self, line: String) {
        self.writes.lock().unwrap().push(line);
    }
}

impl StoreView for FakeView {
    fn get(&self, object: &ObjectRef) -> Option<Arc<Value>> {
        self.0.get(object).cloned()
    }

    fn list(
        &self,
        kind: &KindName,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<Arc<Value>>, CallError> {
        let label = selector.split_once('=');
        let matches = |object: &ObjectRef, value: &Value| {
            object.kind == *kind
                && (namespace.is_empty() || object.namespace == namespace)
                && label.is_none_or(|(name, wanted)| value["metadata"]["labels"][name] == wanted)
        };
        let matching = self.0.iter().filter(|(object, value)| matches(object, value));
        Ok(matching.map(|(_, value)| value.clone()).collect())
    }

    fn owned_by(&self, uid: &str) -> Vec<Arc<ObjectMeta>> {
        let metas = self.0.values().map(|object| ObjectMeta::of(object).unwrap());
        let owned = metas.filter(|meta| meta.controller().is_some_and(|owner| owner.uid == uid));
        owned.map(Arc::new).collect()
    }

    fn covers(&self, _: &KindName) -> bool {
        true
    }

    fn with(&self, object: Value) -> Arc<dyn StoreView> {
        let mut next = self.clone();
        next.0.insert(ObjectMeta::of(&object).unwrap().object, Arc::new(object));
        Arc::new(next)
    }

    fn without(&self, object: &ObjectRef) -> Arc<dyn StoreView> {
        let mut next = self.clone();
        next.0.remove(object);
        Arc::new(next)
    }
}

impl Kubernetes for FakeCluster {
    fn on_behalf_of(self: Arc<Self>, _: &tholepin_core::PluginName) -> Arc<dyn Kubernetes> {
        self
    }

    fn view(&self) -> Arc<dyn StoreView> {
        Arc::new(FakeView(self.objects.lock().unwrap().clone()))
    }

    fn get(&self, object: ObjectRef) -> BoxedFuture<'_, Result<Value, CallError>> {
        let found = self.objects.lock().unwrap().get(&object).map(|found| (**found).clone());
        Box::pin(async move { found.ok_or(CallError::NotFound(object.to_string())) })
    }

    fn list(
        &self,
        _: KindName,
        _: String,
        _: String,
    ) -> BoxedFuture<'_, Result<Vec<Value>, CallError>> {
        unreachable!("all kinds are watched here")
    }

    fn warnings(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Vec<Warning>, CallError>> {
        let warning = Warning {
            reason: "FailedCreate".to_owned(),
            message: format!("{} with the uid {uid}", object.name),
            count: 1,
            last_seen: String::new(),
        };
        Box::pin(async { Ok(vec![warning]) })
    }

    fn apply(&self, request: ApplyRequest) -> BoxedFuture<'_, Result<Value, CallError>> {
        let name = request.object["metadata"]["name"].as_str().unwrap().to_owned();
        let kept = if request.dry_run { "dry run" } else { "kept" };
        let force = if request.force { ", forced" } else { "" };
        self.wrote(format!("apply {name} by {} {kept}{force}", request.field_manager));
        if !request.dry_run {
            self.put(request.object.clone());
        }
        Box::pin(async { Ok(request.object) })
    }

    fn merge_patch(
        &self,
        object: ObjectRef,
        patch: Value,
        _: String,
        dry_run: bool,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        if !dry_run {
            self.wrote(format!("patch {}", object.name));
        }
        Box::pin(async move {
            let mut patched = self.get(object).await?;
            merge(&mut patched, patch);
            Ok(patched)
        })
    }

    fn create(
        &self,
        mut object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        let reference = ObjectMeta::of(&object).unwrap().object;
        let exists = self.objects.lock().unwrap().contains_key(&reference);
        let away = self.away.load(Ordering::SeqCst);
        if !exists && !away {
            // The password that every first use of an instance keeps is no write of the pass.
            if reference.kind.kind != "Secret" {
                self.wrote(format!("create {} by {field_manager}", reference.name));
            }
            object["metadata"]["resourceVersion"] = json!(self.next_version());
            self.put(object.clone());
        }
        Box::pin(async move {
            match (away, exists) {
                (true, _) => Err(CallError::Transient("away".to_owned())),
                (false, true) => Err(CallError::Conflict(reference.to_string())),
                (false, false) => Ok(object),
            }
        })
    }

    fn replace(
        &self,
        mut object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        let reference = ObjectMeta::of(&object).unwrap().object;
        let found = self.objects.lock().unwrap().get(&reference).cloned();
        let away = self.away.load(Ordering::SeqCst);
        let result = match found.filter(|_| !away) {
            None if away => Err(CallError::Transient("away".to_owned())),
            None => Err(CallError::NotFound(reference.to_string())),
            Some(found) if version(&found) != version(&object) => {
                Err(CallError::Conflict(reference.to_string()))
            }
            Some(_) => {
                self.wrote(format!("replace {} by {field_manager}", reference.name));
                object["metadata"]["resourceVersion"] = json!(self.next_version());
                self.put(object.clone());
                Ok(object)
            }
        };
        Box::pin(async move { result })
    }

    fn delete(&self, request: DeleteRequest) -> BoxedFuture<'_, Result<(), CallError>> {
        let kept = if request.dry_run { "dry run" } else { "kept" };
        let uid = request.uid.unwrap_or_default();
        self.wrote(format!("delete {} uid {uid} {kept}", request.object.name));
        if !request.dry_run {
            self.objects.lock().unwrap().remove(&request.object);
        }
        Box::pin(async { Ok(()) })
    }

    fn publish(&self, request: PublishRequest) -> BoxedFuture<'_, Result<(), CallError>> {
        self.wrote(format!("publish {}", request.reason));
        Box::pin(async { Ok(()) })
    }

    fn secret_value(
        &self,
        namespace: String,
        name: String,
        key: String,
    ) -> BoxedFuture<'_, Result<Vec<u8>, CallError>> {
        let kind = KindName { api_version: "v1".into(), kind: "Secret".into() };
        let reference = ObjectRef { kind, namespace, name };
        let secret = self.objects.lock().unwrap().get(&reference).cloned();
        let value = secret.and_then(|secret| Some(secret["stringData"].get(&key)?.clone()));
        let value = value.and_then(|value| Some(value.as_str()?.as_bytes().to_vec()));
        self.read.lock().unwrap().push(reference.name.clone());
        Box::pin(async move { value.ok_or(CallError::NotFound(reference.to_string())) })
    }
}

impl Redis for FakeCluster {
    fn pipeline<'a>(
        &'a self,
        _: &'a InstanceMembers,
        pod: &'a str,
        commands: &'a [Vec<Vec<u8>>],
        _: Duration,
    ) -> BoxedFuture<'a, Result<Vec<RespReply>, CallError>> {
        self.wrote(format!("pipeline of {} to {pod}", commands.len()));
        Box::pin(async { Ok(commands.iter().map(|_| RespReply::default()).collect()) })
    }

    fn observe<'a>(
        &'a self,
        members: &'a InstanceMembers,
        _: &'a [String],
    ) -> BoxedFuture<'a, Snapshot> {
        let password = members.credentials.password.clone();
        self.passwords.lock().unwrap().push(password.clone());
        let members = &members.members;
        *self.looked_at.lock().unwrap() = members.iter().map(|member| member.pod.clone()).collect();
        *self.running.lock().unwrap() = members.iter().map(|member| member.running).collect();
        let mut snapshot = self.snapshot.lock().unwrap().clone();
        let accepted = self.accepted.lock().unwrap().clone();
        let is_accepted = accepted.is_none() || accepted == password;
        let refusal = match (self.silent.load(Ordering::SeqCst), is_accepted) {
            (true, _) => Some(UnreachableReason::Refused),
            (false, false) => Some(UnreachableReason::Auth),
            (false, true) => None,
        };
        if let Some(reason) = refusal {
            for member in &mut snapshot.members {
                let message = String::new();
                member.answer = MemberAnswer::Unreachable { reason, message };
            }
        }
        Box::pin(async { snapshot })
    }

    fn act<'a>(
        &'a self,
        _: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        for action in wave {
            self.take_in(action);
        }
        let is_deaf = self.deaf.load(Ordering::SeqCst);
        let performed = move |action: &Action| if is_deaf { failed() } else { performed(action) };
        Box::pin(async move { wave.iter().map(performed).collect() })
    }

    fn decide<'a>(
        &'a self,
        _: &'a InstanceMembers,
        wave: &'a [Action],
    ) -> BoxedFuture<'a, Vec<PerformedAction>> {
        Box::pin(async move { wave.iter().map(performed).collect() })
    }

    fn refuses(&self, _: SocketAddr) -> BoxedFuture<'_, bool> {
        Box::pin(async { self.refusing.load(Ordering::SeqCst) })
    }

    fn member_ended(&self, _: &str) {}

    fn watch(&self, members: &InstanceMembers, depth: PollDetail<'_>) -> Result<(), CallError> {
        self.watched.lock().unwrap().insert(members.instance.clone(), format!("{depth:?}"));
        Ok(())
    }

    fn unwatch(&self, instance: &str) {
        self.watched.lock().unwrap().remove(instance);
    }

    fn join(
        &self,
        members: &InstanceMembers,
        _: &[String],
    ) -> Result<Box<dyn PollStream>, CallError> {
        let pods: Vec<_> = members.members.iter().map(|member| member.pod.as_str()).collect();
        self.wrote(format!("join {}", pods.join(",")));
        Ok(Box::new(FakePollStream(self.shown.subscribe())))
    }
}

impl Prober for FakeCluster {
    fn probe<'a>(
        &'a self,
        address: SocketAddr,
        get: Option<&'a str>,
        _: Duration,
    ) -> BoxedFuture<'a, ProbeOutcome> {
        let outcome = match get {
            None => ProbeOutcome::Connected { took_ms: 0 },
            Some(path) => {
                let body = format!("{address} {path}");
                ProbeOutcome::Answered { status: 200, body, cut: false, took_ms: 0 }
            }
        };
        Box::pin(async { outcome })
    }
}

/// A merge patch, but for `null`.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(fields) = patch else {
        *target = patch;
        return;
    };
    for (name, value) in fields {
        merge(&mut target[name], value);
    }
}

/// Every action goes well and is one command.
fn performed(action: &Action) -> PerformedAction {
    let pod = action.verb.pod().unwrap_or("all").to_owned();
    let command = if let Verb::Configure { settings, .. } = &action.verb {
        let pairs = settings.iter().flat_map(|(key, value)| [key.as_str(), value]);
        ["CONFIG", "SET"].into_iter().chain(pairs).collect::<Vec<_>>().join(" ")
    } else {
        action.verb.name().to_owned()
    };
    PerformedAction {
        outcome: ActionOutcome::Done { took_ms: 0, note: String::new() },
        commands: vec![MemberCommandLine { pod, command }],
    }
}

fn failed() -> PerformedAction {
    let outcome = ActionOutcome::Failed {
        reason: "Timeout".to_owned(),
        message: "no answer".to_owned(),
        may_have_run: true,
    };
    PerformedAction { outcome, commands: Vec::new() }
}

/// A clock that stands still and bytes that everybody can guess.
pub(crate) struct StillClock;

/// The time that [`Still`] shows.
pub(crate) const NOW_MS: u64 = 1_000_000;

impl Clock for StillClock {
    fn now_ms(&self) -> u64 {
        NOW_MS
    }
}

impl Entropy for StillClock {
    fn bytes(&self, count: usize) -> Vec<u8> {
        vec![7; count]
    }
}

/// An object of a kind in namespace `n`, controlled by the owner if one is named.
pub(crate) fn object(api_version: &str, kind: &str, name: &str, owner: Option<&str>) -> Value {
    let references: Vec<_> = owner
        .iter()
        .map(|owner| {
            json!({"apiVersion": "tests.tholepin.dev/v1", "kind": "Thing", "name": owner,
                "uid": format!("uid-{owner}"), "controller": true})
        })
        .collect();
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"),
            "ownerReferences": references}
    })
}

/// A Pod of the object reconciled with a running container `redis`, which the usual selector matches.
pub(crate) fn pod(name: &str) -> Value {
    let mut pod = object("v1", "Pod", name, Some("me"));
    pod["metadata"]["labels"] = json!({"app": "x"});
    pod["spec"] = json!({"containers": [{"name": "redis"}]});
    pod["status"] = json!({"podIP": "127.0.0.1", "containerStatuses": [
        {"name": "redis", "containerID": format!("c-{name}"), "state": {"running": {}}}]});
    pod
}
