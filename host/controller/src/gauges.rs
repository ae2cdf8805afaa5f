//! Sets the gauges of the active plugins at each scrape.

use std::time::Duration;

use metrics::gauge;

use crate::{controller::Controller, queue::QueuePriority};

impl Controller {
    /// Sets the gauges of the active plugins. Called at each scrape, so that they cost nothing in between.
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
            let ages = self.running().ages(&plugin);
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

/// Converts a count; counts of objects and reconciles are far below the largest integer that a float holds exactly.
fn number(count: usize) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}
