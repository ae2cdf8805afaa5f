//! Takes in what the registry of plugins reports, for as long as the host runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tholepin_controller::PluginEvent;
use tholepin_core::{ErrorChain, PluginName, RevisionDigest};
use tholepin_guest::{PluginRegistry, PluginReport, RevisionStage};
use tholepin_kube::KubernetesApi;
use tokio::{
    sync::{broadcast, mpsc},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::plugin_objects::{self, PluginObjects};

/// What could not be written is tried again after this: the API server may be back. As often the numbers of
/// objects are compared with those that were written.
const WRITE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Takes in what the registry reports: kinds first, then the controller, then the object for people.
pub(crate) struct PluginFollower {
    pub(crate) registry: Arc<PluginRegistry>,
    pub(crate) kubernetes: Arc<KubernetesApi>,
    pub(crate) events: mpsc::Sender<PluginEvent>,
    pub(crate) installs_kinds: bool,
    pub(crate) objects: PluginObjects,
}

impl PluginFollower {
    /// Until `ending`, which comes when nothing is reconciled any more.
    pub(crate) async fn run(
        mut self,
        mut reports: broadcast::Receiver<PluginReport>,
        ending: CancellationToken,
    ) {
        let mut serving = BTreeMap::new();
        // The plugins of which Kubernetes does not know the last state.
        let mut owed = BTreeSet::new();
        let mut again = interval(WRITE_AGAIN_AFTER);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                report = reports.recv() => match report {
                    Ok(report) => self.take_in(&report, &mut serving, &mut owed).await,
                    // Too many at once: what they said last is still known.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        for report in self.registry.reports().values() {
                            self.take_in(report, &mut serving, &mut owed).await;
                        }
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                _ = again.tick() => {
                    owed.extend(self.objects.changed());
                    self.pay(&mut owed).await;
                    self.objects.put_back().await;
                    self.objects.show_those_without_file(&self.registry.reports()).await;
                }
                () = ending.cancelled() => return self.objects.stop().await,
            }
        }
    }

    async fn take_in(
        &mut self,
        report: &PluginReport,
        serving: &mut BTreeMap<PluginName, Option<RevisionDigest>>,
        owed: &mut BTreeSet<PluginName>,
    ) {
        let active = report.active().cloned();
        let before = serving.insert(report.name.clone(), active.clone()).flatten();
        if before != active {
            if !self.install_kinds(&report.name).await {
                owed.insert(report.name.clone());
            }
            // Closed only when the host ends.
            self.events.send(PluginEvent::Changed(report.name.clone())).await.ok();
        }
        let settled = report.reason.is_some()
            || matches!(report.stage, Some(RevisionStage::Active | RevisionStage::Unloaded));
        if settled {
            plugin_objects::log(report);
            if !self.objects.show(report).await {
                owed.insert(report.name.clone());
            }
        }
    }

    /// Writes again what could not be written, as it is now.
    async fn pay(&mut self, owed: &mut BTreeSet<PluginName>) {
        for name in std::mem::take(owed) {
            let is_installed = self.install_kinds(&name).await;
            let is_shown = match self.registry.reports().get(&name) {
                Some(report) => self.objects.show(report).await,
                None => self.objects.show_again(&name).await,
            };
            if !is_installed || !is_shown {
                owed.insert(name);
            }
        }
    }

    /// Installs the kinds that a plugin brings. Says whether nothing is left that can go well later.
    pub(crate) async fn install_kinds(&self, name: &PluginName) -> bool {
        let Some(plugin) = self.registry.active(name).filter(|_| self.installs_kinds) else {
            return true;
        };
        let mut is_done = true;
        for definition in plugin.manifest.reconciles.iter().filter_map(|kind| kind.crd.as_ref()) {
            if let Err(error) = self.kubernetes.install_crd(definition).await {
                warn!(plugin = %name, error = %ErrorChain(&error), "cannot install the plugin's kind");
                is_done &= !error.is_passing();
            }
        }
        is_done
    }
}
