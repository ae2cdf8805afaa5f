//! A cluster of the test's own: `tholepin local --no-host`, and `tholepin run` as a second process, so
//! that either can be killed alone.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tempfile::TempDir;
use tholepin_admin::AdminClient;

use crate::{
    faked_clock::FakedClock,
    kubectl::Kubectl,
    process::{Process, ProcessOptions},
};

/// How long the cluster or the host may take to say that it is ready.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How the host is started, where it differs from the usual.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// Another road to the API server.
    pub kubeconfig: Option<PathBuf>,
    /// Another folder for what is cached.
    pub cache: Option<PathBuf>,
    /// A wall clock of its own.
    pub clock: Option<FakedClock>,
    /// More words on the command line.
    pub arguments: Vec<&'static str>,
}

/// A local cluster without the host.
#[derive(Debug)]
pub struct LocalClusterProcess {
    /// The process; first in the list, so that it ends before its directory goes.
    pub process: Process,
    kubeconfig: PathBuf,
    directory: TempDir,
}

impl LocalClusterProcess {
    /// Starts API server, controllers and nodes.
    ///
    /// # Errors
    ///
    /// Fails if it does not become ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&["--no-host"])
    }

    /// Starts the API server alone.
    ///
    /// # Errors
    ///
    /// Fails if it does not become ready.
    pub fn start_api_only() -> Result<Self> {
        Self::start_with(&["--api-only"])
    }

    fn start_with(flags: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tholepin-test-").tempdir()?;
        let state = directory.path().join("cluster");
        let log = directory.path().join("cluster.log");
        let state_text = state.to_str().context("a temporary path is UTF-8")?;
        let mut arguments = vec!["local", "--directory", state_text];
        arguments.extend(flags);
        let (process, kubeconfig) = Process::start(&ProcessOptions {
            name: "tholepin local",
            arguments: &arguments,
            environment: &[],
            log: &log,
            until: "kubeconfig",
            deadline: START_DEADLINE,
        })?;
        Ok(Self { process, kubeconfig: kubeconfig.into(), directory })
    }

    /// The directory that goes with the cluster.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API server's audit log: one JSON object a line, writes only.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.directory.path().join("cluster/audit.jsonl")
    }

    /// The logs of the cluster and of the host, by name.
    #[must_use]
    pub fn logs(&self) -> [PathBuf; 2] {
        [self.directory.path().join("cluster.log"), self.host_log()]
    }

    /// The host's log.
    #[must_use]
    pub fn host_log(&self) -> PathBuf {
        self.directory.path().join("host.log")
    }

    /// kubectl as the administrator.
    ///
    /// # Errors
    ///
    /// Fails if there is no kubectl.
    pub fn kubectl(&self) -> Result<Kubectl> {
        Kubectl::new(&self.kubeconfig)
    }

    /// A client as the administrator.
    ///
    /// # Errors
    ///
    /// Fails if the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<Client> {
        let config = Kubeconfig::read_from(&self.kubeconfig)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// A folder for plugins, beside the cluster's own.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be made.
    pub fn plugins(&self) -> Result<PathBuf> {
        let folder = self.directory.path().join("plugins");
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The file in which the host of this cluster leaves its admin address and token.
    #[must_use]
    pub fn admin_file(&self) -> PathBuf {
        self.directory.path().join("admin.json")
    }

    /// A client of the host's admin API.
    ///
    /// # Errors
    ///
    /// Fails if no host has started.
    pub fn admin(&self) -> Result<AdminClient> {
        Ok(AdminClient::of_file(&self.admin_file())?)
    }

    /// A vital sign of the host, such as `/metrics`: status and text.
    ///
    /// # Errors
    ///
    /// Fails if no host has started, or if it does not answer.
    pub fn vital(&self, path: &str) -> Result<(u16, String)> {
        crate::http::get(self.admin()?.file().metrics_address, path)
    }

    /// Starts the host against this cluster with its folder of plugins.
    ///
    /// # Errors
    ///
    /// Fails if it does not become ready.
    pub fn host(&self) -> Result<Process> {
        self.host_as(&HostOptions::default())
    }

    /// Starts the host as this says.
    ///
    /// # Errors
    ///
    /// Fails if it does not become ready.
    pub fn host_as(&self, setup: &HostOptions) -> Result<Process> {
        let HostOptions { kubeconfig, cache, clock, arguments: more } = setup;
        let plugins = self.plugins()?;
        let log = self.host_log();
        let path = |path: &Path| path.to_str().map(str::to_owned).context("a path is UTF-8");
        let kubeconfig = path(kubeconfig.as_deref().unwrap_or(&self.kubeconfig))?;
        let plugins = path(&plugins)?;
        let admin_file = path(&self.admin_file())?;
        let history = path(&self.directory.path().join("history"))?;
        let mut arguments = vec!["run", "--trust-plugins", "--kubeconfig", &kubeconfig];
        arguments.extend(["--plugins", &plugins, "--admin-file", &admin_file]);
        arguments.extend(["--history", &history]);
        arguments.extend(more);
        let cache = cache.iter().map(|cache| ("XDG_CACHE_HOME", cache.as_path()));
        let environment = cache.chain(clock.iter().flat_map(FakedClock::environment));
        let (process, _) = Process::start(&ProcessOptions {
            name: "tholepin run",
            arguments: &arguments,
            environment: &environment.collect::<Vec<_>>(),
            log: &log,
            until: "ready",
            deadline: START_DEADLINE,
        })?;
        Ok(process)
    }
}
