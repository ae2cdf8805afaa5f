//! The oracle Invariants: conditions that must hold at every moment of a scenario, checked by sampling.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use redis::Connection;
use serde_json::Value;

use super::StopOnDrop;
use crate::{member::ServerInfo, router::connect, wait::elapse_blocking};

/// The pause between two samples.
const PAUSE: Duration = Duration::from_millis(100);
/// The most samples, so that the loop always ends.
const SAMPLES_MAX: usize = 20_000;
/// The most servers that are sampled; further addresses are not added.
const SERVERS_MAX: usize = 64;
/// How long the slots of a running primary may be unserved: a server takes up to half a second to report
/// `cluster_state:ok` again, and a sample may be late.
pub const UNSERVED_MAX: Duration = Duration::from_secs(2);
/// Commands that destroy data, as `INFO commandstats` names them; no scenario approves one.
const DESTROYS: &[&str] = &["cmdstat_flushall", "cmdstat_flushdb"];

/// Samples every server until it is finished. New servers are found in `CLUSTER NODES` of the known ones.
pub struct Invariants {
    watched: StopOnDrop,
    sampler: JoinHandle<BTreeSet<String>>,
    audit_log: PathBuf,
    /// The number of lines of the audit log at the start.
    audit_start: usize,
}

impl Invariants {
    /// Starts sampling at these addresses `ip:port`. `audit_log` is the API server's audit log; `unserved_max`
    /// is how long the slots of a running primary may be unserved.
    #[must_use]
    pub fn start(
        servers: &[String],
        password: Option<&str>,
        audit_log: &Path,
        unserved_max: Duration,
    ) -> Self {
        let watched = StopOnDrop::default();
        let sampler = {
            let stop = watched.stop();
            let addresses =
                servers.iter().cloned().map(|address| (address, SampledServer::default()));
            let mut sampler = Sampler {
                servers: addresses.collect(),
                password: password.map(str::to_owned),
                broken: BTreeSet::new(),
                start: Instant::now(),
                unserved_max,
            };
            thread::spawn(move || {
                sampler.run(&stop);
                sampler.broken
            })
        };
        let audit_start = writes(audit_log).map_or(0, |writes| writes.len());
        Self { watched, sampler, audit_log: audit_log.to_owned(), audit_start }
    }

    /// Stops sampling and judges.
    ///
    /// # Errors
    ///
    /// Fails with every violation that was found.
    pub fn finish(self) -> Result<()> {
        drop(self.watched);
        let mut broken = self.sampler.join().map_err(|_| anyhow!("the sampler panicked"))?;
        let writes = writes(&self.audit_log)?;
        broken.extend(deletions(writes.get(self.audit_start..).unwrap_or_default()));
        if broken.is_empty() {
            return Ok(());
        }
        bail!("broken invariants: {}", broken.into_iter().collect::<Vec<_>>().join("; "))
    }
}

struct Sampler {
    servers: BTreeMap<String, SampledServer>,
    password: Option<String>,
    broken: BTreeSet<String>,
    start: Instant,
    unserved_max: Duration,
}

/// The last known state of the server at one address.
#[derive(Default)]
struct SampledServer {
    connection: Option<Connection>,
    /// The run id and the node id of the last reply.
    seen: Option<(String, String)>,
    /// The slots that this process served when it last served any.
    served: Vec<(u16, u16)>,
    /// Since when some of these slots are unserved, and whether that was reported already.
    unserved: Option<(Instant, bool)>,
}

/// The slots that a server serves now, with its config epoch.
struct SlotClaim {
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

impl Sampler {
    fn run(&mut self, stop: &AtomicBool) {
        for _ in 0..SAMPLES_MAX {
            let last = stop.load(Ordering::Relaxed);
            self.sample();
            if last {
                break;
            }
            elapse_blocking(PAUSE);
        }
    }

    fn sample(&mut self) {
        let mut claims = BTreeMap::new();
        let mut learnt = BTreeSet::new();
        for (address, server) in &mut self.servers {
            // A server that does not answer serves nothing, and may or may not run.
            let Ok(info) = ask(server, address, self.password.as_deref()) else {
                server.connection = None;
                server.unserved = None;
                continue;
            };
            self.broken.extend(destroyed(address, &info));
            self.broken.extend(server.check_identity(address, &info));
            let known = info.rows.iter().filter(|row| !row.is("noaddr"));
            learnt.extend(known.map(|row| row.address.clone()));
            if let Ok(own) = info.own() {
                let serves = own.is("master") && info.is_serving();
                let slots = if serves { own.slots.clone() } else { Vec::new() };
                claims.insert(address.clone(), SlotClaim { epoch: own.epoch, slots });
            }
        }
        self.broken.extend(double_claims(&claims));
        self.judge_service(&claims);
        for address in learnt.into_iter().filter(|address| !address.starts_with(':')) {
            if self.servers.len() < SERVERS_MAX {
                self.servers.entry(address).or_default();
            }
        }
    }

    /// Checks that the slots of a running primary are served, by it or by another server.
    fn judge_service(&mut self, claims: &BTreeMap<String, SlotClaim>) {
        let claimed: Vec<_> = claims.values().flat_map(|claim| claim.slots.clone()).collect();
        for (address, server) in &mut self.servers {
            let Some(claim) = claims.get(address) else { continue };
            let lost = server.served.iter().find(|range| !covered(**range, &claimed)).copied();
            let Some((first, last)) = lost else {
                server.unserved = None;
                server.served.clone_from(&claim.slots);
                continue;
            };
            let (since, is_reported) =
                server.unserved.get_or_insert_with(|| (Instant::now(), false));
            if self.unserved_max < since.elapsed() && !std::mem::replace(is_reported, true) {
                self.broken.insert(format!(
                    "slots of {first}-{last} are unserved although {address} runs, since {:.1} s",
                    since.duration_since(self.start).as_secs_f64()
                ));
            }
        }
    }
}

impl SampledServer {
    /// Checks that the process still has its node id, which only `CLUSTER RESET HARD` changes.
    fn check_identity(&mut self, address: &str, info: &ServerInfo) -> Option<String> {
        let id = info.own().ok()?.id.clone();
        let run = info.field("run_id").to_owned();
        let before = self.seen.replace((run.clone(), id.clone()));
        let (run_before, id_before) = before?;
        if run_before != run {
            // Another process runs here: it need not serve the slots of the previous one.
            self.served.clear();
            self.unserved = None;
            return None;
        }
        (id_before != id).then(|| format!("{address} was sent CLUSTER RESET HARD"))
    }
}

fn ask(server: &mut SampledServer, address: &str, password: Option<&str>) -> Result<ServerInfo> {
    if server.connection.is_none() {
        server.connection = Some(connect(address, password)?);
    }
    ServerInfo::ask(server.connection.as_mut().context("just connected")?)
}

fn destroyed(address: &str, info: &ServerInfo) -> Vec<String> {
    let sent = DESTROYS.iter().filter(|command| info.info.contains_key(**command));
    sent.map(|command| {
        let name = command.trim_start_matches("cmdstat_").to_uppercase();
        format!("{address} was sent {name}")
    })
    .collect()
}

fn covered(range: (u16, u16), claimed: &[(u16, u16)]) -> bool {
    let mut next = u32::from(range.0);
    // Each round covers at least one range, so as many rounds as ranges are enough.
    for _ in claimed {
        let holder = claimed
            .iter()
            .find(|(first, last)| u32::from(*first) <= next && next <= u32::from(*last));
        match holder {
            Some((_, last)) => next = u32::from(*last) + 1,
            None => break,
        }
    }
    u32::from(range.1) < next
}

/// Returns the pairs of servers that serve the same slot under the same epoch. Two servers with different
/// epochs are no violation: Redis demotes the one with the lower epoch.
fn double_claims(claims: &BTreeMap<String, SlotClaim>) -> Vec<String> {
    let mut broken = Vec::new();
    let claims: Vec<_> = claims.iter().collect();
    for (at, (address, first)) in claims.iter().enumerate() {
        for (other, second) in claims.iter().skip(at + 1) {
            let overlap =
                first.slots.iter().any(|a| second.slots.iter().any(|b| a.0 <= b.1 && b.0 <= a.1));
            if overlap && first.epoch == second.epoch {
                broken
                    .push(format!("{address} and {other} serve one slot at epoch {}", first.epoch));
            }
        }
    }
    broken
}

/// Returns the host's writes in the API server's audit log, without dry runs.
///
/// # Errors
///
/// Fails if the log cannot be read.
pub fn host_writes(audit_log: &Path) -> Result<Vec<Value>> {
    let is_real = |write: &Value| write.get("dry_run") != Some(&Value::Bool(true));
    Ok(writes(audit_log)?
        .into_iter()
        .filter(|write| is_host_write(write) && is_real(write))
        .collect())
}

/// Returns when the API server performed the last write of an object by anyone but the host.
///
/// # Errors
///
/// Fails if the log cannot be read or has no such write.
pub fn written_at(audit_log: &Path, resource: &str, name: &str) -> Result<Timestamp> {
    let writes = writes(audit_log)?;
    let matches = |write: &&Value| {
        let has = |field: &str, expected: &str| write.get(field).is_some_and(|is| is == expected);
        has("resource", resource) && has("name", name) && !is_host_write(write)
    };
    let write = writes.iter().rev().find(matches);
    let time = write.and_then(|write| write.get("time")).and_then(Value::as_str);
    Ok(time.with_context(|| format!("no write of {resource} {name}"))?.parse()?)
}

/// Returns true if the host wrote, for itself or on behalf of a plugin.
fn is_host_write(write: &Value) -> bool {
    let manager = write.get("field_manager").and_then(Value::as_str).unwrap_or_default();
    manager == "tholepin" || manager.starts_with("tholepin:")
}

/// Returns all lines of the audit log, which has writes only.
fn writes(audit_log: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(audit_log).with_context(|| format!("{}", audit_log.display()))?;
    // The last line may be incomplete.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    Ok(whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Returns where the host deleted a second Pod of a shard before the first was created again. A Pod's name is
/// `<shard>-<ordinal>`. Deletions by users and by the cluster's controllers are not counted.
fn deletions(writes: &[Value]) -> Vec<String> {
    let text = |write: &Value, field: &str| {
        write.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut missing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut broken = Vec::new();
    for write in writes {
        let is_dry_run = write.get("dry_run") == Some(&Value::Bool(true));
        if text(write, "resource") != "pods" || is_dry_run {
            continue;
        }
        let (verb, name) = (text(write, "verb"), text(write, "name"));
        let shard = name.rsplit_once('-').map_or(name.as_str(), |(shard, _)| shard).to_owned();
        let pods = missing.entry(shard.clone()).or_default();
        if verb == "create" {
            pods.remove(&name);
        } else if verb == "delete" && is_host_write(write) {
            pods.insert(name);
            if 1 < pods.len() {
                broken.push(format!("the host deleted {pods:?} of shard {shard}"));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{covered, deletions};

    #[test]
    fn a_second_pod_of_a_shard_may_be_deleted_after_the_first_was_created_again() {
        let write = |verb: &str, manager: &str, name: &str| {
            json!({"verb": verb, "field_manager": manager, "resource": "pods", "name": name,
                "dry_run": false})
        };
        let delete = |name: &str| write("delete", "tholepin:redis-cluster", name);
        let back = |name: &str| write("create", "", name);
        let broken = |writes: &[Value]| deletions(writes).len();
        assert_eq!(broken(&[delete("a-0-0"), delete("a-0-1")]), 1);
        assert_eq!(broken(&[delete("a-0-0"), back("a-0-0"), delete("a-0-1")]), 0);
        assert_eq!(broken(&[delete("a-0-0"), delete("a-1-0")]), 0, "two shards");
    }

    #[test]
    fn slots_are_covered_by_several_servers_together() {
        assert!(covered((10, 20), &[(15, 30), (0, 14)]));
        assert!(!covered((10, 20), &[(16, 30), (0, 14)]));
        assert!(!covered((0, 16_383), &[]));
    }
}
