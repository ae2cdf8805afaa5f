//! The container's own process: builds its private root, enters it, and executes the program.
//!
//! The agent cannot change the mount namespace of a thread that belongs to an async runtime, and this
//! workspace has no `unsafe` code (so no `pre_exec`). So the agent starts *its own executable* with a hidden
//! subcommand. That process is still single-threaded: it calls [`container_main`], performs the system calls
//! that the kernel allows only to the process itself, and then replaces itself by the program. Its pid is the
//! container's pid.
//!
//! Nothing is decided here: the agent writes a [`ContainerProcessSpec`] that lists every step, and this
//! module performs the steps in order.
//!
//! Invariants:
//! - The process is killed when the thread that started it ends (`PR_SET_PDEATHSIG`, followed by a check of
//!   the parent's pid).
//! - The process leads a session of its own, so that one signal ends all processes of the session.
//! - All mounts exist only in the mount namespace of the container and vanish with it, so nothing has to be
//!   unmounted.
//! - An error before the program runs is written to [`ContainerProcessSpec::error_file`], so that the agent
//!   can distinguish "did not start" from "started and exited".

use std::convert::Infallible;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getppid, setsid};

use crate::error_chain::error_chain;

mod namespace;
mod root;
mod spec;

pub(crate) use spec::{
    ContainerExecSpec, ContainerLauncherCommand, ContainerProcessSpec, ContainerStartSpec,
    ProcessSpec, RootFilesystemStep,
};

/// The exit code of a container process that could not execute its program; container runtimes use the same.
pub const START_FAILED_EXIT_CODE: i32 = 128;

/// Why a container's process did not execute its program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The specification could not be read.
    #[error("read the container specification `{}`", path.display())]
    Spec {
        /// The file that was named on the command line.
        path: PathBuf,
        /// The error of reading or of parsing.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The agent that started this process has ended, so the process must not continue.
    #[error("the node agent (pid {expected}) has ended")]
    Orphaned {
        /// The pid that the agent had when it wrote the specification.
        expected: i32,
    },
    /// A system call failed.
    #[error("{action}")]
    System {
        /// The step that failed, with the path or the namespace.
        action: String,
        /// The error of the kernel.
        source: std::io::Error,
    },
}

impl ContainerError {
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }

    pub(crate) fn errno(action: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let action = action.into();
        move |errno| Self::System { action, source: errno.into() }
    }
}

/// Turns this process into the container that `spec_file` describes. Returns only if that fails.
///
/// `main` must call this first, before any thread or runtime exists: a process with several threads can
/// neither enter a user namespace nor change its mount namespace for all of them.
///
/// # Errors
///
/// Returns an error if the specification cannot be read, if the agent has ended, or if a step of the set-up
/// or the final `exec` fails. The caller prints the error and exits with [`START_FAILED_EXIT_CODE`].
pub fn container_main(spec_file: &Path) -> Result<Infallible, ContainerError> {
    let spec = ContainerProcessSpec::read(spec_file)?;
    // Opened before the root changes. `exec` closes it, as it closes every file that std opens.
    let mut error_file = File::create(&spec.error_file)
        .map_err(ContainerError::system(format!("create `{}`", spec.error_file.display())))?;
    become_container(&spec).inspect_err(|error| {
        // If this write fails too, the agent still gets the exit code.
        let _ = error_file.write_all(error_chain(error).as_bytes());
    })
}

fn become_container(spec: &ContainerProcessSpec) -> Result<Infallible, ContainerError> {
    setsid().map_err(ContainerError::errno("start a session"))?;
    match &spec.task {
        ContainerLauncherCommand::Check { directory, user_namespace } => {
            namespace::enter_new(*user_namespace, "tholepin-check")?;
            root::enter(directory)?;
            root::leave_host()?;
            std::process::exit(0);
        }
        ContainerLauncherCommand::Start(start) => {
            namespace::enter_new(start.user_namespace, &start.hostname)?;
            root::enter(&start.root)?;
            for step in &start.steps {
                root::perform(step)?;
            }
            root::leave_host()?;
            tie_to_parent(spec.parent_pid)?;
            exec(&start.process)
        }
        ContainerLauncherCommand::Join(join) => {
            namespace::join(join.pid, join.user_namespace)?;
            tie_to_parent(spec.parent_pid)?;
            exec(&join.process)
        }
    }
}

/// Asks the kernel to kill this process when the thread that started it ends, and checks that it has not
/// ended already.
///
/// This is the last step, because a change of credentials (a new user namespace) clears the setting.
fn tie_to_parent(parent_pid: i32) -> Result<(), ContainerError> {
    set_pdeathsig(Signal::SIGKILL)
        .map_err(ContainerError::errno("ask to be killed with the agent"))?;
    if getppid().as_raw() == parent_pid {
        return Ok(());
    }
    Err(ContainerError::Orphaned { expected: parent_pid })
}

fn exec(process: &ProcessSpec) -> Result<Infallible, ContainerError> {
    let (program, arguments) = process.argv.split_first().ok_or_else(|| {
        ContainerError::system("start the program")(std::io::Error::other("the command is empty"))
    })?;
    std::env::set_current_dir(&process.workdir).map_err(ContainerError::system(format!(
        "enter the working directory `{}`",
        process.workdir.display()
    )))?;
    let source = Command::new(program).args(arguments).env_clear().envs(&process.env).exec();
    Err(ContainerError::system(format!("start `{program}`"))(source))
}

#[cfg(test)]
mod tests;
