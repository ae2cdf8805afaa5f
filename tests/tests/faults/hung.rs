//! 17k: a primary that hangs for about as long as the cluster needs to elect another.

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use redis::{Connection, cmd};
use tests::{
    environment::{ApiAccess, TestEnvironment},
    oracle::WriterReport,
    process::signal,
    redis_cluster::{ClusterPod, RedisCluster},
    router::connect,
    wait::elapse,
};

use crate::{
    fixture::{self, HEAL_DEADLINE, ROW},
    table::FaultRows,
};

/// For how long a primary hangs, in milliseconds: the majority reports it as failed after 2 to 3 s.
const HANGS_MS: [u64; 5] = [2_300, 2_800, 3_300, 3_800, 4_500];
/// How long a client waits for the reply to a command that it sent while the server hung.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many such clients there are.
const PATIENT: usize = 3;
/// How long the slots of a running primary may be unserved, as in the random faults.
const UNSERVED_MAX: Duration = Duration::from_secs(8);

/// A client with an open connection to a hung server: sends one write and waits for the reply. Returns the key
/// if the write was acknowledged.
fn patient(mut connection: Connection, key: String) -> JoinHandle<Option<String>> {
    thread::spawn(move || {
        let acknowledged = cmd("SET").arg(&key).arg("x").query::<()>(&mut connection);
        acknowledged.ok().map(|()| key)
    })
}

/// Opens one connection per patient client.
fn connections(primary: &ClusterPod, password: Option<&str>) -> Result<Vec<Connection>> {
    let connection_to = |_| {
        let connection = connect(&primary.address, password)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        Ok(connection)
    };
    (0..PATIENT).map(connection_to).collect()
}

/// 17k: a primary is stopped and continues around the moment at which another would be elected.
pub(crate) async fn a_primary_hangs_and_continues(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (mut env, _) =
        fixture::begin_with(redis, ApiAccess::Direct(Default::default()), |_| {}).await?;
    env.watch_with(UNSERVED_MAX).await?;
    let input = "a primary SIGSTOPped for 2.3, 2.8, 3.3, 3.8 and 4.5 s";
    let before =
        "1 to 6 acknowledged writes lost at 8 of 9 failovers; those of clients that waited, too";
    rows.row(input, before, ROW * 2, async |row| {
        let mut acknowledged_late = Vec::new();
        for hangs_ms in HANGS_MS {
            let (tag, primary) = fixture::primary(&env, 0).await?;
            fixture::until_shard_quiet(&env, &primary).await?;
            let pid = primary.server.pid()?;
            let connections = connections(&primary, env.redis.password)?;
            signal(pid, "STOP")?;
            let each = connections.into_iter().enumerate();
            let waiting: Vec<_> = each
                .map(|(number, open)| {
                    patient(open, format!("{{{tag}}}:patient-{hangs_ms}-{number}"))
                })
                .collect();
            elapse(Duration::from_millis(hangs_ms)).await;
            // An error is ignored: the process may have been ended meanwhile.
            drop(signal(pid, "CONT"));
            fixture::until_healthy(&env, HEAL_DEADLINE).await?;
            for client in waiting {
                let key = client.join().map_err(|_| anyhow!("a client panicked"))?;
                acknowledged_late.extend(key);
            }
        }
        let events = fixture::events(&env)?;
        let fenced = events.iter().filter(|event| event.starts_with("Fenced")).count();
        let WriterReport { acknowledged, lost, longest_outage } = env.take_writes()?;
        row.keys_before(acknowledged + acknowledged_late.len());
        let missing = missing(&env, &acknowledged_late).await?;
        row.keys_after(acknowledged - lost.len() + acknowledged_late.len() - missing.len());
        row.observed(format!(
            "`Fenced` {fenced} times, longest gap {:.1} s",
            longest_outage.as_secs_f64()
        ));
        ensure!(lost.is_empty(), "lost: {}", lost.join(", "));
        ensure!(missing.is_empty(), "lost of clients that waited: {}", missing.join(", "));
        ensure!(fenced != 0, "no hung primary was fenced");
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// Returns the keys that the primary of the first shard does not have.
async fn missing(env: &TestEnvironment, keys: &[String]) -> Result<Vec<String>> {
    let (_, primary) = fixture::primary(env, 0).await.context("the first shard is served")?;
    let mut connection = connect(&primary.address, env.redis.password)?;
    let mut missing = Vec::new();
    for key in keys {
        if !cmd("EXISTS").arg(key).query::<bool>(&mut connection)? {
            missing.push(key.clone());
        }
    }
    Ok(missing)
}
