//! The health of the host: its metrics, its liveness (`/healthz`) and its readiness (`/readyz`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use tholepin_admin::{HealthCheckOutcome, HealthCheckReport, HealthCheckResult, HealthSource};
use tholepin_controller::Controller;
use tholepin_core::{BoxedFuture, PluginName, port::WatchState};
use tholepin_guest::{PluginRegistry, PluginStageReport, RevisionLoadStage};
use tholepin_kube::{KubernetesApi, WatchReport};
use tholepin_schema::manifest::KindName;
use tokio::time::{interval, timeout};

use crate::metrics::{CurrentMetricSeries, ServingPluginMetric, plugin_info, without_stale_series};

/// A watch without any answer of the server for this long is stale. The server must answer every 30 s, and a watch that
/// hangs is restarted after 35 s, so that two attempts in a row failed.
const STALE_AFTER: Duration = Duration::from_secs(90);
/// How long the controller's loop may take to answer.
const LIVENESS_DEADLINE: Duration = Duration::from_secs(2);
/// The interval in which samples are sorted into the buckets of histograms, so that they do not pile up without
/// scrapes.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(15);

/// The parts whose health is checked.
pub(crate) struct HostHealthSource {
    pub(crate) controller: Arc<Controller>,
    pub(crate) kubernetes: Arc<KubernetesApi>,
    pub(crate) registry: Arc<PluginRegistry>,
    pub(crate) recorder: PrometheusHandle,
    /// Set once the directory of plugins was scanned.
    pub(crate) started: AtomicBool,
}

impl HealthSource for HostHealthSource {
    fn metrics(&self) -> String {
        self.controller.show_metrics();
        let watches = self.kubernetes.watches();
        set_watch_gauges(&watches);
        let current = CurrentMetricSeries {
            plugins: loaded(&self.registry).keys().map(ToString::to_string).collect(),
            kinds: watches.iter().map(|watch| watch.scope.kind.to_string()).collect(),
        };
        let mut text = without_stale_series(&current, &self.recorder.render());
        text.push_str(&plugin_info(&serving(&self.registry)));
        text
    }

    fn health(&self) -> BoxedFuture<'_, HealthCheckReport> {
        Box::pin(async {
            let verdict = match timeout(LIVENESS_DEADLINE, self.controller.answers()).await {
                Ok(()) => HealthCheckOutcome::Pass,
                // Before the start the loop does not run yet, which is no reason for a restart.
                Err(_) if !self.has_started() => {
                    HealthCheckOutcome::Notice("it is starting".to_owned())
                }
                Err(_) => HealthCheckOutcome::Fail(format!(
                    "it did not answer within {LIVENESS_DEADLINE:?}"
                )),
            };
            HealthCheckReport {
                checks: vec![HealthCheckResult { name: "controller".to_owned(), verdict }],
            }
        })
    }

    fn readiness(&self) -> BoxedFuture<'_, HealthCheckReport> {
        Box::pin(async {
            let needed: BTreeSet<KindName> = self
                .registry
                .plugins()
                .values()
                .flat_map(|plugin| &plugin.manifest.reconciles)
                .map(|kind| kind.name.clone())
                .collect();
            let plugins: Vec<_> = loaded(&self.registry).into_values().collect();
            let mut report =
                readiness(self.has_started(), &self.kubernetes.watches(), &needed, &plugins);
            let unreadable = self.registry.unreadable();
            let verdict = unreadable.map_or(HealthCheckOutcome::Pass, HealthCheckOutcome::Fail);
            report
                .checks
                .push(HealthCheckResult { name: "directory of plugins".to_owned(), verdict });
            report
        })
    }
}

impl HostHealthSource {
    fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Sorts the samples of histograms into their buckets, every 15 s as long as the host runs.
    pub(crate) async fn maintain_histograms(recorder: PrometheusHandle) {
        let mut ticks = interval(MAINTENANCE_INTERVAL);
        loop {
            ticks.tick().await;
            recorder.run_upkeep();
        }
    }
}

/// Returns the reports of the plugins whose files exist.
fn loaded(registry: &PluginRegistry) -> BTreeMap<PluginName, PluginStageReport> {
    let mut reports = registry.reports();
    reports.retain(|_, report| report.stage != Some(RevisionLoadStage::Unloaded));
    reports
}

/// Returns the active plugins, by name.
fn serving(registry: &PluginRegistry) -> Vec<ServingPluginMetric> {
    let plugins = registry.plugins();
    let serving = plugins.values().map(|plugin| ServingPluginMetric {
        name: plugin.name.to_string(),
        version: plugin.manifest.version.clone(),
        revision: plugin.digest.short().to_owned(),
    });
    serving.collect()
}

/// Sets the gauges of the watches. Several watches of one kind are one series with the values of the worst.
fn set_watch_gauges(watches: &[WatchReport]) {
    let mut kinds: BTreeMap<&KindName, (Duration, bool)> = BTreeMap::new();
    for WatchReport { scope, state, quiet_for, .. } in watches {
        let (quiet, following) = kinds.entry(&scope.kind).or_insert((Duration::ZERO, true));
        *quiet = (*quiet).max(*quiet_for);
        *following &= *state == WatchState::Following;
    }
    let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    gauge!("tholepin_watches").set(count(watches.len()));
    gauge!("tholepin_watched_kinds").set(count(kinds.len()));
    for (kind, (quiet, following)) in kinds {
        gauge!("tholepin_watch_quiet_seconds", "kind" => kind.to_string()).set(quiet);
        gauge!("tholepin_watch_following", "kind" => kind.to_string())
            .set(f64::from(u8::from(following)));
    }
}

/// Checks that every watch is fresh and that every plugin has an active revision.
fn readiness(
    has_started: bool,
    watches: &[WatchReport],
    needed: &BTreeSet<KindName>,
    plugins: &[PluginStageReport],
) -> HealthCheckReport {
    let mut report = HealthCheckReport::default();
    let mut add = |name: String, verdict| report.checks.push(HealthCheckResult { name, verdict });
    if !has_started {
        let text = "the plugins of the directory are being loaded".to_owned();
        add("start".to_owned(), HealthCheckOutcome::Fail(text));
    }
    for watch in watches {
        let WatchReport { scope, state, quiet_for, .. } = watch;
        let part = match (scope.namespace.as_str(), scope.selector.as_str()) {
            ("", "") => String::new(),
            (namespace, selector) => format!(" in {namespace:?} with {selector:?}"),
        };
        add(
            format!("watch {}{part}", scope.kind),
            freshness(watch.has_followed, state, *quiet_for),
        );
    }
    let watched: BTreeSet<_> = watches.iter().map(|watch| &watch.scope.kind).collect();
    for kind in needed.iter().filter(|kind| !watched.contains(kind)) {
        add(format!("watch {kind}"), HealthCheckOutcome::Fail("it has not started".to_owned()));
    }
    for plugin in plugins {
        add(format!("plugin {}", plugin.name), serves(plugin));
    }
    report
}

fn freshness(has_followed: bool, state: &WatchState, quiet_for: Duration) -> HealthCheckOutcome {
    let seconds = quiet_for.as_secs();
    match state {
        WatchState::Starting => HealthCheckOutcome::Fail("it was not listed yet".to_owned()),
        // No failure: no other watch depends on it, and objects of a missing kind cannot exist.
        WatchState::KindMissing => HealthCheckOutcome::Notice(
            "the server does not know the kind; install its definition".to_owned(),
        ),
        WatchState::Failing(reason) if !has_followed => {
            HealthCheckOutcome::Fail(format!("it was never listed: {reason}"))
        }
        WatchState::Failing(reason) if STALE_AFTER < quiet_for => {
            HealthCheckOutcome::Fail(format!("the server did not answer for {seconds} s: {reason}"))
        }
        WatchState::Failing(reason) => {
            HealthCheckOutcome::Notice(format!("it fails since {seconds} s: {reason}"))
        }
        WatchState::Following if STALE_AFTER < quiet_for => {
            HealthCheckOutcome::Fail(format!("the server did not answer for {seconds} s"))
        }
        WatchState::Following => HealthCheckOutcome::Pass,
    }
}

fn serves(plugin: &PluginStageReport) -> HealthCheckOutcome {
    let PluginStageReport { stage, reason, message, .. } = plugin;
    let why = || match (reason, stage) {
        (Some(reason), _) => format!("{reason}: {message}"),
        (None, Some(stage)) => format!("it is being loaded, and is {stage}"),
        (None, None) => "it is being loaded".to_owned(),
    };
    match plugin.active() {
        None => HealthCheckOutcome::Fail(format!("no revision serves; {}", why())),
        Some(_) if reason.is_some() => HealthCheckOutcome::Notice(format!(
            "an older revision serves; the new one is refused: {}",
            why()
        )),
        Some(_) => HealthCheckOutcome::Pass,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tholepin_core::{RevisionDigest, port::WatchScope};
    use tholepin_guest::{PluginRejectReason, ServingRevision};

    fn kind(name: &str) -> KindName {
        KindName { api_version: "v1".to_owned(), kind: name.to_owned() }
    }

    fn watch(state: WatchState, quiet_seconds: u64) -> WatchReport {
        let quiet_for = Duration::from_secs(quiet_seconds);
        WatchReport {
            scope: WatchScope::all(kind("Pod")),
            state,
            leases: 1,
            has_followed: true,
            quiet_for,
        }
    }

    fn plugin(active: Option<&str>, reason: Option<PluginRejectReason>) -> PluginStageReport {
        PluginStageReport {
            name: "p".parse().unwrap(),
            stage: Some(RevisionLoadStage::Compiled),
            candidate: None,
            serving: active.map(|digest| ServingRevision {
                revision: RevisionDigest(digest.to_owned()),
                component: String::new(),
                version: String::new(),
                since_ms: 0,
                previous: None,
            }),
            reason,
            message: "why".to_owned(),
            object: None,
        }
    }

    #[test]
    fn a_watch_is_fresh_while_the_server_answers() {
        let failing = || WatchState::Failing("refused".to_owned());
        let rows = [
            (WatchState::Following, 0, true),
            (WatchState::Following, 90, true),
            (WatchState::Following, 91, false),
            (WatchState::Starting, 0, false),
            (WatchState::KindMissing, 1000, true),
            (failing(), 60, true),
            (failing(), 91, false),
        ];
        for (state, quiet, passes) in rows {
            let watches = [watch(state.clone(), quiet)];
            let report = readiness(true, &watches, &BTreeSet::new(), &[]);
            assert_eq!(report.passes(), passes, "{state:?} {quiet}");
            assert_eq!(report.checks.len(), 1);
            assert_eq!(report.checks[0].name, "watch v1/Pod");
        }
    }

    #[test]
    fn a_kind_that_was_never_listed_makes_the_host_unready() {
        let watch = watch(WatchState::Failing("forbidden".to_owned()), 1);
        let report = |has_followed| {
            let watches = [WatchReport { has_followed, ..watch.clone() }];
            readiness(true, &watches, &BTreeSet::new(), &[]).passes()
        };
        assert!(report(true), "it was listed before");
        assert!(!report(false), "its objects are not known");
    }

    #[test]
    fn a_plugin_without_an_active_revision_makes_the_host_unready_and_a_refused_one_is_a_notice() {
        let refused = Some(PluginRejectReason::GrantsMissing);
        let rows = [
            (plugin(Some("1"), None), true, "Pass"),
            (
                plugin(Some("1"), refused),
                true,
                "Notice(\"an older revision serves; the new one is refused: GrantsMissing: why\")",
            ),
            (plugin(None, refused), false, "Fail(\"no revision serves; GrantsMissing: why\")"),
            (
                plugin(None, None),
                false,
                "Fail(\"no revision serves; it is being loaded, and is Compiled\")",
            ),
        ];
        for (plugin, passes, verdict) in rows {
            let report = readiness(true, &[], &BTreeSet::new(), &[plugin]);
            assert_eq!(report.passes(), passes, "{report:?}");
            assert_eq!(format!("{:?}", report.checks[0].verdict), verdict);
        }
    }

    #[test]
    fn a_host_is_not_ready_before_its_start_and_its_watches() {
        assert!(readiness(true, &[], &BTreeSet::new(), &[]).passes(), "a host without plugins");
        assert!(!readiness(false, &[], &BTreeSet::new(), &[]).passes());
        let needed = BTreeSet::from([kind("Pod"), kind("Thing")]);
        let report = readiness(true, &[watch(WatchState::Following, 0)], &needed, &[]);
        assert!(!report.passes());
        assert_eq!(report.checks[1].name, "watch v1/Thing");
    }
}
