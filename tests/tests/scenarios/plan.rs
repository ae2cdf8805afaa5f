//! The report of `tholepin plan` about a paused cluster equals what the host does after the pause, and making
//! the report changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use redis::cmd;
use serde_json::Value;
use tests::{
    command::{CommandLine, masked_steps},
    environment::{GIVE_UP, QUIET, TestEnvironment},
    redis_cluster::{ClusterPod, PASSWORD, RedisCluster},
    router::connect,
    wait::{Poll, until},
};

use crate::ScenarioResult;

/// How long a plan of a cluster of six may take, from the start of the command to its end, in seconds.
const PLAN_S: f64 = 2.0;
/// The annotation that pauses an object.
const PAUSED: &str = "tholepin.dev/paused";
/// The commands that a server may run while a plan is made, as `INFO commandstats` names them: reads,
/// authentication, and the commands of replication.
const READS: &[&str] = &[
    "auth",
    "client|list",
    "client|setinfo",
    "client|setname",
    "cluster|info",
    "cluster|nodes",
    "cluster|replicas",
    "command",
    "config|get",
    "dbsize",
    "hello",
    "info",
    "ping",
    "psync",
    "replconf",
    "select",
];

/// P1: a replica is forgotten by all others while the cluster is paused.
pub(crate) async fn a_forgotten_replica_is_planned_for() -> Result<ScenarioResult> {
    planned(async |members: &[ClusterPod]| {
        let replica =
            members.iter().find(|member| !member.server.is_primary()).context("a replica")?;
        let id = &replica.server.own()?.id;
        for other in members.iter().filter(|member| member.pod != replica.pod) {
            let mut connection = connect(&other.address, Some(PASSWORD))?;
            cmd("CLUSTER").arg("FORGET").arg(id).query::<()>(&mut connection)?;
        }
        Ok("meet")
    })
    .await
}

/// P2: while the cluster is paused, a client other than the host makes a replica follow the primary of another
/// shard.
pub(crate) async fn a_replica_of_the_wrong_primary_is_planned_for() -> Result<ScenarioResult> {
    planned(async |members: &[ClusterPod]| {
        let replica =
            members.iter().find(|member| !member.server.is_primary()).context("a replica")?;
        let is_other =
            |member: &&ClusterPod| member.server.is_primary() && member.shard != replica.shard;
        let wrong = members.iter().find(is_other).context("another shard's primary")?;
        let (id, wrong) = (&replica.server.own()?.id, &wrong.server.own()?.id);
        let mut connection = connect(&replica.address, Some(PASSWORD))?;
        cmd("CLUSTER").arg("REPLICATE").arg(wrong).query::<()>(&mut connection)?;
        let poll = || async {
            let info: String = cmd("INFO")
                .arg("replication")
                .query(&mut connect(&replica.address, Some(PASSWORD))?)?;
            let mut seen = info.contains("master_link_status:up");
            for member in members {
                let mut connection = connect(&member.address, Some(PASSWORD))?;
                let rows: Vec<String> =
                    cmd("CLUSTER").arg("REPLICAS").arg(wrong).query(&mut connection)?;
                seen &= rows.iter().any(|row| row.starts_with(id.as_str()));
            }
            Ok(if seen { Poll::Done(()) } else { Poll::NotYet(info) })
        };
        until("all to see the wrong primary", GIVE_UP, poll).await?;
        Ok("replicate")
    })
    .await
}

/// Pauses a healthy cluster, lets `fault` break it, makes a plan, and compares the plan with what the host does
/// after the pause. `fault` returns the verb that must repair it.
async fn planned(
    fault: impl AsyncFnOnce(&[ClusterPod]) -> Result<&'static str>,
) -> Result<ScenarioResult> {
    let mut env = TestEnvironment::with_redis(RedisCluster::USUAL).await?;
    let command = CommandLine::of(&env.cluster);
    let name = format!("rediscluster/{}", env.redis.name);
    // The servers would count the writer's commands.
    env.forget_writes()?;
    annotate(&env, &format!("{PAUSED}=true"))?;
    let paused = until_paused(&command, &name).await?;
    let members = env.redis.members(&env.client).await?;
    let verb = fault(&members).await?;

    let (log, counted) = (writes(&env)?.len(), counts(&members)?);
    let start = Instant::now();
    let (code, plan) = command.plan(&[&name])?;
    let took = start.elapsed();
    ensure!(code == 2, "the plan exits with {code}: {plan:#}");
    save(&env, &plan)?;
    let commands_run = reads_only(&counted, &counts(&members)?)?;
    dry_runs_only(writes(&env)?.get(log..).unwrap_or_default())?;
    let commands = commands_of(&plan, verb);
    ensure!(!commands.is_empty(), "no step is `{verb}`: {plan:#}");

    annotate(&env, &format!("{PAUSED}-"))?;
    let performed = first_after(&command, &name, paused).await?;
    let (planned, performed) = (masked_steps(&plan), masked_steps(&performed));
    ensure!(planned == performed, "planned {planned:#}\nand done {performed:#}");
    env.until_healthy().await?;
    env.watch_writes().await?;
    let report = env.end(QUIET).await?;
    let outcome = ScenarioResult::new("plan", took, PLAN_S, &report);
    let steps = planned.as_array().map_or(0, Vec::len);
    let outcome =
        outcome.note(format!("{steps} steps planned and performed alike: {}", commands.join("; ")));
    Ok(outcome.note(format!("servers ran {}", commands_run.join(", "))))
}

fn annotate(env: &TestEnvironment, annotation: &str) -> Result<()> {
    let object = ["annotate", "rediscluster", env.redis.name, "--overwrite"];
    env.kubectl.run(&[&object[..], &[annotation]].concat()).map(drop)
}

/// Saves the plan beside the cluster's logs.
fn save(env: &TestEnvironment, plan: &Value) -> Result<()> {
    Ok(fs::write(env.cluster.directory().join("plan.json"), format!("{plan:#}\n"))?)
}

/// Waits for the reconcile that found the object paused; returns its number.
async fn until_paused(command: &CommandLine, name: &str) -> Result<u64> {
    let poll = || async {
        let reconciles = command.calls(&[name])?;
        let last = reconciles.last().context("no reconcile is recorded")?;
        let is_paused = last.pointer("/end/notCalled").is_some();
        let number = last.get("number").and_then(Value::as_u64).context("a number")?;
        Ok(if is_paused { Poll::Done(number) } else { Poll::NotYet(last.to_string()) })
    };
    Ok(until("the host to see the pause", GIVE_UP, poll).await?.0)
}

/// Returns the writes of the first reconcile after this one.
async fn first_after(command: &CommandLine, name: &str, number: u64) -> Result<Value> {
    let poll = || async {
        let reconciles = command.calls(&[name])?;
        let is_after =
            |reconcile: &&Value| reconcile.get("number").and_then(Value::as_u64) > Some(number);
        let found = reconciles.iter().find(is_after).and_then(|reconcile| reconcile.get("number"));
        let Some(found) = found else {
            return Ok(Poll::NotYet(format!("{} reconciles", reconciles.len())));
        };
        let one = command.calls(&[name, "--writes", "--reconcile", &found.to_string()])?;
        Ok(Poll::Done(one.into_iter().next().context("the reconcile is not recorded")?))
    };
    Ok(until("the first reconcile after the pause", GIVE_UP, poll).await?.0)
}

/// Returns the commands of a plan's steps with this verb.
fn commands_of(plan: &Value, verb: &str) -> Vec<String> {
    let steps = plan.get("steps").and_then(Value::as_array).into_iter().flatten();
    let steps = steps.filter(|step| step.get("verb").is_some_and(|name| name == verb));
    let commands = steps.filter_map(|step| step.get("commands")?.as_array()).flatten();
    let text = |command: &Value, field: &str| {
        command.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    commands
        .map(|command| format!("{}> {}", text(command, "pod"), text(command, "command")))
        .collect()
}

/// Returns the lines of the audit log.
fn writes(env: &TestEnvironment) -> Result<Vec<Value>> {
    let text = fs::read_to_string(env.cluster.audit_log())?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn dry_runs_only(lines: &[Value]) -> Result<()> {
    let text = |line: &Value, field: &str| {
        line.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    for line in lines.iter().filter(|line| text(line, "field_manager").starts_with("tholepin")) {
        let is_dry = line.get("dry_run").and_then(Value::as_bool);
        ensure!(is_dry == Some(true), "the host wrote while a plan was made: {line}");
    }
    Ok(())
}

/// Returns how many times each server has run each command since its start.
fn counts(members: &[ClusterPod]) -> Result<BTreeMap<(String, String), u64>> {
    let mut counts = BTreeMap::new();
    for member in members {
        let mut connection = connect(&member.address, Some(PASSWORD))?;
        let stats: String = cmd("INFO").arg("commandstats").query(&mut connection)?;
        for line in stats.lines() {
            let counted =
                line.trim().strip_prefix("cmdstat_").and_then(|rest| rest.split_once(":calls="));
            let Some((name, rest)) = counted else { continue };
            let calls = rest.split(',').next().unwrap_or_default().parse()?;
            counts.insert((member.pod.clone(), name.to_owned()), calls);
        }
    }
    Ok(counts)
}

/// Returns the commands that ran in between; fails unless all are reads.
fn reads_only(
    before: &BTreeMap<(String, String), u64>,
    after: &BTreeMap<(String, String), u64>,
) -> Result<Vec<String>> {
    let mut commands_run = BTreeSet::new();
    for ((pod, name), calls) in after {
        if before.get(&(pod.clone(), name.clone())) != Some(calls) {
            ensure!(READS.contains(&name.as_str()), "{pod} ran {name} while a plan was made");
            commands_run.insert(name.clone());
        }
    }
    ensure!(
        !commands_run.is_empty(),
        "no server ran any command, so the plan was not made from live reads"
    );
    Ok(commands_run.into_iter().collect())
}
