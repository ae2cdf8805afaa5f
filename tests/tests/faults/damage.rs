//! 12: damaged files. A replica whose primary answers sets its damaged copy aside and joins again; the only copy
//! of a shard's data is never touched.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    process::signal,
    redis_cluster::{ClusterPod, RedisCluster},
};

use crate::{fixture, guard::data_of, table::FaultRows};

const LOOPED: &str = "a crash loop for ever";
/// For how long the only copy must stay unchanged.
const UNTOUCHED: Duration = Duration::from_secs(15);

/// The kind of damage.
#[derive(Clone, Copy)]
enum FileDamage {
    CutIdentity,
    Garbage,
}

impl FileDamage {
    /// Stops a server, damages its files and kills it.
    fn done_to(self, member: &ClusterPod) -> Result<()> {
        let pid = member.server.pid()?;
        // A stopped server writes nothing more before it is killed.
        signal(pid, "STOP")?;
        let data = data_of(pid);
        match self {
            Self::CutIdentity => cut(&data.join("nodes.conf"))?,
            Self::Garbage => garbage(&data.join("appendonlydir"))?,
        }
        signal(pid, "KILL")
    }
}

fn cut(file: &Path) -> Result<()> {
    let text = fs::read(file)?;
    // In the middle of a row, as if the end of the file were missing.
    let half = text.get(..text.len() / 2).context("half of it")?;
    Ok(fs::write(file, half)?)
}

fn garbage(folder: &Path) -> Result<()> {
    let files = fs::read_dir(folder)?.filter_map(Result::ok).map(|file| file.path());
    let names = files.filter(|path| path.extension().is_some_and(|ending| ending == "aof"));
    let mut count = 0;
    for file in names {
        let mut bytes = fs::read(&file)?;
        bytes.splice(0..0, b"this is no command\n".iter().copied());
        fs::write(&file, bytes)?;
        count += 1;
    }
    ensure!(0 < count, "no append-only file in {}", folder.display());
    Ok(())
}

/// 12a: files of a replica.
pub(crate) async fn a_replica_s_files_are_damaged(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, mut keys) = fixture::begin(redis).await?;
    let inputs = [
        ("nodes.conf of a replica cut", FileDamage::CutIdentity),
        ("garbage in the AOF of a replica", FileDamage::Garbage),
    ];
    for (shard, (input, damage)) in inputs.into_iter().enumerate() {
        let is_green = rows
            .row(input, LOOPED, fixture::ROW, async |row| {
                row.keys_before(keys.len());
                let replica = fixture::replicas(&env, shard)
                    .await?
                    .into_iter()
                    .next()
                    .context("a replica")?;
                damage.done_to(&replica)?;
                let (_, took) = fixture::restarted(&env, &replica, Duration::from_secs(90)).await?;
                row.observed(format!("joined again after {:.1} s", took.as_secs_f64()));
                let matches = |event: &str| event.contains("aside");
                let event = fixture::event(&env, "what was set aside", matches).await?;
                row.observed(format!("event `{event}`"));
                fixture::until_healthy(&env, fixture::HEAL_DEADLINE).await?;
                row.keys_after(keys.check()?);
                Ok(())
            })
            .await;
        if !is_green {
            keys = fixture::recreate(&env).await?;
        }
    }
    fixture::end(rows, env)
}

/// 12b: files of the only copy.
pub(crate) async fn the_only_copy_is_damaged(
    rows: &mut FaultRows,
    redis: RedisCluster,
) -> Result<()> {
    let (env, keys) = fixture::begin(redis).await?;
    let before = "not touched; no condition said what to do";
    rows.row("garbage in the AOF of the only copy", before, fixture::ROW, async |row| {
        row.keys_before(keys.len());
        let (_, only) = fixture::primary(&env, 0).await?;
        let pid = only.server.pid()?;
        let folder = fs::read_link(data_of(pid))?.join("appendonlydir");
        // The container's root is not reachable after its last process; the volume is reached from outside.
        let root = mounted(pid)?;
        let saved = copy_of(&root.join("appendonlydir"))?;
        FileDamage::Garbage.done_to(&only)?;
        let damaged = copy_of(&root.join("appendonlydir"))?;
        let fits = |condition: &fixture::Condition| {
            let speaks = ["damaged", "restore", "repair", "append"]
                .iter()
                .any(|text| condition.message.contains(text));
            condition.kind == "Degraded" && condition.status == "True" && speaks
        };
        let condition = fixture::condition_where(&env, "what the user must do", fits).await;
        fixture::holds_for("the only copy was touched", UNTOUCHED, || async {
            let now = copy_of(&root.join("appendonlydir"))?;
            ensure!(now == damaged, "{} has changed", folder.display());
            Ok(())
        })
        .await?;
        row.observed(format!("`{}`", condition?));
        for (name, bytes) in &saved {
            fs::write(root.join("appendonlydir").join(name), bytes)?;
        }
        let (_, took) = fixture::until_healthy(&env, Duration::from_secs(90)).await?;
        row.observed(format!("repaired by hand: healthy after {:.1} s", took.as_secs_f64()));
        row.keys_after(keys.check()?);
        Ok(())
    })
    .await;
    fixture::end(rows, env)
}

/// Returns the path of a process' data outside its container: the source of its mount.
fn mounted(pid: u32) -> Result<std::path::PathBuf> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let data = mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        (fields.get(4) == Some(&"/data")).then(|| fields.get(3).map(|root| root.to_string()))?
    });
    // Without a mount of its own the process runs in its data folder.
    match data {
        Some(root) => Ok(root.into()),
        None => Ok(fs::read_link(data_of(pid))?),
    }
}

/// Returns the append-only files with their names.
fn copy_of(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for file in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let file = file?;
        files.push((file.file_name().to_string_lossy().into_owned(), fs::read(file.path())?));
    }
    files.sort();
    Ok(files)
}
