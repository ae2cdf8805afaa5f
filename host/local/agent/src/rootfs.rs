//! Computes the steps that fill a container's root.
//!
//! A container sees the machine's programs and libraries read-only, its own `/tmp`, `/var`, `/run` and
//! `/data`, an `/etc` with a few well-known files, and its volumes. The children of `/usr` are mounted one by
//! one, so that a volume can be mounted at a path such as `/usr/local/etc/redis` that the machine lacks.
//!
//! This protects the machine from accidents. It is not a security boundary against a hostile program, which
//! runs as the same user (see `SECURITY` in the crate's header).

use std::path::{Path, PathBuf};

use crate::container::RootFilesystemStep;
use crate::images::RunnableImage;

/// The directory of the image's commands, which is the first on the container's `PATH`.
const COMMANDS: &str = "/opt/image/bin";

/// The mount point of the Pod's own `hosts`, `hostname` and `resolv.conf`. A directory is mounted instead of
/// single files: a single mounted file could only be rewritten in place, and a reader could see half of it.
const POD_FILES: &str = "/run/pod";

/// The machine's directories that hold programs and libraries, besides `/usr`.
const TOP: &[&str] = &["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

const ETC: &[&str] = &[
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "gai.conf",
    "group",
    "host.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki",
    "profile",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];

const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Returns the `PATH` of a container whose image and spec set none.
pub(crate) fn default_path() -> String {
    format!("{COMMANDS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// A volume, mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootfsVolumeMount {
    /// A directory or file of the machine, without symlinks.
    pub source: PathBuf,
    /// The mount point inside the container.
    pub target: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether no part of the source may be a symlink when it is mounted.
    pub no_symlinks: bool,
}

/// The paths of this machine that every container sees. They are read once, when the agent starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerHostPaths {
    steps: Vec<RootFilesystemStep>,
}

impl ContainerHostPaths {
    /// Reads the paths of this machine.
    pub(crate) fn read() -> Self {
        let mut steps = Vec::new();
        for path in TOP {
            steps.extend(mount_or_link(Path::new(path)));
        }
        for parent in ["/usr", "/usr/local"] {
            for child in children(Path::new(parent)) {
                if !matches!(child.to_str(), Some("/usr/local" | "/usr/local/etc")) {
                    steps.extend(mount_or_link(&child));
                }
            }
        }
        for name in ETC {
            let target = Path::new("/etc").join(name);
            // The file behind a link is mounted, because the container may not see the target of the link.
            let source = target.canonicalize().ok();
            steps.extend(source.map(|source| bind(&source, &target, true)));
        }
        for name in DEVICES {
            let device = Path::new("/dev").join(name);
            steps.extend(device.exists().then(|| bind(&device, &device, false)));
        }
        Self { steps }
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Makes a path of the machine visible: a link as a link, a directory or file by mounting it.
fn mount_or_link(path: &Path) -> Option<RootFilesystemStep> {
    if let Ok(to) = std::fs::read_link(path) {
        return Some(RootFilesystemStep::Symlink { target: path.to_owned(), to });
    }
    path.exists().then(|| bind(path, path, true))
}

fn bind(source: &Path, target: &Path, read_only: bool) -> RootFilesystemStep {
    let (source, target) = (source.to_owned(), target.to_owned());
    RootFilesystemStep::Bind { source, target, read_only, no_symlinks: false }
}

/// Returns all steps for one container. `mounts` may be in any order.
pub(crate) fn steps(
    machine: &ContainerHostPaths,
    image: &RunnableImage,
    pod_files: &Path,
    workdir: &Path,
    mounts: &[RootfsVolumeMount],
) -> Vec<RootFilesystemStep> {
    let directory =
        |path: &str, mode| RootFilesystemStep::Directory { target: path.into(), mode: Some(mode) };
    let link = |path: PathBuf, to: PathBuf| RootFilesystemStep::Symlink { target: path, to };
    let mut steps = vec![
        directory("/tmp", 0o1777),
        directory("/var/tmp", 0o1777),
        directory("/var/log", 0o755),
        directory("/var/lib", 0o755),
        directory("/var/cache", 0o755),
        directory("/run", 0o755),
        directory("/root", 0o700),
        directory("/home", 0o755),
        directory("/mnt", 0o755),
        directory("/dev/shm", 0o1777),
        link("/var/run".into(), "/run".into()),
    ];
    steps.extend(machine.steps.iter().cloned());
    steps.push(bind(Path::new("/proc"), Path::new("/proc"), false));
    steps.push(bind(Path::new("/sys"), Path::new("/sys"), true));
    for (name, to) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        steps.push(link(Path::new("/dev").join(name), format!("/proc/self/fd{to}").into()));
    }
    steps.push(bind(pod_files, Path::new(POD_FILES), true));
    for name in ["hosts", "hostname", "resolv.conf"] {
        steps.push(link(Path::new("/etc").join(name), Path::new(POD_FILES).join(name)));
    }
    let needs_mount = |tree: &&PathBuf| !tree.starts_with("/usr") && !is_top(tree);
    steps.extend(image.trees.iter().filter(needs_mount).map(|tree| bind(tree, tree, true)));
    for (name, program) in &image.commands {
        steps.push(link(Path::new(COMMANDS).join(name), program.clone()));
    }
    steps.push(RootFilesystemStep::Directory { target: workdir.to_owned(), mode: None });
    let mut mounts: Vec<&RootfsVolumeMount> = mounts.iter().collect();
    // A mount hides everything that was mounted below it before, so outer mounts come first.
    mounts.sort_by_key(|mount| (mount.target.components().count(), &mount.target));
    steps.extend(mounts.into_iter().cloned().map(|mount| {
        let RootfsVolumeMount { source, target, read_only, no_symlinks } = mount;
        RootFilesystemStep::Bind { source, target, read_only, no_symlinks }
    }));
    steps
}

fn is_top(path: &Path) -> bool {
    TOP.iter().any(|top| path.starts_with(top))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &str, target: &str) -> RootfsVolumeMount {
        let (source, target) = (source.into(), target.into());
        RootfsVolumeMount { source, target, read_only: false, no_symlinks: false }
    }

    #[test]
    fn outer_volumes_are_mounted_before_inner_ones() {
        let image = RunnableImage::for_tests("/bin/sh");
        let mounts = [mount("/v/b", "/data/inner"), mount("/v/a", "/data")];
        let steps = steps(
            &ContainerHostPaths::default(),
            &image,
            Path::new("/pod"),
            Path::new("/data"),
            &mounts,
        );
        let targets: Vec<_> = steps
            .iter()
            .filter_map(|step| match step {
                RootFilesystemStep::Bind { source, target, .. } if source.starts_with("/v") => {
                    Some(target)
                }
                RootFilesystemStep::Bind { .. }
                | RootFilesystemStep::Directory { .. }
                | RootFilesystemStep::Symlink { .. } => None,
            })
            .collect();
        assert_eq!(targets, [Path::new("/data"), Path::new("/data/inner")]);
    }

    #[test]
    fn a_program_outside_the_usual_directories_is_mounted_with_its_directory() {
        let image = RunnableImage::for_tests("/engines/redis-8/redis-server");
        let steps =
            steps(&ContainerHostPaths::default(), &image, Path::new("/pod"), Path::new("/"), &[]);
        assert!(steps.contains(&bind(
            Path::new("/engines/redis-8"),
            Path::new("/engines/redis-8"),
            true
        )));
        let command = RootFilesystemStep::Symlink {
            target: "/opt/image/bin/redis-server".into(),
            to: "/engines/redis-8/redis-server".into(),
        };
        assert!(steps.contains(&command));
    }
}
