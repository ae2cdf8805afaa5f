//! Turns a directory into `/` and fills it.
//!
//! The process enters the new root *before* filling it, and keeps the machine's root at [`HOST`] meanwhile.
//! So a symlink inside the container, wherever it points, cannot lead a later step to the machine's files.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::pivot_root;

use super::{ContainerError, RootFilesystemStep};

/// The path of the machine's root while the container's root is being filled.
const HOST: &str = "/.host";

/// Makes `directory` the root of this process, with the machine's root at [`HOST`].
pub(super) fn enter(directory: &Path) -> Result<(), ContainerError> {
    let named = |action: &str| format!("{action} `{}`", directory.display());
    // `pivot_root` requires a mount point.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(directory), directory, None::<&str>, flags, None::<&str>)
        .map_err(ContainerError::errno(named("bind")))?;
    let host = directory.join(HOST.trim_start_matches('/'));
    make_directory(&host, 0o700)?;
    pivot_root(directory, &host).map_err(ContainerError::errno(named("pivot into")))?;
    std::env::set_current_dir("/").map_err(ContainerError::system(named("enter")))
}

/// Unmounts the machine's root.
pub(super) fn leave_host() -> Result<(), ContainerError> {
    umount2(HOST, MntFlags::MNT_DETACH)
        .map_err(ContainerError::errno("leave the machine's root"))?;
    std::fs::remove_dir(HOST).map_err(ContainerError::system(format!("remove `{HOST}`")))
}

/// Performs one step of filling the root.
pub(super) fn perform(step: &RootFilesystemStep) -> Result<(), ContainerError> {
    match step {
        RootFilesystemStep::Directory { target, mode } => {
            make_directory(target, 0o755)?;
            let Some(mode) = *mode else { return Ok(()) };
            std::fs::set_permissions(target, Permissions::from_mode(mode))
                .map_err(ContainerError::system(format!("set the mode of `{}`", target.display())))
        }
        RootFilesystemStep::Symlink { target, to } => {
            make_parent(target)?;
            symlink(to, target)
                .map_err(ContainerError::system(format!("link `{}`", target.display())))
        }
        RootFilesystemStep::Bind { source, target, read_only, no_symlinks } => {
            let named = format!("mount `{}` at `{}`", source.display(), target.display());
            if !no_symlinks {
                let source = PathBuf::from(format!("{HOST}{}", source.display()));
                return bind(&source, target, *read_only, &named);
            }
            let opened = open_without_symlinks(Path::new(HOST), source)
                .map_err(ContainerError::system(named.clone()))?;
            // The descriptor is mounted, so that a replacement of the path after the check has no effect.
            let source = format!("{HOST}/proc/self/fd/{}", opened.as_raw_fd());
            bind(Path::new(&source), target, *read_only, &named)
        }
    }
}

/// Opens `path` below `root` without following any symlink in it.
///
/// # Errors
///
/// Fails if a part of the path is a symlink, or cannot be opened.
fn open_without_symlinks(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut opened = open(root, flags, Mode::empty())?;
    for part in path.components() {
        let Component::Normal(part) = part else { continue };
        opened = openat(&opened, part, flags, Mode::empty())?;
        // With these flags a symlink itself is opened.
        if File::from(opened.try_clone()?).metadata()?.is_symlink() {
            let text = format!("`{}` was replaced by a symlink", part.display());
            return Err(io::Error::other(text));
        }
    }
    Ok(opened)
}

fn bind(source: &Path, target: &Path, read_only: bool, named: &str) -> Result<(), ContainerError> {
    let kind = std::fs::metadata(source).map_err(ContainerError::system(named))?;
    if kind.is_dir() {
        make_directory(target, 0o755)?;
    } else if !target.exists() {
        make_parent(target)?;
        File::create(target).map_err(ContainerError::system(named))?;
    }
    // The mount is recursive: in a user namespace the kernel refuses to bind a directory without the mounts
    // below it.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, None::<&str>, flags, None::<&str>)
        .map_err(ContainerError::errno(named))?;
    if !read_only {
        return Ok(());
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept_flags(target);
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(ContainerError::errno(format!("{named} read-only")))
}

/// Returns the flags that a remount must repeat, because in a user namespace they are locked.
fn kept_flags(target: &Path) -> MsFlags {
    const PAIRS: [(FsFlags, MsFlags); 6] = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let Ok(filesystem) = statvfs(target) else { return MsFlags::empty() };
    let set = filesystem.flags();
    PAIRS.iter().filter(|(have, _)| set.contains(*have)).map(|(_, keep)| *keep).collect()
}

fn make_directory(path: &Path, mode: u32) -> Result<(), ContainerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(ContainerError::system(format!("make the directory `{}`", path.display())))
}

fn make_parent(path: &Path) -> Result<(), ContainerError> {
    path.parent().map_or(Ok(()), |parent| make_directory(parent, 0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container of the Pod exchanges a directory with a symlink after the agent has resolved the path
    /// (CVE-2021-25741).
    #[test]
    fn a_part_that_was_replaced_by_a_symlink_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("v/real/inner")).unwrap();
        std::fs::create_dir_all(root.join("machine/inner")).unwrap();
        std::fs::write(root.join("v/file"), "x").unwrap();
        for path in ["/v/real", "/v/real/inner", "/v/file"] {
            assert!(open_without_symlinks(root, Path::new(path)).is_ok(), "{path}");
        }
        std::fs::rename(root.join("v/real"), root.join("v/other")).unwrap();
        symlink(root.join("machine"), root.join("v/real")).unwrap();
        for path in ["/v/real", "/v/real/inner", "/v/missing"] {
            assert!(open_without_symlinks(root, Path::new(path)).is_err(), "{path}");
        }
    }
}
