//! Starts and stops a whole local host: API server, controllers, node agents.
//!
//! ```text
//! lock the directory and an address block ─► clean up after an earlier run ─► API server ─► controllers ─► agents
//! ```
//!
//! The parts are stopped in this order: the controllers, so that nothing new is created; the agents, which
//! end the containers; the API server. This module decides nothing about workloads.
//!
//! Invariants:
//! - Every task is joined. A task that ends by itself ends the local host, with its reason
//!   ([`LocalCluster::wait`]).
//! - Only one local host uses a directory. What a killed one left there is cleaned up before the next one
//!   starts.

mod client;
mod control;
mod options;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tholepin_apiserver::{ApiServer, ApiServerOptions};
use tracing::{info, warn};

pub use options::{ImageTableSource, LocalOptions};

use crate::addresses::{AddressBlock, BlockPodAddressAllocator, LoopbackBlockReserveError};
use crate::agents::{self, AgentSetup};
use crate::api_writer::ApiWriteError;
use crate::hosts_file_names::NamespaceHostsFileLines;
use crate::reflectors::LocalClusterReflectors;
use crate::task_group::TaskGroup;

/// How long the controllers may take to finish their current writes.
const CONTROLLERS_STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How long the agents may take to end all containers, beyond the containers' grace period.
const AGENTS_STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Why a local host does not start, or why it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The state directory cannot be used.
    #[error("cannot use the directory `{}`", path.display())]
    Directory {
        /// The directory, or a file in it.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another local host uses the directory.
    #[error("another local host uses `{}`: stop it or choose another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is no free address block.
    #[error(transparent)]
    Addresses(#[from] LoopbackBlockReserveError),
    /// The leftovers of an earlier local host cannot be removed.
    #[error("cannot clean up the leftovers of an earlier local host in `{}`", path.display())]
    CleanUp {
        /// The directory of the agent concerned.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The task that cleans up panicked.
    #[error("the clean-up of an earlier local host panicked")]
    CleanUpPanicked(#[source] tokio::task::JoinError),
    /// The image table cannot be read.
    #[error(transparent)]
    Images(#[from] tholepin_agent::ImageError),
    /// The API server does not start.
    #[error("the API server does not start")]
    Api(#[from] tholepin_apiserver::ApiServerStartError),
    /// No client can be created for the API server that has just started.
    #[error("cannot create a client for the API server")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The initial objects cannot be created.
    #[error("cannot create the initial objects")]
    Initial(#[source] ApiWriteError),
    /// A part ended that must last as long as the local host.
    #[error("`{part}` ended")]
    Ended {
        /// The name of the part.
        part: String,
        /// Why it ended.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A running local host. Dropping it aborts its tasks without a grace period; use [`LocalCluster::shutdown`]
/// instead.
pub struct LocalCluster {
    /// The admin's kubeconfig, readable by this user only.
    pub kubeconfig: PathBuf,
    /// The host's kubeconfig: its writes appear in the audit log under the user `host`.
    pub host_kubeconfig: PathBuf,
    /// The address of the API server.
    pub api_address: SocketAddr,
    /// The number N of its address block 127.N.0.0/16.
    pub block: u8,
    server: ApiServer,
    controllers: TaskGroup,
    agents: TaskGroup,
    agents_grace: Duration,
    // Held for their locks. The block must outlive everything that listens in it.
    _block: AddressBlock,
    _lock: File,
}

/// Starts a local host. When this returns, the API server serves requests, and the nodes become ready soon.
///
/// # Errors
///
/// Returns an error if the directory or the address block is in use, if leftovers of an earlier host cannot
/// be removed, or if a part does not start. No part keeps running then.
pub async fn start(options: LocalOptions) -> Result<LocalCluster, LocalError> {
    let lock = lock_state_directory(&options.directory)?;
    let (block, listener) =
        AddressBlock::take(&options.lock_directory, options.block, options.api_port)?;
    let images = options.image_table()?;
    let directory = options.directory.clone();
    let discard = options.discard_volumes;
    let cleaned = tokio::task::spawn_blocking(move || clean_up(&directory, discard)).await;
    cleaned.map_err(LocalError::CleanUpPanicked)??;

    let nodes: Vec<String> =
        (1..=options.node_count()).map(|number| format!("node-{number}")).collect();
    let server = start_api(&options, (&block, listener), &nodes).await?;
    let host_kubeconfig = options.directory.join("host.kubeconfig");
    server.write_kubeconfig("host", &host_kubeconfig)?;
    let mut cluster = LocalCluster {
        host_kubeconfig,
        kubeconfig: server.kubeconfig.clone(),
        api_address: server.address,
        block: block.number(),
        server,
        controllers: TaskGroup::new(),
        agents: TaskGroup::new(),
        agents_grace: options.stop_grace,
        _block: block,
        _lock: lock,
    };
    let started = cluster.start_parts(&options, &nodes, images).await;
    match started {
        Ok(()) => Ok(cluster),
        Err(error) => {
            cluster.shutdown().await;
            Err(error)
        }
    }
}

impl LocalCluster {
    async fn start_parts(
        &mut self,
        options: &LocalOptions,
        nodes: &[String],
        images: tholepin_agent::ImageTable,
    ) -> Result<(), LocalError> {
        let client = self.client("controllers")?;
        let watching = control::watch_api(client.clone(), self.controllers.stop());
        self.controllers.spawn("API server", watching);
        if options.api_only {
            return Ok(());
        }
        control::create_initial(&client).await?;
        let reflectors = LocalClusterReflectors::default();
        let names = NamespaceHostsFileLines::new(&reflectors);
        let volumes = options.directory.join("volumes");
        control::start(&client, &reflectors, Arc::clone(&names), volumes, &mut self.controllers);
        let setup = AgentSetup {
            client: self.client("agent")?,
            directory: options.directory.join("nodes"),
            block: self.block,
            images,
            container_program: options.container_program.clone(),
            addresses: Arc::new(BlockPodAddressAllocator::new(&self._block)),
            hosts: names,
            zones: options.zones,
            stop_grace: options.stop_grace,
        };
        for (index, node) in nodes.iter().enumerate() {
            agents::start(&setup, index, node, &mut self.agents);
        }
        Ok(())
    }

    /// Returns a client that appears as `user` in the audit log of the API server.
    ///
    /// # Errors
    ///
    /// Returns an error if no token or no client can be created.
    pub fn client(&self, user: &str) -> Result<Client, LocalError> {
        client::client(&self.server, user)
    }

    /// Waits until a part ends that must last as long as the local host, and returns the reason. Waits
    /// forever while all parts run.
    pub async fn wait(&mut self) -> LocalError {
        let ended = tokio::select! {
            ended = self.controllers.ended() => ended,
            ended = self.agents.ended() => ended,
        };
        LocalError::Ended { part: ended.name, source: ended.source }
    }

    /// Stops everything, so that no process and no task is left. Takes at most the containers' grace period
    /// and some seconds.
    pub async fn shutdown(mut self) {
        self.controllers.finish(CONTROLLERS_STOP_DEADLINE).await;
        self.agents.finish(self.agents_grace + AGENTS_STOP_DEADLINE).await;
        self.server.shutdown().await;
    }
}

async fn start_api(
    options: &LocalOptions,
    (block, listener): (&AddressBlock, TcpListener),
    nodes: &[String],
) -> Result<ApiServer, LocalError> {
    let listen = SocketAddr::from((block.api(), options.api_port));
    let services = block.services();
    let directories = nodes.iter().map(|node| options.directory.join("nodes").join(node)).collect();
    let api = ApiServerOptions {
        service_addresses: (*services.start(), *services.end()),
        pod_logs: Some(Arc::new(agents::AgentLogs::new(directories))),
        ..ApiServerOptions::new(listen, &options.directory)
    };
    Ok(tholepin_apiserver::start_on(listener, api).await?)
}

/// Creates the directory with mode 0700, and locks it.
fn lock_state_directory(path: &Path) -> Result<File, LocalError> {
    let directory_error = |path: &Path| {
        let path = path.to_owned();
        move |source| LocalError::Directory { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(directory_error(path))?;
    let file = path.join("lock");
    let opened =
        OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&file);
    let lock = opened.map_err(directory_error(&file))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(LocalError::InUse { path: path.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(directory_error(&file)(source)),
    }
}

/// Ends the processes and removes the files that an earlier local host left in this directory. No object of
/// the API server refers to its volumes any more: they are set aside, or removed if `discard_volumes` is set.
fn clean_up(directory: &Path, discard_volumes: bool) -> Result<(), LocalError> {
    let nodes = fs::read_dir(directory.join("nodes")).into_iter().flatten().flatten();
    for node in nodes {
        let path = node.path();
        let found = tholepin_agent::clean_up(&path);
        let found = found.map_err(|source| LocalError::CleanUp { path: path.clone(), source })?;
        if 0 < found.processes {
            info!(node = %path.display(), processes = found.processes, "ended processes of an earlier local host");
        }
        fs::remove_dir_all(&path).map_err(|source| LocalError::CleanUp { path, source })?;
    }
    let volumes = directory.join("volumes");
    if discard_volumes {
        crate::volumes::remove_all(&volumes);
        return Ok(());
    }
    match crate::volumes::move_aside(&volumes) {
        Ok(None) => {}
        Ok(Some(aside)) => {
            warn!(path = %aside.display(), "moved the volumes of an earlier run to another directory")
        }
        Err(source) => return Err(LocalError::CleanUp { path: volumes, source }),
    }
    Ok(())
}
