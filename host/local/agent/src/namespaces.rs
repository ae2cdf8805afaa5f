//! Checks, by trying, how containers can get a private root on this machine.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::container::{ContainerLauncherCommand, ContainerProcessSpec};
use crate::directory::empty_directory;
use crate::processes::{ProcessOutput, ProcessSpawner};

const CHECK_DEADLINE: Duration = Duration::from_secs(10);

/// Why containers cannot get a private root on this machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinuxNamespaceError {
    /// The kernel or its settings forbid it.
    #[error("containers cannot get a private root on this machine ({refusal}): {advice}")]
    Forbidden {
        /// The error of the kernel.
        refusal: String,
        /// The setting to change.
        advice: String,
    },
    /// The check itself failed.
    #[error("check whether containers can get a private root")]
    Check {
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Checks, without an agent, how containers can get a private root. `directory` is for scratch files.
///
/// # Errors
///
/// Returns an error if they cannot get one; the error names the setting to change.
pub async fn probe_namespaces(
    container_program: &Path,
    directory: &Path,
) -> Result<&'static str, LinuxNamespaceError> {
    let check = |source| LinuxNamespaceError::Check { source };
    let (processes, thread) = ProcessSpawner::start(container_program.to_owned()).map_err(check)?;
    let user_namespace = probe(&processes, directory).await;
    drop(processes);
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    if !matches!(joined, Ok(Ok(()))) {
        return Err(check(io::Error::other("the thread that starts containers panicked")));
    }
    Ok(match user_namespace? {
        true => "user and mount namespaces, without root",
        false => "mount namespaces, as root",
    })
}

/// Returns true if containers need a user namespace.
///
/// Root can create a mount namespace directly. Any other user, and a root user without that right, needs a
/// user namespace around it.
///
/// # Errors
///
/// Returns an error if the kernel allows neither; the error names the setting to change.
pub(crate) async fn probe(
    processes: &ProcessSpawner,
    directory: &Path,
) -> Result<bool, LinuxNamespaceError> {
    let kinds: &[bool] = if geteuid().is_root() { &[false, true] } else { &[true] };
    let mut refusal = String::new();
    for user_namespace in kinds {
        match check(processes, directory, *user_namespace).await {
            Ok(None) => return Ok(*user_namespace),
            Ok(Some(error)) => refusal = error,
            Err(source) => return Err(LinuxNamespaceError::Check { source }),
        }
    }
    let settings = UserNamespaceSysctls::read();
    Err(LinuxNamespaceError::Forbidden { refusal, advice: settings.advice() })
}

/// Tries one kind of namespace. Returns the error text if the kernel refuses it.
async fn check(
    processes: &ProcessSpawner,
    directory: &Path,
    user_namespace: bool,
) -> io::Result<Option<String>> {
    let root = directory.join("check");
    empty_directory(&root)?;
    let (spec_file, error_file) = (directory.join("check.json"), directory.join("check.error"));
    let spec = ContainerProcessSpec {
        parent_pid: i32::try_from(std::process::id()).unwrap_or_default(),
        error_file: error_file.clone(),
        task: ContainerLauncherCommand::Check { directory: root.clone(), user_namespace },
    };
    spec.write(&spec_file)?;
    let launched = processes.launch(spec_file.clone(), ProcessOutput::Capture).await?;
    let exit = tokio::time::timeout(CHECK_DEADLINE, launched.exit).await;
    let exit = exit.map_err(io::Error::other)?.map_err(io::Error::other)?;
    let why = std::fs::read_to_string(&error_file).unwrap_or_default();
    for file in [spec_file, error_file] {
        let _ = std::fs::remove_file(file);
    }
    let _ = std::fs::remove_dir_all(root);
    if exit.code == 0 {
        return Ok(None);
    }
    let refusal = if why.is_empty() { exit.output } else { why };
    if refusal.is_empty() {
        return Err(io::Error::other(format!("the container program exited with {}", exit.code)));
    }
    Ok(Some(refusal))
}

/// The kernel settings that can forbid user namespaces. A setting is `None` if this kernel does not have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct UserNamespaceSysctls {
    unprivileged_userns_clone: Option<u64>,
    max_user_namespaces: Option<u64>,
    apparmor_restricts: Option<u64>,
}

impl UserNamespaceSysctls {
    fn read() -> Self {
        let number = |path: &str| {
            std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok())
        };
        Self {
            unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        }
    }

    fn advice(&self) -> String {
        let command = if self.unprivileged_userns_clone == Some(0) {
            "sysctl -w kernel.unprivileged_userns_clone=1"
        } else if self.max_user_namespaces == Some(0) {
            "sysctl -w user.max_user_namespaces=10000"
        } else if self.apparmor_restricts == Some(1) {
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        } else {
            return "run as root, or, inside a container, give it CAP_SYS_ADMIN and allow the system \
                    calls unshare, mount and pivot_root"
                .into();
        };
        format!("run `sudo {command}`, or start as root")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_the_setting_that_forbids_it() {
        let none = UserNamespaceSysctls::default();
        let cases = [
            (
                UserNamespaceSysctls { unprivileged_userns_clone: Some(0), ..none.clone() },
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                UserNamespaceSysctls { max_user_namespaces: Some(0), ..none.clone() },
                "user.max_user_namespaces=10000",
            ),
            (
                UserNamespaceSysctls {
                    unprivileged_userns_clone: Some(1),
                    max_user_namespaces: Some(9),
                    apparmor_restricts: Some(1),
                },
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (none, "CAP_SYS_ADMIN"),
        ];
        for (settings, advice) in cases {
            assert!(settings.advice().contains(advice), "{settings:?}: {}", settings.advice());
        }
    }
}
