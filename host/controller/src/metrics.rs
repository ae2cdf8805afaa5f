//! What the controller counts, under the names of controller-runtime, so that dashboards made for it work.
//!
//! Labels are plugin names and closed sets of words, never names of objects. What only grows is counted
//! where it happens; what goes up and down is looked at when somebody asks ([`Controller::show_metrics`]).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::{counter, gauge, histogram};
use tholepin_core::{
    PluginName,
    port::{GuestError, StoreChange},
};
use tokio::time::Instant;

use crate::{
    controller::Controller,
    queue::{KeyCompletion, QueuePriority},
};

/// A key was marked.
pub(crate) fn added(plugin: &PluginName) {
    counter!("workqueue_adds_total", "name" => plugin.to_string(), "controller" => plugin.to_string())
        .increment(1);
}

/// A key was given back as failed.
pub(crate) fn retried(plugin: &PluginName) {
    let name = plugin.to_string();
    counter!("workqueue_retries_total", "name" => name.clone(), "controller" => name).increment(1);
}

/// A change of the store came, and marked so many keys.
pub(crate) fn routed(change: &StoreChange, keys: usize) {
    let kind = || change.object.kind.to_string();
    counter!("dynamic_controller_route_total", "kind" => kind()).increment(1);
    if keys > 0 {
        counter!("dynamic_controller_route_match_total", "kind" => kind()).increment(1);
    }
}

/// The plugin was called and all went well.
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

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    /// It is tried again by itself.
    Retried,
    /// Only a change helps.
    Terminal,
}

/// The plugin was called, or its object looked at, and it did not go well.
pub(crate) fn failed(plugin: &PluginName, hope: ErrorClass) {
    let name = || plugin.to_string();
    counter!("controller_runtime_reconcile_total", "controller" => name(), "result" => "error")
        .increment(1);
    counter!("controller_runtime_reconcile_errors_total", "controller" => name()).increment(1);
    if hope == ErrorClass::Terminal {
        counter!("controller_runtime_terminal_reconcile_errors_total", "controller" => name())
            .increment(1);
    }
}

/// The plugin went wrong by its own fault, for which `reason` is a word.
pub(crate) fn struck(plugin: &PluginName, error: &GuestError, reason: &'static str) {
    let name = || plugin.to_string();
    counter!("tholepin_strikes_total", "controller" => name(), "reason" => reason).increment(1);
    let family = if matches!(error, GuestError::TimedOut { .. }) {
        "controller_runtime_reconcile_timeouts_total"
    } else {
        "controller_runtime_reconcile_panics_total"
    };
    counter!(family, "controller" => name()).increment(1);
}

/// How long a pass took, from the object to its last condition.
pub(crate) fn reconciled(plugin: &PluginName, took: Duration) {
    histogram!("controller_runtime_reconcile_time_seconds", "controller" => plugin.to_string())
        .record(took);
}

/// The passes that are under way.
#[derive(Debug, Default)]
pub(crate) struct RunningReconciles(Mutex<Begun>);

#[derive(Debug, Default)]
struct Begun {
    last_id: u64,
    passes: BTreeMap<u64, (PluginName, Instant)>,
}

/// One pass under way; counted as over when dropped.
pub(crate) struct ReconcileTimer<'a> {
    under_way: &'a RunningReconciles,
    id: u64,
}

impl RunningReconciles {
    /// A key was taken after it waited so long.
    pub(crate) fn begin(&self, plugin: &PluginName, waited: Duration) -> ReconcileTimer<'_> {
        let name = plugin.to_string();
        histogram!("workqueue_queue_duration_seconds", "name" => name.clone(), "controller" => name)
            .record(waited);
        let mut begun = self.lock();
        begun.last_id += 1;
        let id = begun.last_id;
        begun.passes.insert(id, (plugin.clone(), Instant::now()));
        ReconcileTimer { under_way: self, id }
    }

    /// How long each pass of a plugin has been under way.
    fn ages(&self, plugin: &PluginName) -> Vec<Duration> {
        let begun = self.lock();
        let theirs = begun.passes.values().filter(|(name, _)| name == plugin);
        theirs.map(|(_, since)| since.elapsed()).collect()
    }

    /// A poisoned lock is taken as it is: each change is a single insertion or removal.
    fn lock(&self) -> MutexGuard<'_, Begun> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReconcileTimer<'_> {
    fn drop(&mut self) {
        let Some((plugin, since)) = self.under_way.lock().passes.remove(&self.id) else { return };
        let name = plugin.to_string();
        histogram!("workqueue_work_duration_seconds", "name" => name.clone(), "controller" => name)
            .record(since.elapsed());
    }
}

impl Controller {
    /// Brings the gauges of the plugins that serve up to date: asked at each scrape, so that nothing is
    /// done while nobody looks.
    pub fn show_metrics(&self) {
        let waiting = self.queue_stats().waiting;
        for plugin in self.serving() {
            let name = || plugin.to_string();
            let of_queue = |family: &'static str, value: f64| {
                gauge!(family, "name" => name(), "controller" => name()).set(value);
            };
            for priority in QueuePriority::ALL {
                let depth = waiting.get(&(plugin.clone(), priority)).copied().unwrap_or_default();
                let priority = priority.as_str();
                gauge!(
                    "workqueue_depth",
                    "name" => name(), "controller" => name(), "priority" => priority
                )
                .set(number(depth));
            }
            let ages = self.under_way().ages(&plugin);
            let seconds = |age: &Duration| age.as_secs_f64();
            of_queue("workqueue_unfinished_work_seconds", ages.iter().map(seconds).sum());
            let longest = ages.iter().max().map(seconds).unwrap_or_default();
            of_queue("workqueue_longest_running_processor_seconds", longest);
            let of_controller = |family: &'static str, value: usize| {
                gauge!(family, "controller" => name()).set(number(value));
            };
            of_controller("controller_runtime_active_workers", ages.len());
            of_controller("controller_runtime_max_concurrent_reconciles", self.concurrency());
            of_controller("tholepin_quarantined_objects", self.quarantined(&plugin));
        }
    }
}

/// Counts of objects and passes are far below what a float counts exactly.
fn number(count: usize) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_under_way_until_its_meter_goes() {
        let under_way = RunningReconciles::default();
        let [one, two] = ["one", "two"].map(|name| name.parse::<PluginName>().unwrap());
        let first = under_way.begin(&one, Duration::ZERO);
        let second = under_way.begin(&one, Duration::ZERO);
        assert_eq!([under_way.ages(&one).len(), under_way.ages(&two).len()], [2, 0]);
        drop(first);
        assert_eq!(under_way.ages(&one).len(), 1);
        drop(second);
        assert!(under_way.lock().passes.is_empty());
    }
}
