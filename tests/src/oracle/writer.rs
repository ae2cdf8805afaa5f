//! Writes continuously through the public address and remembers what was acknowledged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use redis::cmd;

use crate::router::Router;

/// Pause between two writes of one tag.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a key may take to be readable at the end, when no fault is injected any more.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// The most writes of one tag: the loop is bounded whatever happens.
const WRITES_MAX: usize = 200_000;

/// A writer with one thread per tag; tags are chosen so that each shard has one.
pub struct Writer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Acknowledged>>>,
    entry: String,
    password: Option<String>,
}

/// What one tag's thread has seen.
struct Acknowledged {
    tag: String,
    keys: Vec<String>,
    longest_outage: Duration,
}

/// What a writer saw from its start to its end.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many writes were acknowledged.
    pub acknowledged: usize,
    /// Acknowledged keys that are not there at the end.
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
        let stop = Arc::new(AtomicBool::new(false));
        for tag in tags {
            let mut router = Router::new(entry, password);
            let first = cmd("SET").arg(format!("{{{tag}}}:first")).arg(tag).to_owned();
            router.send::<String>(tag, &first).with_context(|| format!("first write of {tag}"))?;
        }
        let threads = tags.iter().map(|tag| {
            let (entry, password) = (entry.to_owned(), password.map(str::to_owned));
            let (tag, stop) = (tag.clone(), stop.clone());
            thread::spawn(move || Ok(write(tag, &entry, password.as_deref(), &stop)))
        });
        let threads = threads.collect();
        Ok(Self { stop, threads, entry: entry.to_owned(), password: password.map(str::to_owned) })
    }

    /// Stops writing, reads every acknowledged key and reports.
    ///
    /// # Errors
    ///
    /// Fails if a thread panicked or a key cannot be read at all.
    pub fn finish(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut report =
            Report { acknowledged: 0, lost: Vec::new(), longest_outage: Duration::ZERO };
        let mut router = Router::new(&self.entry, self.password.as_deref());
        for thread in self.threads {
            let seen = thread.join().map_err(|_| anyhow!("a writer panicked"))??;
            report.acknowledged += seen.keys.len();
            report.longest_outage = report.longest_outage.max(seen.longest_outage);
            for key in seen.keys {
                if !exists(&mut router, &seen.tag, &key)? {
                    report.lost.push(key);
                }
            }
        }
        Ok(report)
    }
}

fn write(tag: String, entry: &str, password: Option<&str>, stop: &AtomicBool) -> Acknowledged {
    let mut router = Router::new(entry, password);
    let mut keys = Vec::new();
    let mut last = Instant::now();
    let mut longest_outage = Duration::ZERO;
    for number in 0..WRITES_MAX {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{{{tag}}}:{number}");
        let set = cmd("SET").arg(&key).arg(number).to_owned();
        // A refused or unanswered write is an outage and not a loss: only what was acknowledged counts.
        if router.send::<String>(&tag, &set).is_ok() {
            longest_outage = longest_outage.max(last.elapsed());
            last = Instant::now();
            keys.push(key);
        }
        thread::sleep(PAUSE);
    }
    let longest_outage = longest_outage.max(last.elapsed());
    Acknowledged { tag, keys, longest_outage }
}

fn exists(router: &mut Router, tag: &str, key: &str) -> Result<bool> {
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
