//! The command line. The doc comments are the help texts.

mod report;

use std::{env, net::SocketAddr, num::NonZero, path::PathBuf, thread::available_parallelism};

use anyhow::anyhow;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tholepin_core::PluginName;

use crate::completion;

pub(crate) use report::{CallsArgs, KindAndNameArg, PlanArgs, StatusArgs};

/// Runs policy for Redis on Kubernetes from Wasm plugins that are swapped while it runs
///
/// Exit codes: 0 done, 1 failed (the end of stderr says why), 2 something to do (`plan`), 3 not ready in
/// time (`demo --ci`), 64 wrong usage.
///
/// Logs go to stderr. THOLEPIN_LOG (such as `debug`) and THOLEPIN_LOG_FORMAT (`text` or `json`) set what
/// every command logs; `local`, `run` and `demo` have options for it as well.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The environment variable for the filter of log lines.
const LOG_VARIABLE: &str = "THOLEPIN_LOG";
/// The environment variable for the format of log lines.
const LOG_FORMAT_VARIABLE: &str = "THOLEPIN_LOG_FORMAT";

/// The log options of the commands that run a host. The other commands have the environment variables only.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log options")]
pub(crate) struct LoggingArgs {
    /// What to log, such as `info` or `warn,plugin=debug` [default: info for `local` and `run`, warn for
    /// `demo`]
    #[arg(long, env = LOG_VARIABLE, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How to write log lines
    #[arg(long, env = LOG_FORMAT_VARIABLE, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

impl LoggingArgs {
    /// Reads the environment variables, for a command without these options.
    ///
    /// # Errors
    ///
    /// Fails if the format is unknown, and names the variable.
    pub(crate) fn of_environment() -> anyhow::Result<Self> {
        let log_format = match env::var(LOG_FORMAT_VARIABLE) {
            Ok(format) => LogFormat::from_str(&format, true).map_err(|_| {
                anyhow!("{LOG_FORMAT_VARIABLE}=`{format}` is no log format; use `text` or `json`")
            })?,
            Err(_) => LogFormat::Text,
        };
        Ok(Self { log: env::var(LOG_VARIABLE).ok(), log_format })
    }
}

/// How to write log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    Text,
    /// One JSON document
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine: API server, nodes, and the host with its plugins
    ///
    /// Containers are local processes; neither Docker nor a Kubernetes cluster is needed. Runs until
    /// Ctrl-C, which ends every process that it started.
    Local(LocalArgs),
    /// Watch a Kubernetes cluster and reconcile until told to stop
    Run(RunArgs),
    /// Start a local cluster, create an example RedisCluster and show it become Ready
    Demo(DemoArgs),
    /// Print what the plugin in charge would do to an object now, touching nothing
    ///
    /// A plan covers one reconcile: what the plugin would read, decide and write if it were called now. Every
    /// write to Kubernetes is checked by a dry run, every command to Redis is shown and not sent; guards
    /// are evaluated. The running host makes the plan, because it can reach the Pods.
    ///
    /// Exits with 0 if there is nothing to do, with 2 if there is, with 1 if there is no plan or the plugin
    /// fails.
    Plan(PlanArgs),
    /// Print what the last reconciles of an object did, as the running host remembers it
    ///
    /// A reconcile is one call of the plugin for one object. The output numbers them. The host keeps the
    /// last reconciles of each object in memory; those that wrote nothing are dropped first.
    Calls(CallsArgs),
    /// Show the plugins and objects of the running host, and what every member of an object answers now
    ///
    /// Objects that need attention come first. Exits with 0 even if something is wrong.
    Status(StatusArgs),
    /// Create, build and inspect plugins, and go back to an earlier revision
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Print the CustomResourceDefinition of the engine's own kind `Plugin` as YAML
    ///
    /// For the kinds that a plugin brings see `tholepin plugin inspect --crds FILE`.
    Crds,
    /// Check whether this machine has what the local host and plugin developers need, and say what to do
    ///
    /// Exits with 1 if something that every user needs is missing; a warning is about what only some need.
    Doctor(DoctorArgs),
    /// Print the script by which a shell completes commands, plugins and objects
    ///
    /// Put it where that shell reads completions, such as ~/.local/share/bash-completion/completions/tholepin, and
    /// write it again after an update of tholepin. The names of plugins and objects come from the running host.
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual: one page for the program and one for each subcommand
    Man {
        /// The directory to write to; `man -l DIR/tholepin.1` shows the first page
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Become the first process of a container (the node agent calls this)
    #[command(hide = true)]
    Container {
        /// The file that describes the container
        spec: PathBuf,
    },
}

impl Command {
    /// Returns the log options of a command that runs a host.
    pub(crate) fn log(&self) -> Option<&LoggingArgs> {
        if let Self::Local(LocalArgs { log, .. })
        | Self::Run(RunArgs { log, .. })
        | Self::Demo(DemoArgs { log, .. }) = self
        {
            return Some(log);
        }
        None
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Write the project of a new plugin, which brings a kind of its own and builds as it stands
    New(PluginNewArgs),
    /// Build a plugin's project, check the component, and copy it into the plugin directory of a running host
    ///
    /// Projects share what they compile, in the user's cache, so that the first build of a second plugin is a
    /// short one. CARGO_TARGET_DIR, or `build.target-dir` of a cargo configuration, names another place.
    Build(BuildArgs),
    /// Run a project's native tests, build it, and have the component describe itself
    ///
    /// Uses the same target directory as `tholepin plugin build`.
    Test {
        /// The plugin's project
        #[arg(value_name = "DIR", default_value = ".")]
        project: PathBuf,
    },
    /// Build a project at every save, copy it into the plugin directory of a running host, and show its reconciles
    Watch(WatchArgs),
    /// Show the plugins of a cluster: the serving revision, since when, for how many objects, and what is wrong
    ///
    /// Reads what a host wrote into the API server last, and checks on this machine whether that host still runs.
    List {
        /// How to print it; JSON has the whole Plugin objects
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: OutputFormat,
        #[command(flatten)]
        cluster: KubernetesClusterArgs,
        #[command(flatten)]
        admin: AdminFileArgs,
    },
    /// Show the kept revisions of a plugin, the newest last, and which of them serves
    History {
        /// The plugin's name
        #[arg(add = completion::plugins())]
        name: PluginName,
        /// How to print it
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: OutputFormat,
        #[command(flatten)]
        admin: AdminFileArgs,
    },
    /// Make an earlier revision of a plugin serve again, until its component or its settings change
    ///
    /// This outlives a restart of the host. To undo it, put another component or other settings into the directory
    /// of plugins (a comment does not count), or name the files' own revision.
    Rollback {
        /// The plugin's name
        #[arg(add = completion::plugins())]
        name: PluginName,
        /// The first digits of the revision, as `history` shows it [default: the last one that was not taken
        /// back]
        revision: Option<String>,
        #[command(flatten)]
        admin: AdminFileArgs,
    },
    /// Show how a component describes itself: manifest, imports, digest
    Inspect {
        /// The plugin's component, a .wasm file
        file: PathBuf,
        /// Print only the CustomResourceDefinitions that it brings, as YAML
        #[arg(long)]
        crds: bool,
    },
    /// Print NAME.yaml for a component: the Plugin object that grants all it asks for
    ///
    /// Read it, remove the grants that it should not have, and save it beside the .wasm.
    Grant {
        /// The plugin's component, a .wasm file
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct PluginNewArgs {
    /// The plugin's name: lower-case letters, digits and `-`
    pub(crate) name: String,
    /// The kind that it brings, such as `SiteConfig` [default: from the name]
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// The API group of the kind
    #[arg(long, value_name = "GROUP", default_value = tholepin_devkit::DEFAULT_GROUP)]
    pub(crate) group: String,
    /// Where to write the project: a new or empty directory [default: NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// The plugin's project
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) project: PathBuf,
    /// The directory of plugins of a running host; without it the component stays in the project
    #[arg(long, env = "THOLEPIN_PLUGINS", value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// The plugin's project
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) project: PathBuf,
    /// The directory of plugins of a running host
    #[arg(long, env = "THOLEPIN_PLUGINS", value_name = "DIR")]
    pub(crate) plugins: PathBuf,
    #[command(flatten)]
    pub(crate) admin: AdminFileArgs,
    #[command(flatten)]
    pub(crate) cluster: KubernetesClusterArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminFileArgs,
}

/// Which Kubernetes cluster.
#[derive(Args, Debug)]
pub(crate) struct KubernetesClusterArgs {
    /// The kubeconfig [default: $KUBECONFIG, ~/.kube/config, or the Pod's service account]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// The admin file of a running host.
#[derive(Args, Clone, Debug)]
pub(crate) struct AdminFileArgs {
    /// The file by which commands find the running host, which writes its admin address and token there
    /// [default: tholepin/admin.json in $XDG_RUNTIME_DIR or in the cache directory]
    #[arg(long, env = "THOLEPIN_ADMIN_FILE", value_name = "FILE")]
    pub(crate) admin_file: Option<PathBuf>,
}

/// The addresses of a host.
#[derive(Args, Clone, Debug)]
pub(crate) struct ListenArgs {
    #[command(flatten)]
    pub(crate) admin: AdminFileArgs,
    /// Where to serve /metrics, /healthz and /readyz, without a token; port 0 is any free port, which the log
    /// and the admin file name
    #[arg(
        long,
        env = "THOLEPIN_METRICS_ADDRESS",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:0"
    )]
    pub(crate) metrics_address: SocketAddr,
}

/// The engine's own options.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Directory to load plugins from (NAME.yaml beside NAME.wasm) and to watch for changes
    #[arg(long, env = "THOLEPIN_PLUGINS", value_name = "DIR")]
    pub(crate) plugins: PathBuf,
    /// Where to keep the last revisions of plugins, so that a rollback survives a restart
    /// [default: tholepin/revisions in the cache directory]
    #[arg(long, env = "THOLEPIN_HISTORY", value_name = "DIR")]
    pub(crate) history: Option<PathBuf>,
    /// How many reconciles may compute at once [default: the number of processors, and 4 at least]
    #[arg(
        long,
        env = "THOLEPIN_CONCURRENCY",
        value_name = "COUNT",
        value_parser = clap::value_parser!(u16).range(1..=1024),
    )]
    pub(crate) concurrency: Option<u16>,
    /// How many reconciles may run at once, those that wait for an answer included
    #[arg(
        long,
        env = "THOLEPIN_IN_FLIGHT",
        value_name = "COUNT",
        default_value_t = 64,
        value_parser = clap::value_parser!(u16).range(1..=1024),
    )]
    pub(crate) in_flight: u16,
    /// Milliseconds between two polls of each member of a Redis instance that a plugin watches
    #[arg(
        long,
        env = "THOLEPIN_POLL_INTERVAL_MS",
        value_name = "MILLISECONDS",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(20..=60_000),
    )]
    pub(crate) poll_interval_ms: u64,
    /// Seconds after which a healthy object is reconciled again although nothing changed
    #[arg(
        long,
        env = "THOLEPIN_RESYNC_SECONDS",
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=86_400),
    )]
    pub(crate) resync_seconds: u64,
}

impl EngineArgs {
    /// Returns how many reconciles may compute concurrently.
    pub(crate) fn computing(&self) -> u16 {
        self.concurrency.unwrap_or_else(default_concurrency)
    }
}

/// Returns the default concurrency: the number of processors, because more would only make each reconcile slower,
/// and at least 4, so that a guest that loops does not stop the others on a small machine.
pub(crate) fn default_concurrency() -> u16 {
    let processors = available_parallelism().map_or(1, NonZero::get);
    u16::try_from(processors).unwrap_or(u16::MAX).max(4)
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) cluster: KubernetesClusterArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Grant plugins everything they ask for (`grants: asRequested`) and install the kinds that they
    /// bring; never on a shared cluster
    #[arg(long, env = "THOLEPIN_TRUST_PLUGINS")]
    pub(crate) trust_plugins: bool,
    #[command(flatten)]
    pub(crate) log: LoggingArgs,
}

/// The local cluster's own options.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterOptions {
    /// Where the cluster keeps its volumes, logs and kubeconfig while it runs [default: a temporary directory].
    /// Objects are not kept beyond its end, and the volumes of an earlier run are put aside
    #[arg(long, env = "THOLEPIN_DIRECTORY", value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// The address block 127.N.0.0/16 to use [default: the first free one]
    #[arg(long, env = "THOLEPIN_BLOCK", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) block: Option<u8>,
    /// How many nodes, spread over three zones
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// The table that maps images to programs [default: the built-in one]
    #[arg(long, env = "THOLEPIN_IMAGES", value_name = "FILE")]
    pub(crate) images: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct LocalArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterOptions,
    /// Start the cluster without the host; `tholepin run` is the host alone
    #[arg(long, conflicts_with = "plugins")]
    pub(crate) no_host: bool,
    /// Start the API server alone: no nodes, so Pods never run
    #[arg(long, conflicts_with = "plugins")]
    pub(crate) api_only: bool,
    /// Directory to load plugins from (NAME.yaml beside NAME.wasm) and to watch for changes; needed unless
    /// --no-host or --api-only is given
    #[arg(long, env = "THOLEPIN_PLUGINS", value_name = "DIR", required_unless_present_any = ["no_host", "api_only"])]
    pub(crate) plugins: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) log: LoggingArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterOptions,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Directory to load plugins from (NAME.yaml beside NAME.wasm) and to watch for changes
    #[arg(long, env = "THOLEPIN_PLUGINS", value_name = "DIR")]
    pub(crate) plugins: PathBuf,
    /// End when Ready, after a write and a read through the cluster; fail after 120 s
    #[arg(long)]
    pub(crate) ci: bool,
    #[command(flatten)]
    pub(crate) log: LoggingArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_have_their_documented_code() {
        let error = Cli::try_parse_from(["tholepin", "no-such-command"]).unwrap_err();
        assert_eq!(crate::exit::of_usage(&error), crate::exit::USAGE);
        let error = Cli::try_parse_from(["tholepin", "--help"]).unwrap_err();
        assert_eq!(crate::exit::of_usage(&error), crate::exit::DONE);
    }
}
