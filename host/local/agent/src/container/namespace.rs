//! Enters namespaces: new ones for a container, those of a running container for a probe.

use std::fs::File;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid, sethostname};

use super::ContainerError;

/// Moves this process into its own mount namespace and host name namespace.
///
/// With `user_namespace`, the process first enters a user namespace in which it is root. That root maps only
/// to the user who started the agent.
pub(super) fn enter_new(user_namespace: bool, hostname: &str) -> Result<(), ContainerError> {
    let private = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    if user_namespace {
        let (uid, gid) = (geteuid(), getegid());
        unshare(private | CloneFlags::CLONE_NEWUSER)
            .map_err(ContainerError::errno("enter a user and mount namespace"))?;
        // Without this the kernel refuses a group map that a user other than root writes.
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
        write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    } else {
        unshare(private).map_err(ContainerError::errno("enter a mount namespace"))?;
    }
    sethostname(hostname).map_err(ContainerError::errno("set the host name"))?;
    // No mount from here on may propagate to the machine.
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(ContainerError::errno("make the mounts private"))
}

/// Moves this process into the namespaces of a running container, whose root becomes its root.
pub(super) fn join(pid: u32, user_namespace: bool) -> Result<(), ContainerError> {
    // All files are opened before the first `setns`: afterwards `/proc` may be that of the container.
    let open = |name: &str| {
        let path = format!("/proc/{pid}/ns/{name}");
        File::open(&path).map_err(ContainerError::system(format!("open `{path}`")))
    };
    let user = user_namespace.then(|| open("user")).transpose()?;
    let (mounts, hostname) = (open("mnt")?, open("uts")?);
    if let Some(user) = user {
        setns(user, CloneFlags::CLONE_NEWUSER)
            .map_err(ContainerError::errno("join the container's user namespace"))?;
    }
    setns(hostname, CloneFlags::CLONE_NEWUTS)
        .map_err(ContainerError::errno("join the container's host name namespace"))?;
    setns(mounts, CloneFlags::CLONE_NEWNS)
        .map_err(ContainerError::errno("join the container's mount namespace"))
}

fn write(path: &str, text: &str) -> Result<(), ContainerError> {
    std::fs::write(Path::new(path), text)
        .map_err(ContainerError::system(format!("write `{text}` to `{path}`")))
}
