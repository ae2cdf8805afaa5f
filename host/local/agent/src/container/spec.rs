//! The specification that the agent writes for a container's process: plain data as JSON, readable only by
//! its user.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ContainerError;

/// Everything that a container's process needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ContainerProcessSpec {
    /// The agent's pid. The process ends if this is not its parent.
    pub parent_pid: i32,
    /// The file for the error if the program does not start. It stays empty otherwise.
    pub error_file: PathBuf,
    /// The task of the process.
    pub task: ContainerLauncherCommand,
}

/// The task of a container's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ContainerLauncherCommand {
    /// Checks whether a private root is allowed on this machine, and exits with 0 if so.
    Check {
        /// An empty directory for the check.
        directory: PathBuf,
        /// Whether to use a user namespace, which any user but root needs.
        user_namespace: bool,
    },
    /// Starts a container.
    Start(ContainerStartSpec),
    /// Runs one more program inside a running container.
    Join(ContainerExecSpec),
}

/// A new container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ContainerStartSpec {
    /// Whether to use a user namespace, which any user but root needs.
    pub user_namespace: bool,
    /// The host name inside the container.
    pub hostname: String,
    /// The directory that becomes `/`. Its path contains the name of the run, by which stray processes are
    /// found.
    pub root: PathBuf,
    /// The steps that fill `/`, in order.
    pub steps: Vec<RootFilesystemStep>,
    /// The program to execute.
    pub process: ProcessSpec,
}

/// One step in filling a container's root.
///
/// Targets are absolute paths inside the container. Sources are absolute paths of the machine without
/// symlinks, because a symlink would be resolved inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RootFilesystemStep {
    /// Creates a directory and its parents.
    Directory {
        /// The directory.
        target: PathBuf,
        /// Its permission bits. If absent, an existing directory keeps its own.
        mode: Option<u32>,
    },
    /// Creates a symbolic link.
    Symlink {
        /// The link.
        target: PathBuf,
        /// The path that the link points to.
        to: PathBuf,
    },
    /// Mounts a file or directory of the machine.
    Bind {
        /// The machine's file or directory.
        source: PathBuf,
        /// The path where it appears; created if missing.
        target: PathBuf,
        /// Whether writes through this mount are refused.
        read_only: bool,
        /// Whether no part of the source may be a symlink. A container of the Pod can write to the source's
        /// parent directories, so the agent resolved the path before, and a symlink is a later replacement.
        no_symlinks: bool,
    },
}

/// One more program in a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ContainerExecSpec {
    /// The container's process, whose namespaces are entered.
    pub pid: u32,
    /// Whether the container has a user namespace.
    pub user_namespace: bool,
    /// The program to execute.
    pub process: ProcessSpec,
}

/// A program with its arguments, environment and working directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ProcessSpec {
    /// The program (found on the `PATH` of `env`, inside the container) and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The working directory of the program; it must exist.
    pub workdir: PathBuf,
}

impl ContainerProcessSpec {
    /// Reads a specification that [`write`](Self::write) wrote.
    pub(super) fn read(path: &Path) -> Result<Self, ContainerError> {
        let fail = |source| ContainerError::Spec { path: path.to_owned(), source };
        let text = std::fs::read(path).map_err(|source| fail(source.into()))?;
        serde_json::from_slice(&text).map_err(|source| fail(source.into()))
    }

    /// Writes the specification to a file that only this user can read, because it contains values of
    /// Secrets.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(path)?.write_all(&text)
    }
}
