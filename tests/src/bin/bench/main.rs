//! The benchmark behind `make bench`: speed and cost of the product, beside the goals. Prints a table and writes
//! the same as JSON. `README.md` here says what each row means, and what it includes and excludes.
//!
//! A missed goal is not an error. It is printed as a ratio above 1.
//! It ends only processes that it started itself.
//!
//! `bench [JSON] [PART…]`: all parts if none is named; the file defaults to `bench.json` beside the `tholepin`
//! binary.

mod engine;
mod events;
mod failover;
mod fake_host_calls;
mod growth;
mod hook;
mod idle;
mod live_bytes;
mod objects;
mod part;
mod plugin;
mod plugins;
mod proc;
mod sandbox;
mod snapshot;
mod store;
mod swap;
mod table;
mod wasm;

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::process;

use crate::{
    part::BenchPart,
    table::{BenchRow, print_line},
};

/// How long all parts may take together. Each part has bounds of its own; this one is for a part that hangs.
const GIVE_UP: Duration = Duration::from_mins(15);

fn main() -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let start = Instant::now();
    let (file, parts) = arguments()?;
    let mut rows = Vec::new();
    let mut parts_done = Vec::new();
    let mut failed = Vec::new();
    for part in parts {
        print_line(&format!("{}: {}", part.name(), part.about()));
        let part_start = Instant::now();
        let left = GIVE_UP.saturating_sub(start.elapsed());
        let measured = runtime.block_on(async { tokio::time::timeout(left, part.measure()).await });
        let measured = measured.unwrap_or_else(|_| anyhow::bail!("not finished after {left:?}"));
        let seconds = part_start.elapsed().as_secs_f64();
        print_line(&format!("  took {seconds:.0} s"));
        // After a failure the other parts are still measured.
        let error = match measured {
            Ok(measured) => {
                rows.extend(measured);
                None
            }
            Err(error) => {
                print_line(&format!("  failed: {error:#}"));
                failed.push(part.name());
                Some(format!("{error:#}"))
            }
        };
        parts_done.push(json!({"name": part.name(), "seconds": seconds, "error": error}));
    }
    let profile = process::tholepin()?;
    let profile = profile.parent().and_then(|folder| folder.file_name()).context("a profile")?;
    let report = json!({
        "profile": profile.to_string_lossy(),
        "seconds": start.elapsed().as_secs_f64(),
        "parts": parts_done,
        "rows": rows.iter().map(BenchRow::json).collect::<Vec<Value>>(),
    });
    fs::write(&file, format!("{report:#}\n")).with_context(|| file.display().to_string())?;
    table::print(&rows);
    print_line(&format!(
        "profile {}, {} s in all; the same as JSON in {}",
        profile.display(),
        start.elapsed().as_secs(),
        file.display()
    ));
    ensure!(failed.is_empty(), "could not be measured: {}", failed.join(", "));
    Ok(())
}

/// Returns the file for the JSON, and the requested parts.
fn arguments() -> Result<(PathBuf, Vec<BenchPart>)> {
    let mut remaining =
        env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    let file = match remaining.next_if(|argument| BenchPart::named(argument).is_none()) {
        Some(file) => file.into(),
        None => process::tholepin()?.with_file_name("bench.json"),
    };
    let mut parts = Vec::new();
    for argument in remaining {
        let names = BenchPart::ALL.map(BenchPart::name).join(", ");
        parts.push(
            BenchPart::named(&argument)
                .with_context(|| format!("`{argument}` is not a part; the parts are {names}"))?,
        );
    }
    Ok((file, if parts.is_empty() { BenchPart::ALL.to_vec() } else { parts }))
}
