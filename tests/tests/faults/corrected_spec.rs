//! 9: a corrected spec replaces Pods that never ran.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    environment::{ApiAccess, TestEnvironment},
    redis_cluster::RedisCluster,
    wait::{Poll, until},
};

use crate::{
    fixture::{self, Condition},
    table::FaultRows,
};

const STUCK: &str = "the Pods stayed as they were for ever";

/// The wrong and the corrected value, and a text of the wrong one.
const CORRECTIONS: &[(&str, &str)] =
    &[("image: redis:nope → redis:7.0", "nope"), ("request of 900Ti → 1Mi", "900Ti")];

/// 9a: at creation.
pub(crate) async fn a_spec_is_corrected_at_creation(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let direct = ApiAccess::Direct(tests::cluster::HostOptions::default());
    let env = TestEnvironment::begin_by(direct, redis, &[], "").await?;
    for (input, wrong) in CORRECTIONS {
        rows.row(input, STUCK, fixture::ROW, async |row| {
            let mut object = env.redis.object();
            let (bad, good) = if *wrong == "nope" {
                (json!({"image": "redis:nope"}), json!({"image": "redis:7.0"}))
            } else {
                let ask = |memory: &str| json!({"resources": {"requests": {"memory": memory}}});
                (ask("900Ti"), ask("1Mi"))
            };
            for (field, value) in bad.as_object().into_iter().flatten() {
                fixture::set(&mut object, &["spec", field], value.clone());
            }
            fixture::apply(&env, &[env.redis.secret(), object])?;
            never_run(&env).await?;
            let why = if *wrong == "nope" { "redis:nope" } else { "Insufficient memory" };
            row.observed(format!("`{}`", does_not_run(&env, why).await?));
            fixture::patch(&env, &json!({ "spec": good }))?;
            let (_, took) = fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            row.observed(format!("healthy {:.1} s after it was corrected", took.as_secs_f64()));
            Ok(())
        })
        .await;
        fixture::delete(&env).await?;
    }
    fixture::end(rows, env)
}

/// Waits until every Pod exists and none has a container that ever ran.
async fn never_run(env: &TestEnvironment) -> Result<()> {
    let poll = || async {
        let pods = env.redis.list_pods(&env.client).await?;
        ensure!(pods.len() == env.redis.pods(), "{} Pods", pods.len());
        for pod in &pods {
            let status = pod.status.as_ref().context("a status")?;
            let waits = status.container_statuses.iter().flatten().any(|condition| {
                condition.state.as_ref().is_some_and(|state| state.waiting.is_some())
            });
            let unscheduled = status.conditions.iter().flatten();
            let unscheduled = unscheduled
                .into_iter()
                .any(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
            ensure!(waits || unscheduled, "a Pod is neither waiting nor unscheduled");
        }
        Ok(Poll::Done(()))
    };
    until("Pods that do not run", fixture::REPORT_DEADLINE, poll).await.map(drop)
}

/// 9b: on a running cluster: the members stay, and the Pod that never ran is replaced.
pub(crate) async fn a_spec_is_corrected_on_a_running_cluster(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    rows.row(
        "running: image: redis:nope, a Pod deleted, → redis:7.0",
        STUCK,
        fixture::ROW,
        async |row| {
            row.keys_before(keys.len());
            let before = env.redis.members(&env.client).await?;
            fixture::patch(&env, &json!({"spec": {"image": "redis:nope"}}))?;
            let replica =
                fixture::replicas(&env, 0).await?.into_iter().next().context("a replica")?;
            templates_have(&env, "redis:nope").await?;
            env.kubectl.run(&["delete", "pod", &replica.pod, "--wait=false"])?;
            let waiting = || async {
                let pods = env.redis.list_pods(&env.client).await?;
                let named = |pod: &&k8s_openapi::api::core::v1::Pod| {
                    pod.metadata.name.as_ref() == Some(&replica.pod)
                        && pod.metadata.uid.as_ref() != Some(&replica.uid)
                };
                let pod = pods.iter().find(named).context("the Pod is there again")?;
                let statuses =
                    pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
                let state = statuses
                    .and_then(|all| all.first())
                    .and_then(|condition| condition.state.as_ref());
                let waits = state.is_some_and(|state| state.waiting.is_some());
                Ok(if waits { Poll::Done(()) } else { Poll::NotYet(format!("{state:?}")) })
            };
            until("a Pod that does not run", fixture::REPORT_DEADLINE, waiting).await?;
            row.observed(format!("`{}`", does_not_run(&env, "redis:nope").await?));
            let names_none = |condition: &Condition| {
                condition.kind == "Outdated"
                    && condition.status == "True"
                    && condition.message.contains("delete none")
            };
            fixture::condition_where(&env, "that no Pod is to be deleted now", names_none).await?;
            fixture::patch(&env, &json!({"spec": {"image": "redis:7.0"}}))?;
            let took = fixture::rejoined(&env, &replica, fixture::HEAL_DEADLINE).await?;
            fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
            row.observed(format!("it rejoined {:.1} s after it was corrected", took.as_secs_f64()));
            let after = env.redis.members(&env.client).await?;
            for old in before.iter().filter(|member| member.pod != replica.pod) {
                let same = after.iter().any(|member| member.uid == old.uid);
                ensure!(same, "the member {} was replaced", old.pod);
            }
            row.keys_after(keys.check()?);
            Ok(())
        },
    )
    .await;
    fixture::end(rows, env)
}

/// Waits until the object reports that a Pod does not run, and why.
async fn does_not_run(env: &TestEnvironment, why: &str) -> Result<Condition> {
    let matches = |condition: &Condition| {
        let is_told = condition.reason == "PodDoesNotRun" && condition.message.contains(why);
        condition.kind == "Degraded" && condition.status == "True" && is_told
    };
    fixture::condition_where(env, "why a Pod does not run", matches).await
}

/// Waits until the StatefulSets have this image.
pub(crate) async fn templates_have(env: &TestEnvironment, image: &str) -> Result<()> {
    let poll = || async {
        let sets = env.kubectl.run(&["get", "statefulset", "-o", "json"])?;
        let sets: Value = serde_json::from_str(&sets)?;
        let sets = sets.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let has = |set: &Value| {
            set.pointer("/spec/template/spec/containers/0/image").is_some_and(|is| is == image)
        };
        Ok(if !sets.is_empty() && sets.iter().all(has) {
            Poll::Done(())
        } else {
            Poll::NotYet("another image".to_owned())
        })
    };
    until(format!("templates with {image}"), fixture::REPORT_DEADLINE, poll).await.map(drop)
}
