//! The benchmark behind `make bench`: speed and cost of the product, beside the goals. Prints a table and writes
//! the same as JSON. `README.md` here says what each row means, and what it includes and excludes.
//!
//! It measures and does not judge: a missed goal is printed as a ratio above 1 and is no failure.
//! It ends only processes that it started itself.
//!
//! `bench [JSON] [PART…]`: all parts if none is named; the file defaults to `bench.json` beside the `tholepin`
//! binary.

mod engine;
mod events;
mod failover;
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
mod world;

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
    table::{BenchRow, say},
};

/// How long all parts may take together. Each part has bounds of its own; this one is for a part that hangs.
const GIVE_UP: Duration = Duration::from_mins(15);

fn main() -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let start = Instant::now();
    let (file, parts) = arguments()?;
    let mut rows = Vec::new();
    let mut told = Vec::new();
    let mut failed = Vec::new();
    for part in parts {
        say(&format!("{}: {}", part.name(), part.about()));
        let begun = Instant::now();
        let left = GIVE_UP.saturating_sub(start.elapsed());
        let measured = runtime.block_on(async { tokio::time::timeout(left, part.measure()).await });
        let measured = measured.unwrap_or_else(|_| anyhow::bail!("not finished after {left:?}"));
        let seconds = begun.elapsed().as_secs_f64();
        say(&format!("  took {seconds:.0} s"));
        // After a failure the other parts are still measured.
        let error = match measured {
            Ok(measured) => {
                rows.extend(measured);
                None
            }
            Err(error) => {
                say(&format!("  failed: {error:#}"));
                failed.push(part.name());
                Some(format!("{error:#}"))
            }
        };
        told.push(json!({"name": part.name(), "seconds": seconds, "error": error}));
    }
    let profile = process::tholepin()?;
    let profile = profile.parent().and_then(|folder| folder.file_name()).context("a profile")?;
    let report = json!({
        "profile": profile.to_string_lossy(),
        "seconds": start.elapsed().as_secs_f64(),
        "parts": told,
        "rows": rows.iter().map(BenchRow::json).collect::<Vec<Value>>(),
    });
    fs::write(&file, format!("{report:#}\n")).with_context(|| file.display().to_string())?;
    table::print(&rows);
    say(&format!(
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
    let mut words = env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    let file = match words.next_if(|word| BenchPart::named(word).is_none()) {
        Some(file) => file.into(),
        None => process::tholepin()?.with_file_name("bench.json"),
    };
    let mut parts = Vec::new();
    for word in words {
        let names = BenchPart::ALL.map(BenchPart::name).join(", ");
        parts.push(
            BenchPart::named(&word)
                .with_context(|| format!("`{word}` is not a part; the parts are {names}"))?,
        );
    }
    Ok((file, if parts.is_empty() { BenchPart::ALL.to_vec() } else { parts }))
}
