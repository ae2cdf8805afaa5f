//! A fixed set of keys in a Redis cluster: how many can be read, and how many still exist on some member.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use redis::cmd;

use crate::{
    redis_cluster::RedisCluster,
    router::{ClusterClient, connect},
    wait::{Poll, until, until_blocking},
};

/// How many keys are written, over all shards.
const COUNT: usize = 60;
/// How long a write or a read of a key may take on a serving cluster.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two attempts to read a key.
const READ_PAUSE: Duration = Duration::from_millis(20);
/// How long the replicas may take to receive every key.
const COPY_DEADLINE: Duration = Duration::from_secs(20);

/// Keys that were acknowledged and that every member of their shard holds.
pub struct WrittenKeys {
    redis: RedisCluster,
    entry: String,
    names: Vec<(String, String)>,
}

impl WrittenKeys {
    /// Writes the keys, spread over all shards, and waits until every replica has them.
    ///
    /// # Errors
    ///
    /// Fails if a key cannot be written, or does not reach a replica.
    pub async fn put(redis: &RedisCluster, client: &Client) -> Result<Self> {
        let entry = redis.entry(client).await?;
        let tags = redis.tags();
        let tag = |number: usize| tags.get(number % tags.len()).cloned().unwrap_or_default();
        let names =
            (0..COUNT).map(|number| (tag(number), format!("{{{}}}:kept-{number}", tag(number))));
        let keys = Self { redis: redis.clone(), entry, names: names.collect() };
        let mut router = ClusterClient::new(&keys.entry, redis.password);
        for (tag, key) in &keys.names {
            let set = cmd("SET").arg(key).arg("kept").to_owned();
            let poll = || {
                let set: Result<String> = router.send(tag, &set);
                async move { set.map(|_| Poll::Done(())) }
            };
            until(format!("the write of {key}"), ANSWER_DEADLINE, poll).await?;
        }
        let poll = || async {
            let members = redis.members(client).await?;
            let mut by_shard: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for member in &members {
                by_shard.entry(&member.shard).or_default().push(count(member.server.field("db0")));
            }
            let is_copied = by_shard
                .values()
                .all(|counts| counts.iter().all(|count_here| Some(count_here) == counts.first()));
            Ok(if is_copied { Poll::Done(()) } else { Poll::NotYet(format!("{by_shard:?}")) })
        };
        until("the keys to be on every replica", COPY_DEADLINE, poll).await?;
        Ok(keys)
    }

    /// Returns how many keys were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Returns true if no key was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Returns how many keys a client can read now.
    #[must_use]
    pub fn readable(&self) -> usize {
        let mut router = ClusterClient::new(&self.entry, self.redis.password);
        let start = Instant::now();
        let mut reads = |tag: &str, key: &str| {
            let exists = cmd("EXISTS").arg(key).to_owned();
            // A member that has just changed its role may redirect or refuse for a moment.
            let left = ANSWER_DEADLINE.saturating_sub(start.elapsed());
            let poll = || Ok(Poll::Done(router.send::<bool>(tag, &exists)?));
            until_blocking(READ_PAUSE, "a reply", left, poll).is_ok_and(|(exists, _)| exists)
        };
        self.names.iter().filter(|(tag, key)| reads(tag, key)).count()
    }

    /// Finds the client Service again: a cluster that was deleted and created again has a new one.
    ///
    /// # Errors
    ///
    /// Fails if the Service does not exist.
    pub async fn enter(&mut self, client: &Client) -> Result<()> {
        self.entry = self.redis.entry(client).await?;
        Ok(())
    }

    /// Returns how many keys exist: the sum over the shards of the most keys that one member holds, whether it
    /// serves them or not. A member that does not answer counts as empty.
    ///
    /// # Errors
    ///
    /// Fails if the Pods cannot be listed.
    pub async fn held(&self, client: &Client) -> Result<usize> {
        let mut by_shard: BTreeMap<String, usize> = BTreeMap::new();
        for pod in self.redis.list_pods(client).await? {
            let name = pod.name_any();
            let shard = name.rsplit_once('-').map_or(name.as_str(), |(shard, _)| shard).to_owned();
            let held = held_by(&pod, self.redis.password).unwrap_or_default();
            let most = by_shard.entry(shard).or_default();
            *most = held.max(*most);
        }
        Ok(by_shard.values().sum())
    }

    /// Returns the number of keys if a client can read all of them.
    ///
    /// # Errors
    ///
    /// Fails with the number of readable keys if some are missing.
    pub fn check(&self) -> Result<usize> {
        let readable = self.readable();
        ensure!(readable == self.len(), "{readable} of {} keys can be read", self.len());
        Ok(readable)
    }
}

fn held_by(pod: &Pod, password: Option<&str>) -> Result<usize> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    let ip = ip.context("the Pod has no address")?;
    let mut connection = connect(&format!("{ip}:6379"), password)?;
    Ok(cmd("DBSIZE").query(&mut connection)?)
}

/// Returns the count in `keys=60,expires=0,avg_ttl=0`; 0 for a server without keys.
fn count(keyspace: &str) -> usize {
    let keys = keyspace.split(',').find_map(|pair| pair.strip_prefix("keys="));
    keys.and_then(|keys| keys.parse().ok()).unwrap_or_default()
}
