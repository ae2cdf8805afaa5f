//! The ports to the plugin registry and to the gate. The binary implements them.

use std::sync::Arc;

use serde_json::Value;
use tholepin_core::{
    BoxedFuture, HostCalls, PlanStep, PluginName, ReconcileKey, Recording, RevisionDigest,
    SubscribedWakes, port::PluginExports,
};
use tholepin_schema::{
    manifest::{Grants, KindName, Manifest},
    reconcile::WakeTrigger,
};
use tokio_util::sync::CancellationToken;

/// An active revision of a plugin.
pub struct ActivePlugin {
    /// The plugin.
    pub name: PluginName,
    /// The revision.
    pub revision: RevisionDigest,
    /// The manifest that the component describes itself with.
    pub manifest: Arc<Manifest>,
    /// Its granted permissions.
    pub grants: Arc<Grants>,
    /// Its parameters.
    pub parameters: Arc<Value>,
    /// Runs its code: each call creates an instance. A reconcile holds the code of its revision, so that a call that
    /// runs during a swap ends with the code that it began with.
    pub code: Arc<dyn PluginExports>,
}

/// The active plugins.
pub trait ActivePlugins: Send + Sync {
    /// Returns the active revision of a plugin, if it has one.
    fn active(&self, name: &PluginName) -> Option<Arc<ActivePlugin>>;

    /// Returns all active revisions, in order of name.
    fn all(&self) -> Vec<Arc<ActivePlugin>>;

    /// Rolls back a revision that failed for many objects. Returns the earlier revision that serves from now on, or
    /// the reason why there is none.
    fn roll_back<'a>(
        &'a self,
        name: &'a PluginName,
        revision: &'a RevisionDigest,
        why: &'a str,
    ) -> BoxedFuture<'a, Result<RevisionDigest, String>>;
}

/// A change of the active plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActivePluginChange {
    /// The plugin has another active revision, its first one, or none any more.
    Changed(PluginName),
    /// The plugin was never active in this process, and an earlier host reconciled these kinds with it. Their
    /// objects get the condition that it is missing, as long as no other plugin reconciles them.
    Missing(PluginName, Vec<KindName>),
}

/// Opens contexts of the gate.
pub trait ContextFactory: Send + Sync {
    /// Opens the context of one reconcile. In a plan the object need not be in the store.
    fn open(
        &self,
        plugin: &ActivePlugin,
        key: &Arc<ReconcileKey>,
        object: &Arc<Value>,
        purpose: ReconcilePurpose,
    ) -> Arc<dyn ReconcileHostCalls>;
}

/// The purpose of a reconcile.
pub enum ReconcilePurpose {
    /// Its writes are executed.
    Live {
        /// Cancelled when the object was added to the queue as urgent (such as because it was paused or a container of
        /// a member ended) or the host stops. The calls `wait` and `probe` then end with `Interrupted`.
        urgent: CancellationToken,
    },
    /// Its writes are recorded and not executed. It never waits for facts.
    Plan,
}

/// The context of one reconcile.
pub trait ReconcileHostCalls: HostCalls {
    /// Closes the context, however the guest call ended: settings that it changed temporarily are restored.
    fn close(&self) -> BoxedFuture<'_, ClosedContextResult>;
}

/// The results of a closed context.
#[derive(Default)]
pub struct ClosedContextResult {
    /// The calls with their answers.
    pub recording: Recording,
    /// The steps that restored temporary settings, or would restore them.
    pub restore_steps: Vec<PlanStep>,
}

/// Subscribes objects to the changes and facts that bring them back before their requeue.
pub trait WakeRegistrar: Send + Sync {
    /// Subscribes the wakes that an outcome declared, in place of those of the last outcome. A wake that is refused is
    /// left out, and the others stay in force.
    fn subscribe<'a>(
        &'a self,
        plugin: &'a ActivePlugin,
        key: &'a Arc<ReconcileKey>,
        object: &'a Arc<Value>,
        wakes: &'a [WakeTrigger],
    ) -> BoxedFuture<'a, SubscribedWakes>;

    /// Ends the subscriptions of an object that was deleted or is paused.
    fn unsubscribe(&self, key: &ReconcileKey);
}
