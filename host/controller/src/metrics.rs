//! The counters and histograms of the controller, under the names of controller-runtime, so that its dashboards work.
//!
//! Labels are plugin names and closed sets of values, never names of objects. The queue counts its own operations
//! ([`SharedQueue`](crate::queue::SharedQueue)); gauges are set at each scrape
//! ([`show_metrics`](crate::Controller::show_metrics)).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::{counter, histogram};
use tholepin_core::{
    PluginName,
    port::{GuestError, WatchedStoreChange},
};
use tokio::time::Instant;

use crate::queue::KeyCompletion;

/// Counts a change of the store, which enqueued this many keys.
pub(crate) fn routed(change: &WatchedStoreChange, keys: usize) {
    let kind = || change.object.kind.to_string();
    counter!("dynamic_controller_route_total", "kind" => kind()).increment(1);
    if keys > 0 {
        counter!("dynamic_controller_route_match_total", "kind" => kind()).increment(1);
    }
}

/// Counts a call that succeeded.
pub(crate) fn succeeded(plugin: &PluginName, done: KeyCompletion, resync: Duration) {
    let result = match done {
        KeyCompletion::AwaitChange => "success",
        KeyCompletion::After(after) if after == resync => "success",
        KeyCompletion::After(_) => "requeue_after",
        KeyCompletion::Retry => "error",
    };
    counter!("controller_runtime_reconcile_total", "controller" => plugin.to_string(), "result" => result)
        .increment(1);
}

/// Whether a failed reconcile is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReconcileErrorClass {
    /// The queue tries it again.
    Retried,
    /// It fails until the object or the plugin is changed.
    Terminal,
}

/// Counts a reconcile that failed.
pub(crate) fn failed(plugin: &PluginName, class: ReconcileErrorClass) {
    let name = || plugin.to_string();
    counter!("controller_runtime_reconcile_total", "controller" => name(), "result" => "error")
        .increment(1);
    counter!("controller_runtime_reconcile_errors_total", "controller" => name()).increment(1);
    if class == ReconcileErrorClass::Terminal {
        counter!("controller_runtime_terminal_reconcile_errors_total", "controller" => name())
            .increment(1);
    }
}

/// Counts a strike under the label value `reason`.
pub(crate) fn strike_counted(plugin: &PluginName, error: &GuestError, reason: &'static str) {
    let name = || plugin.to_string();
    counter!("tholepin_strikes_total", "controller" => name(), "reason" => reason).increment(1);
    let family = if matches!(error, GuestError::TimedOut { .. }) {
        "controller_runtime_reconcile_timeouts_total"
    } else {
        "controller_runtime_reconcile_panics_total"
    };
    counter!(family, "controller" => name()).increment(1);
}

/// Records the duration of a reconcile, from reading the object to writing its last condition.
pub(crate) fn reconciled(plugin: &PluginName, took: Duration) {
    histogram!("controller_runtime_reconcile_time_seconds", "controller" => plugin.to_string())
        .record(took);
}

/// The reconciles that are running.
#[derive(Debug, Default)]
pub(crate) struct RunningReconciles(Mutex<RunningReconcilesGauge>);

#[derive(Debug, Default)]
struct RunningReconcilesGauge {
    last_id: u64,
    started: BTreeMap<u64, (PluginName, Instant)>,
}

/// One running reconcile; it counts as ended when dropped.
pub(crate) struct RunningReconcileGuard<'a> {
    running: &'a RunningReconciles,
    id: u64,
}

impl RunningReconciles {
    /// Counts a reconcile as running, and records how long its key waited.
    pub(crate) fn begin(&self, plugin: &PluginName, waited: Duration) -> RunningReconcileGuard<'_> {
        let name = plugin.to_string();
        histogram!("workqueue_queue_duration_seconds", "name" => name.clone(), "controller" => name)
            .record(waited);
        let mut running = self.lock();
        running.last_id += 1;
        let id = running.last_id;
        running.started.insert(id, (plugin.clone(), Instant::now()));
        RunningReconcileGuard { running: self, id }
    }

    /// Returns how long each reconcile of a plugin has been running.
    pub(crate) fn ages(&self, plugin: &PluginName) -> Vec<Duration> {
        let running = self.lock();
        let of_plugin = running.started.values().filter(|(name, _)| name == plugin);
        of_plugin.map(|(_, since)| since.elapsed()).collect()
    }

    /// Ignores poisoning: each change is a single insertion or removal.
    fn lock(&self) -> MutexGuard<'_, RunningReconcilesGauge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningReconcileGuard<'_> {
    fn drop(&mut self) {
        let Some((plugin, since)) = self.running.lock().started.remove(&self.id) else { return };
        let name = plugin.to_string();
        histogram!("workqueue_work_duration_seconds", "name" => name.clone(), "controller" => name)
            .record(since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconcile_runs_until_its_timer_is_dropped() {
        let running = RunningReconciles::default();
        let [one, two] = ["one", "two"].map(|name| name.parse::<PluginName>().unwrap());
        let first = running.begin(&one, Duration::ZERO);
        let second = running.begin(&one, Duration::ZERO);
        assert_eq!([running.ages(&one).len(), running.ages(&two).len()], [2, 0]);
        drop(first);
        assert_eq!(running.ages(&one).len(), 1);
        drop(second);
        assert!(running.lock().started.is_empty());
    }
}
