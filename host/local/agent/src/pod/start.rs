//! Starts one container: pulls its image, prepares environment and volumes, builds its root, starts its
//! process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use rand::RngExt;
use tokio::sync::oneshot;

use super::AgentContext;
use crate::config_source::ConfigSourceStates;
use crate::container::{
    ContainerLauncherCommand, ContainerProcessSpec, ContainerStartSpec, ProcessSpec,
};
use crate::directory::{PodDirectory, ProcessRecord, make_private};
use crate::downward::DownwardApiPlacement;
use crate::env::{EnvSources, environment};
use crate::error_chain::error_chain;
use crate::expand::expand;
use crate::handler_actions::ExecTarget;
use crate::images::RunnableImage;
use crate::lifecycle::StartFailure;
use crate::log::LogFile;
use crate::orphans;
use crate::processes::{ProcessExit, ProcessOutput};
use crate::rootfs::{self, RootfsVolumeMount};
use crate::storage::{self, PodVolumePreparer};

/// The prefix of a container id in the API, in front of the name of the run.
const ID_SCHEME: &str = "tholepin://";

/// The file for the termination message of a container, unless its spec names another one.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// A container to start.
pub(super) struct ContainerStartRequest {
    pub node: Arc<AgentContext>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub placement: DownwardApiPlacement,
    pub directory: PodDirectory,
    pub references: ConfigSourceStates,
    pub restart_count: u32,
}

/// A container that was started.
#[derive(Debug)]
pub(super) struct StartedContainer {
    pub run: ContainerRun,
    pub image_id: String,
    pub since: Timestamp,
    pub exit: oneshot::Receiver<ProcessExit>,
    /// The argument of the command that looks like a bind to every address or to loopback.
    pub loopback_bind: Option<String>,
}

/// One run of a container.
#[derive(Clone, Debug)]
pub(super) struct ContainerRun {
    /// The random name of the run, which is part of the path of its root.
    pub name: String,
    pub directory: PathBuf,
    pub start_ticks: u64,
    pub inside: Arc<ExecTarget>,
}

impl ContainerRun {
    /// Returns the container's id as shown in the API. It differs at each start.
    pub(super) fn id(&self) -> String {
        format!("{ID_SCHEME}{}", self.name)
    }

    /// Returns true if the process is still the one that was started.
    pub(super) fn is_same_process(&self) -> bool {
        orphans::start_ticks(self.inside.pid) == Some(self.start_ticks)
    }

    /// Returns the error that kept the process from executing its program; `None` if there was none.
    pub(super) fn start_error(&self) -> Option<String> {
        let why = std::fs::read_to_string(self.directory.join("error")).ok()?;
        (!why.is_empty()).then_some(why)
    }

    /// Returns the text that the program wrote to its termination log.
    pub(super) fn termination_message(&self) -> Option<String> {
        const BYTES_MAX: usize = 4096;
        let bytes = std::fs::read(self.directory.join("termination-log")).ok()?;
        let bytes = bytes.get(..bytes.len().min(BYTES_MAX))?;
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// Starts the container, or returns why it cannot be started.
pub(super) async fn start(
    to_start: ContainerStartRequest,
) -> Result<StartedContainer, StartFailure> {
    let ContainerStartRequest { node, pod, container, placement, directory, .. } = &to_start;
    let image = container.image.as_deref().unwrap_or_default();
    let image = node.images.pull(image).await.map_err(|error| fail("ErrImagePull", &error))?;
    let references = &to_start.references;
    let input = EnvSources { pod, placement, references, image: &image.env };
    let env = environment(input, container)
        .map_err(|error| fail("CreateContainerConfigError", &error))?;
    let allow_host_path = node.options.allow_host_path;
    let storage =
        PodVolumePreparer { client: &node.client, pod, placement, directory, allow_host_path };
    let no_volume = |error| fail("ContainerCreating", &error);
    let volumes = storage.prepare(references).await.map_err(no_volume)?;
    let mounts = storage::mounts(container, &volumes, &env).map_err(no_volume)?;
    let process = process(container, &image, env);
    launch(&to_start, &image, mounts, process)
        .await
        .map_err(|error| fail("RunContainerError", &error))
}

fn fail(reason: &str, error: &dyn std::error::Error) -> StartFailure {
    StartFailure { reason: reason.into(), message: error_chain(error) }
}

/// Builds the process specification, with references to the environment expanded in command and arguments.
fn process(
    container: &Container,
    image: &RunnableImage,
    env: BTreeMap<String, String>,
) -> ProcessSpec {
    let expand_all = |arguments: &Option<Vec<String>>| -> Vec<String> {
        arguments.iter().flatten().map(|argument| expand(argument, &env)).collect()
    };
    let argv = image.argv(&expand_all(&container.command), &expand_all(&container.args));
    let workdir = container.working_dir.clone().filter(|workdir| !workdir.is_empty());
    let workdir = workdir.map_or_else(|| image.working_dir.clone(), PathBuf::from);
    let mut env = env;
    env.entry("PATH".into()).or_insert_with(rootfs::default_path);
    env.entry("HOME".into()).or_insert_with(|| "/root".into());
    ProcessSpec { argv, env, workdir }
}

async fn launch(
    to_start: &ContainerStartRequest,
    image: &RunnableImage,
    mut mounts: Vec<RootfsVolumeMount>,
    mut process: ProcessSpec,
) -> std::io::Result<StartedContainer> {
    let ContainerStartRequest { node, pod, container, directory, .. } = to_start;
    let name = run_name();
    let run_directory = directory.run(&container.name, &name);
    let root = run_directory.join("root");
    make_private(&run_directory)?;
    std::fs::create_dir(&root)?;
    mounts.push(termination_log(container, &run_directory)?);
    let hostname = storage::hostname(pod);
    process.env.entry("HOSTNAME".into()).or_insert_with(|| hostname.clone());
    let steps = rootfs::steps(&node.machine, image, &directory.files(), &process.workdir, &mounts);
    let spec_file = run_directory.join("spec.json");
    let user_namespace = node.user_namespace;
    let spec = ContainerProcessSpec {
        parent_pid: i32::try_from(std::process::id()).unwrap_or_default(),
        error_file: run_directory.join("error"),
        task: ContainerLauncherCommand::Start(ContainerStartSpec {
            user_namespace,
            hostname,
            root,
            steps,
            process: process.clone(),
        }),
    };
    spec.write(&spec_file)?;
    directory.drop_old_logs(&container.name);
    let log = directory.log(&container.name, to_start.restart_count);
    let launched =
        node.processes.launch(spec_file, ProcessOutput::Log(LogFile::open(&log)?)).await?;
    let (pid, start_ticks) = (launched.pid, launched.start_ticks);
    let record = ProcessRecord { run: name.clone(), pid, start_ticks, log };
    directory.record(&container.name, &record)?;
    let loopback_bind = loopback_argument(&process.argv);
    let inside = Arc::new(ExecTarget {
        processes: node.processes.clone(),
        pid,
        user_namespace,
        env: process.env,
        workdir: process.workdir,
        directory: run_directory.clone(),
    });
    let run = ContainerRun { name, directory: run_directory, start_ticks, inside };
    let image_id = image.id.clone();
    Ok(StartedContainer { run, image_id, since: launched.at, exit: launched.exit, loopback_bind })
}

fn termination_log(
    container: &Container,
    run_directory: &Path,
) -> std::io::Result<RootfsVolumeMount> {
    let source = run_directory.join("termination-log");
    std::fs::File::create(&source)?;
    let target = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    let target = PathBuf::from(target.unwrap_or(TERMINATION_LOG));
    Ok(RootfsVolumeMount {
        source: source.canonicalize()?,
        target,
        read_only: false,
        no_symlinks: false,
    })
}

/// Returns a name for a run that no other run ever has.
fn run_name() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// Returns the first argument that binds to all addresses or to loopback. Pods share one network here, so
/// with such a bind the Pods of a StatefulSet would take each other's port.
fn loopback_argument(argv: &[String]) -> Option<String> {
    let binds_loopback = |argument: &&String| {
        ["0.0.0.0", "localhost", "127.0.0.1"].iter().any(|address| argument.contains(address))
    };
    argv.iter().find(binds_loopback).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_and_arguments_are_expanded_with_the_environment() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "args": ["--bind", "$(POD_IP)", "$(NONE)"]}))
        .unwrap();
        let env = BTreeMap::from([("POD_IP".to_owned(), "127.23.1.7".to_owned())]);
        let process = process(&container, &RunnableImage::for_tests("/bin/tool"), env);
        assert_eq!(process.argv, ["--bind", "127.23.1.7", "$(NONE)"]);
        assert!(process.env["PATH"].starts_with("/opt/image/bin:"));
    }

    #[test]
    fn a_bind_to_every_address_is_found() {
        let arguments = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            loopback_argument(&arguments("redis-server --bind 0.0.0.0")).as_deref(),
            Some("0.0.0.0")
        );
        assert_eq!(loopback_argument(&arguments("redis-server --bind 127.23.1.7")), None);
    }
}
