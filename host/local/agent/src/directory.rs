//! Where the agent keeps what on disk.
//!
//! ```text
//! DIRECTORY/pods/UID/files/             hosts, hostname, resolv.conf of the Pod
//! DIRECTORY/pods/UID/volumes/NAME/      emptyDir, configMap, secret, …
//! DIRECTORY/pods/UID/containers/NAME/   process.json while it runs, N.log of its N-th restart
//! DIRECTORY/pods/UID/containers/NAME/runs/RUN/   root, spec and error file of one run
//! ```
//!
//! Nothing is mounted in the agent's own namespace, so removing a directory is never dangerous.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The process of a container, noted so that it can be found after the agent was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessRecord {
    /// The run's name, which is in the path of its root.
    pub run: String,
    /// The process.
    pub pid: u32,
    /// When it started, in clock ticks since boot: tells it from a later process with its number.
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
    /// The directory of the Pod `uid` under the agent's.
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

    /// The logs of a container by restart count.
    pub(crate) fn log_files(&self, container: &str) -> BTreeMap<u32, PathBuf> {
        let entries = fs::read_dir(self.container(container)).into_iter().flatten().flatten();
        let numbered = entries.filter_map(|entry| {
            let name = entry.file_name();
            let restart = name.to_str()?.strip_suffix(".log")?.parse().ok()?;
            Some((restart, entry.path()))
        });
        numbered.collect()
    }

    /// Removes the logs of all runs but the last, before another one begins: two are kept, as the
    /// kubelet does.
    pub(crate) fn drop_old_logs(&self, container: &str) {
        let mut logs = self.log_files(container);
        while logs.len() > 1 {
            let Some((_, path)) = logs.pop_first() else { return };
            let mut full = path.clone().into_os_string();
            full.push(".1");
            for path in [path.as_path(), Path::new(&full)] {
                // A log that cannot be removed is no reason not to start a container.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Notes the process of a container.
    pub(crate) fn record(&self, container: &str, record: &ProcessRecord) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        fs::write(self.container(container).join("process.json"), text)
    }

    /// Forgets the process of a container, which has ended.
    pub(crate) fn forget(&self, container: &str) {
        let _ = fs::remove_file(self.container(container).join("process.json"));
    }

    pub(crate) fn recorded(&self, container: &str) -> Option<ProcessRecord> {
        let text = fs::read(self.container(container).join("process.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Whether the process that writes `log` has not ended yet.
    pub(crate) fn is_running(&self, container: &str, log: &Path) -> bool {
        self.recorded(container).is_some_and(|record| record.log == log)
    }

    /// The containers that were ever started.
    pub(crate) fn containers(&self) -> Vec<String> {
        names(&self.path.join("containers"))
    }

    /// Removes everything.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes a directory (and its parents) that only this user can enter.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes an empty directory at `path`.
pub(crate) fn empty_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make_private(path)
}

/// The uids of the Pods that have a directory under the agent's.
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
