//! The host's metrics for Prometheus and its health for the kubelet.

use std::collections::BTreeSet;

use serde_json::json;
use tests::{
    guests,
    prometheus::{Prometheus, lint, value},
    wait::{Poll, until},
};

use crate::environment::{
    CONFIG_MAP, DEADLINE, HostEnvironment, PLUGIN, PROBE, greeting, probe_object, settings,
};

const ROW: [(&str, &str); 1] = [("controller", "config-maker")];

impl HostEnvironment {
    fn metrics(&self) -> String {
        let (code, text) = self.cluster.get_path("/metrics").unwrap();
        assert_eq!(code, 200, "{text}");
        text
    }

    /// Waits until `/readyz?verbose` returns this status and contains this text.
    async fn until_ready(&self, code: u16, texts: &str) {
        let poll = || async {
            let (found, text) = self.cluster.get_path("/readyz?verbose")?;
            let there = found == code && text.contains(texts);
            Ok(if there { Poll::Done(()) } else { Poll::NotYet(format!("{found}: {text}")) })
        };
        until(format!("/readyz to return {code} and {texts:?}"), DEADLINE, poll).await.unwrap();
    }

    async fn until_counted(&self, family: &str, labels: &[(&str, &str)], least: f64) -> String {
        let poll = || async {
            let text = self.metrics();
            let found = value(&text, family, labels);
            let there = found.is_some_and(|found| least <= found);
            Ok(if there { Poll::Done(text) } else { Poll::NotYet(format!("{found:?}")) })
        };
        until(format!("{family} {labels:?} to reach {least}"), DEADLINE, poll).await.unwrap().0
    }
}

#[tokio::test]
async fn a_reconcile_is_counted_and_a_prometheus_scrapes_it() {
    let component = guests::config_maker("Hello").unwrap();
    let env = HostEnvironment::with(&[("config-maker", &component)], "measured").await;
    let target = env.cluster.admin().unwrap().file().metrics_address;
    let mut prometheus = Prometheus::scraping(target).unwrap();
    env.apply(&greeting("measured", "a", "world"));
    env.until_contains(&CONFIG_MAP, ("measured", "a"), "/data/greeting", "Hello, world").await;

    let total = "controller_runtime_reconcile_total";
    let success = [("controller", "config-maker"), ("result", "success")];
    let text = env.until_counted(total, &success, 1.0).await;
    let of = |family: &str, labels: &[(&str, &str)]| {
        value(&text, family, labels).unwrap_or_else(|| panic!("no {family} {labels:?} in {text}"))
    };
    let call =
        |function| [("controller", "config-maker"), ("function", function), ("result", "ok")];
    assert!(1.0 <= of("tholepin_plugin_calls_total", &call("kubernetes/apply")));
    assert!(1.0 <= of("tholepin_plugin_cpu_seconds_count", &ROW));
    assert!(0.0 < of("tholepin_plugin_cpu_seconds_sum", &ROW));
    assert!(65_536.0 <= of("tholepin_plugin_memory_peak_bytes", &ROW), "a page of memory");
    for direction in ["in", "out"] {
        let labels = [ROW[0], ("direction", direction)];
        assert!(20.0 < of("tholepin_plugin_bytes_total", &labels), "{direction}");
    }
    assert!(1.0 <= of("workqueue_adds_total", &ROW));
    assert!(1.0 <= of("controller_runtime_reconcile_time_seconds_count", &ROW));
    assert!(1.0 <= of("tholepin_plugin_stages_total", &[ROW[0], ("stage", "Active")]));
    assert_eq!(of("tholepin_quarantined_objects", &ROW), 0.0);
    assert_eq!(of("workqueue_depth", &[ROW[0], ("priority", "event")]), 0.0);
    let kind = [("kind", "tests.tholepin.dev/v1/Greeting")];
    assert_eq!(of("tholepin_watch_following", &kind), 1.0);
    let active = env.active("config-maker", "").await;
    let info = [("plugin", "config-maker"), ("version", "Hello"), ("revision", &active[..12])];
    assert_eq!(of("tholepin_plugin_info", &info), 1.0);
    assert!(
        1.0 <= of("dynamic_controller_informer_events_total", &[kind[0], ("event", "applied")])
    );
    assert!(1.0 <= of("rest_client_requests_total", &[("method", "PATCH"), ("code", "200")]));
    assert!(!text.contains("\"measured\""), "no name of an object is a label");
    assert_eq!(lint(&text).unwrap(), "");
    check_documented(&text);

    let poll = || async {
        let up = prometheus.query("up{job=\"tholepin\"} == 1")?;
        let counted = prometheus.query(&format!("{total}{{controller=\"config-maker\"}} > 0"))?;
        let there = !up.is_empty() && !counted.is_empty();
        Ok(if there { Poll::Done(()) } else { Poll::NotYet(format!("{up:?} {counted:?}")) })
    };
    until("Prometheus to have scraped", DEADLINE, poll).await.unwrap();
    prometheus.process.end().unwrap();
}

/// Checks that every metric family is in the table of `host/admin/README.md`.
fn check_documented(exposition: &str) {
    let page = include_str!("../../../host/admin/README.md");
    let families: BTreeSet<&str> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert!(20 < families.len(), "{families:?}");
    for family in families {
        assert!(page.contains(&format!("| `{family}` |")), "{family} is not documented");
    }
}

#[tokio::test]
async fn faults_are_counted_and_series_end_with_their_plugin() {
    let (maker, probe) = (guests::config_maker("Hello").unwrap(), guests::probe().unwrap());
    let env = HostEnvironment::with(&[("config-maker", &maker), ("probe", &probe)], "faulty").await;
    env.apply(&greeting("faulty", "a", "world"));
    env.apply(&probe_object("faulty", "bad", json!({"do": "panic"})));
    let row = [("controller", "probe")];
    let text = env.until_counted("tholepin_quarantined_objects", &row, 1.0).await;
    assert_eq!(value(&text, "controller_runtime_reconcile_panics_total", &row), Some(2.0));
    assert_eq!(value(&text, "tholepin_strikes_total", &[row[0], ("reason", "Trapped")]), Some(2.0));
    let terminal = "controller_runtime_terminal_reconcile_errors_total";
    assert_eq!(value(&text, terminal, &row), Some(1.0), "the second quarantines");
    assert_eq!(value(&text, "controller_runtime_reconcile_errors_total", &row), Some(2.0));

    env.until_counted("workqueue_adds_total", &ROW, 1.0).await;
    for file in ["config-maker.yaml", "config-maker.wasm"] {
        std::fs::remove_file(env.cluster.plugins().unwrap().join(file)).unwrap();
    }
    let poll = || async {
        let text = env.metrics();
        let left = text.lines().find(|line| line.contains("=\"config-maker\""));
        Ok(left.map_or(Poll::Done(()), |line| Poll::NotYet(line.to_owned())))
    };
    until("the series of config-maker to end", DEADLINE, poll).await.unwrap();
    assert!(
        value(&env.metrics(), "workqueue_adds_total", &row).is_some(),
        "the series of other plugins remain"
    );
    env.until_contains(&PLUGIN, ("", "config-maker"), "/status/stage", "Unloaded").await;
    assert!(env.get(&PROBE, "faulty", "bad").await.is_some());
}

#[tokio::test]
async fn a_host_is_ready_when_its_watches_are_fresh_and_its_plugins_serve() {
    let component = guests::config_maker("Hello").unwrap();
    let env = HostEnvironment::with(&[("config-maker", b"no component")], "readiness").await;
    assert_eq!(env.cluster.get_path("/healthz").unwrap(), (200, "ok\n".to_owned()));
    env.until_ready(503, "[-]plugin config-maker failed: no revision serves; NotAComponent").await;
    env.put("config-maker.wasm", &component);
    env.until_ready(200, "[+]plugin config-maker ok\n").await;
    env.until_ready(200, "[+]watch tests.tholepin.dev/v1/Greeting ok\n").await;
    env.put("config-maker.wasm", b"no component");
    env.until_ready(200, "[+]plugin config-maker ok, but an older revision serves").await;
    // The settings did not change; writing them again makes the host drop the bad file.
    env.put("config-maker.yaml", settings("config-maker", ""));
    assert_eq!(env.cluster.get_path("/readyz").unwrap(), (200, "ok\n".to_owned()));
    let directory = env.cluster.plugins().unwrap();
    let moved = directory.with_extension("moved");
    std::fs::rename(&directory, &moved).unwrap();
    env.until_ready(503, "[-]directory of plugins failed: cannot read").await;
    std::fs::rename(&moved, &directory).unwrap();
    env.until_ready(200, "[+]directory of plugins ok\n").await;
}
