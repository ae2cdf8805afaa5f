//! Adapters that implement the ports of one part with another part: the parts know traits only.

use std::{collections::BTreeMap, sync::Arc};

use rand::Rng;
use serde_json::Value;
use tholepin_controller::{
    ActivePlugin, ActivePlugins, ApiKinds, ClosedContextResult, ContextFactory, KindFromArgument,
    PluginReports, ReconcileHostCalls, ReconcilePurpose, RedisMemberReader, WakeRegistrar,
};
use tholepin_core::{
    Answer, BoxedFuture, Call, CallError, ErrorChain, HostCalls, PluginCallerIdentity, PluginName,
    ReconcileKey, RevisionDigest, SubscribedWakes, WriteMode,
    port::{Entropy, WatchState},
};
use tholepin_gate::{Gate, ReconcileContext, ReconcileScope};
use tholepin_guest::{LoadedPlugin, PluginRegistry, PluginStageReport};
use tholepin_kube::KubernetesApi;
use tholepin_schema::{manifest::KindName, reconcile::WakeTrigger, snapshot::Snapshot};
use tokio_util::sync::CancellationToken;

/// The most calls and the most writes of one reconcile.
const CALLS_MAX: u32 = 2_000;
const WRITES_MAX: u32 = 500;
/// The most bytes of the host's memory that the calls of one reconcile may use; see
/// [`ReconcileScope::bytes_max`].
const BYTES_MAX: usize = 24 << 20;

/// The machine's random bytes.
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bytes(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        rand::rng().fill_bytes(&mut bytes);
        bytes
    }
}

/// The plugin registry as the controller's port.
pub(crate) struct PluginRegistryAdapter(pub(crate) Arc<PluginRegistry>);

impl ActivePlugins for PluginRegistryAdapter {
    fn active(&self, name: &PluginName) -> Option<Arc<ActivePlugin>> {
        self.0.active(name).map(active_plugin)
    }

    fn all(&self) -> Vec<Arc<ActivePlugin>> {
        self.0.plugins().values().cloned().map(active_plugin).collect()
    }

    fn roll_back<'a>(
        &'a self,
        name: &'a PluginName,
        revision: &'a RevisionDigest,
        why: &'a str,
    ) -> BoxedFuture<'a, Result<RevisionDigest, String>> {
        Box::pin(async move {
            let rolled_back = self.0.roll_back_failing(name, revision, why).await;
            rolled_back.map_err(|error| ErrorChain(&error).to_string())
        })
    }
}

impl PluginReports for PluginRegistryAdapter {
    fn reports(&self) -> BTreeMap<PluginName, PluginStageReport> {
        self.0.reports()
    }
}

fn active_plugin(plugin: Arc<LoadedPlugin>) -> Arc<ActivePlugin> {
    Arc::new(ActivePlugin {
        name: plugin.name.clone(),
        revision: plugin.digest.clone(),
        manifest: plugin.manifest.clone(),
        grants: plugin.grants.clone(),
        parameters: plugin.parameters.clone(),
        code: plugin,
    })
}

/// The Kubernetes client as the controller's port to kinds.
pub(crate) struct KubeClientApiKinds(pub(crate) Arc<KubernetesApi>);

impl ApiKinds for KubeClientApiKinds {
    fn find<'a>(
        &'a self,
        argument: &'a str,
        among: &'a [KindName],
    ) -> BoxedFuture<'a, Result<Option<KindFromArgument>, CallError>> {
        Box::pin(async move {
            let found = self.0.find_kind(argument, among).await?;
            Ok(found.map(|found| KindFromArgument {
                kind: found.kind,
                is_namespaced: found.is_namespaced,
            }))
        })
    }

    fn is_namespaced<'a>(&'a self, kind: &'a KindName) -> BoxedFuture<'a, Result<bool, CallError>> {
        Box::pin(self.0.is_namespaced(kind))
    }

    fn install<'a>(&'a self, definition: &'a Value) -> BoxedFuture<'a, Result<(), CallError>> {
        Box::pin(self.0.install_crd(definition))
    }

    fn missing(&self) -> Vec<KindName> {
        let watches = self.0.watches().into_iter();
        let missing = watches.filter(|watch| watch.state == WatchState::KindMissing);
        missing.map(|watch| watch.scope.kind).collect()
    }
}

/// The gate as the controller's ports.
pub(crate) struct GateToControllerAdapter(pub(crate) Arc<Gate>);

impl ContextFactory for GateToControllerAdapter {
    fn open(
        &self,
        plugin: &ActivePlugin,
        key: &Arc<ReconcileKey>,
        object: &Arc<Value>,
        purpose: ReconcilePurpose,
    ) -> Arc<dyn ReconcileHostCalls> {
        match purpose {
            ReconcilePurpose::Live { urgent } => {
                let scope = scope(plugin, key, object, WriteMode::Live, urgent);
                Arc::new(GateCallContextAdapter(self.0.open(scope)))
            }
            ReconcilePurpose::Plan => {
                let scope = uninterrupted(plugin, key, object, WriteMode::Plan);
                let context = self.0.open(scope);
                context.add_assumed((**object).clone());
                Arc::new(GateCallContextAdapter(context))
            }
        }
    }
}

/// A context of the gate as the controller's port.
struct GateCallContextAdapter(Arc<ReconcileContext>);

impl HostCalls for GateCallContextAdapter {
    fn perform<'a>(
        &'a self,
        context: &'a PluginCallerIdentity,
        call: Call,
    ) -> BoxedFuture<'a, Answer> {
        self.0.perform(context, call)
    }

    fn spend_bytes(&self, bytes: usize) -> Result<(), CallError> {
        self.0.spend_bytes(bytes)
    }
}

impl ReconcileHostCalls for GateCallContextAdapter {
    fn close(&self) -> BoxedFuture<'_, ClosedContextResult> {
        Box::pin(async {
            let restore_steps = self.0.close().await;
            ClosedContextResult { recording: self.0.take_recording(), restore_steps }
        })
    }
}

impl WakeRegistrar for GateToControllerAdapter {
    fn subscribe<'a>(
        &'a self,
        plugin: &'a ActivePlugin,
        key: &'a Arc<ReconcileKey>,
        object: &'a Arc<Value>,
        wakes: &'a [WakeTrigger],
    ) -> BoxedFuture<'a, SubscribedWakes> {
        Box::pin(async move {
            self.0.subscribe(&uninterrupted(plugin, key, object, WriteMode::Live), wakes).await
        })
    }

    fn unsubscribe(&self, key: &ReconcileKey) {
        self.0.unsubscribe(key);
    }
}

impl RedisMemberReader for GateToControllerAdapter {
    fn read<'a>(
        &'a self,
        plugin: &'a ActivePlugin,
        key: &'a Arc<ReconcileKey>,
        object: &'a Arc<Value>,
    ) -> BoxedFuture<'a, Result<BTreeMap<String, Snapshot>, CallError>> {
        Box::pin(async move {
            self.0.members_now(&uninterrupted(plugin, key, object, WriteMode::Plan)).await
        })
    }
}

/// Returns a scope whose calls nothing interrupts, because none of them waits for facts.
fn uninterrupted(
    plugin: &ActivePlugin,
    key: &Arc<ReconcileKey>,
    object: &Arc<Value>,
    mode: WriteMode,
) -> ReconcileScope {
    scope(plugin, key, object, mode, CancellationToken::new())
}

/// Returns the scope of one reconcile of a plugin for an object.
fn scope(
    plugin: &ActivePlugin,
    key: &Arc<ReconcileKey>,
    object: &Arc<Value>,
    mode: WriteMode,
    urgent: CancellationToken,
) -> ReconcileScope {
    ReconcileScope {
        key: key.clone(),
        object: object.clone(),
        grants: plugin.grants.clone(),
        secret_fields: Arc::new(plugin.manifest.secret_fields.clone()),
        parameters: plugin.parameters.clone(),
        mode,
        urgent,
        calls_max: CALLS_MAX,
        writes_max: WRITES_MAX,
        bytes_max: BYTES_MAX,
    }
}
