//! Writes continuously through the public address and remembers what was acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use redis::cmd;

use super::StopOnDrop;
use crate::router::ClusterClient;

/// Pause between two writes of one tag.
const PAUSE: Duration = Duration::from_millis(4);
/// How long a key may take to be readable at the end, when no fault is injected any more.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// The most writes of one tag: the loop is bounded whatever happens.
const WRITES_MAX: usize = 1_000_000;

/// A writer with one thread per tag; tags are chosen so that each shard has one.
pub struct Writer {
    watched: StopOnDrop,
    /// When each tag was written last, and the longest time without a write since the last question.
    pulse: Arc<Mutex<BTreeMap<String, WriterProgress>>>,
    threads: Vec<JoinHandle<Result<WriterLog>>>,
    entry: String,
    password: Option<String>,
}

/// How one tag's writes go.
#[derive(Clone, Copy)]
struct WriterProgress {
    last: Instant,
    longest: Duration,
}

/// What one tag's thread has seen.
struct WriterLog {
    tag: String,
    /// The keys, and when each was acknowledged, since the writer's start.
    keys: Vec<(String, Duration)>,
    longest_outage: Duration,
}

/// What a writer saw from its start to its end.
#[derive(Clone, Debug)]
pub struct WriterReport {
    /// How many writes were acknowledged.
    pub acknowledged: usize,
    /// Acknowledged keys that are not there at the end, each with its time since the writer's start.
    pub lost: Vec<String>,
    /// The longest time between two acknowledged writes of one tag.
    pub longest_outage: Duration,
}

impl Writer {
    /// Starts to write through `entry`, one thread per tag, and returns when each has written once.
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
        let pulse = tags.iter().map(|tag| (tag.clone(), now)).collect();
        let pulse = Arc::new(Mutex::new(pulse));
        let threads = tags.iter().map(|tag| {
            let pulse = pulse.clone();
            let (entry, password) = (entry.to_owned(), password.map(str::to_owned));
            let (tag, stop) = (tag.clone(), watched.stop());
            thread::spawn(move || Ok(write(tag, &entry, password.as_deref(), &stop, &pulse)))
        });
        let threads = threads.collect();
        Ok(Self {
            watched,
            pulse,
            threads,
            entry: entry.to_owned(),
            password: password.map(str::to_owned),
        })
    }

    /// Forgets the outages so far.
    pub fn forget_outages(&self) {
        for pulse in lock(&self.pulse).values_mut() {
            pulse.longest = Duration::ZERO;
        }
    }

    /// The longest time in which keys with this tag could not be written, since outages were forgotten
    /// last; one that lasts is counted to now.
    ///
    /// # Errors
    ///
    /// Fails for a tag that is not written.
    pub fn outage(&self, tag: &str) -> Result<Duration> {
        let pulse = lock(&self.pulse).get(tag).copied();
        let pulse = pulse.with_context(|| format!("nobody writes {tag}"))?;
        Ok(pulse.longest.max(pulse.last.elapsed()))
    }

    /// How long ago a key with this tag was written last.
    ///
    /// # Errors
    ///
    /// Fails for a tag that is not written.
    pub fn last_write(&self, tag: &str) -> Result<Duration> {
        let pulse = lock(&self.pulse).get(tag).copied();
        Ok(pulse.with_context(|| format!("nobody writes {tag}"))?.last.elapsed())
    }

    /// Stops writing, reads every acknowledged key and reports.
    ///
    /// # Errors
    ///
    /// Fails if a thread panicked or a key cannot be read at all.
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
    pulse: &Mutex<BTreeMap<String, WriterProgress>>,
) -> MutexGuard<'_, BTreeMap<String, WriterProgress>> {
    pulse.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(
    tag: String,
    entry: &str,
    password: Option<&str>,
    stop: &AtomicBool,
    pulse: &Mutex<BTreeMap<String, WriterProgress>>,
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
        // A refused or unanswered write is an outage and not a loss: only what was acknowledged counts.
        if router.send::<String>(&tag, &set).is_ok() {
            let pause = last.elapsed();
            longest_outage = longest_outage.max(pause);
            last = Instant::now();
            if let Some(pulse) = lock(pulse).get_mut(&tag) {
                *pulse = WriterProgress { last, longest: pulse.longest.max(pause) };
            }
            keys.push((key, start.elapsed()));
        }
        thread::sleep(PAUSE);
    }
    let longest_outage = longest_outage.max(last.elapsed());
    WriterLog { tag, keys, longest_outage }
}

fn exists(router: &mut ClusterClient, tag: &str, key: &str) -> Result<bool> {
    let start = Instant::now();
    loop {
        match router.send::<bool>(tag, &cmd("EXISTS").arg(key).to_owned()) {
            Ok(exists) => return Ok(exists),
            Err(error) if READ_DEADLINE < start.elapsed() => {
                bail!("cannot read `{key}`: {error:#}")
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
