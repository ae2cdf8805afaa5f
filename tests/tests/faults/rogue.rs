//! 1 to 3: what a plugin with every grant must not reach: members that it hides, the ledger, and the last copies
//! through Kubernetes.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use tests::{
    environment::TestEnvironment,
    guests,
    keys::WrittenKeys,
    process::signal,
    redis_cluster::{ClusterPod, NAMESPACE, RedisCluster},
    wait::{Poll, until},
};

use crate::{
    fixture,
    table::{FaultRow, FaultRows},
};

/// For how long the cluster is checked after a call that must have done nothing.
const NOTHING: Duration = Duration::from_secs(3);

/// A cluster whose plugin is replaced by the guest `rogue` for some calls.
struct RogueCluster {
    env: TestEnvironment,
    keys: WrittenKeys,
    round: usize,
}

impl RogueCluster {
    async fn begin(redis: RedisCluster) -> Result<Self> {
        let (env, keys) = fixture::begin(redis).await?;
        Ok(Self { env, keys, round: 0 })
    }

    /// Swaps the rogue in, has it make these calls, swaps `redis-cluster` back in, and returns one answer per call.
    async fn calls(&mut self, calls: &Value) -> Result<Vec<String>> {
        self.round += 1;
        let round = format!("turn-{}", self.round);
        let annotations = json!({"metadata": {"annotations": {
            "tests.tholepin.dev/calls": calls.to_string(), "tests.tholepin.dev/turn": round}}});
        fixture::patch(&self.env, &annotations)?;
        self.env.put("redis-cluster.wasm", &guests::rogue()?)?;
        let mark = format!("rogue {round}: ");
        let poll = || async {
            let log = self.env.host_log()?;
            let line = log.lines().find_map(|line| line.split_once(&mark));
            let Some((_, rest)) = line else { return Ok(Poll::NotYet("no answers".to_owned())) };
            let mut answers = serde_json::Deserializer::from_str(rest).into_iter::<Vec<String>>();
            Ok(Poll::Done(answers.next().context("a list of answers")??))
        };
        let answers = until("the rogue's calls", fixture::REPORT_DEADLINE, poll).await;
        self.env.put("redis-cluster.wasm", &guests::redis_cluster()?)?;
        Ok(answers?.0)
    }

    /// Measures one row: the calls are refused, nothing has changed, and the cluster is healthy with its own plugin.
    async fn refused(
        &mut self,
        rows: &mut FaultRows,
        input: &str,
        before: &str,
        calls: Value,
        judge: impl AsyncFn(&TestEnvironment) -> Result<()>,
    ) -> Result<()> {
        let is_green = rows
            .row(input, before, fixture::ROW, async |row| {
                row.keys_before(self.keys.len());
                let old = self.env.redis.members(&self.env.client).await?;
                let nodes = nodes_of(&self.env)?;
                let answers = self.calls(&calls).await?;
                row.observed(answers.join(" · "));
                judge(&self.env).await?;
                let env = &self.env;
                fixture::holds_for("a call reached a member", NOTHING, || same_members(env, &old))
                    .await?;
                ensure!(nodes_of(env)? == nodes, "the nodes in the ledger have changed");
                let refused = answers.iter().all(|answer| is_refused(answer));
                ensure!(refused, "a call was not refused");
                self.check_end(row).await
            })
            .await;
        if !is_green {
            self.keys = fixture::recreate(&self.env).await?;
        }
        Ok(())
    }

    async fn check_end(&self, row: &mut FaultRow) -> Result<()> {
        fixture::until_healthy(&self.env, fixture::HEAL_DEADLINE).await?;
        row.keys_after(self.keys.check()?);
        Ok(())
    }
}

/// Returns true if nothing was done: a call's answer is `ok` or an error, an action's has an outcome.
fn is_refused(answer: &str) -> bool {
    !answer.starts_with("ok") && !answer.contains("\"done\"") && !answer.contains("\"failed\"")
}

/// Returns the node ids in the ledger.
fn nodes_of(env: &TestEnvironment) -> Result<Vec<String>> {
    let (_, ledger) = env.ledger()?;
    let nodes =
        ledger.get("nodes").and_then(Value::as_object).context("the ledger has no nodes")?;
    Ok(nodes.keys().cloned().collect())
}

/// Checks that the Pods are the same with the same labels and owners, and that each knows all others.
async fn same_members(env: &TestEnvironment, old: &[ClusterPod]) -> Result<()> {
    let members = env.redis.members(&env.client).await?;
    for old in old {
        let now =
            members.iter().find(|member| member.pod == old.pod).context("a Pod is missing")?;
        ensure!(now.uid == old.uid, "{} was replaced", old.pod);
        ensure!(now.shard == old.shard, "{} has another owner", old.pod);
        ensure!(now.server.rows.len() == old.server.rows.len(), "{} knows others", old.pod);
    }
    Ok(())
}

fn instance(selector: &str, container: &str, port: u16) -> Value {
    json!({
        "namespace": NAMESPACE, "selector": selector, "container": container, "port": port,
        "credentials": {"secret": "password", "key": "password"},
    })
}

fn named(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": name})
}

fn patch(api_version: &str, kind: &str, name: &str, patch: &Value) -> Value {
    let mut target = named(api_version, kind, name);
    fixture::set(&mut target, &["patch"], patch.clone());
    json!({ "patch": target })
}

/// 1a: members are hidden, relabelled and orphaned.
pub(crate) async fn members_are_hidden(rows: &mut FaultRows, redis: RedisCluster) -> Result<()> {
    let mut rogue = RogueCluster::begin(redis).await?;
    let hidden = fixture::replicas(&rogue.env, 2).await?.into_iter().next().context("a replica")?;
    let (_, primary) = fixture::primary(&rogue.env, 2).await?;
    let node = hidden.server.own()?.id.clone();
    let shard = hidden.shard.rsplit('-').next().unwrap_or_default();
    let others =
        format!("redis.tholepin.dev/cluster=cache,redis.tholepin.dev/shard notin ({shard})");
    let forget = json!([{"verb": "forget", "args": {"node": node}}]);
    let hide = json!([{"act": {"instance": instance(&others, "redis", 6379), "actions": forget}}]);
    let before = "the guards saw only what the selector showed";
    let nothing = async |_: &TestEnvironment| Ok(());
    rogue
        .refused(rows, "a selector that hides a live replica, and forget", before, hide, nothing)
        .await?;

    let all = "redis.tholepin.dev/cluster=cache";
    let other_port = json!([
        {"act": {"instance": instance(all, "redis", 6380), "actions": forget}},
        {"act": {"instance": instance(all, "other", 6379), "actions": forget}},
        {"act": {"instance": instance("app=nobody", "redis", 6379), "actions": forget}},
    ]);
    let before = "another lock and another view of the same members";
    let input = "another port, another container, a selector that matches no Pod, and forget";
    rogue.refused(rows, input, before, other_port, nothing).await?;

    let relabel = json!({"metadata": {"labels": {"redis.tholepin.dev/cluster": "other"}}});
    let relabel = json!([patch("v1", "Pod", &primary.pod, &relabel)]);
    let before = "done: a primary with slots was no member any more";
    rogue.refused(rows, "a primary's Pod relabelled", before, relabel, nothing).await?;

    let (_, primary) = fixture::primary(&rogue.env, 2).await?;
    let orphan = json!({"metadata": {"ownerReferences": null}});
    let orphan = json!([patch("v1", "Pod", &primary.pod, &orphan)]);
    rogue.refused(rows, "a primary's Pod orphaned", before, orphan, nothing).await?;
    fixture::end(rows, rogue.env)
}

/// 2a: a plugin writes the ledger.
pub(crate) async fn a_plugin_writes_the_ledger(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let mut rogue = RogueCluster::begin(redis).await?;
    let (name, _) = rogue.env.ledger()?;
    let data = json!({"data": {"ledger.json": "{}"}});
    let mut whole = data.clone();
    fixture::set(&mut whole, &["apiVersion"], "v1");
    fixture::set(&mut whole, &["kind"], "ConfigMap");
    fixture::set(&mut whole, &["metadata"], json!({"name": name, "namespace": NAMESPACE}));
    let calls = json!([
        patch("v1", "ConfigMap", &name, &data),
        {"apply": whole},
        {"delete": named("v1", "ConfigMap", &name)},
    ]);
    let before = "written: a proof of death could be forged";
    let is_reserved = async |env: &TestEnvironment| {
        let (name, _) = env.ledger()?;
        ensure!(name.starts_with("tholepin-ledger-rediscluster-"), "the ledger is {name}");
        Ok(())
    };
    rogue
        .refused(
            rows,
            "a plugin patches, applies and deletes the ledger",
            before,
            calls,
            is_reserved,
        )
        .await?;
    fixture::end(rows, rogue.env)
}

/// 2b: someone other than this host writes the ledger too.
pub(crate) async fn another_host_writes_the_ledger(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut env, keys) = fixture::begin(redis).await?;
    let before = "overwritten by what the first host had in memory";
    rows.row(
        "a second host writes the ledger, then a replica dies",
        before,
        fixture::ROW,
        async |row| {
            row.keys_before(keys.len());
            let forgotten = "f".repeat(40);
            edit_ledger(&env, |ledger| {
                fixture::set(ledger, &["forgotten", &forgotten], 1_700_000_000_000_u64)
            })?;
            let changed = replica_dies(&env).await?;
            let (_, ledger) = env.ledger()?;
            let kept = ledger.pointer(&format!("/forgotten/{forgotten}")).is_some();
            ensure!(kept, "what the other host wrote is deleted");
            row.observed(format!("its entry is kept, and the new process {changed} is written"));
            fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    let before = "the instance froze: no reconcile succeeded";
    rows.row(
        "a field of a newer host, the host restarted, a primary dies",
        before,
        fixture::ROW,
        async |row| {
            row.keys_before(keys.len());
            edit_ledger(&env, |ledger| fixture::set(ledger, &["turn", "of"], "a newer host"))?;
            env.restart()?;
            let (_, primary) = fixture::primary(&env, 0).await?;
            signal(primary.server.pid()?, "KILL")?;
            let (members, took) =
                fixture::restarted(&env, &primary, fixture::HEAL_DEADLINE).await?;
            until_in_ledger(&env, &members, &primary.pod).await?;
            fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            let (_, ledger) = env.ledger()?;
            ensure!(ledger.get("turn").is_some(), "the newer host's field is deleted");
            row.observed(format!("healthy after {:.1} s, the field is kept", took.as_secs_f64()));
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    let before = "named by the object's name alone";
    rows.row("a ledger under the old name", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        adopts_old_ledger(row, &mut env).await?;
        fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// Changes the ledger past this host.
fn edit_ledger(env: &TestEnvironment, edit: impl FnOnce(&mut Value)) -> Result<()> {
    let (name, mut ledger) = env.ledger()?;
    edit(&mut ledger);
    fixture::patch_of(
        env,
        "configmap",
        &name,
        &json!({"data": {"ledger.json": ledger.to_string()}}),
    )
}

/// Kills a replica's process and waits until the ledger has its successor; returns the new run id.
async fn replica_dies(env: &TestEnvironment) -> Result<String> {
    let replica = fixture::replicas(env, 0).await?.into_iter().next().context("a replica")?;
    signal(replica.server.pid()?, "KILL")?;
    let (members, _) = fixture::restarted(env, &replica, fixture::HEAL_DEADLINE).await?;
    until_in_ledger(env, &members, &replica.pod).await
}

/// Waits until the ledger has the process that runs in a Pod now; returns the first 8 characters of its run id.
async fn until_in_ledger(
    env: &TestEnvironment,
    members: &[ClusterPod],
    pod: &str,
) -> Result<String> {
    let now = members.iter().find(|member| member.pod == pod).context("the Pod")?;
    let (run, id) = (now.server.field("run_id").to_owned(), now.server.own()?.id.clone());
    let poll = || async {
        let (_, ledger) = env.ledger()?;
        let known = ledger.pointer(&format!("/nodes/{id}/runId")).and_then(Value::as_str);
        Ok(if known == Some(&run) {
            Poll::Done(())
        } else {
            Poll::NotYet(known.unwrap_or_default().to_owned())
        })
    };
    until("the new process to be in the ledger", fixture::REPORT_DEADLINE, poll).await?;
    Ok(run.get(..8).unwrap_or_default().to_owned())
}

async fn adopts_old_ledger(row: &mut FaultRow, env: &mut TestEnvironment) -> Result<()> {
    let (name, ledger) = env.ledger()?;
    ensure!(
        name.starts_with("tholepin-ledger-"),
        "the ledger is {name}, a name that plugins reach"
    );
    env.host.kill()?;
    let old = format!("{}-ledger", env.redis.name);
    let owners = fixture::get(env, "configmap", &name)?;
    let owners = owners.pointer("/metadata/ownerReferences").cloned().unwrap_or_default();
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": old, "namespace": NAMESPACE, "ownerReferences": owners},
        "data": {"ledger.json": ledger.to_string()},
    });
    fixture::apply(env, &[map])?;
    env.kubectl.run(&["delete", "configmap", &name])?;
    env.restart()?;
    let poll = || async {
        let now = fixture::get(env, "configmap", &name)?;
        let text =
            now.pointer("/data/ledger.json").and_then(Value::as_str).context("a document")?;
        let now: Value = serde_json::from_str(text)?;
        let same = now.get("adoptedAtMs") == ledger.get("adoptedAtMs");
        ensure!(same, "the ledger was started anew and not adopted");
        Ok(Poll::Done(()))
    };
    until("the old ledger to be adopted", fixture::REPORT_DEADLINE, poll).await?;
    row.observed("adopted under the reserved name");
    Ok(())
}

/// 3a: Pods and workloads are stopped through Kubernetes.
pub(crate) async fn members_are_stopped_by_kubernetes(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let mut rogue = RogueCluster::begin(redis).await?;
    let (_, primary) = fixture::primary(&rogue.env, 0).await?;
    let set = primary.shard.clone();
    let before = "done";
    let nothing = async |_: &TestEnvironment| Ok(());
    let calls = json!([{"delete": named("v1", "Pod", &primary.pod)}]);
    rogue.refused(rows, "delete of a primary's Pod, with slots", before, calls, nothing).await?;
    let none = json!({"spec": {"replicas": 0}});
    let whole = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": set, "namespace": NAMESPACE}, "spec": {"replicas": 0},
    });
    let calls = json!([
        patch("apps/v1", "StatefulSet", &set, &none),
        {"apply": whole},
        {"delete": named("apps/v1", "StatefulSet", &set)},
    ]);
    rogue
        .refused(
            rows,
            "a StatefulSet patched and applied to 0 replicas, deleted",
            before,
            calls,
            nothing,
        )
        .await?;
    both_members(rows, &mut rogue).await?;
    fixture::end(rows, rogue.env)
}

/// Deletes both members of a shard, one after the other: at most one may be deleted.
async fn both_members(rows: &mut FaultRows, rogue: &mut RogueCluster) -> Result<()> {
    let before = "both were deleted";
    rows.row("delete of both Pods of a shard", before, fixture::ROW, async |row| {
        row.keys_before(rogue.keys.len());
        let (_, primary) = fixture::primary(&rogue.env, 0).await?;
        let replica =
            fixture::replicas(&rogue.env, 0).await?.into_iter().next().context("a replica")?;
        let calls = json!([
            {"delete": named("v1", "Pod", &replica.pod)},
            {"delete": named("v1", "Pod", &primary.pod)},
        ]);
        let answers = rogue.calls(&calls).await?;
        row.observed(answers.join(" · "));
        let done = answers.iter().filter(|answer| answer.starts_with("ok")).count();
        ensure!(done <= 1, "{done} Pods of one shard were deleted");
        rogue.check_end(row).await
    })
    .await;
    Ok(())
}

/// 3b: the last copy and its volume are deleted.
pub(crate) async fn the_last_copy_is_deleted(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let mut rogue = RogueCluster::begin(redis).await?;
    let (_, only) = fixture::primary(&rogue.env, 0).await?;
    let nothing = async |_: &TestEnvironment| Ok(());
    let calls = json!([{"delete": named("v1", "Pod", &only.pod)}]);
    rogue.refused(rows, "delete of the only Pod", "done", calls, nothing).await?;
    if rogue.env.redis.storage {
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(rogue.env.client.clone(), NAMESPACE);
        let claims = claims.list(&ListParams::default()).await?.items;
        let claim = claims.first().and_then(|claim| claim.metadata.name.clone());
        let Some(claim) = claim else { bail!("the cluster has no volume") };
        let calls = json!([{"delete": named("v1", "PersistentVolumeClaim", &claim)}]);
        let stays = async |env: &TestEnvironment| {
            let now = fixture::get(env, "pvc", &claim)?;
            let is_deleting = now.pointer("/metadata/deletionTimestamp").is_some();
            ensure!(!is_deleting, "the volume is being deleted");
            Ok(())
        };
        rogue.refused(rows, "delete of the last copy's volume", "done", calls, stays).await?;
    }
    fixture::end(rows, rogue.env)
}
