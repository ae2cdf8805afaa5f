//! A local cluster for one test: `tholepin local --no-host`, with `tholepin run` as a second process, so that
//! a test can kill either of them alone.

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

/// How long the cluster or the host may take to report that it is ready.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Options of the host that differ from the defaults of a test.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// The kubeconfig, instead of the administrator's.
    pub kubeconfig: Option<PathBuf>,
    /// The cache folder, instead of the user's.
    pub cache: Option<PathBuf>,
    /// A wall clock that differs from the machine's.
    pub clock: Option<FakedClock>,
    /// Additional command line arguments.
    pub arguments: Vec<&'static str>,
}

/// A local cluster without the host.
#[derive(Debug)]
pub struct LocalClusterProcess {
    /// The process. It is declared before `directory`, so that it ends before the directory is deleted.
    pub process: Process,
    kubeconfig: PathBuf,
    directory: TempDir,
}

impl LocalClusterProcess {
    /// Starts the API server, the controllers and the nodes.
    ///
    /// # Errors
    ///
    /// Fails if the process does not become ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&["--no-host"])
    }

    /// Starts the API server only.
    ///
    /// # Errors
    ///
    /// Fails if the process does not become ready.
    pub fn start_api_only() -> Result<Self> {
        Self::start_with(&["--api-only"])
    }

    fn start_with(flags: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tholepin-test-").tempdir()?;
        let state = directory.path().join("cluster");
        let log = directory.path().join("cluster.log");
        let state_text = state.to_str().context("the temporary path is not UTF-8")?;
        let mut arguments = vec!["local", "--directory", state_text];
        arguments.extend(flags);
        let (process, kubeconfig) = Process::start(&ProcessOptions {
            name: "tholepin local",
            arguments: &arguments,
            environment: &[],
            log: &log,
            ready_prefix: "kubeconfig",
            deadline: START_DEADLINE,
        })?;
        Ok(Self { process, kubeconfig: kubeconfig.into(), directory })
    }

    /// Returns the temporary directory of this cluster, which is deleted with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Returns the path of the API server's audit log: one JSON object per line, writes only.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.directory.path().join("cluster/audit.jsonl")
    }

    /// Returns the paths of the cluster's and the host's logs.
    #[must_use]
    pub fn logs(&self) -> [PathBuf; 2] {
        [self.directory.path().join("cluster.log"), self.host_log()]
    }

    /// Returns the path of the host's log.
    #[must_use]
    pub fn host_log(&self) -> PathBuf {
        self.directory.path().join("host.log")
    }

    /// Returns a kubectl with the administrator's kubeconfig.
    ///
    /// # Errors
    ///
    /// Fails if no kubectl is found.
    pub fn kubectl(&self) -> Result<Kubectl> {
        Kubectl::new(&self.kubeconfig)
    }

    /// Returns a client with the administrator's kubeconfig.
    ///
    /// # Errors
    ///
    /// Fails if the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<Client> {
        let config = Kubeconfig::read_from(&self.kubeconfig)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Returns the host's plugin directory, which it creates if needed.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be created.
    pub fn plugins(&self) -> Result<PathBuf> {
        let folder = self.directory.path().join("plugins");
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Returns the path of the file in which the host writes its admin address and token.
    #[must_use]
    pub fn admin_file(&self) -> PathBuf {
        self.directory.path().join("admin.json")
    }

    /// Returns a client of the host's admin API.
    ///
    /// # Errors
    ///
    /// Fails if no host has started on this cluster yet.
    pub fn admin(&self) -> Result<AdminClient> {
        Ok(AdminClient::of_file(&self.admin_file())?)
    }

    /// Gets a path of the host's metrics address, such as `/metrics` or `/healthz`: HTTP status and body.
    ///
    /// # Errors
    ///
    /// Fails if no host has started on this cluster yet, or if it does not answer.
    pub fn get_path(&self, path: &str) -> Result<(u16, String)> {
        crate::http::get(self.admin()?.file().metrics_address, path)
    }

    /// Starts the host on this cluster with its plugin directory.
    ///
    /// # Errors
    ///
    /// Fails if the host does not become ready.
    pub fn host(&self) -> Result<Process> {
        self.host_with(&HostOptions::default())
    }

    /// Starts the host with these options.
    ///
    /// # Errors
    ///
    /// Fails if the host does not become ready.
    pub fn host_with(&self, options: &HostOptions) -> Result<Process> {
        let HostOptions { kubeconfig, cache, clock, arguments: more } = options;
        let plugins = self.plugins()?;
        let log = self.host_log();
        let path = |path: &Path| path.to_str().map(str::to_owned).context("the path is not UTF-8");
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
            ready_prefix: "ready",
            deadline: START_DEADLINE,
        })?;
        Ok(process)
    }
}
