//! `tholepin local`: starts a cluster on this machine, with or without the host.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tholepin_guest::CompilationNotice;
use tholepin_local::{ImageTableSource, LocalCluster, LocalOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{print, stop_on_signal};
use crate::{
    cli::{ClusterOptions, EngineArgs, ListenArgs, LocalArgs},
    engine::{self, EngineOptions},
    exit,
};

pub(crate) async fn run(arguments: LocalArgs) -> Result<u8> {
    let LocalArgs { cluster, no_host: _, api_only, plugins, listen, log: _ } = arguments;
    let mut signals = JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let mut running = start(&cluster, |options| options.api_only = api_only).await?;
    print(&format!("kubeconfig {}\n", running.cluster.kubeconfig.display()))?;
    let result = match plugins {
        Some(plugins) => running.with_engine(plugins, listen, stop, || print("ready\n")).await,
        None => {
            print("ready\n")?;
            running.until(stop).await
        }
    };
    running.end().await;
    result.map(|()| exit::DONE)
}

/// A running local cluster and its directory.
pub(crate) struct RunningCluster {
    pub(crate) cluster: LocalCluster,
    /// Called for each compilation; logs it by default.
    pub(crate) on_compilation: fn(&CompilationNotice),
    /// The temporary directory to remove at the end, if the user named no directory.
    temporary: Option<TempDir>,
}

/// Starts a cluster in the named directory, or in a temporary one. `adjust` changes the options last.
///
/// # Errors
///
/// Fails if the cluster does not start.
pub(crate) async fn start(
    options: &ClusterOptions,
    adjust: impl FnOnce(&mut LocalOptions),
) -> Result<RunningCluster> {
    let temporary = match options.directory {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("tholepin-").tempdir()?),
    };
    let named = options.directory.clone();
    let directory = named.or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned()));
    let directory = directory.context("no directory was named or created")?;
    let program = env::current_exe().context("cannot find this program's own file")?;
    let mut local = LocalOptions::new(directory, program);
    local.block = options.block;
    local.nodes = options.nodes;
    if let Some(images) = &options.images {
        local.images = ImageTableSource::File(images.clone());
    }
    adjust(&mut local);
    let cluster = tholepin_local::start(local).await?;
    Ok(RunningCluster { cluster, on_compilation: engine::log_compilation, temporary })
}

impl RunningCluster {
    /// Runs until `stop` is cancelled, or until a part of the cluster ends.
    ///
    /// # Errors
    ///
    /// Fails if a part of the cluster ends by itself.
    pub(crate) async fn until(&mut self, stop: CancellationToken) -> Result<()> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            error = self.cluster.wait() => Err(error.into()),
        }
    }

    /// Runs the host with the cluster until `stop` is cancelled, or until either ends.
    ///
    /// # Errors
    ///
    /// Fails if the host does not start, or if a part ends by itself.
    pub(crate) async fn with_engine(
        &mut self,
        plugins: PathBuf,
        listen: ListenArgs,
        stop: CancellationToken,
        ready: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<()> {
        let options = EngineOptions {
            kubeconfig: Some(self.cluster.host_kubeconfig.clone()),
            arguments: EngineArgs {
                plugins,
                history: None,
                concurrency: None,
                in_flight: 64,
                poll_interval_ms: 1000,
                resync_seconds: 30,
            },
            keeps_history: true,
            on_compilation: self.on_compilation,
            trusts_plugins: true,
        };
        let engine_stop = stop.child_token();
        let engine = engine::run(options, listen, engine_stop.clone(), ready);
        tokio::pin!(engine);
        tokio::select! {
            result = &mut engine => result,
            error = self.cluster.wait() => {
                engine_stop.cancel();
                // The end of the cluster is the cause; an error of the host is its consequence.
                engine.await.ok();
                Err(error.into())
            }
        }
    }

    /// Ends the cluster and removes a temporary directory.
    pub(crate) async fn end(self) {
        let Self { cluster, on_compilation: _, temporary } = self;
        cluster.shutdown().await;
        drop(temporary);
    }
}
