//! A RedisCluster under test: its object, its Pods, and whether all is well with them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{kubectl::Kubectl, member::ServerInfo, router::connect};

/// Where every test's objects are.
pub const NAMESPACE: &str = "default";
/// What every cluster under test asks its clients for.
pub const PASSWORD: &str = "a password";
/// How many slots there are.
const SLOTS: usize = 16_384;

/// A cluster as it is wanted; `C(shards, replicas)` in the list of scenarios.
#[derive(Clone, Debug)]
pub struct RedisCluster {
    /// The object's name.
    pub name: &'static str,
    /// How many primaries.
    pub shards: usize,
    /// How many replicas each of them has.
    pub replicas: usize,
    /// Whether Pods have volumes.
    pub storage: bool,
    /// What clients are asked for; none if absent.
    pub password: Option<&'static str>,
}

/// One Pod with what its server says.
#[derive(Clone, Debug)]
pub struct ClusterPod {
    /// The Pod's name.
    pub pod: String,
    /// The Pod's uid.
    pub uid: String,
    /// `ip:port`.
    pub address: String,
    /// The StatefulSet that owns the Pod.
    pub shard: String,
    /// The server.
    pub member: ServerInfo,
}

impl RedisCluster {
    /// The cluster of most stories: three shards with one replica each and no storage.
    pub const USUAL: Self =
        Self { name: "cache", shards: 3, replicas: 1, storage: false, password: Some(PASSWORD) };

    /// Creates the object and the Secret that it names.
    ///
    /// # Errors
    ///
    /// Fails if the server refuses.
    pub fn create(&self, kubectl: &Kubectl) -> Result<()> {
        let stream = format!("{}\n---\n{}\n", self.secret(), self.object());
        kubectl.run_with(&["apply", "--server-side", "-f", "-"], &stream).map(drop)
    }

    /// The Secret that the object names.
    #[must_use]
    pub fn secret(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "password", "namespace": NAMESPACE},
            "stringData": {"password": self.password.unwrap_or(PASSWORD)},
        })
    }

    /// The object as a user writes it.
    #[must_use]
    pub fn object(&self) -> Value {
        let mut object = json!({
            "apiVersion": "redis.tholepin.dev/v1alpha1",
            "kind": "RedisCluster",
            "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": {
                "shards": self.shards,
                "replicasPerShard": self.replicas,
                "image": "redis:7.0",
                "failover": {"nodeTimeoutMs": 2000},
            },
        });
        if let Some(spec) = object.pointer_mut("/spec").and_then(Value::as_object_mut) {
            if self.password.is_some() {
                let auth = json!({"secretName": "password", "key": "password"});
                spec.insert("auth".to_owned(), auth);
            }
            if self.storage {
                spec.insert("storage".to_owned(), json!({"size": "1Gi", "onDelete": "Delete"}));
            }
        }
        object
    }

    /// How many Pods it has when it is whole.
    #[must_use]
    pub const fn pods(&self) -> usize {
        self.shards * (1 + self.replicas)
    }

    /// The address `ip:port` that clients use.
    ///
    /// # Errors
    ///
    /// Fails if there is none.
    pub async fn entry(&self, client: &Client) -> Result<String> {
        let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
        let spec = services.get(self.name).await?.spec.context("a Service has a spec")?;
        Ok(format!("{}:6379", spec.cluster_ip.context("the client Service has an address")?))
    }

    /// Every Pod with what its server says, in order of name.
    ///
    /// # Errors
    ///
    /// Fails if a Pod is not there, is not ready, or its server does not answer.
    pub async fn seats(&self, client: &Client) -> Result<Vec<ClusterPod>> {
        let pods = self.list_pods(client).await?;
        ensure!(pods.len() == self.pods(), "{} Pods and not {}", pods.len(), self.pods());
        pods.iter().map(|pod| seat(pod, self.password)).collect()
    }

    /// The Pods as the API server has them, in order of name.
    ///
    /// # Errors
    ///
    /// Fails if they cannot be read.
    pub async fn list_pods(&self, client: &Client) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let selector = format!("redis.tholepin.dev/cluster={}", self.name);
        let mut pods = pods.list(&ListParams::default().labels(&selector)).await?.items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// The Pods that are ready and whose servers answer, whatever the others do.
    ///
    /// # Errors
    ///
    /// Fails if the Pods cannot be read.
    pub async fn answering(&self, client: &Client) -> Result<Vec<ClusterPod>> {
        let pods = self.list_pods(client).await?;
        Ok(pods.iter().filter_map(|pod| seat(pod, self.password).ok()).collect())
    }

    /// Whether all is well: the object says Ready about its present generation with every condition as
    /// it must be, and every server agrees. Gives the Pods.
    ///
    /// # Errors
    ///
    /// Fails with the first thing that is not as it should be.
    pub async fn well(&self, kubectl: &Kubectl, client: &Client) -> Result<Vec<ClusterPod>> {
        let seats = self.at_peace(client).await?;
        let object = kubectl.run(&["get", "rediscluster", self.name, "-o", "json"])?;
        let object: Value = serde_json::from_str(&object)?;
        for (name, wanted) in [("Ready", "True"), ("Progressing", "False"), ("Degraded", "False")] {
            check_condition(&object, name, wanted)?;
        }
        Ok(seats)
    }

    /// Whether all servers are there and agree that all is well, whatever the object says. Gives the
    /// Pods.
    ///
    /// # Errors
    ///
    /// Fails with the first thing that is not as it should be.
    pub async fn at_peace(&self, client: &Client) -> Result<Vec<ClusterPod>> {
        let seats = self.seats(client).await?;
        for ClusterPod { pod, member, .. } in &seats {
            member.at_peace(self.pods(), self.shards).with_context(|| pod.clone())?;
        }
        let mut by_shard: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
        for seat in &seats {
            by_shard.entry(&seat.shard).or_default().push(seat.member.is_primary());
        }
        for (shard, roles) in by_shard {
            let primaries = roles.iter().filter(|is_primary| **is_primary).count();
            ensure!(primaries == 1, "{shard} has {primaries} primaries");
        }
        Ok(seats)
    }

    /// One tag per shard: keys with this text between braces belong to the n-th run of slots of equal
    /// length.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        let shard = |tag: &str| slot(tag) * self.shards / SLOTS;
        let first = |wanted: usize| {
            (0..SLOTS).map(|number| format!("tag{number}")).find(|tag| shard(tag) == wanted)
        };
        (0..self.shards).filter_map(first).collect()
    }
}

impl ClusterPod {
    /// Whether it is the primary to which keys with this tag belong.
    #[must_use]
    pub fn serves(&self, tag: &str) -> bool {
        let holds = |own: &crate::member::NodeLine| {
            let slot = slot(tag);
            own.slots.iter().any(|range| (range.0.into()..=range.1.into()).contains(&slot))
        };
        self.member.is_primary() && self.member.own().is_ok_and(holds)
    }
}

fn seat(pod: &Pod, password: Option<&str>) -> Result<ClusterPod> {
    let name = pod.name_any();
    let status = pod.status.as_ref().with_context(|| format!("{name} has no status"))?;
    let ready = status.conditions.iter().flatten();
    let ready = ready.into_iter().any(|is| is.type_ == "Ready" && is.status == "True");
    ensure!(ready && pod.metadata.deletion_timestamp.is_none(), "{name} is not ready");
    let ip = status.pod_ip.as_deref().with_context(|| format!("{name} has no address"))?;
    let owner = pod.owner_references().first().map(|owner| owner.name.clone());
    let address = format!("{ip}:6379");
    let member = ServerInfo::ask(&mut connect(&address, password)?).with_context(|| name.clone());
    Ok(ClusterPod {
        uid: pod.uid().unwrap_or_default(),
        shard: owner.with_context(|| format!("{name} has no owner"))?,
        address,
        member: member?,
        pod: name,
    })
}

fn check_condition(object: &Value, name: &str, wanted: &str) -> Result<()> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let named = |condition: &&Value| condition.get("type").is_some_and(|is| is == name);
    let condition = conditions.into_iter().flatten().find(named);
    let condition = condition.with_context(|| format!("no condition {name}"))?;
    ensure!(condition.get("status").is_some_and(|is| is == wanted), "{condition}");
    let generation = object.pointer("/metadata/generation");
    ensure!(condition.get("observedGeneration") == generation, "{condition} is not of now");
    Ok(())
}

/// The slot of a key's tag: CRC-16/XMODEM modulo 16384, as the cluster specification has it.
fn slot(tag: &str) -> usize {
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    usize::from(crc) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::slot;

    #[test]
    fn a_slot_is_what_redis_says() {
        // `CLUSTER KEYSLOT` of Redis 7.0.
        assert_eq!([slot("123456789"), slot("foo"), slot("bar")], [12_739, 12_182, 5_061]);
    }
}
