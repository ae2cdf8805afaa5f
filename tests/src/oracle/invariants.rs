//! What must hold at every moment, sampled all through a scenario.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use redis::cmd;
use serde_json::Value;

use crate::router::connect;

/// Pause between two samples.
const PAUSE: Duration = Duration::from_millis(100);
/// The most samples: the loop is bounded whatever happens.
const SAMPLES_MAX: usize = 6000;
/// Commands that destroy data; no scenario grants one.
const DESTROYS: &[&str] = &["flushall", "flushdb"];

/// Samples every server that it knows of until it is finished.
pub struct Invariants {
    stop: Arc<AtomicBool>,
    /// Addresses `ip:port` of the servers; tests add what they learn.
    servers: Arc<Mutex<BTreeSet<String>>>,
    sampler: JoinHandle<Vec<String>>,
    audit_log: PathBuf,
    /// How many lines the audit log had at the start.
    audit_start: usize,
}

impl Invariants {
    /// Starts to sample. `audit_log` is the API server's.
    #[must_use]
    pub fn start(password: Option<&str>, audit_log: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let servers = Arc::new(Mutex::new(BTreeSet::new()));
        let sampler = {
            let (stop, servers) = (stop.clone(), servers.clone());
            let password = password.map(str::to_owned);
            thread::spawn(move || sample_until(&stop, &servers, password.as_deref()))
        };
        let audit_start = writes(audit_log).map_or(0, |writes| writes.len());
        Self { stop, servers, sampler, audit_log: audit_log.to_owned(), audit_start }
    }

    /// Adds servers to sample.
    pub fn watch(&self, addresses: impl IntoIterator<Item = String>) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).extend(addresses);
    }

    /// Stops and judges.
    ///
    /// # Errors
    ///
    /// Fails with each invariant that was broken.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let mut broken = self.sampler.join().map_err(|_| anyhow!("the sampler panicked"))?;
        broken.extend(deletions(&writes(&self.audit_log)?[self.audit_start..]));
        broken.sort();
        broken.dedup();
        if broken.is_empty() { Ok(()) } else { bail!("broken invariants: {}", broken.join("; ")) }
    }
}

fn sample_until(
    stop: &AtomicBool,
    servers: &Mutex<BTreeSet<String>>,
    password: Option<&str>,
) -> Vec<String> {
    let mut broken = Vec::new();
    for _ in 0..SAMPLES_MAX {
        let last = stop.load(Ordering::Relaxed);
        let addresses = servers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let claims: BTreeMap<_, _> = addresses
            .into_iter()
            .filter_map(|address| {
                sample(&address, password, &mut broken).ok().map(|claim| (address, claim))
            })
            .collect();
        broken.extend(double_claims(&claims));
        if last {
            break;
        }
        thread::sleep(PAUSE);
    }
    broken
}

/// What a server claims: its slots with the epoch of the claim, while it serves them.
struct Claim {
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

/// One server's claim. A server that does not answer claims nothing.
fn sample(address: &str, password: Option<&str>, broken: &mut Vec<String>) -> Result<Claim> {
    let mut connection = connect(address, password)?;
    let stats: String = cmd("INFO").arg("commandstats").query(&mut connection)?;
    for command in DESTROYS {
        if stats.lines().any(|line| line.starts_with(&format!("cmdstat_{command}:"))) {
            broken.push(format!("{address} was sent {}", command.to_uppercase()));
        }
    }
    let info: String = cmd("CLUSTER").arg("INFO").query(&mut connection)?;
    let nodes: String = cmd("CLUSTER").arg("NODES").query(&mut connection)?;
    let own = nodes.lines().find(|line| line.contains("myself")).context("no row `myself`")?;
    let fields: Vec<_> = own.split(' ').collect();
    let serves = info.contains("cluster_state:ok")
        && fields.get(2).is_some_and(|flags| flags.contains("master"));
    let epoch = fields.get(6).context("a row has an epoch")?.parse()?;
    let slots = fields.iter().skip(8).filter(|range| serves && !range.starts_with('['));
    let range = |text: &&str| -> Result<(u16, u16)> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Ok((first.parse()?, last.parse()?))
    };
    Ok(Claim { epoch, slots: slots.map(range).collect::<Result<_>>()? })
}

/// Two servers that serve a slot at once under the same epoch. Under different epochs the one with the
/// lower is about to learn of its demotion, which Redis itself settles.
fn double_claims(claims: &BTreeMap<String, Claim>) -> Vec<String> {
    let mut broken = Vec::new();
    for (one, first) in claims {
        for (other, second) in
            claims.range::<String, _>((std::ops::Bound::Excluded(one), std::ops::Bound::Unbounded))
        {
            let overlap =
                first.slots.iter().any(|a| second.slots.iter().any(|b| a.0 <= b.1 && b.0 <= a.1));
            if overlap && first.epoch == second.epoch {
                broken.push(format!(
                    "{one} and {other} serve the same slot at epoch {}",
                    first.epoch
                ));
            }
        }
    }
    broken
}

/// Lines of the audit log as they are: writes only.
fn writes(audit_log: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(audit_log).with_context(|| format!("{}", audit_log.display()))?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Two Pods of one shard deleted by the host within a minute of each other. A Pod's name is
/// `<shard>-<ordinal>`; deletions by people and by the cluster's controllers are not ours.
fn deletions(writes: &[Value]) -> Vec<String> {
    let text = |write: &Value, field: &str| {
        write.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut by_shard: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for write in writes {
        let is_ours =
            text(write, "user") == "host" || text(write, "field_manager").starts_with("tholepin");
        let deletes = text(write, "verb") == "delete" && text(write, "resource") == "pods";
        let dry_run = write.get("dry_run") == Some(&Value::Bool(true));
        if is_ours && deletes && !dry_run {
            let name = text(write, "name");
            let shard = name.rsplit_once('-').map_or(name.as_str(), |(shard, _)| shard).to_owned();
            by_shard.entry(shard).or_default().insert(name);
        }
    }
    let broken = by_shard.into_iter().filter(|(_, pods)| 1 < pods.len());
    broken.map(|(shard, pods)| format!("the host deleted {pods:?} of shard {shard}")).collect()
}
