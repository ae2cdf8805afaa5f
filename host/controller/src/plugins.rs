//! What the controller needs from the plugin registry and from the gate, as traits that the binary
//! wires.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tholepin_core::{
    BoxedFuture, HostCalls, ObjectKey, PlanStep, PluginName, Recording, RevisionDigest,
    port::GuestRuntime,
};
use tholepin_schema::{
    manifest::{Grants, KindName, Manifest},
    reconcile::WakeTrigger,
};
use tokio_util::sync::CancellationToken;

/// A revision that serves.
pub struct ActivePlugin {
    /// The plugin.
    pub name: PluginName,
    /// Which revision.
    pub revision: RevisionDigest,
    /// What it said of itself.
    pub manifest: Arc<Manifest>,
    /// What it may do.
    pub grants: Arc<Grants>,
    /// Its parameters.
    pub parameters: Arc<Value>,
    /// Its code. A pass keeps it, so that a swap never takes the code away from a call in flight.
    pub guests: Arc<dyn GuestRuntime>,
}

/// The plugins that serve now.
pub trait ActivePlugins: Send + Sync {
    /// The revision of a plugin that serves, if one does.
    fn active(&self, name: &PluginName) -> Option<Arc<ActivePlugin>>;

    /// All revisions that serve, in order of name.
    fn all(&self) -> Vec<Arc<ActivePlugin>>;

    /// Takes back a revision that went wrong for many objects: gives the earlier one that serves from now
    /// on, or why none does.
    fn take_back<'a>(
        &'a self,
        name: &'a PluginName,
        revision: &'a RevisionDigest,
        why: &'a str,
    ) -> BoxedFuture<'a, Result<RevisionDigest, String>>;
}

/// A change of the plugins that serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginEvent {
    /// Another revision serves, or the first one, or none any more.
    Changed(PluginName),
    /// No revision of it serves or has served here, and an earlier host reconciled these kinds with it: their
    /// objects are told, as long as nobody else reconciles them.
    Missing(PluginName, Vec<KindName>),
}

/// Opens passes of the gate.
pub trait ContextFactory: Send + Sync {
    /// A pass of a plugin for an object. In a plan the object need not be in the store.
    fn open(
        &self,
        plugin: &ActivePlugin,
        key: &Arc<ObjectKey>,
        object: &Arc<Value>,
        purpose: ReconcilePurpose,
    ) -> Arc<dyn OpenContext>;
}

/// What a pass is opened for.
pub enum ReconcilePurpose {
    /// Its writes reach the world.
    Live {
        /// Cancelled when something more urgent has come up for the object: the pass stops waiting.
        urgent: CancellationToken,
    },
    /// To tell what would be done. It never waits.
    Plan,
}

/// A pass that was opened.
pub trait OpenContext: HostCalls {
    /// Ends the pass, however its guest call ended: what it suspended is put back.
    fn close(&self) -> BoxedFuture<'_, ClosedContext>;
}

/// What is left of a pass that has ended.
#[derive(Default)]
pub struct ClosedContext {
    /// What was asked and answered.
    pub recording: Recording,
    /// How what it suspended was put back, or would be.
    pub put_back: Vec<PlanStep>,
}

/// Arms what brings an object back besides its requeue. What arms again replaces what was armed.
pub trait WakeSubscriber: Send + Sync {
    /// Arms the wakes that an outcome declared; those of the last outcome end. Says after which time the
    /// object must come back at the latest, because what it wants to be woken by is so already.
    fn subscribe<'a>(
        &'a self,
        plugin: &'a ActivePlugin,
        key: &'a Arc<ObjectKey>,
        object: &'a Arc<Value>,
        wakes: &'a [WakeTrigger],
    ) -> BoxedFuture<'a, Option<Duration>>;

    /// Ends what is armed for an object that is gone.
    fn disarm(&self, key: &ObjectKey);
}
