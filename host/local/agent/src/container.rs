//! The container's own process: builds its private root, enters it, and becomes the program.
//!
//! The agent cannot change the mount namespace of a thread that it shares with a runtime, and this
//! workspace has no `unsafe` (so no `pre_exec`). So the agent starts *its own executable* with a
//! hidden subcommand; that process is still single-threaded, calls [`container_main`], does here what
//! the kernel allows only to the process itself, and then replaces itself by the program. Its pid is
//! the container's pid.
//!
//! Nothing is decided here: the agent writes a [`ContainerProcessSpec`] that lists every step, this module performs
//! them in order.
//!
//! Invariants:
//! - The process dies with the thread that started it (`PR_SET_PDEATHSIG`, then a look at the parent).
//! - It leads a session of its own, so the whole of it can be ended by one signal.
//! - Every mount lives in its mount namespace and vanishes with it: nothing is left to unmount.
//! - A failure before the program runs is written to [`ContainerProcessSpec::error_file`], so that the agent can tell
//!   "did not start" from "started and exited".

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

use crate::chain::chain;

mod namespace;
mod root;
mod spec;

pub(crate) use spec::{
    ContainerProcessSpec, ContainerStartSpec, ContainerTask, ExecSpec, ProcessSpec, RootStep,
};

/// Exit code of a container process that could not become its program, as container runtimes use it.
pub const START_FAILED_EXIT_CODE: i32 = 128;

/// Why a container's process did not become its program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The specification could not be read.
    #[error("read the container specification `{}`", path.display())]
    Spec {
        /// The file that was named on the command line.
        path: PathBuf,
        /// What went wrong.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The agent that started this process is gone, so the process must not go on.
    #[error("the node agent (pid {expected}) is gone")]
    Orphaned {
        /// The pid that the agent had when it wrote the specification.
        expected: i32,
    },
    /// A system call was refused.
    #[error("{action}")]
    System {
        /// What was being done, naming the path or the namespace.
        action: String,
        /// The kernel's answer.
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

/// Becomes the container that `spec_file` describes; returns only if that fails.
///
/// Call it first thing in `main`, before any thread or runtime exists: a process with threads may
/// neither enter a user namespace nor change its mount namespace for all of them.
///
/// # Errors
///
/// Fails if the specification is unreadable, the agent is gone, or a step of the set-up or the final
/// `exec` is refused. The caller prints the error and exits with [`START_FAILED_EXIT_CODE`].
pub fn container_main(spec_file: &Path) -> Result<Infallible, ContainerError> {
    let spec = ContainerProcessSpec::read(spec_file)?;
    // Opened before the root changes; closed by `exec`, as every file that std opens.
    let mut error_file = File::create(&spec.error_file)
        .map_err(ContainerError::system(format!("create `{}`", spec.error_file.display())))?;
    become_container(&spec).inspect_err(|error| {
        // Nobody is left to hear about a failure to report a failure; the exit code still tells.
        let _ = error_file.write_all(chain(error).as_bytes());
    })
}

fn become_container(spec: &ContainerProcessSpec) -> Result<Infallible, ContainerError> {
    setsid().map_err(ContainerError::errno("start a session"))?;
    match &spec.task {
        ContainerTask::Check { directory, user_namespace } => {
            namespace::enter_new(*user_namespace, "tholepin-check")?;
            root::enter(directory)?;
            root::leave_host()?;
            std::process::exit(0);
        }
        ContainerTask::Start(start) => {
            namespace::enter_new(start.user_namespace, &start.hostname)?;
            root::enter(&start.root)?;
            for step in &start.steps {
                root::perform(step)?;
            }
            root::leave_host()?;
            tie_to_parent(spec.parent_pid)?;
            exec(&start.process)
        }
        ContainerTask::Join(join) => {
            namespace::join(join.pid, join.user_namespace)?;
            tie_to_parent(spec.parent_pid)?;
            exec(&join.process)
        }
    }
}

/// Asks to be killed when the starting thread ends, and checks that it has not ended before.
///
/// Done last, because a change of credentials (a new user namespace) clears the wish.
fn tie_to_parent(parent_pid: i32) -> Result<(), ContainerError> {
    set_pdeathsig(Signal::SIGKILL).map_err(ContainerError::errno("ask to die with the agent"))?;
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
