//! The host's memory by the number of plugins that it serves. Each plugin has its own code, name, kind and object,
//! and has reconciled that object.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use serde_json::{Value, json};
use tests::{
    cluster::LocalClusterProcess,
    guests,
    process::Process,
    redis_cluster::NAMESPACE,
    wait::{Poll, elapse, until},
};

use crate::{
    objects, proc,
    table::{BenchRow, RowUnit},
};

/// The numbers of plugins, step by step.
const STEPS: [usize; 3] = [1, 10, 100];
const GOAL_BYTES: f64 = 48e6;
/// How long the plugins may take to serve: the first time each one is compiled.
const SERVE_MAX: Duration = Duration::from_secs(180);
/// How long the host gets to release memory: it releases code that was not called for 20 s.
const SETTLE: Duration = Duration::from_secs(25);

/// The texts that are replaced in the component, so that one build gives all plugins. They are so long that the
/// compiler does not inline them into the code.
const NAME: &str = "bench-plugin-of-the-memory-measurement-number-0000";
const KIND: &str = "BenchKindOfTheMemoryMeasurementNumber0000";

/// Measures this part.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let component =
        guests::build("guest-config-maker", &[("PLUGIN_NAME", NAME), ("PLUGIN_KIND", KIND)])?;
    let cluster = LocalClusterProcess::start_api_only()?;
    let client = cluster.client().await?;
    let folder = cluster.plugins()?;
    let mut host = cluster.host()?;
    let mut rows = Vec::new();
    let mut installed = 0;
    for count in STEPS {
        for number in installed..count {
            let (name, kind) = (variant(NAME, number), variant(KIND, number));
            let component = guests::replaced(&component, NAME, &name)?;
            let component = guests::replaced(&component, KIND, &kind)?;
            guests::install(&folder, &name, &component)?;
        }
        installed = count;
        serve(&client, count).await?;
        rows.push(
            row(&format!("host's memory, {count} plugins, compiled by this host"), &host).await?,
        );
    }
    host.end()?;
    let host = cluster.host()?;
    // The reaction to a change shows that each plugin serves again.
    objects::run_all((0..installed).map(|number| change(&client, number, "again"))).await?;
    greeted(&client, installed, "again").await?;
    let row = row(&format!("host's memory, {installed} plugins, restarted"), &host).await?;
    rows.push(row.goal(GOAL_BYTES));
    let own = vec![proc::own_bytes(host.pid())?];
    rows.push(BenchRow::new("  of it, without pages of mapped files", RowUnit::Bytes, own));
    Ok(rows)
}

async fn row(name: &str, host: &Process) -> Result<BenchRow> {
    elapse(SETTLE).await;
    Ok(BenchRow::new(name, RowUnit::Bytes, vec![proc::resident_bytes(host.pid())?]))
}

/// Returns the text with another number at its end.
fn variant(text: &str, number: usize) -> String {
    format!("{}{number:04}", text.trim_end_matches('0'))
}

/// Creates an object for each plugin that has none, and waits until each plugin has reconciled its own.
async fn serve(client: &Client, count: usize) -> Result<()> {
    let make = |number| async move {
        // The kind is installed with the plugin.
        let made = || async { Ok(Poll::Done(change(client, number, "there").await?)) };
        until(variant(KIND, number), SERVE_MAX, made).await.map(drop)
    };
    objects::run_all((0..count).map(make)).await?;
    greeted(client, count, "there").await
}

/// Applies the object of a plugin with this text.
async fn change(client: &Client, number: usize, text: &str) -> Result<()> {
    use kube::api::{Patch, PatchParams};
    let kind = variant(KIND, number);
    let object = json!({
        "apiVersion": "tests.tholepin.dev/v1",
        "kind": kind,
        "metadata": {"name": object_name(number), "namespace": NAMESPACE},
        "spec": {"text": text},
    });
    let api = objects::api(client, ["tests.tholepin.dev", "v1", &kind]);
    let params = PatchParams::apply("bench").force();
    api.patch(&object_name(number), &params, &Patch::Apply(object)).await.context(kind)?;
    Ok(())
}

/// Waits until each plugin has created its ConfigMap with this text.
async fn greeted(client: &Client, count: usize, text: &str) -> Result<()> {
    let maps = objects::api(client, ["", "v1", "ConfigMap"]);
    let poll = || async {
        let maps = maps.list(&kube::api::ListParams::default()).await?;
        let expected = format!("Hello, {text}");
        let has_text = |map: &&kube::api::DynamicObject| {
            map.data.pointer("/data/greeting").and_then(Value::as_str) == Some(&expected)
        };
        let done = maps.iter().filter(has_text).count();
        Ok(if done == count { Poll::Done(()) } else { Poll::NotYet(format!("{done} of {count}")) })
    };
    until(format!("{count} plugins to have greeted"), SERVE_MAX, poll).await.map(drop)
}

fn object_name(number: usize) -> String {
    format!("object-{number:04}")
}
