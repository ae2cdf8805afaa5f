//! What the kernel tells of processes: processor time and memory; and on which processor they run.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// How many ticks of `/proc/PID/stat` a second has, on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Where the processor times of the process, and of its children that have ended and were waited for,
/// stand behind the name in `/proc/PID/stat`.
const OWN: usize = 11;
const CHILDREN: usize = 13;

/// The processor time that a process has used, in user and kernel mode, to a hundredth of a second.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    ticks(&format!("/proc/{pid}/stat"), OWN)
}

/// The processor time that this process and its children that have ended have used.
pub(crate) fn cpu_of_us() -> Result<Duration> {
    Ok(ticks("/proc/self/stat", OWN)? + ticks("/proc/self/stat", CHILDREN)?)
}

fn ticks(file: &str, from: usize) -> Result<Duration> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    // The name stands in parentheses and may hold anything, also parentheses.
    let (_, fields) = text.rsplit_once(") ").context("the process has a name")?;
    let fields = fields.split(' ').skip(from).take(2);
    let ticks: f64 = fields.map(|ticks| ticks.parse::<f64>().unwrap_or(f64::NAN)).sum();
    Duration::try_from_secs_f64(ticks / TICKS_PER_SECOND).with_context(|| format!("{file}: {text}"))
}

/// The bytes of memory that a process has in use, of its own and of files.
pub(crate) fn resident_bytes(pid: u32) -> Result<f64> {
    status(pid, "VmRSS:")
}

/// Of these, the bytes that are its own: no page of a file, which processes share and the kernel drops
/// when it needs room.
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

/// Keeps this thread, and the programs that it starts, on one processor: two may differ in speed for as long
/// as something else runs beside one of them.
pub(crate) struct OneProcessor {
    before: CpuSet,
}

impl OneProcessor {
    /// Chooses the one that this thread is on.
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
        // Else all that follows is measured on one; there is nobody to tell.
        sched_setaffinity(Pid::from_raw(0), &self.before).ok();
    }
}
