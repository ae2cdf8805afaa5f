//! 11: a manual edit of an object that the host applies is undone, also in a map that the API treats as one
//! value.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    redis_cluster::RedisCluster,
    wait::{Poll, until},
};

use crate::{fixture, table::FaultRows};

/// Objects by kind and name, and the atomic map in each to which a label is added.
const EDITED: &[(&str, &str, &str)] = &[
    ("service", "cache", "/spec/selector"),
    ("service", "cache-nodes", "/spec/selector"),
    ("poddisruptionbudget", "cache-shard-0", "/spec/selector/matchLabels"),
];

/// 11a: a label that no Pod has is added to a selector.
pub(crate) async fn a_selector_is_edited_by_hand(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    for (kind, name, path) in EDITED {
        let input = format!("`hand: edited` added to {path} of {kind}/{name}");
        rows.row(&input, "never undone, no endpoints, Ready=True", fixture::ROW, async |row| {
            row.keys_before(keys.len());
            let before = fixture::get(&env, kind, name)?.pointer(path).cloned().context("a map")?;
            let mut edited = before.clone();
            fixture::set(&mut edited, &["hand"], "edited");
            let fields = path.trim_start_matches('/').split('/').rev();
            let change = fields.fold(edited, |inner, field| json!({ field: inner }));
            fixture::patch_of(&env, kind, name, &change)?;
            let poll = || async {
                let now =
                    fixture::get(&env, kind, name)?.pointer(path).cloned().unwrap_or_default();
                Ok(if now == before { Poll::Done(()) } else { Poll::NotYet(now.to_string()) })
            };
            let undone = until("the edit to be undone", fixture::REPORT_DEADLINE, poll).await;
            if undone.is_err() {
                // By hand, so that the next row begins with a working Service.
                let without = json!({"hand": null});
                let fields = path.trim_start_matches('/').split('/').rev();
                let change = fields.fold(without, |inner, field| json!({ field: inner }));
                fixture::patch_of(&env, kind, name, &change)?;
            }
            let (_, took) = undone?;
            row.observed(format!("undone after {:.1} s", took.as_secs_f64()));
            if *kind == "service" {
                endpoints(&env, name).await?;
            }
            row.keys_after(keys.check()?);
            Ok(())
        })
        .await;
    }
    fixture::end(rows, env)
}

async fn endpoints(env: &tests::environment::TestEnvironment, service: &str) -> Result<()> {
    let poll = || async {
        let selector = format!("kubernetes.io/service-name={service}");
        let slices = env.kubectl.run(&["get", "endpointslice", "-l", &selector, "-o", "json"])?;
        let slices: Value = serde_json::from_str(&slices)?;
        let count =
            |slice: &Value| slice.get("endpoints").and_then(Value::as_array).map_or(0, Vec::len);
        let slices = slices.get("items").and_then(Value::as_array);
        let count: usize = slices.into_iter().flatten().map(count).sum();
        let expected = env.redis.pods();
        Ok(if count == expected {
            Poll::Done(())
        } else {
            Poll::NotYet(format!("{count} endpoints"))
        })
    };
    until(format!("the endpoints of {service}"), fixture::REPORT_DEADLINE, poll).await.map(drop)
}
