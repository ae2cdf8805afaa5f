//! The layout of the agent's directory.
//!
//! ```text
//! DIRECTORY/pods/UID/files/             hosts, hostname, resolv.conf of the Pod
//! DIRECTORY/pods/UID/volumes/NAME/      emptyDir, configMap, secret, …
//! DIRECTORY/pods/UID/containers/NAME/   process.json while it runs, N.log of its N-th restart
//! DIRECTORY/pods/UID/containers/NAME/runs/RUN/   root, spec and error file of one run
//! ```
//!
//! Nothing is mounted in the agent's own mount namespace, so removing a directory never removes files behind
//! a mount.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The record of a container's process, by which it is found after the agent was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessRecord {
    /// The run's name, which is in the path of its root.
    pub run: String,
    /// The pid.
    pub pid: u32,
    /// The start time in clock ticks since boot, which distinguishes the process from a later one with the
    /// same pid.
    pub start_ticks: u64,
    /// The log it writes.
    pub log: PathBuf,
}

/// The directory of one Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodDirectory {
    path: PathBuf,
}

impl PodDirectory {
    /// Returns the directory of the Pod `uid` under the directory of the agent.
    pub(crate) fn new(agent: &Path, uid: &str) -> Self {
        Self { path: agent.join("pods").join(uid) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.path.join("files")
    }

    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.path.join("volumes").join(name)
    }

    pub(crate) fn container(&self, name: &str) -> PathBuf {
        self.path.join("containers").join(name)
    }

    pub(crate) fn run(&self, container: &str, run: &str) -> PathBuf {
        self.container(container).join("runs").join(run)
    }

    pub(crate) fn log(&self, container: &str, restart: u32) -> PathBuf {
        self.container(container).join(format!("{restart}.log"))
    }

    /// Returns the logs of a container by restart count.
    pub(crate) fn log_files(&self, container: &str) -> BTreeMap<u32, PathBuf> {
        let entries = fs::read_dir(self.container(container)).into_iter().flatten().flatten();
        let numbered = entries.filter_map(|entry| {
            let name = entry.file_name();
            let restart = name.to_str()?.strip_suffix(".log")?.parse().ok()?;
            Some((restart, entry.path()))
        });
        numbered.collect()
    }

    /// Removes all logs but the newest one, before the next run starts: two logs are kept, as by the kubelet.
    pub(crate) fn drop_old_logs(&self, container: &str) {
        let mut logs = self.log_files(container);
        while logs.len() > 1 {
            let Some((_, path)) = logs.pop_first() else { return };
            let mut full = path.clone().into_os_string();
            full.push(".1");
            for path in [path.as_path(), Path::new(&full)] {
                // A container is started even if an old log cannot be removed.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Writes the record of a container's process.
    pub(crate) fn record(&self, container: &str, record: &ProcessRecord) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        fs::write(self.container(container).join("process.json"), text)
    }

    /// Removes the record of a container's process, which has ended.
    pub(crate) fn forget(&self, container: &str) {
        let _ = fs::remove_file(self.container(container).join("process.json"));
    }

    pub(crate) fn recorded(&self, container: &str) -> Option<ProcessRecord> {
        let text = fs::read(self.container(container).join("process.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Returns true if the process that writes `log` has not been recorded as ended.
    pub(crate) fn is_running(&self, container: &str, log: &Path) -> bool {
        self.recorded(container).is_some_and(|record| record.log == log)
    }

    /// Returns the names of the containers that were ever started.
    pub(crate) fn containers(&self) -> Vec<String> {
        names(&self.path.join("containers"))
    }

    /// Removes the whole directory of the Pod.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Creates a directory (and its parents) with mode 0700.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates an empty directory at `path`, and removes what was there.
pub(crate) fn empty_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make_private(path)
}

/// Returns the uids of the Pods that have a directory under the directory of the agent.
pub(crate) fn pod_uids(agent: &Path) -> Vec<String> {
    names(&agent.join("pods"))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
