//! Processor time and memory of processes as the kernel reports them, and processor affinity.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// The ticks per second in `/proc/PID/stat`, the same on every supported Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// The positions after the name in `/proc/PID/stat` of the processor times of the process, and of its children that
/// have ended and were waited for.
const OWN: usize = 11;
const CHILDREN: usize = 13;

/// Returns the processor time of a process in user and kernel mode, to a hundredth of a second.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    ticks(&format!("/proc/{pid}/stat"), OWN)
}

/// Returns the processor time of this process and its ended children.
pub(crate) fn cpu_of_this() -> Result<Duration> {
    Ok(ticks("/proc/self/stat", OWN)? + ticks("/proc/self/stat", CHILDREN)?)
}

fn ticks(file: &str, from: usize) -> Result<Duration> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    // The name is in parentheses and may contain anything, also parentheses.
    let (_, fields) = text.rsplit_once(") ").context("the process has no name")?;
    let fields = fields.split(' ').skip(from).take(2);
    let ticks: f64 = fields.map(|ticks| ticks.parse::<f64>().unwrap_or(f64::NAN)).sum();
    Duration::try_from_secs_f64(ticks / TICKS_PER_SECOND).with_context(|| format!("{file}: {text}"))
}

/// Returns the resident memory of a process in bytes, with pages of files.
pub(crate) fn resident_bytes(pid: u32) -> Result<f64> {
    status(pid, "VmRSS:")
}

/// Returns the part of it that belongs to the process alone, in bytes: without pages of files, which processes
/// share and the kernel drops when it needs memory.
pub(crate) fn own_bytes(pid: u32) -> Result<f64> {
    status(pid, "RssAnon:")
}

fn status(pid: u32, field: &str) -> Result<f64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| file.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: f64 = kib.with_context(|| format!("{file} has no {field}"))?.parse()?;
    Ok(kib * 1024.0)
}

/// Binds this thread, and the programs that it starts, to one processor: two processors may differ in speed while
/// something else runs on one of them. Released when dropped.
pub(crate) struct OneProcessor {
    before: CpuSet,
}

impl OneProcessor {
    /// Binds to the processor on which this thread runs.
    pub(crate) fn choose() -> Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this)?;
        let mut one = CpuSet::new();
        one.set(sched_getcpu()?)?;
        sched_setaffinity(this, &one)?;
        Ok(Self { before })
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        // A failure would bind all later measurements to one processor; a drop cannot report it.
        sched_setaffinity(Pid::from_raw(0), &self.before).ok();
    }
}
