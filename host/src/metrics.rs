//! The table of all metrics, and the recorder that keeps them.
//!
//! The parts count through the facade `metrics`. This table has the meaning, the labels and the buckets of each family.
//! The page leaves out the series of unloaded plugins and ended watches; they continue with their values if the plugin
//! or the watch returns.
//!
//! The rendered text is filtered, because the recorder cannot remove single series. Its idle timeout is no replacement:
//! it would also remove the counters of active plugins that change rarely, such as `tholepin_strikes_total`, and would
//! show an unloaded plugin until the timeout.

use std::collections::BTreeSet;

use anyhow::Result;
use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MetricKind {
    /// A counter.
    Counter,
    /// A gauge.
    Gauge,
    /// A histogram with these upper bounds of buckets.
    Histogram(&'static [f64]),
}

/// One family of series.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MetricFamily {
    pub(crate) name: &'static str,
    pub(crate) kind: MetricKind,
    /// The labels, in order.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "documentation, compared with README.md by a test")
    )]
    pub(crate) labels: &'static str,
    /// Its meaning, as one sentence.
    pub(crate) meaning: &'static str,
}

/// Seconds of a reconcile, as controller-runtime has them.
const RECONCILE: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9,
    1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0,
    25.0, 30.0, 40.0, 50.0, 60.0,
];
/// Seconds in a work queue, as client-go has them.
const QUEUE: &[f64] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];
/// Seconds of a request to the API server, as client-go has them.
const REQUEST: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 45.0, 60.0];
/// Seconds of processor time in one call; creating the instance takes 20 µs.
const COMPUTING: &[f64] = &[
    2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0,
];
/// Seconds of a stage of a swap, or of a list.
const STAGE: &[f64] = &[1e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const fn counter(name: &'static str, labels: &'static str, meaning: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricKind::Counter, labels, meaning }
}

const fn gauge(name: &'static str, labels: &'static str, meaning: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricKind::Gauge, labels, meaning }
}

const fn seconds(
    name: &'static str,
    labels: &'static str,
    steps: &'static [f64],
    meaning: &'static str,
) -> MetricFamily {
    MetricFamily { name, kind: MetricKind::Histogram(steps), labels, meaning }
}

/// The family with the active revisions.
const PLUGIN_INFO: &str = "tholepin_plugin_info";

/// All families. The label `controller` is the plugin's name.
pub(crate) const FAMILIES: &[MetricFamily] = &[
    counter(
        "controller_runtime_reconcile_total",
        "controller, result",
        "Calls of a plugin for an object: `success`, `requeue_after` (it named a time), `error`.",
    ),
    counter(
        "controller_runtime_reconcile_errors_total",
        "controller",
        "Calls that ended with `error`.",
    ),
    counter(
        "controller_runtime_terminal_reconcile_errors_total",
        "controller",
        "Errors that are not retried until a change: an invalid spec, a failure without retry, a quarantine.",
    ),
    counter(
        "controller_runtime_reconcile_panics_total",
        "controller",
        "Calls that ended with a trap, too much memory, or an unusable answer.",
    ),
    counter(
        "controller_runtime_reconcile_timeouts_total",
        "controller",
        "Calls that took too long.",
    ),
    seconds(
        "controller_runtime_reconcile_time_seconds",
        "controller",
        RECONCILE,
        "How long a reconcile took, from reading the object to writing its last condition.",
    ),
    gauge(
        "controller_runtime_max_concurrent_reconciles",
        "controller",
        "How many objects are reconciled at once, over all plugins.",
    ),
    gauge("controller_runtime_active_workers", "controller", "Running reconciles."),
    gauge(
        "workqueue_depth",
        "name, controller, priority",
        "Objects that wait: `urgent`, `event`, `resync`.",
    ),
    counter(
        "workqueue_adds_total",
        "name, controller",
        "How often an object was enqueued, duplicates included.",
    ),
    seconds(
        "workqueue_queue_duration_seconds",
        "name, controller",
        QUEUE,
        "How long an object waited after it was due.",
    ),
    seconds(
        "workqueue_work_duration_seconds",
        "name, controller",
        QUEUE,
        "How long a reconcile of an object took.",
    ),
    gauge(
        "workqueue_unfinished_work_seconds",
        "name, controller",
        "The sum of the ages of the running reconciles.",
    ),
    gauge(
        "workqueue_longest_running_processor_seconds",
        "name, controller",
        "The age of the oldest running reconcile.",
    ),
    counter(
        "workqueue_retries_total",
        "name, controller",
        "How often an object was enqueued again after a failure.",
    ),
    counter("rest_client_requests_total", "code, method, host", "Requests to the API server."),
    seconds(
        "rest_client_request_duration_seconds",
        "verb, host",
        REQUEST,
        "How long the API server took to begin its answer.",
    ),
    gauge("tholepin_watches", "", "Watches."),
    gauge("tholepin_watched_kinds", "", "Kinds that are watched."),
    seconds(
        "dynamic_controller_informer_sync_duration_seconds",
        "kind",
        STAGE,
        "How long a list took.",
    ),
    counter(
        "dynamic_controller_informer_events_total",
        "kind, event",
        "Objects in the events of a watch: `listed`, `applied`, `deleted`.",
    ),
    counter(
        "dynamic_controller_handler_attach_total",
        "kind",
        "Leases of a watch that were taken.",
    ),
    counter(
        "dynamic_controller_handler_detach_total",
        "kind",
        "Leases of a watch that were dropped.",
    ),
    counter("dynamic_controller_route_total", "kind", "Changes of the store."),
    counter(
        "dynamic_controller_route_match_total",
        "kind",
        "Changes of the store that enqueued an object.",
    ),
    gauge(
        "tholepin_watch_quiet_seconds",
        "kind",
        "Seconds since the last answer of the server on a watch; it must answer every 30 s.",
    ),
    gauge(
        "tholepin_watch_following",
        "kind",
        "1 while a watch has listed its objects and follows them, 0 while it starts, fails, or its kind is missing.",
    ),
    counter("tholepin_watch_failures_total", "kind", "Attempts to watch that failed."),
    counter(
        "tholepin_plugin_calls_total",
        "controller, function, result",
        "Calls of the host by a plugin: `ok`, or the reason of the refusal, such as `Denied`.",
    ),
    counter(
        "tholepin_plugin_bytes_total",
        "controller, direction",
        "Bytes of documents into (`in`) and out of (`out`) the plugin.",
    ),
    seconds(
        "tholepin_plugin_cpu_seconds",
        "controller, function",
        COMPUTING,
        "Processor time of one call of a plugin's `reconcile` or `validate`, including the host's work in it.",
    ),
    gauge(
        "tholepin_plugin_memory_peak_bytes",
        "controller",
        "The most memory that one call of the active revision has used.",
    ),
    counter(
        "tholepin_plugin_stages_total",
        "controller, stage, reason",
        "Stages that revisions reached, and why one was rejected.",
    ),
    seconds(
        "tholepin_plugin_stage_seconds",
        "controller, stage",
        STAGE,
        "How long a revision took to reach a stage from the one before.",
    ),
    counter(
        "tholepin_plugin_rollbacks_total",
        "controller",
        "How often an earlier revision was activated again, automatically or by hand.",
    ),
    counter(
        "tholepin_strikes_total",
        "controller, reason",
        "Faults of a plugin that count against it.",
    ),
    gauge(
        "tholepin_quarantined_objects",
        "controller",
        "Quarantined objects, for which a plugin is not called.",
    ),
    gauge(
        PLUGIN_INFO,
        "plugin, version, revision",
        "Always 1, for each active plugin; the labels name its version and revision.",
    ),
    gauge("tholepin_build_info", "version", "Always 1; the label names the version."),
];

/// The present plugins and watched kinds; series of others are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct CurrentMetricSeries {
    pub(crate) plugins: BTreeSet<String>,
    pub(crate) kinds: BTreeSet<String>,
}

/// Installs the recorder for the rest of the process.
///
/// # Errors
///
/// Fails if the process has a recorder already.
pub(crate) fn install() -> Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for family in FAMILIES {
        if let MetricKind::Histogram(steps) = family.kind {
            builder =
                builder.set_buckets_for_metric(Matcher::Full(family.name.to_owned()), steps)?;
        }
    }
    let handle = builder.install_recorder()?;
    for MetricFamily { name, kind, meaning, labels: _ } in FAMILIES.iter().copied() {
        match kind {
            MetricKind::Counter => describe_counter!(name, meaning),
            MetricKind::Gauge => describe_gauge!(name, meaning),
            MetricKind::Histogram(_) => describe_histogram!(name, meaning),
        }
    }
    metrics::gauge!("tholepin_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    Ok(handle)
}

/// Returns the rendered text without the series of plugins and kinds that are not present.
pub(crate) fn without_stale_series(current: &CurrentMetricSeries, text: &str) -> String {
    let is_stale = |line: &str, label: &str, known: &BTreeSet<String>| {
        label_value(line, label).is_some_and(|value| !known.contains(value))
    };
    let mut kept = String::with_capacity(text.len());
    for line in text.lines() {
        let is_series = !line.is_empty() && !line.starts_with('#');
        let is_left_out = is_series
            && (is_stale(line, "controller", &current.plugins)
                || is_stale(line, "kind", &current.kinds));
        if !is_left_out {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// An active plugin.
pub(crate) struct ServingPluginMetric {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) revision: String,
}

/// Renders the family with the active revisions. The recorder does not keep it, because it would hold a series for
/// every revision that was ever active.
pub(crate) fn plugin_info(serving: &[ServingPluginMetric]) -> String {
    let meaning = FAMILIES.iter().find(|family| family.name == PLUGIN_INFO);
    let meaning = meaning.map_or("", |family| family.meaning);
    let mut text = format!("# HELP {PLUGIN_INFO} {meaning}\n# TYPE {PLUGIN_INFO} gauge\n");
    for ServingPluginMetric { name, version, revision } in serving {
        let version = escaped(version);
        text.push_str(&format!(
            "{PLUGIN_INFO}{{plugin=\"{name}\",version=\"{version}\",revision=\"{revision}\"}} 1\n"
        ));
    }
    text.push('\n');
    text
}

/// Escapes a label value for the text format: the version of a plugin may hold any characters.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// Returns the value of a label of a series. Names of plugins and kinds hold no characters that need escaping.
fn label_value<'a>(line: &'a str, label: &str) -> Option<&'a str> {
    let (_, labels) = line.split_once('{')?;
    let mut pairs = labels.split(',');
    let value = pairs.find_map(|pair| pair.strip_prefix(label)?.strip_prefix("=\""))?;
    value.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_unloaded_plugins_and_ended_watches_are_left_out() {
        let text = "# TYPE a counter\na{controller=\"one\",result=\"x\"} 1\na{result=\"x\",controller=\"two\"} 2\n\n\
                    b{kind=\"apps/v1/StatefulSet\"} 3\nb{kind=\"v1/Pod\"} 4\nc 5\nd_bucket{le=\"1\",controller=\"two\"} 6\n";
        let current = CurrentMetricSeries {
            plugins: BTreeSet::from(["one".to_owned()]),
            kinds: BTreeSet::from(["v1/Pod".to_owned()]),
        };
        let kept = without_stale_series(&current, text);
        let expected =
            "# TYPE a counter\na{controller=\"one\",result=\"x\"} 1\n\nb{kind=\"v1/Pod\"} 4\nc 5\n";
        assert_eq!(kept, expected);
    }

    #[test]
    fn an_active_plugin_has_a_series_with_its_version_and_revision() {
        let serving = ServingPluginMetric {
            name: "one".to_owned(),
            version: "1 \"a\\b\"\nc".to_owned(),
            revision: "0123".to_owned(),
        };
        let text = plugin_info(&[serving]);
        let series =
            r#"tholepin_plugin_info{plugin="one",version="1 \"a\\b\"\nc",revision="0123"} 1"#;
        assert_eq!(text.lines().nth(2), Some(series), "{text}");
        assert!(text.starts_with("# HELP tholepin_plugin_info Always 1"), "{text}");
        assert!(!plugin_info(&[]).contains('{'), "without an active plugin there is no series");
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let line = |family: &MetricFamily| {
            let kind = match family.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram(_) => "histogram",
            };
            let MetricFamily { name, labels, meaning, .. } = family;
            format!("| `{name}` | {kind} | {labels} | {meaning} |\n")
        };
        let table: String = FAMILIES.iter().map(line).collect();
        let readme = include_str!("../admin/README.md");
        assert!(readme.contains(&table), "put this table into host/admin/README.md:\n{table}");
    }
}
