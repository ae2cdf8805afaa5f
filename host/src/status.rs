//! Answers how everything is that this host looks after: its plugins, their objects, and what the members of
//! each object say at this moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_controller::{ActivePlugin, ActivePlugins, Controller};
use tholepin_core::{
    CallError, ObjectKey, ObjectMeta, ObjectRef, PluginName, WriteMode, port::Kubernetes,
};
use tholepin_gate::{Gate, ReconcileScope};
use tholepin_kube::KubernetesApi;
use tholepin_schema::snapshot::{Member, MemberAnswer, Snapshot};
use tokio_util::sync::CancellationToken;

use crate::{
    adapters::{ServingPlugins, context},
    planner::{NAMESPACE, ObjectArgument, Planner, PlannerError},
    plugin_objects::plugin_reference,
};

/// The condition of an object in which something is broken, though it may serve.
pub(crate) const DEGRADED: &str = "Degraded";
/// The most objects that one answer tells of; the rest is counted.
const OBJECTS_MAX: usize = 200;
/// The most names that one answer has: more are not read by anybody who presses a key.
const NAMES_MAX: usize = 1000;
/// The most objects whose members are asked at once.
const ASKED_AT_ONCE: usize = 8;
/// Within this time all members must have been asked; those of the others are left out.
const MEMBERS_DEADLINE: Duration = Duration::from_secs(10);

/// How everything is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostStatus {
    /// The plugins, as their `Plugin` objects tell.
    pub(crate) plugins: Vec<PluginStatus>,
    /// Their objects; those that need somebody first.
    pub(crate) objects: Vec<ObjectStatus>,
    /// How many more objects there are.
    #[serde(default)]
    pub(crate) left_out: usize,
}

/// How a plugin is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PluginStatus {
    pub(crate) name: String,
    /// The `status` of its `Plugin` object.
    pub(crate) status: Value,
}

/// How an object is.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectStatus {
    pub(crate) object: ObjectRef,
    /// Who looks after it.
    pub(crate) plugin: PluginName,
    /// Whether that plugin serves.
    pub(crate) is_served: bool,
    /// Whether the annotation pauses it.
    pub(crate) is_paused: bool,
    /// Whether it is being deleted.
    pub(crate) is_deleting: bool,
    /// Its conditions.
    pub(crate) conditions: Vec<Value>,
    /// Its members by group of processes.
    pub(crate) members: BTreeMap<String, Vec<MemberRow>>,
    /// Why the members were not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unasked: Option<String>,
}

/// What one member says.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberRow {
    pub(crate) pod: String,
    pub(crate) kube_node: String,
    pub(crate) address: Option<String>,
    pub(crate) ready: bool,
    /// Its id in a Redis Cluster.
    pub(crate) node: Option<String>,
    /// `primary` or `replica`, by its own word.
    pub(crate) role: Option<String>,
    /// The Pod of its primary, or its id if that is no member.
    pub(crate) follows: Option<String>,
    /// Its slots, by its own word.
    pub(crate) slots: Option<String>,
    pub(crate) keys: Option<u64>,
    /// On a replica: `up`, `syncing`, or since how many seconds it is down.
    pub(crate) link: Option<String>,
    /// On a replica: how many bytes of the stream it is behind its primary.
    pub(crate) behind_bytes: Option<u64>,
    /// What is wrong with it; absent if nothing is.
    pub(crate) fault: Option<String>,
}

impl ObjectStatus {
    /// A condition: its status, reason and message.
    pub(crate) fn condition(&self, kind: &str) -> Option<[&str; 3]> {
        let found = self.conditions.iter().find(|it| it["type"] == kind)?;
        Some(["status", "reason", "message"].map(|field| found[field].as_str().unwrap_or_default()))
    }

    /// Whether nobody needs to look at it.
    pub(crate) fn is_well(&self) -> bool {
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

/// What answers.
pub(crate) struct StatusReporter {
    pub(crate) controller: Arc<Controller>,
    pub(crate) kubernetes: Arc<KubernetesApi>,
    pub(crate) plugins: ServingPlugins,
    pub(crate) gate: Arc<Gate>,
}

/// An object, and which plugin reconciles it.
type FoundObject = (ObjectKey, Arc<Value>);

impl StatusReporter {
    /// How everything is, or one object.
    ///
    /// # Errors
    ///
    /// Fails if the API server does not answer, or if nobody follows the object's kind.
    pub(crate) async fn status(
        &self,
        planner: &Planner,
        words: Option<&ObjectArgument>,
    ) -> Result<HostStatus, PlannerError> {
        let one = match words {
            Some(words) => Some(planner.object(words).await?),
            None => None,
        };
        let plugins = self.plugin_statuses().await?;
        let (objects, left_out) = self.objects(one.as_ref())?;
        if let (Some(one), true) = (&one, objects.is_empty()) {
            return Err(PlannerError::NoPass(format!("{one} does not exist")));
        }
        let told = stream::iter(objects).map(|(key, object)| self.object(key, object));
        let mut objects: Vec<ObjectStatus> = told.buffered(ASKED_AT_ONCE).collect().await;
        objects.sort_by_key(|object| object.is_well());
        Ok(HostStatus { plugins, objects, left_out })
    }

    /// The objects that the command line may name, as `KIND/NAME`: those of a namespace and those of none. Sorted,
    /// and at most [`NAMES_MAX`].
    ///
    /// # Errors
    ///
    /// Fails if a kind cannot be listed.
    pub(crate) fn names(&self, namespace: Option<&str>) -> Result<Vec<String>, CallError> {
        let (view, namespace) = (self.kubernetes.view(), namespace.unwrap_or(NAMESPACE));
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

    async fn plugin_statuses(&self) -> Result<Vec<PluginStatus>, PlannerError> {
        let kind = plugin_reference("").kind;
        let plugins = self.kubernetes.list(kind, String::new(), String::new()).await?;
        let told = plugins.into_iter().map(|plugin| PluginStatus {
            name: text(&plugin, "/metadata/name"),
            status: plugin.get("status").cloned().unwrap_or_default(),
        });
        Ok(told.collect())
    }

    /// The objects of all kinds that are followed, or the one that was named; and how many are left out.
    fn objects(&self, one: Option<&ObjectRef>) -> Result<(Vec<FoundObject>, usize), PlannerError> {
        let view = self.kubernetes.view();
        let mut found = Vec::new();
        for (plugin, kind) in self.controller.followed() {
            if one.is_some_and(|one| one.kind != kind) {
                continue;
            }
            for object in view.list(&kind, "", "")? {
                let Ok(meta) = ObjectMeta::of(&object) else { continue };
                if one.is_some_and(|one| *one != meta.object) {
                    continue;
                }
                let ObjectRef { kind, namespace, name } = meta.object;
                let key = ObjectKey { plugin: plugin.clone(), kind, namespace, name };
                found.push((key, object));
            }
        }
        let left_out = found.len().saturating_sub(OBJECTS_MAX);
        found.truncate(OBJECTS_MAX);
        Ok((found, left_out))
    }

    async fn object(&self, key: ObjectKey, object: Arc<Value>) -> ObjectStatus {
        let plugin = self.plugins.active(&key.plugin);
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let meta = ObjectMeta::of(&object).ok();
        let ObjectKey { plugin: name, kind, namespace, name: object_name } = key.clone();
        let (members, unasked) = match &plugin {
            Some(plugin) => self.members(plugin, key, &object).await,
            None => (BTreeMap::new(), Some("its plugin is not loaded".to_owned())),
        };
        ObjectStatus {
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
        key: ObjectKey,
        object: &Arc<Value>,
    ) -> (BTreeMap<String, Vec<MemberRow>>, Option<String>) {
        let context = context(plugin, &Arc::new(key), object, CancellationToken::new());
        let context = ReconcileScope { mode: WriteMode::Plan, ..context };
        let asked = tokio::time::timeout(MEMBERS_DEADLINE, self.gate.members_now(&context)).await;
        match asked {
            Ok(Ok(seen)) => {
                let rows = seen.into_iter().map(|(group, seen)| (group, rows(&seen)));
                (rows.collect(), None)
            }
            Ok(Err(error)) => (BTreeMap::new(), Some(error.to_string())),
            Err(_) => (BTreeMap::new(), Some(format!("no answer within {MEMBERS_DEADLINE:?}"))),
        }
    }
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What the members of a snapshot say, in order of Pod.
fn rows(snapshot: &Snapshot) -> Vec<MemberRow> {
    snapshot.members.iter().map(|member| row(snapshot, member)).collect()
}

fn row(snapshot: &Snapshot, member: &Member) -> MemberRow {
    let base = MemberRow {
        pod: member.pod.clone(),
        kube_node: member.kube_node.clone(),
        address: member.address.clone(),
        ready: member.ready,
        ..MemberRow::default()
    };
    let facts = match &member.answer {
        MemberAnswer::Answered(facts) => facts,
        MemberAnswer::Unreachable { message, .. } => {
            let fault = Some(format!("does not answer: {message}"));
            return MemberRow { fault, ..base };
        }
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
        Some("reads its data".to_owned())
    } else if let Some(cluster) = facts.cluster.as_ref().filter(|cluster| !cluster.ok) {
        Some(format!("does not say `ok`: {} slots assigned", cluster.slots_assigned))
    } else if let Some(Err(error)) = in_sync {
        Some(error.to_string())
    } else if !member.ready {
        Some("its Pod is not ready".to_owned())
    } else {
        None
    };
    MemberRow {
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
