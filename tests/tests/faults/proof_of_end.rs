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
    fixture,
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
    deleted: Vec<ClusterPod>,
}

/// Creates the clusters beside that of the environment, and chooses the primaries to delete.
async fn create_others(env: &TestEnvironment) -> Result<Vec<SecondCluster>> {
    let cluster = |&(name, shards, replicas, _): &(&'static str, usize, usize, usize)| {
        RedisCluster { name, shards, replicas, ..env.redis.clone() }
    };
    let clusters: Vec<_> = CLUSTERS.iter().map(cluster).collect();
    clusters.iter().try_for_each(|redis| redis.create(&env.kubectl))?;
    let mut all = Vec::new();
    for (redis, (.., count)) in clusters.into_iter().zip(CLUSTERS) {
        let poll =
            || async { Ok(Poll::Done(redis.check_healthy(&env.kubectl, &env.client).await?)) };
        let created = until(format!("{} to be healthy", redis.name), REPLACED, poll).await?;
        let keys = WrittenKeys::put(&redis, &env.client).await?;
        let deleted =
            created.0.into_iter().filter(|member| member.server.is_primary()).take(*count);
        let deleted = deleted.collect();
        all.push(SecondCluster { redis, keys, deleted });
    }
    Ok(all)
}

/// Judges each cluster after the fault: it must become healthy with every key.
async fn judge(rows: &mut FaultRows, env: &TestEnvironment, input: &str, all: &[SecondCluster]) {
    // One deadline for all, because the faults were injected at the same time.
    let end = Instant::now() + REPLACED;
    for SecondCluster { redis, keys, deleted } in all {
        let RedisCluster { shards, replicas, .. } = redis;
        let input =
            format!("{shards}x{replicas}, {} of {shards} primaries: {input}", deleted.len());
        rows.row(&input, UNREPLACED, ROW, async |row| {
            row.keys_before(keys.len());
            let poll = || async {
                let members = redis.check_healthy(&env.kubectl, &env.client).await?;
                let is_old =
                    |member: &&ClusterPod| deleted.iter().any(|deleted| deleted.uid == member.uid);
                Ok(match members.iter().find(is_old) {
                    Some(member) => Poll::NotYet(format!("{} still exists", member.pod)),
                    None => Poll::Done(()),
                })
            };
            let left = end.saturating_duration_since(Instant::now());
            let well = until(format!("{} to be healthy", redis.name), left, poll).await;
            row.keys_after(keys.held(&env.client).await?);
            let took = match well {
                Ok(_) => REPLACED.saturating_sub(end.saturating_duration_since(Instant::now())),
                Err(error) => {
                    let condition = fixture::conditions_of(env, redis.name)?;
                    let condition = condition.iter().find(|cluster| cluster.kind == "Ready");
                    let condition = condition.map(ToString::to_string).unwrap_or_default();
                    bail!("{condition}; {error:#}")
                }
            };
            row.keys_after(keys.check()?);
            row.observed(format!("healthy after {:.0} s", took.as_secs_f64()));
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
    let env = TestEnvironment::begin(redis, &[], "").await?;
    let all = create_others(&env).await?;
    let mut delete = vec!["delete", "pod", "--force", "--grace-period=0", "--wait=false"];
    delete
        .extend(all.iter().flat_map(|cluster| &cluster.deleted).map(|member| member.pod.as_str()));
    env.kubectl.run(&delete)?;
    judge(rows, &env, "delete pod --grace-period=0 --force", &all).await;
    fixture::end(rows, env)
}

/// 7b: the Pods are deleted while no host runs.
pub(crate) async fn pods_are_deleted_while_the_host_is_down(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let mut env = TestEnvironment::begin(redis, &[], "").await?;
    let all = create_others(&env).await?;
    env.host.kill()?;
    let mut delete = vec!["delete", "pod", "--wait=false"];
    let deleted = || all.iter().flat_map(|cluster| &cluster.deleted);
    delete.extend(deleted().map(|member| member.pod.as_str()));
    env.kubectl.run(&delete)?;
    // kubectl waits by name: it does not notice a Pod that is created again between two of its polls.
    let poll = || async {
        let pods = env.kubectl.run(&["get", "pod", "-o", "jsonpath={.items[*].metadata.uid}"])?;
        let left =
            deleted().filter(|member| pods.contains(&member.uid)).map(|member| member.pod.as_str());
        let left = left.collect::<Vec<_>>().join(", ");
        Ok(if left.is_empty() { Poll::Done(()) } else { Poll::NotYet(left) })
    };
    until("the Pods to be deleted", GONE, poll).await?;
    env.restart()?;
    judge(rows, &env, "delete pod while the host is down", &all).await;
    fixture::end(rows, env)
}

/// 7c: a primary hangs, which proves nothing.
pub(crate) async fn a_primary_hangs(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "not taken over";
    rows.row("SIGSTOP of the primary", before, ROW, async |row| {
        row.keys_before(keys.len());
        let (tag, primary) = fixture::primary(&env, 0).await?;
        signal(primary.server.pid()?, "STOP")?;
        let result = not_taken_over(&env, &tag, &primary, SILENT).await;
        signal(primary.server.pid()?, "CONT")?;
        result?;
        let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.observed(format!(
            "not taken over in {} s, healthy {:.1} s after it continued",
            SILENT.as_secs(),
            took.as_secs_f64()
        ));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

async fn not_taken_over(
    env: &TestEnvironment,
    tag: &str,
    old: &ClusterPod,
    duration: Duration,
) -> Result<()> {
    let poll = || still_owns(env, tag, old);
    fixture::holds_for("a primary that may run was replaced", duration, poll).await
}

async fn still_owns(env: &TestEnvironment, tag: &str, old: &ClusterPod) -> Result<()> {
    let members = env.redis.answering(&env.client).await?;
    let other = members.iter().find(|member| member.serves(tag) && member.pod != old.pod);
    ensure!(other.is_none(), "{:?} took over", other.map(|member| &member.pod));
    Ok(())
}

/// 7d: a running primary is cut off from everything but its own clients. Runs this program again in a network
/// namespace, where addresses can be cut off from each other.
pub(crate) async fn a_primary_is_cut_off(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    if env::var_os(INSIDE).is_none() {
        return in_a_namespace(rows, "7d");
    }
    let (env, keys) = fixture::begin(redis).await?;
    let before = "not taken over; a first sketch of the takeover lost 20 s of writes";
    rows.row("a running primary cut off by the network", before, ROW, async |row| {
        row.keys_before(keys.len());
        cut_off(row, &env, &keys).await
    })
    .await;
    let before = UNREPLACED;
    rows.row("its Pod deleted by force, its address cut off", before, ROW, async |row| {
        row.keys_before(keys.len());
        asked_to_confirm(row, &env, &keys).await
    })
    .await;
    fixture::end(rows, env)
}

async fn cut_off(row: &mut FaultRow, env: &TestEnvironment, keys: &WrittenKeys) -> Result<()> {
    let (tag, primary) = fixture::primary(env, 0).await?;
    let ip = ip_of(&primary)?;
    let cut = NetworkCut::begin(&ip)?;
    let written = Cell::new(0_usize);
    let poll = || async {
        let key = format!("{{{tag}}}:cut-{}", written.get());
        cut.set(&primary.address, &key).await.context("the primary did not acknowledge")?;
        written.set(written.get() + 1);
        still_owns(env, &tag, &primary).await
    };
    let result = fixture::holds_for("a running primary was replaced", SILENT, poll).await;
    let written = written.get();
    drop(cut);
    result?;
    let (_, took) = fixture::until_healthy(env, fixture::HEAL_DEADLINE).await?;
    let mut connection = connect(&primary.address, env.redis.password)?;
    let mut left = 0;
    for number in 0..written {
        let exists =
            cmd("EXISTS").arg(format!("{{{tag}}}:cut-{number}")).query::<bool>(&mut connection)?;
        left += usize::from(exists);
    }
    row.observed(format!(
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
    env: &TestEnvironment,
    keys: &WrittenKeys,
) -> Result<()> {
    let (tag, primary) = fixture::primary(env, 0).await?;
    let cut = NetworkCut::begin(&ip_of(&primary)?)?;
    env.kubectl.run(&[
        "delete",
        "pod",
        &primary.pod,
        "--force",
        "--grace-period=0",
        "--wait=false",
    ])?;
    let wait = Duration::from_secs(75);
    let result = not_taken_over(env, &tag, &primary, wait).await;
    let condition = fixture::condition_where(env, "confirm-dead", |cluster| {
        cluster.message.contains("confirm-dead")
    })
    .await;
    drop(cut);
    result?;
    let condition = condition?;
    let annotation = approval(&condition.message).context("the condition names the annotation")?;
    let id = &primary.server.own()?.id;
    let expected = format!("tholepin.dev/confirm-dead={id}/{}", primary.uid);
    ensure!(annotation == expected, "it asks for {annotation} and not {expected}");
    fixture::annotate(env, &annotation)?;
    let (_, took) = fixture::until_healthy(env, fixture::HEAL_DEADLINE).await?;
    row.observed(format!("asked for `{annotation}`, healthy {:.1} s after it", took.as_secs_f64()));
    row.keys_after(keys.check()?);
    Ok(())
}

fn ip_of(member: &ClusterPod) -> Result<String> {
    let (ip, _) = member.address.split_once(':').context("the address has no port")?;
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
            let arguments = ["pref", pref, "from", from, "to", to];
            let mut arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
            arguments.extend(what.split(' ').map(str::to_owned));
            arguments
        };
        let rules = vec![
            rule("10", Self::CLIENT, ip, "lookup local"),
            rule("11", ip, Self::CLIENT, "lookup local"),
            rule("20", "all", ip, "unreachable"),
            rule("21", ip, "all", "unreachable"),
        ];
        let mut cut = Self { rules: Vec::new() };
        for arguments in rules {
            ip_rule("add", &arguments)?;
            cut.rules.push(arguments);
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
        for arguments in &self.rules {
            // Errors are ignored: the rules end with the namespace.
            ip_rule("del", arguments).ok();
        }
    }
}

fn ip_rule(verb: &str, arguments: &[String]) -> Result<()> {
    let output = Command::new("ip").args(["rule", verb]).args(arguments).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip rule {verb} {}: {stderr}", arguments.join(" "));
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
    rows.add_printed(name, status.success());
    Ok(())
}
