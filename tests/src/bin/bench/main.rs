//! The benchmark behind `make bench`: how long a hot swap takes, and how long a shard cannot be written
//! after the death of its primary. Prints a table for people and writes the same as JSON beside it.
//!
//! It measures and judges nothing: a goal that is missed is printed as a ratio above 1, not as a failure.
//! It ends only processes of clusters that it started itself.
//!
//! `bench [JSON] [swap|failover]`: the file defaults to `bench.json` beside the `tholepin` binary.

mod failover;
mod swap;
mod table;

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::process;

use crate::table::{Row, say};

/// How long the whole may take; every part is bounded by itself, this is for what hangs.
const GIVE_UP: Duration = Duration::from_mins(6);

fn main() -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let start = Instant::now();
    let (file, part) = arguments()?;
    let rows = runtime.block_on(async { tokio::time::timeout(GIVE_UP, measure(&part)).await });
    let rows = rows.with_context(|| format!("not at its end after {GIVE_UP:?}"))??;
    let profile = process::tholepin()?;
    let profile = profile.parent().and_then(|folder| folder.file_name()).context("a profile")?;
    let report = json!({
        "profile": profile.to_string_lossy(),
        "seconds": start.elapsed().as_secs_f64(),
        "rows": rows.iter().map(Row::json).collect::<Vec<Value>>(),
    });
    fs::write(&file, format!("{report:#}\n")).with_context(|| file.display().to_string())?;
    table::print(&rows);
    say(&format!(
        "profile {}, {} s in all; the same as JSON in {}",
        profile.display(),
        start.elapsed().as_secs(),
        file.display()
    ));
    Ok(())
}

/// The file for the JSON, and which part is asked for (empty: all).
fn arguments() -> Result<(PathBuf, String)> {
    let mut words = env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    let is_part = |word: &String| ["swap", "failover"].contains(&word.as_str());
    let file = match words.next_if(|word| !is_part(word)) {
        Some(file) => file.into(),
        None => process::tholepin()?.with_file_name("bench.json"),
    };
    let part = words.next().unwrap_or_default();
    ensure!(part.is_empty() || is_part(&part), "`{part}` is no part; there are swap and failover");
    Ok((file, part))
}

async fn measure(part: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if part != "failover" {
        rows.extend(swap::measure().await?);
    }
    if part != "swap" {
        for node_timeout_ms in [2000, 5000] {
            rows.extend(failover::measure(node_timeout_ms).await?);
        }
    }
    Ok(rows)
}
