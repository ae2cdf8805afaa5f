//! What the controller counts, under the names of controller-runtime, so that dashboards made for it work.
//!
//! Labels are plugin names and closed sets of words, never names of objects. What the queue does is counted
//! there ([`SharedQueue`](crate::queue::SharedQueue)); what goes up and down is looked at when somebody asks
//! ([`show_metrics`](crate::Controller::show_metrics)).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::{counter, histogram};
use tholepin_core::{
    PluginName,
    port::{GuestError, StoreChange},
};
use tokio::time::Instant;

use crate::queue::KeyCompletion;

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
    pub(crate) fn ages(&self, plugin: &PluginName) -> Vec<Duration> {
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
