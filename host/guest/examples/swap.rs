//! Measures the swap of a plugin, from the rename of its file until its new revision serves.
//!
//! `cargo run -p tholepin-guest --example swap -- OLD.wasm NEW.wasm`: two builds of one plugin. Prints
//! one JSON line; *new* code is compiled, *seen* code is found in the cache.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tholepin_core::{ErrorChain, PluginName};
use tholepin_guest::{GuestEngine, PluginRegistry, PluginRegistryOptions, RevisionLoadStage};
use tokio::{task::JoinSet, time};

/// The number of measurements of each kind.
const SWAPS: usize = 20;

type Failed = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let files: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [old, new] = files.as_slice() else { return Err("usage: swap OLD.wasm NEW.wasm".into()) };
    let components = [fs::read(old)?, fs::read(new)?];
    let home = tempfile::tempdir()?;
    let compiled = measure(home.path(), &components, false).await?;
    let seen = measure(home.path(), &components, true).await?;
    let line =
        serde_json::json!({"newCodeMs": percentiles(compiled), "seenCodeMs": percentiles(seen)});
    #[expect(clippy::print_stdout, reason = "the result")]
    {
        println!("{line}");
    }
    Ok(())
}

/// Swaps the two components back and forth; without `keep` the cache is emptied before each swap.
async fn measure(
    home: &Path,
    components: &[Vec<u8>; 2],
    keep: bool,
) -> Result<Vec<Duration>, Failed> {
    let directory = home.join(format!("plugins-{keep}"));
    fs::create_dir(&directory)?;
    let cache = home.join("cache");
    let options = PluginRegistryOptions {
        directory: directory.clone(),
        cache: cache.clone(),
        history: Some(home.join("history")),
        allow_as_requested: true,
        idle_max: Duration::MAX,
    };
    let (registry, mut watch) = PluginRegistry::open(Arc::new(GuestEngine::new(8)?), options)?;
    let [first, second] = components;
    put(&directory, "config-maker.wasm", first)?;
    put(&directory, "config-maker.yaml", SETTINGS.as_bytes())?;
    watch.scan().await;
    let name: PluginName = "config-maker".parse()?;
    let mut serving =
        registry.active(&name).ok_or("the first component does not load")?.digest.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(watch.run());
    let mut reports = registry.subscribe();
    let mut taken = Vec::new();
    for component in [second, first].into_iter().cycle().take(SWAPS) {
        if !keep {
            for entry in fs::read_dir(&cache)? {
                fs::remove_file(entry?.path())?;
            }
        }
        let start = put(&directory, "config-maker.wasm", component)?;
        loop {
            let report = time::timeout(Duration::from_secs(30), reports.recv()).await??;
            if let Some(reason) = report.reason {
                return Err(format!("{reason}: {}", report.message).into());
            }
            if report.stage == Some(RevisionLoadStage::Active) && report.active() != Some(&serving)
            {
                taken.push(start.elapsed());
                serving = report.active().cloned().ok_or("no revision")?;
                break;
            }
        }
    }
    Ok(taken)
}

/// Puts a file into the directory by a rename, and returns the time of the rename.
fn put(directory: &Path, file: &str, bytes: &[u8]) -> Result<Instant, Failed> {
    let beside = directory.join(format!(".{file}.new"));
    fs::write(&beside, bytes).map_err(|error| ErrorChain(&error).to_string())?;
    let start = Instant::now();
    fs::rename(beside, directory.join(file))?;
    Ok(start)
}

fn percentiles(mut taken: Vec<Duration>) -> serde_json::Value {
    taken.sort();
    let at = |percent: usize| {
        let index = taken.len().saturating_sub(1) * percent / 100;
        taken.get(index).map(|time| time.as_secs_f64() * 1000.0)
    };
    serde_json::json!({"p50": at(50), "p95": at(95), "count": taken.len()})
}

const SETTINGS: &str = "\
apiVersion: tholepin.dev/v1alpha1
kind: Plugin
metadata: {name: config-maker}
spec:
  source: {file: config-maker.wasm}
  grants: asRequested
";
