//! Names of host processes, as statuses and events show them: `tholepin-MACHINE-PID`.

use std::{fs, path::Path};

/// Returns the name of this process.
#[must_use]
pub fn own_name() -> String {
    name(&machine(), std::process::id())
}

/// Returns the name of the process with this id on this machine.
#[must_use]
pub fn name_of(pid: u32) -> String {
    name(&machine(), pid)
}

fn name(machine: &str, pid: u32) -> String {
    format!("tholepin-{machine}-{pid}")
}

fn machine() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Returns true if a host name belongs to a process of this machine that has ended. Returns false for a process of
/// another machine, of which nothing is known.
#[must_use]
pub fn has_ended(host: &str) -> bool {
    let of_machine = host.strip_prefix("tholepin-").and_then(|rest| rest.rsplit_once('-'));
    of_machine.is_some_and(|(theirs, pid)| {
        theirs == machine() && pid.parse::<u32>().is_ok() && !is_running(pid)
    })
}

/// Returns true if a process runs. A zombie, which has ended and waits for its parent, does not.
fn is_running(pid: &str) -> bool {
    let state = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    // The name before the state is in parentheses and may contain anything.
    state.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !has_ended(&name_of(child.id())) {
            assert!(std::time::Instant::now() < deadline, "it still counts as running");
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn only_a_process_of_this_machine_is_known_to_have_ended() {
        // No process has this id: it is above the largest that a kernel assigns.
        assert!(has_ended(&name_of(u32::MAX)));
        for host in [own_name(), name("elsewhere", u32::MAX), "h".to_owned(), String::new()] {
            assert!(!has_ended(&host), "{host}");
        }
    }
}
