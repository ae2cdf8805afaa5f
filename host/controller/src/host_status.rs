//! The answer of `tholepin status`: the plugins of this host, their objects, and the members of each object as they
//! answer now. The status that `kubectl` shows is not from here: a plugin applies it through the gate, and
//! `plugin_objects` writes that of the `Plugin` objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_core::{
    BoxedFuture, CallError, ObjectMeta, ObjectRef, PluginName, ReconcileKey, port::Kubernetes,
};
use tholepin_schema::{
    manifest::KindName,
    snapshot::{Member, MemberAnswer, Snapshot},
};
use tokio::time::timeout;

use crate::{
    controller::Controller,
    dry_runner::{DryRunner, DryRunnerError, NAMESPACE, ObjectArgument},
    plugins::ActivePlugin,
};

/// The condition of an object in which something is broken, although it may serve.
pub const DEGRADED: &str = "Degraded";
/// The most objects in one status; the rest is counted.
const OBJECTS_MAX: usize = 200;
/// The most names in one answer to a shell completion: people do not read more.
const NAMES_MAX: usize = 1000;
/// The most objects whose members are read concurrently.
const CONCURRENT_READS: usize = 8;
/// How long reading the members of one object may take; its members are left out after that.
const MEMBERS_DEADLINE: Duration = Duration::from_secs(10);

/// Reads the members of an object. The binary implements it with the gate.
pub trait RedisMemberReader: Send + Sync {
    /// Returns a snapshot of each group of processes of an object, as they answer now.
    ///
    /// # Errors
    ///
    /// Fails if the ledger or the password cannot be read.
    fn read<'a>(
        &'a self,
        plugin: &'a ActivePlugin,
        key: &'a Arc<ReconcileKey>,
        object: &'a Arc<Value>,
    ) -> BoxedFuture<'a, Result<BTreeMap<String, Snapshot>, CallError>>;
}

/// The status of a host.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostStatusReport {
    /// The plugins, by their `Plugin` objects.
    pub plugins: Vec<PluginStatus>,
    /// Their objects; unhealthy ones first.
    pub objects: Vec<ReconciledObjectStatus>,
    /// How many objects are left out.
    #[serde(default)]
    pub left_out: usize,
}

/// The status of a plugin.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PluginStatus {
    /// Its name.
    pub name: String,
    /// The `status` of its `Plugin` object.
    pub status: Value,
}

/// The status of an object.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReconciledObjectStatus {
    /// The object.
    pub object: ObjectRef,
    /// The plugin that reconciles it.
    pub plugin: PluginName,
    /// Whether that plugin is active.
    pub is_served: bool,
    /// Whether the annotation pauses it.
    pub is_paused: bool,
    /// Whether it is being deleted.
    pub is_deleting: bool,
    /// Its conditions.
    pub conditions: Vec<Value>,
    /// Its members by group of processes.
    pub members: BTreeMap<String, Vec<HostStatusMember>>,
    /// Why the members were not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unasked: Option<String>,
}

/// One member, by the reply of its process.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostStatusMember {
    /// Its Pod.
    pub pod: String,
    /// The Kubernetes node of its Pod.
    pub kube_node: String,
    /// Where it listens.
    pub address: Option<String>,
    /// Whether its Pod is ready.
    pub ready: bool,
    /// Its node id in a Redis Cluster.
    pub node: Option<String>,
    /// `primary` or `replica`, as it reports itself.
    pub role: Option<String>,
    /// The Pod of its primary, or the node id of a primary that is no member.
    pub follows: Option<String>,
    /// Its slots, as it reports them.
    pub slots: Option<String>,
    /// How many keys it has.
    pub keys: Option<u64>,
    /// On a replica: `up`, `syncing`, or `down` with the seconds since when.
    pub link: Option<String>,
    /// On a replica: how many bytes of the replication stream it is behind its primary.
    pub behind_bytes: Option<u64>,
    /// Its fault, if it has one.
    pub fault: Option<String>,
}

impl ReconciledObjectStatus {
    /// Returns the status, reason and message of a condition.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<[&str; 3]> {
        let found = self.conditions.iter().find(|found| found["type"] == kind)?;
        Some(["status", "reason", "message"].map(|field| found[field].as_str().unwrap_or_default()))
    }

    /// Returns true if the object needs no attention.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let is_ready = self.condition("Ready").is_none_or(|[status, ..]| status == "True");
        let is_reconciled =
            self.condition("Reconciled").is_none_or(|[status, ..]| status == "True");
        let mut members = self.members.values().flatten();
        let quarantined =
            self.condition("Quarantined").is_some_and(|[status, ..]| status == "True");
        self.is_served
            && !self.is_paused
            && is_ready
            && is_reconciled
            && !quarantined
            && self.condition(DEGRADED).is_none_or(|[status, ..]| status != "True")
            && members.all(|member| member.fault.is_none())
    }
}

/// Collects the status of a host.
pub struct HostStatusCollector {
    controller: Arc<Controller>,
    members: Arc<dyn RedisMemberReader>,
    /// The kind of `Plugin` objects.
    plugin_kind: KindName,
}

/// The key of an object, with its plugin, and the object.
type FoundObject = (ReconcileKey, Arc<Value>);

impl HostStatusCollector {
    /// Creates a reporter over a controller. `plugin_kind` is the kind of `Plugin` objects.
    #[must_use]
    pub fn new(
        controller: Arc<Controller>,
        members: Arc<dyn RedisMemberReader>,
        plugin_kind: KindName,
    ) -> Self {
        Self { controller, members, plugin_kind }
    }

    /// Returns the status of the host, or of one object.
    ///
    /// # Errors
    ///
    /// Fails if the API server does not answer, or if no plugin reconciles the object's kind.
    pub async fn status(
        &self,
        dry_runner: &DryRunner,
        argument: Option<&ObjectArgument>,
    ) -> Result<HostStatusReport, DryRunnerError> {
        let named = match argument {
            Some(argument) => Some(dry_runner.object(argument).await?),
            None => None,
        };
        let plugins = self.plugin_statuses().await?;
        let (objects, left_out) = self.objects(named.as_ref())?;
        if let (Some(named), true) = (&named, objects.is_empty()) {
            return Err(DryRunnerError::NoObject(named.clone()));
        }
        let statuses = stream::iter(objects).map(|(key, object)| self.object(key, object));
        let mut objects: Vec<ReconciledObjectStatus> =
            statuses.buffered(CONCURRENT_READS).collect().await;
        objects.sort_by_key(ReconciledObjectStatus::is_healthy);
        Ok(HostStatusReport { plugins, objects, left_out })
    }

    /// Returns the objects that the command line can name, as `KIND/NAME`: those of a namespace and cluster-scoped
    /// ones. Sorted, and at most 1000.
    ///
    /// # Errors
    ///
    /// Fails if a kind cannot be listed.
    pub fn names(&self, namespace: Option<&str>) -> Result<Vec<String>, CallError> {
        let (view, namespace) = (self.kubernetes().view(), namespace.unwrap_or(NAMESPACE));
        let mut names = BTreeSet::new();
        for (_, kind) in self.controller.followed() {
            for object in view.list(&kind, "", "")? {
                let Ok(ObjectMeta { object, .. }) = ObjectMeta::of(&object) else { continue };
                if object.namespace.is_empty() || object.namespace == namespace {
                    names.insert(format!("{}/{}", object.kind.kind.to_lowercase(), object.name));
                }
            }
        }
        Ok(names.into_iter().take(NAMES_MAX).collect())
    }

    async fn plugin_statuses(&self) -> Result<Vec<PluginStatus>, DryRunnerError> {
        let kind = self.plugin_kind.clone();
        let plugins = self.kubernetes().list(kind, String::new(), String::new()).await?;
        let statuses = plugins.into_iter().map(|plugin| PluginStatus {
            name: text(&plugin, "/metadata/name"),
            status: plugin.get("status").cloned().unwrap_or_default(),
        });
        Ok(statuses.collect())
    }

    /// Returns the objects of all followed kinds, or the named one, and how many are left out.
    fn objects(&self, named: Option<&ObjectRef>) -> Result<(Vec<FoundObject>, usize), CallError> {
        let view = self.kubernetes().view();
        let mut found = Vec::new();
        for (plugin, kind) in self.controller.followed() {
            if named.is_some_and(|named| named.kind != kind) {
                continue;
            }
            for object in view.list(&kind, "", "")? {
                let Ok(meta) = ObjectMeta::of(&object) else { continue };
                if named.is_some_and(|named| *named != meta.object) {
                    continue;
                }
                let ObjectRef { kind, namespace, name } = meta.object;
                let key = ReconcileKey { plugin: plugin.clone(), kind, namespace, name };
                found.push((key, object));
            }
        }
        let left_out = found.len().saturating_sub(OBJECTS_MAX);
        found.truncate(OBJECTS_MAX);
        Ok((found, left_out))
    }

    async fn object(&self, key: ReconcileKey, object: Arc<Value>) -> ReconciledObjectStatus {
        let plugin = self.controller.shared.ports.plugins.active(&key.plugin);
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let meta = ObjectMeta::of(&object).ok();
        let ReconcileKey { plugin: name, kind, namespace, name: object_name } = key.clone();
        let (members, unasked) = match &plugin {
            Some(plugin) => self.members(plugin, key, &object).await,
            None => (BTreeMap::new(), Some("its plugin is not loaded".to_owned())),
        };
        ReconciledObjectStatus {
            object: ObjectRef { kind, namespace, name: object_name },
            plugin: name,
            is_served: plugin.is_some(),
            is_paused: meta.as_ref().is_some_and(ObjectMeta::is_paused),
            is_deleting: meta.as_ref().is_some_and(|meta| meta.deleting),
            conditions: conditions.unwrap_or_default(),
            members,
            unasked,
        }
    }

    async fn members(
        &self,
        plugin: &ActivePlugin,
        key: ReconcileKey,
        object: &Arc<Value>,
    ) -> (BTreeMap<String, Vec<HostStatusMember>>, Option<String>) {
        let key = Arc::new(key);
        match timeout(MEMBERS_DEADLINE, self.members.read(plugin, &key, object)).await {
            Ok(Ok(groups)) => {
                let rows = groups.into_iter().map(|(group, snapshot)| (group, rows(&snapshot)));
                (rows.collect(), None)
            }
            Ok(Err(error)) => (BTreeMap::new(), Some(error.to_string())),
            Err(_) => (BTreeMap::new(), Some(format!("no answer within {MEMBERS_DEADLINE:?}"))),
        }
    }

    fn kubernetes(&self) -> &dyn Kubernetes {
        &*self.controller.shared.ports.kubernetes
    }
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Returns the members of a snapshot, in order of Pod.
fn rows(snapshot: &Snapshot) -> Vec<HostStatusMember> {
    snapshot.members.iter().map(|member| row(snapshot, member)).collect()
}

fn row(snapshot: &Snapshot, member: &Member) -> HostStatusMember {
    let base = HostStatusMember {
        pod: member.pod.clone(),
        kube_node: member.kube_node.clone(),
        address: member.address.clone(),
        ready: member.ready,
        ..HostStatusMember::default()
    };
    let facts = match &member.answer {
        MemberAnswer::Answered(facts) => facts,
        MemberAnswer::Unreachable { message, .. } => {
            let fault = Some(format!("does not answer: {message}"));
            return HostStatusMember { fault, ..base };
        }
        MemberAnswer::Other => return base,
    };
    let own = facts.node.and_then(|node| snapshot.row_seen_by(member, node));
    let role = own.map(|row| row.role).or(facts.role);
    let primary = own.and_then(|row| row.primary);
    let stream = facts.replication.as_ref();
    let upstream = stream.and_then(|stream| stream.upstream.as_ref());
    let leader = primary.and_then(|primary| snapshot.member_of(primary));
    let ahead = leader.and_then(Member::facts).and_then(|facts| facts.replication.as_ref());
    let behind = ahead.zip(stream).filter(|(ahead, stream)| ahead.id == stream.id);
    let link = upstream.map(|upstream| match (upstream.link_up, upstream.down_since_s) {
        (true, _) => "up".to_owned(),
        (false, _) if upstream.sync_in_progress => "syncing".to_owned(),
        (false, Some(down_s)) => format!("down {down_s} s"),
        (false, None) => "down".to_owned(),
    });
    let in_sync = primary.map(|_| snapshot.check_in_sync(&member.pod, u64::MAX));
    let fault = if facts.loading == Some(true) {
        Some("loads its data".to_owned())
    } else if let Some(cluster) = facts.cluster.as_ref().filter(|cluster| !cluster.ok) {
        Some(format!("`cluster_state` is not `ok`: {} slots assigned", cluster.slots_assigned))
    } else if let Some(Err(error)) = in_sync {
        Some(error.to_string())
    } else if !member.ready {
        Some("its Pod is not ready".to_owned())
    } else {
        None
    };
    HostStatusMember {
        node: facts.node.map(|node| node.to_string()),
        role: role.map(|role| role.to_string()),
        follows: primary
            .map(|primary| leader.map_or_else(|| primary.short(), |leader| leader.pod.clone())),
        slots: own.filter(|row| !row.slots.is_empty()).map(|row| row.slots.to_string()),
        keys: facts.keys,
        link,
        behind_bytes: behind
            .map(|(ahead, stream)| ahead.offset_bytes.saturating_sub(stream.offset_bytes)),
        fault,
        ..base
    }
}
