//! The cost of the sandbox: a fresh instance, a call that does nothing, and the end of the instance, with the
//! host's settings of the engine.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, anyhow};
use serde_json::json;
use tests::guests;
use tholepin_core::port::PluginExports;
use tholepin_schema::reconcile::ReconcileRequest;

use crate::{fake_host_calls::FakeKubernetes, plugin::BenchPlugin, table::BenchRow};

/// How many calls are measured, after as many for warm-up.
const CALLS: usize = 3_000;
const GOAL_US: f64 = 25.0;

/// Measures this part.
pub(crate) async fn measure() -> Result<Vec<BenchRow>> {
    let plugin = BenchPlugin::load("probe", &guests::probe()?).await?;
    let object = json!({
        "apiVersion": "tests.tholepin.dev/v1",
        "kind": "Probe",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"do": "nothing"},
    });
    let host_calls = Arc::new(FakeKubernetes::default());
    let mut taken = Vec::with_capacity(2 * CALLS);
    for _ in 0..2 * CALLS {
        let request = ReconcileRequest {
            object: object.clone(),
            deleting: false,
            causes: Vec::new(),
            memo: None,
        };
        let context = plugin.loaded.context(None);
        let start = Instant::now();
        let outcome = plugin.loaded.reconcile(context, request, host_calls.clone()).await?;
        taken.push(start.elapsed());
        outcome.map_err(|failure| anyhow!("{failure:?}"))?;
    }
    let taken = taken.split_off(CALLS);
    let row = BenchRow::us("fresh instance, call of nothing, end", &taken);
    Ok(vec![row.goal(GOAL_US)])
}
