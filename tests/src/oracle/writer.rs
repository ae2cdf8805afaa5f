//! The oracle Writer: writes continuously through the public address and checks every acknowledged write.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use redis::cmd;

use super::StopOnDrop;
use crate::{
    router::ClusterClient,
    wait::{Poll, elapse_blocking, until_blocking},
};

/// The pause between two writes of one tag.
const PAUSE: Duration = Duration::from_millis(4);
/// How long a key may take to be readable at the end, when no fault is active any more.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// The most writes of one tag, so that the loop always ends.
const WRITES_MAX: usize = 1_000_000;

/// A writer with one thread per tag. There is one tag per shard.
pub struct Writer {
    watched: StopOnDrop,
    /// The progress of each tag since outages were last forgotten.
    progress: Arc<Mutex<BTreeMap<String, WriterProgress>>>,
    threads: Vec<JoinHandle<Result<WriterLog>>>,
    entry: String,
    password: Option<String>,
}

/// The time of a tag's last acknowledged write, and the longest pause between two.
#[derive(Clone, Copy)]
struct WriterProgress {
    last: Instant,
    longest: Duration,
}

/// The result of one tag's thread.
struct WriterLog {
    tag: String,
    /// The keys, and when each was acknowledged after the writer's start.
    keys: Vec<(String, Duration)>,
    longest_outage: Duration,
}

/// The result of a writer from its start to its end.
#[derive(Clone, Debug)]
pub struct WriterReport {
    /// The number of acknowledged writes.
    pub acknowledged: usize,
    /// Acknowledged keys that do not exist at the end, each with its time after the writer's start.
    pub lost: Vec<String>,
    /// The longest time between two acknowledged writes of one tag.
    pub longest_outage: Duration,
}

impl Writer {
    /// Starts to write through `entry`, one thread per tag. Each tag was written once before this returns.
    ///
    /// # Errors
    ///
    /// Fails if a tag's first write does not succeed.
    pub fn start(entry: &str, password: Option<&str>, tags: &[String]) -> Result<Self> {
        let watched = StopOnDrop::default();
        for tag in tags {
            let mut router = ClusterClient::new(entry, password);
            let first = cmd("SET").arg(format!("{{{tag}}}:first")).arg(tag).to_owned();
            router.send::<String>(tag, &first).with_context(|| format!("first write of {tag}"))?;
        }
        let now = WriterProgress { last: Instant::now(), longest: Duration::ZERO };
        let progress = tags.iter().map(|tag| (tag.clone(), now)).collect();
        let progress = Arc::new(Mutex::new(progress));
        let threads = tags.iter().map(|tag| {
            let progress = progress.clone();
            let (entry, password) = (entry.to_owned(), password.map(str::to_owned));
            let (tag, stop) = (tag.clone(), watched.stop());
            thread::spawn(move || Ok(write(tag, &entry, password.as_deref(), &stop, &progress)))
        });
        let threads = threads.collect();
        Ok(Self {
            watched,
            progress,
            threads,
            entry: entry.to_owned(),
            password: password.map(str::to_owned),
        })
    }

    /// Sets the longest outage of each tag to zero.
    pub fn forget_outages(&self) {
        for progress in lock(&self.progress).values_mut() {
            progress.longest = Duration::ZERO;
        }
    }

    /// Returns the longest time in which keys with this tag could not be written since outages were last
    /// forgotten. An outage that still lasts counts until now.
    ///
    /// # Errors
    ///
    /// Fails for a tag that this writer does not write.
    pub fn outage(&self, tag: &str) -> Result<Duration> {
        let progress = lock(&self.progress).get(tag).copied();
        let progress = progress.with_context(|| format!("the writer has no tag {tag}"))?;
        Ok(progress.longest.max(progress.last.elapsed()))
    }

    /// Returns how long ago a key with this tag was last written.
    ///
    /// # Errors
    ///
    /// Fails for a tag that this writer does not write.
    pub fn last_write(&self, tag: &str) -> Result<Duration> {
        let progress = lock(&self.progress).get(tag).copied();
        Ok(progress.with_context(|| format!("the writer has no tag {tag}"))?.last.elapsed())
    }

    /// Stops writing, reads every acknowledged key and reports the lost ones.
    ///
    /// # Errors
    ///
    /// Fails if a thread panicked or a read of a key fails.
    pub fn finish(self) -> Result<WriterReport> {
        drop(self.watched);
        let mut report =
            WriterReport { acknowledged: 0, lost: Vec::new(), longest_outage: Duration::ZERO };
        let mut router = ClusterClient::new(&self.entry, self.password.as_deref());
        for thread in self.threads {
            let seen = thread.join().map_err(|_| anyhow!("a writer panicked"))??;
            report.acknowledged += seen.keys.len();
            report.longest_outage = report.longest_outage.max(seen.longest_outage);
            for (key, at) in seen.keys {
                if !exists(&mut router, &seen.tag, &key)? {
                    report.lost.push(format!("{key} at {:.3} s", at.as_secs_f64()));
                }
            }
        }
        Ok(report)
    }
}

fn lock(
    progress: &Mutex<BTreeMap<String, WriterProgress>>,
) -> MutexGuard<'_, BTreeMap<String, WriterProgress>> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(
    tag: String,
    entry: &str,
    password: Option<&str>,
    stop: &AtomicBool,
    progress: &Mutex<BTreeMap<String, WriterProgress>>,
) -> WriterLog {
    let mut router = ClusterClient::new(entry, password);
    let mut keys = Vec::new();
    let start = Instant::now();
    let mut last = start;
    let mut longest_outage = Duration::ZERO;
    for number in 0..WRITES_MAX {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{{{tag}}}:{number}");
        let set = cmd("SET").arg(&key).arg(number).to_owned();
        // A refused or unanswered write is an outage and not a loss: only acknowledged writes count.
        if router.send::<String>(&tag, &set).is_ok() {
            let pause = last.elapsed();
            longest_outage = longest_outage.max(pause);
            last = Instant::now();
            if let Some(progress) = lock(progress).get_mut(&tag) {
                *progress = WriterProgress { last, longest: progress.longest.max(pause) };
            }
            keys.push((key, start.elapsed()));
        }
        elapse_blocking(PAUSE);
    }
    let longest_outage = longest_outage.max(last.elapsed());
    WriterLog { tag, keys, longest_outage }
}

fn exists(router: &mut ClusterClient, tag: &str, key: &str) -> Result<bool> {
    let exists = cmd("EXISTS").arg(key).to_owned();
    let poll = || Ok(Poll::Done(router.send::<bool>(tag, &exists)?));
    Ok(until_blocking(PAUSE, format!("a read of `{key}`"), READ_DEADLINE, poll)?.0)
}
