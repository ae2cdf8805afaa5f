//! Processes the reports of the plugin registry as long as the host runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tholepin_core::{
    ErrorChain, PluginName, RevisionDigest,
    plugin_report::{PluginStageReport, RevisionLoadStage},
};
use tokio::{
    sync::broadcast,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{PluginObjectWriter, log};
use crate::plugins::ActivePluginChange;

/// The interval in which failed writes are retried, and the counts of objects are compared with the written ones.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The reports of the plugin registry. The binary implements it.
pub trait PluginReports: Send + Sync {
    /// Returns the last report of each plugin.
    fn reports(&self) -> BTreeMap<PluginName, PluginStageReport>;
}

/// Processes the reports of the registry: installs the kinds of a new revision, notifies the controller, writes the
/// `Plugin` object; in this order, because the controller needs the kinds.
pub struct PluginRegistryFollower {
    objects: PluginObjectWriter,
    registry: Arc<dyn PluginReports>,
    installs_kinds: bool,
    /// The revision of each plugin of which the controller was notified last.
    active: BTreeMap<PluginName, RevisionDigest>,
    /// The plugins whose last state is not written yet.
    unwritten: BTreeSet<PluginName>,
}

impl PluginRegistryFollower {
    /// Creates a follower; with `installs_kinds` it installs the definitions that plugins bring.
    #[must_use]
    pub fn new(
        objects: PluginObjectWriter,
        registry: Arc<dyn PluginReports>,
        installs_kinds: bool,
    ) -> Self {
        Self {
            objects,
            registry,
            installs_kinds,
            active: BTreeMap::new(),
            unwritten: BTreeSet::new(),
        }
    }

    /// Runs until `ending` is cancelled, which happens after the last reconcile; then writes that the host stops.
    pub async fn run(
        mut self,
        mut reports: broadcast::Receiver<PluginStageReport>,
        ending: CancellationToken,
    ) {
        let mut retry = interval(RETRY_INTERVAL);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                report = reports.recv() => match report {
                    Ok(report) => self.process(&report).await,
                    // The lost reports are older than the last one of each plugin, which the registry has.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        for report in self.registry.reports().values() {
                            self.process(report).await;
                        }
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                _ = retry.tick() => {
                    self.unwritten.extend(self.objects.changed());
                    self.write_unwritten().await;
                    self.objects.restore().await;
                    self.objects.write_without_file(&self.registry.reports()).await;
                }
                () = ending.cancelled() => return self.objects.stop().await,
            }
        }
    }

    async fn process(&mut self, report: &PluginStageReport) {
        let name = &report.name;
        let active = report.active();
        if self.active.get(name) != active {
            match active {
                Some(active) => self.active.insert(name.clone(), active.clone()),
                None => self.active.remove(name),
            };
            if !self.install_kinds(name).await {
                self.unwritten.insert(name.clone());
            }
            // The channel is closed only when the host ends.
            self.objects.events.send(ActivePluginChange::Changed(name.clone())).await.ok();
        }
        let is_settled = report.reason.is_some()
            || matches!(
                report.stage,
                Some(RevisionLoadStage::Active | RevisionLoadStage::Unloaded)
            );
        if is_settled {
            log(report);
            if !self.objects.write_report(report).await {
                self.unwritten.insert(name.clone());
            }
        }
    }

    /// Writes the present state of the plugins whose last write failed.
    async fn write_unwritten(&mut self) {
        for name in std::mem::take(&mut self.unwritten) {
            let is_installed = self.install_kinds(&name).await;
            let is_written = match self.registry.reports().get(&name) {
                Some(report) => self.objects.write_report(report).await,
                None => self.objects.write_again(&name).await,
            };
            if !is_installed || !is_written {
                self.unwritten.insert(name);
            }
        }
    }

    /// Installs the kinds that a plugin brings. Returns false if an attempt failed and a later one can succeed.
    pub async fn install_kinds(&self, name: &PluginName) -> bool {
        let plugin = self.objects.controller.shared.ports.plugins.active(name);
        let Some(plugin) = plugin.filter(|_| self.installs_kinds) else {
            return true;
        };
        let mut is_done = true;
        for definition in plugin.manifest.reconciles.iter().filter_map(|kind| kind.crd.as_ref()) {
            if let Err(error) = self.objects.kinds.install(definition).await {
                warn!(plugin = %name, error = %ErrorChain(&error), "cannot install the plugin's kind");
                is_done &= !error.is_passing();
            }
        }
        is_done
    }
}
