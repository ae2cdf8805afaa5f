//! What the agent tells a container's process to do: plain data, written as JSON, private to the user.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ContainerError;

/// All that a container's process needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ContainerProcessSpec {
    /// The agent's pid: the process ends if this is not its parent.
    pub parent_pid: i32,
    /// Where the reason goes if the program does not start; stays empty otherwise.
    pub error_file: PathBuf,
    /// What to do.
    pub task: ContainerTask,
}

/// What a container's process is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ContainerTask {
    /// Try whether a private root is allowed here, and exit with 0.
    Check {
        /// An empty directory to try with.
        directory: PathBuf,
        /// With a user namespace, as somebody who is not root.
        user_namespace: bool,
    },
    /// Start a container.
    Start(ContainerStartSpec),
    /// Run one more program inside a running container.
    Join(ExecSpec),
}

/// A new container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ContainerStartSpec {
    /// With a user namespace, as somebody who is not root.
    pub user_namespace: bool,
    /// What `gethostname` answers inside.
    pub hostname: String,
    /// The directory that becomes `/`. Its path names the run, so that strays are found by it.
    pub root: PathBuf,
    /// How `/` is filled, in order.
    pub steps: Vec<RootStep>,
    /// What to become.
    pub process: ProcessSpec,
}

/// One step in filling a container's root.
///
/// Targets are absolute paths inside the container. Sources are absolute, symlink-free paths of the
/// machine: symlinks would resolve inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RootStep {
    /// Make a directory and its parents.
    Directory {
        /// The directory.
        target: PathBuf,
        /// Its permission bits; without them an existing directory stays as it is.
        mode: Option<u32>,
    },
    /// Make a symbolic link.
    Symlink {
        /// The link.
        target: PathBuf,
        /// What it points at.
        to: PathBuf,
    },
    /// Show a file or directory of the machine.
    Bind {
        /// The machine's file or directory.
        source: PathBuf,
        /// Where it appears; made if missing.
        target: PathBuf,
        /// Whether writes through this mount are refused.
        read_only: bool,
    },
}

/// One more program in a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExecSpec {
    /// The container's process, whose namespaces are entered.
    pub pid: u32,
    /// Whether the container has a user namespace.
    pub user_namespace: bool,
    /// What to become.
    pub process: ProcessSpec,
}

/// A program with its surroundings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ProcessSpec {
    /// The program (found on the `PATH` of `env`, inside the container) and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The directory it starts in; must exist.
    pub workdir: PathBuf,
}

impl ContainerProcessSpec {
    /// Reads what [`write`](Self::write) wrote.
    pub(super) fn read(path: &Path) -> Result<Self, ContainerError> {
        let fail = |source| ContainerError::Spec { path: path.to_owned(), source };
        let text = std::fs::read(path).map_err(|source| fail(source.into()))?;
        serde_json::from_slice(&text).map_err(|source| fail(source.into()))
    }

    /// Writes the specification so that only this user can read it: it holds Secret values.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(path)?.write_all(&text)
    }
}
