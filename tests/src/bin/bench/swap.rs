//! The time of a hot swap: from the rename of a plugin's file to the effect of the new code's first reconcile in
//! Kubernetes.
//!
//! Each variant of a component differs in a text that the plugin writes into an object, so that only code that
//! really ran is counted. The text is replaced in the binary, which needs no build; the variant has another
//! digest, so the host has never compiled it.

use std::{
    fs,
    path::Path,
    pin::pin,
    process,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use futures::{Stream, TryStreamExt};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent, WatchParams},
};
use tests::{cluster::LocalClusterProcess, guests, redis_cluster::NAMESPACE, wait};

use crate::table::{BenchRow, print_line};

/// How many swaps of each sort are measured.
const COUNT: u64 = 20;
/// How long a swap may take before the measurement is given up.
const SWAP_MAX: Duration = Duration::from_secs(10);
/// The pause between two swaps, in which the host writes its status of the last one.
const PAUSE: Duration = Duration::from_millis(150);
const GOAL_NEW_MS: f64 = 150.0;
const GOAL_SEEN_MS: f64 = 20.0;

/// A text of the same length as every text that replaces it.
const GREETING: &str = "what the benchmark says.";

/// A plugin and the object that shows its text.
struct SwappedPlugin {
    plugin: &'static str,
    component: Vec<u8>,
    /// The text that is replaced in the component.
    text: &'static str,
    /// The reconciled object, as YAML.
    object: &'static str,
    /// `group`, `version`, `kind` of the object `bench` that shows the text.
    shown_by: [&'static str; 3],
    /// The CRD that must be installed first.
    crd: &'static str,
}

/// Measures new and seen code of a small and of a large plugin.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let small = SwappedPlugin {
        plugin: "config-maker",
        component: guests::config_maker(GREETING)?,
        text: GREETING,
        object: "{apiVersion: tests.tholepin.dev/v1, kind: Greeting, metadata: {name: bench, namespace: \
                 default}, spec: {text: you}}",
        shown_by: ["", "v1", "ConfigMap"],
        crd: "greetings.tests.tholepin.dev",
    };
    let large = SwappedPlugin {
        plugin: "redis-cluster",
        component: guests::redis_cluster()?,
        // From the message about a missing Secret: a reconcile that needs no server.
        text: "does not exist: `kubectl",
        object: "{apiVersion: redis.tholepin.dev/v1alpha1, kind: RedisCluster, metadata: {name: bench, \
                 namespace: default}, spec: {shards: 3, image: 'redis:7.0', auth: {secretName: none}}}",
        shown_by: ["redis.tholepin.dev", "v1alpha1", "RedisCluster"],
        crd: "redisclusters.redis.tholepin.dev",
    };
    let mut rows = Vec::new();
    for subject in [small, large] {
        rows.extend(subject.measure().await.with_context(|| subject.plugin)?);
    }
    Ok(rows)
}

impl SwappedPlugin {
    async fn measure(&self) -> Result<[BenchRow; 2]> {
        print_line(&format!("swap of {} ({} KiB)", self.plugin, self.component.len() / 1024));
        let cluster = LocalClusterProcess::start_api_only()?;
        let plugins = cluster.plugins()?;
        guests::install(&plugins, self.plugin, &self.component)?;
        let _host = cluster.host()?;
        let kubectl = cluster.kubectl()?;
        let apply = || async {
            let arguments = ["apply", "--server-side", "-f", "-"];
            Ok(wait::Poll::Done(kubectl.run_with(&arguments, self.object)?))
        };
        wait::until(self.crd, SWAP_MAX, apply).await?;
        let client = cluster.client().await?;
        let events = self.events(&client, self.text).await?;
        let mut events = pin!(events);

        // A later run must not find the variants of this run in the cache of compiled code.
        let start_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        let mark = |number: u64| {
            let mark = format!("n{number}-{start_us:x}-{}", process::id());
            format!("{mark:-<width$}", width = self.text.len())
        };
        let mut new = Vec::new();
        for number in 0..COUNT {
            new.push(self.swap(&plugins, &mark(number), &mut events).await?);
        }
        let mut seen = Vec::new();
        for number in 0..COUNT {
            seen.push(self.swap(&plugins, &mark(number % 2), &mut events).await?);
        }
        let row = |sort, samples: &[Duration]| {
            BenchRow::ms(format!("swap {}, {sort} code", self.plugin), samples)
        };
        Ok([row("new", &new).goal(GOAL_NEW_MS), row("seen", &seen).goal(GOAL_SEEN_MS)])
    }

    /// Returns the changes of the object that shows the text, as JSON, after it shows `first`.
    async fn events(
        &self,
        client: &Client,
        first: &str,
    ) -> Result<impl Stream<Item = Result<String>> + use<>> {
        let [group, version, kind] = self.shown_by;
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
        let poll = || async {
            let object = api.get("bench").await?;
            let text = serde_json::to_string(&object)?;
            let version = object.metadata.resource_version.unwrap_or_default();
            Ok(if text.contains(first) {
                wait::Poll::Done(version)
            } else {
                wait::Poll::NotYet(text)
            })
        };
        let (version, _) = wait::until("the first code's effect", SWAP_MAX, poll).await?;
        let params = WatchParams::default().fields("metadata.name=bench");
        let events = api.watch(&params, &version).await?;
        Ok(events.map_err(anyhow::Error::from).and_then(|event| async {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    Ok(serde_json::to_string(&object)?)
                }
                WatchEvent::Bookmark(_) => Ok(String::new()),
                other @ (WatchEvent::Deleted(_) | WatchEvent::Error(_)) => {
                    bail!("the watch ended: {other:?}")
                }
            }
        }))
    }

    /// Renames the variant with this text into place, and waits for its effect.
    async fn swap(
        &self,
        plugins: &Path,
        mark: &str,
        events: &mut (impl Stream<Item = Result<String>> + Unpin),
    ) -> Result<Duration> {
        wait::elapse(PAUSE).await;
        let file = plugins.join(format!("{}.wasm", self.plugin));
        let fresh = plugins.join(format!(".{}.wasm.new", self.plugin));
        fs::write(&fresh, guests::replaced(&self.component, self.text, mark)?)?;
        let start = Instant::now();
        fs::rename(fresh, file)?;
        let effect = async {
            while let Some(object) = events.try_next().await? {
                if object.contains(mark) {
                    return Ok(start.elapsed());
                }
            }
            bail!("the watch ended")
        };
        let effect = tokio::time::timeout(SWAP_MAX, effect).await;
        effect.with_context(|| format!("`{mark}` was not seen within {SWAP_MAX:?}"))?
    }
}
