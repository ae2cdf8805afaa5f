//! How a host is called where several could be meant, and whether one of that name has ended.

use std::{fs, path::Path};

/// How this process is called: its machine and its number there.
pub(crate) fn own_name() -> String {
    name(&machine(), std::process::id())
}

/// How the process of this number on this machine is called.
pub(crate) fn name_of(pid: u32) -> String {
    name(&machine(), pid)
}

fn name(machine: &str, pid: u32) -> String {
    format!("tholepin-{machine}-{pid}")
}

fn machine() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Whether a host that is called so was a process of this machine and runs no more. Of another machine nothing
/// is known.
pub(crate) fn has_ended(host: &str) -> bool {
    let of_machine = host.strip_prefix("tholepin-").and_then(|rest| rest.rsplit_once('-'));
    of_machine.is_some_and(|(theirs, pid)| {
        theirs == machine() && pid.parse::<u32>().is_ok() && !is_running(pid)
    })
}

/// A process that has ended stays in the table until its parent has asked for its end.
fn is_running(pid: &str) -> bool {
    let state = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    // The name before the state is in parentheses and may contain anything.
    state.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_nobody_has_waited_for_has_ended() {
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
        // No process has this number: it is above the largest that a kernel gives.
        assert!(has_ended(&name_of(u32::MAX)));
        for host in [own_name(), name("elsewhere", u32::MAX), "h".to_owned(), String::new()] {
            assert!(!has_ended(&host), "{host}");
        }
    }
}
