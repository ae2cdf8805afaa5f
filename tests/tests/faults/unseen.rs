//! 7: a primary whose Pod is no longer observed is replaced only on a proof of its end.

use std::{
    cell::Cell,
    env,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use redis::cmd;
use tests::{
    environment::TestEnvironment,
    keys::WrittenKeys,
    process::signal,
    redis_cluster::{ClusterPod, PASSWORD, RedisCluster},
    router::connect,
    wait::{Poll, until},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::{
    bed,
    guard::approval,
    table::{FaultRow, FaultRows},
};

/// The Pods' terminationGracePeriodSeconds of 45 s, 10 s after it, and the time to heal.
const REPLACED: Duration = Duration::from_secs(120);
/// Twice the grace period of a deleted Pod.
const GONE: Duration = Duration::from_secs(90);
/// How long a row may take.
const ROW: Duration = Duration::from_secs(200);
/// For how long a primary that does not answer must not be replaced without a vote.
const SILENT: Duration = Duration::from_secs(25);
/// The environment variable that is set in a run inside a network namespace.
const INSIDE: &str = "THOLEPIN_FAULTS_NAMESPACE";
const UNREPLACED: &str = "13 of 13 never replaced: a replica runs, CLUSTERDOWN for ever";

/// The clusters of 7a and 7b: name, shards, replicas, and how many primaries are deleted. They share a host,
/// because the cases mostly wait.
const CLUSTERS: &[(&str, usize, usize, usize)] = &[
    ("one", 1, 1, 1),
    ("two", 2, 1, 1),
    ("three", 3, 1, 2),
    ("all-three", 3, 1, 3),
    ("five", 5, 2, 3),
];

/// One of the clusters beside that of the environment.
struct SecondCluster {
    redis: RedisCluster,
    keys: WrittenKeys,
    gone: Vec<ClusterPod>,
}

/// Creates the clusters beside that of the environment, and chooses the primaries to delete.
async fn beside(story: &TestEnvironment) -> Result<Vec<SecondCluster>> {
    let cluster = |&(name, shards, replicas, _): &(&'static str, usize, usize, usize)| {
        RedisCluster { name, shards, replicas, ..story.redis.clone() }
    };
    let clusters: Vec<_> = CLUSTERS.iter().map(cluster).collect();
    clusters.iter().try_for_each(|redis| redis.create(&story.kubectl))?;
    let mut all = Vec::new();
    for (redis, (.., count)) in clusters.into_iter().zip(CLUSTERS) {
        let look = || async { Ok(Poll::There(redis.well(&story.kubectl, &story.client).await?)) };
        let created = until(format!("{} to be healthy", redis.name), REPLACED, look).await?;
        let keys = WrittenKeys::put(&redis, &story.client).await?;
        let gone = created.0.into_iter().filter(|seat| seat.member.is_primary()).take(*count);
        let gone = gone.collect();
        all.push(SecondCluster { redis, keys, gone });
    }
    Ok(all)
}

/// Judges each cluster after the fault: it must become healthy with every key.
async fn judge(rows: &mut FaultRows, story: &TestEnvironment, input: &str, all: &[SecondCluster]) {
    // One deadline for all, because the faults were injected at the same time.
    let end = Instant::now() + REPLACED;
    for SecondCluster { redis, keys, gone } in all {
        let RedisCluster { shards, replicas, .. } = redis;
        let input = format!("{shards}x{replicas}, {} of {shards} primaries: {input}", gone.len());
        rows.row(&input, UNREPLACED, ROW, async |row| {
            row.keys_before(keys.len());
            let look = || async {
                let seats = redis.well(&story.kubectl, &story.client).await?;
                let is_old = |seat: &&ClusterPod| gone.iter().any(|gone| gone.uid == seat.uid);
                Ok(match seats.iter().find(is_old) {
                    Some(seat) => Poll::NotYet(format!("{} still exists", seat.pod)),
                    None => Poll::There(()),
                })
            };
            let left = end.saturating_duration_since(Instant::now());
            let well = until(format!("{} to be healthy", redis.name), left, look).await;
            row.keys_after(keys.held(&story.client).await?);
            let took = match well {
                Ok(_) => REPLACED.saturating_sub(end.saturating_duration_since(Instant::now())),
                Err(error) => {
                    let told = bed::conditions_of(story, redis.name)?;
                    let told = told.iter().find(|one| one.kind == "Ready");
                    let told = told.map(ToString::to_string).unwrap_or_default();
                    bail!("{told}; {error:#}")
                }
            };
            row.keys_after(keys.check()?);
            row.saw(format!("healthy after {:.0} s", took.as_secs_f64()));
            Ok(())
        })
        .await;
    }
}

/// 7a: the Pods are deleted by force, so that the ends of their containers are not reported.
pub(crate) async fn pods_are_deleted_by_force(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let story = TestEnvironment::begin(redis, &[], "").await?;
    let all = beside(&story).await?;
    let mut delete = vec!["delete", "pod", "--force", "--grace-period=0", "--wait=false"];
    delete.extend(all.iter().flat_map(|one| &one.gone).map(|seat| seat.pod.as_str()));
    story.kubectl.run(&delete)?;
    judge(rows, &story, "delete pod --grace-period=0 --force", &all).await;
    bed::end(rows, story)
}

/// 7b: the Pods are deleted while no host runs.
pub(crate) async fn pods_are_deleted_while_the_host_is_down(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let mut story = TestEnvironment::begin(redis, &[], "").await?;
    let all = beside(&story).await?;
    story.host.kill()?;
    let mut delete = vec!["delete", "pod", "--wait=false"];
    let gone = || all.iter().flat_map(|one| &one.gone);
    delete.extend(gone().map(|seat| seat.pod.as_str()));
    story.kubectl.run(&delete)?;
    // kubectl waits by name: it does not notice a Pod that is created again between two of its polls.
    let look = || async {
        let pods = story.kubectl.run(&["get", "pod", "-o", "jsonpath={.items[*].metadata.uid}"])?;
        let left = gone().filter(|seat| pods.contains(&seat.uid)).map(|seat| seat.pod.as_str());
        let left = left.collect::<Vec<_>>().join(", ");
        Ok(if left.is_empty() { Poll::There(()) } else { Poll::NotYet(left) })
    };
    until("the Pods to be deleted", GONE, look).await?;
    story.restart()?;
    judge(rows, &story, "delete pod while the host is down", &all).await;
    bed::end(rows, story)
}

/// 7c: a primary hangs, which proves nothing.
pub(crate) async fn a_primary_hangs(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (story, keys) = bed::begin(redis).await?;
    let before = "not taken over";
    rows.row("SIGSTOP of the primary", before, ROW, async |row| {
        row.keys_before(keys.len());
        let (tag, primary) = bed::primary(&story, 0).await?;
        signal(primary.member.pid()?, "STOP")?;
        let stays = not_taken_over(&story, &tag, &primary, SILENT).await;
        signal(primary.member.pid()?, "CONT")?;
        stays?;
        let (_, took) = bed::well(&story, bed::WELL).await?;
        row.saw(format!(
            "not taken over in {} s, healthy {:.1} s after it continued",
            SILENT.as_secs(),
            took.as_secs_f64()
        ));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    bed::end(rows, story)
}

async fn not_taken_over(
    story: &TestEnvironment,
    tag: &str,
    old: &ClusterPod,
    duration: Duration,
) -> Result<()> {
    let look = || still_owns(story, tag, old);
    bed::holds("a primary that may run was replaced", duration, look).await
}

async fn still_owns(story: &TestEnvironment, tag: &str, old: &ClusterPod) -> Result<()> {
    let seats = story.redis.answering(&story.client).await?;
    let other = seats.iter().find(|seat| seat.serves(tag) && seat.pod != old.pod);
    ensure!(other.is_none(), "{:?} took over", other.map(|seat| &seat.pod));
    Ok(())
}

/// 7d: a running primary is cut off from everything but its own clients. Runs this program again in a network
/// namespace, where addresses can be cut off from each other.
pub(crate) async fn a_primary_is_cut_off(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    if env::var_os(INSIDE).is_none() {
        return in_a_namespace(rows, "7d");
    }
    let (story, keys) = bed::begin(redis).await?;
    let before = "not taken over; a first sketch of the takeover lost 20 s of writes";
    rows.row("a running primary cut off by the network", before, ROW, async |row| {
        row.keys_before(keys.len());
        cut_off(row, &story, &keys).await
    })
    .await;
    let before = UNREPLACED;
    rows.row("its Pod deleted by force, its address cut off", before, ROW, async |row| {
        row.keys_before(keys.len());
        asked_to_confirm(row, &story, &keys).await
    })
    .await;
    bed::end(rows, story)
}

async fn cut_off(row: &mut FaultRow, story: &TestEnvironment, keys: &WrittenKeys) -> Result<()> {
    let (tag, primary) = bed::primary(story, 0).await?;
    let ip = ip_of(&primary)?;
    let cut = NetworkCut::begin(&ip)?;
    let written = Cell::new(0_usize);
    let look = || async {
        let key = format!("{{{tag}}}:cut-{}", written.get());
        cut.set(&primary.address, &key).await.context("the primary did not acknowledge")?;
        written.set(written.get() + 1);
        still_owns(story, &tag, &primary).await
    };
    let stays = bed::holds("a running primary was replaced", SILENT, look).await;
    let written = written.get();
    drop(cut);
    stays?;
    let (_, took) = bed::well(story, bed::WELL).await?;
    let mut connection = connect(&primary.address, story.redis.password)?;
    let mut left = 0;
    for number in 0..written {
        let exists =
            cmd("EXISTS").arg(format!("{{{tag}}}:cut-{number}")).query::<bool>(&mut connection)?;
        left += usize::from(exists);
    }
    row.saw(format!(
        "not taken over in {} s, {left} of {written} writes acknowledged meanwhile exist, healthy {:.1} s after",
        SILENT.as_secs(),
        took.as_secs_f64()
    ));
    ensure!(left == written, "{left} of {written} writes exist");
    row.keys_after(keys.check()?);
    Ok(())
}

/// Deletes the Pod while its address does not answer: a time-out proves nothing, so approval is asked for.
async fn asked_to_confirm(
    row: &mut FaultRow,
    story: &TestEnvironment,
    keys: &WrittenKeys,
) -> Result<()> {
    let (tag, primary) = bed::primary(story, 0).await?;
    let cut = NetworkCut::begin(&ip_of(&primary)?)?;
    story.kubectl.run(&[
        "delete",
        "pod",
        &primary.pod,
        "--force",
        "--grace-period=0",
        "--wait=false",
    ])?;
    let wait = Duration::from_secs(75);
    let stays = not_taken_over(story, &tag, &primary, wait).await;
    let asked =
        bed::condition_where(story, "confirm-dead", |one| one.message.contains("confirm-dead"))
            .await;
    drop(cut);
    stays?;
    let asked = asked?;
    let annotation = approval(&asked.message).context("the condition names the annotation")?;
    let id = &primary.member.own()?.id;
    let wanted = format!("tholepin.dev/confirm-dead={id}/{}", primary.uid);
    ensure!(annotation == wanted, "it asks for {annotation} and not {wanted}");
    bed::annotate(story, &annotation)?;
    let (_, took) = bed::well(story, bed::WELL).await?;
    row.saw(format!("asked for `{annotation}`, healthy {:.1} s after it", took.as_secs_f64()));
    row.keys_after(keys.check()?);
    Ok(())
}

fn ip_of(seat: &ClusterPod) -> Result<String> {
    let (ip, _) = seat.address.split_once(':').context("the address has no port")?;
    Ok(ip.to_owned())
}

/// An address that only one client can reach; reachable again when dropped.
struct NetworkCut {
    rules: Vec<Vec<String>>,
}

impl NetworkCut {
    /// The address of that client.
    const CLIENT: &str = "127.255.0.1";

    fn begin(ip: &str) -> Result<Self> {
        let rule = |pref: &str, from: &str, to: &str, what: &str| {
            let words = ["pref", pref, "from", from, "to", to];
            let mut words: Vec<_> = words.iter().map(ToString::to_string).collect();
            words.extend(what.split(' ').map(str::to_owned));
            words
        };
        let rules = vec![
            rule("10", Self::CLIENT, ip, "lookup local"),
            rule("11", ip, Self::CLIENT, "lookup local"),
            rule("20", "all", ip, "unreachable"),
            rule("21", ip, "all", "unreachable"),
        ];
        let mut cut = Self { rules: Vec::new() };
        for words in rules {
            ip_rule("add", &words)?;
            cut.rules.push(words);
        }
        Ok(cut)
    }

    /// Writes a key from the client's address.
    async fn set(&self, address: &str, key: &str) -> Result<()> {
        let write = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(format!("{}:0", Self::CLIENT).parse()?)?;
            let mut stream = socket.connect(address.parse()?).await?;
            stream.write_all(format!("AUTH \"{PASSWORD}\"\r\nSET {key} 1\r\n").as_bytes()).await?;
            let mut answer = vec![0; b"+OK\r\n+OK\r\n".len()];
            stream.read_exact(&mut answer).await?;
            let answer = String::from_utf8_lossy(&answer);
            ensure!(answer == "+OK\r\n+OK\r\n", "{answer}");
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(1), write).await?
    }
}

impl Drop for NetworkCut {
    fn drop(&mut self) {
        for words in &self.rules {
            // Errors are ignored: the rules end with the namespace.
            ip_rule("del", words).ok();
        }
    }
}

fn ip_rule(verb: &str, words: &[String]) -> Result<()> {
    let output = Command::new("ip").args(["rule", verb]).args(words).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip rule {verb} {}: {said}", words.join(" "));
    Ok(())
}

/// Runs one case of this program in a network namespace, with its rows in this output.
fn in_a_namespace(rows: &mut FaultRows, name: &str) -> Result<()> {
    // The rule for local addresses is moved behind the rules that a test adds.
    let script = "ip link set lo up && ip rule add pref 100 lookup local && ip rule del pref 0 && \
                  exec \"$0\" --only \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script]).arg(env::current_exe()?).arg(name);
    let status = command.env(INSIDE, "yes").status().context("cannot start unshare")?;
    rows.told_elsewhere(name, status.success());
    Ok(())
}
