//! A RedisCluster under test: its object, its members, and the checks that it is healthy.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{kubectl::Kubectl, member::ServerInfo, router::connect};

/// The namespace of every test's objects.
pub const NAMESPACE: &str = "default";
/// The password of every cluster under test.
pub const PASSWORD: &str = "a password";
/// The number of slots of a Redis Cluster.
const SLOTS: usize = 16_384;

/// The desired size of a cluster; `C(shards, replicas)` in the comments of the scenarios.
#[derive(Clone, Debug)]
pub struct RedisCluster {
    /// The object's name.
    pub name: &'static str,
    /// The number of primaries.
    pub shards: usize,
    /// The number of replicas per primary.
    pub replicas: usize,
    /// Whether Pods have volumes.
    pub storage: bool,
    /// The password that clients need; none if absent.
    pub password: Option<&'static str>,
}

/// A member: one Pod with the state that its server reports.
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
    /// The state of the server.
    pub server: ServerInfo,
}

impl RedisCluster {
    /// The cluster of most scenarios: three shards with one replica each, without storage.
    pub const USUAL: Self =
        Self { name: "cache", shards: 3, replicas: 1, storage: false, password: Some(PASSWORD) };

    /// Creates the object and the Secret that it names.
    ///
    /// # Errors
    ///
    /// Fails if the API server refuses.
    pub fn create(&self, kubectl: &Kubectl) -> Result<()> {
        let stream = format!("{}\n---\n{}\n", self.secret(), self.object());
        kubectl.run_with(&["apply", "--server-side", "-f", "-"], &stream).map(drop)
    }

    /// Returns the Secret that the object names.
    #[must_use]
    pub fn secret(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "password", "namespace": NAMESPACE},
            "stringData": {"password": self.password.unwrap_or(PASSWORD)},
        })
    }

    /// Returns the object as a user writes it.
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
                // With `everysec` a server acknowledges writes that it has not yet given to the operating system while
                // an fsync runs, so a killed process can lose them on a slow disk.
                spec.insert("settings".to_owned(), json!({"appendfsync": "always"}));
            }
        }
        object
    }

    /// Returns the number of Pods of the complete cluster.
    #[must_use]
    pub const fn pods(&self) -> usize {
        self.shards * (1 + self.replicas)
    }

    /// Returns the address `ip:port` of the client Service.
    ///
    /// # Errors
    ///
    /// Fails if the Service does not exist.
    pub async fn entry(&self, client: &Client) -> Result<String> {
        let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
        let spec = services.get(self.name).await?.spec.context("the Service has no spec")?;
        Ok(format!("{}:6379", spec.cluster_ip.context("the client Service has no address")?))
    }

    /// Returns every member, in order of Pod name.
    ///
    /// # Errors
    ///
    /// Fails if a Pod does not exist or is not ready, or if its server does not answer.
    pub async fn members(&self, client: &Client) -> Result<Vec<ClusterPod>> {
        let pods = self.list_pods(client).await?;
        ensure!(pods.len() == self.pods(), "{} Pods and not {}", pods.len(), self.pods());
        pods.iter().map(|pod| member(pod, self.password)).collect()
    }

    /// Returns the Pods as the API server has them, in order of name.
    ///
    /// # Errors
    ///
    /// Fails if they cannot be listed.
    pub async fn list_pods(&self, client: &Client) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let selector = format!("redis.tholepin.dev/cluster={}", self.name);
        let mut pods = pods.list(&ListParams::default().labels(&selector)).await?.items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// Returns the members whose Pod is ready and whose server answers.
    ///
    /// # Errors
    ///
    /// Fails if the Pods cannot be listed.
    pub async fn answering(&self, client: &Client) -> Result<Vec<ClusterPod>> {
        let pods = self.list_pods(client).await?;
        Ok(pods.iter().filter_map(|pod| member(pod, self.password).ok()).collect())
    }

    /// Checks that the cluster is healthy: its conditions have the expected status at the present generation,
    /// and every server agrees. Returns the members.
    ///
    /// # Errors
    ///
    /// Fails with the first difference.
    pub async fn check_healthy(
        &self,
        kubectl: &Kubectl,
        client: &Client,
    ) -> Result<Vec<ClusterPod>> {
        let members = self.check_servers(client).await?;
        let object = kubectl.run(&["get", "rediscluster", self.name, "-o", "json"])?;
        let object: Value = serde_json::from_str(&object)?;
        for (name, expected) in [("Ready", "True"), ("Progressing", "False"), ("Degraded", "False")]
        {
            check_condition(&object, name, expected)?;
        }
        Ok(members)
    }

    /// Checks that all servers run and agree that the cluster is healthy, whatever the object's conditions are.
    /// Returns the members.
    ///
    /// # Errors
    ///
    /// Fails with the first difference.
    pub async fn check_servers(&self, client: &Client) -> Result<Vec<ClusterPod>> {
        let members = self.members(client).await?;
        for ClusterPod { pod, server, .. } in &members {
            server.check_healthy(self.pods(), self.shards).with_context(|| pod.clone())?;
        }
        let mut by_shard: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
        for member in &members {
            by_shard.entry(&member.shard).or_default().push(member.server.is_primary());
        }
        for (shard, roles) in by_shard {
            let primaries = roles.iter().filter(|is_primary| **is_primary).count();
            ensure!(primaries == 1, "{shard} has {primaries} primaries");
        }
        Ok(members)
    }

    /// Returns one tag per shard: keys with the n-th tag between braces belong to the n-th of `shards` equal
    /// ranges of slots.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        let shard = |tag: &str| slot(tag) * self.shards / SLOTS;
        let first = |expected: usize| {
            (0..SLOTS).map(|number| format!("tag{number}")).find(|tag| shard(tag) == expected)
        };
        (0..self.shards).filter_map(first).collect()
    }
}

impl ClusterPod {
    /// Returns true if this member is the primary that serves keys with this tag.
    #[must_use]
    pub fn serves(&self, tag: &str) -> bool {
        let holds = |own: &crate::member::ClusterNodesLine| {
            let slot = slot(tag);
            own.slots.iter().any(|range| (range.0.into()..=range.1.into()).contains(&slot))
        };
        self.server.is_primary() && self.server.own().is_ok_and(holds)
    }
}

fn member(pod: &Pod, password: Option<&str>) -> Result<ClusterPod> {
    let name = pod.name_any();
    let status = pod.status.as_ref().with_context(|| format!("{name} has no status"))?;
    let ready = status.conditions.iter().flatten();
    let ready = ready.into_iter().any(|is| is.type_ == "Ready" && is.status == "True");
    ensure!(ready && pod.metadata.deletion_timestamp.is_none(), "{name} is not ready");
    let ip = status.pod_ip.as_deref().with_context(|| format!("{name} has no address"))?;
    let owner = pod.owner_references().first().map(|owner| owner.name.clone());
    let address = format!("{ip}:6379");
    let server = ServerInfo::ask(&mut connect(&address, password)?).with_context(|| name.clone());
    Ok(ClusterPod {
        uid: pod.uid().unwrap_or_default(),
        shard: owner.with_context(|| format!("{name} has no owner"))?,
        address,
        server: server?,
        pod: name,
    })
}

fn check_condition(object: &Value, name: &str, expected: &str) -> Result<()> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let named = |condition: &&Value| condition.get("type").is_some_and(|is| is == name);
    let condition = conditions.into_iter().flatten().find(named);
    let condition = condition.with_context(|| format!("no condition {name}"))?;
    ensure!(condition.get("status").is_some_and(|is| is == expected), "{condition}");
    let generation = object.pointer("/metadata/generation");
    ensure!(
        condition.get("observedGeneration") == generation,
        "{condition} is not about generation {generation:?}"
    );
    Ok(())
}

/// Returns the slot of a key's tag: CRC-16/XMODEM modulo 16384, as in the Redis Cluster specification.
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
    fn slots_are_those_of_redis() {
        // The replies of Redis 7.0 to `CLUSTER KEYSLOT`.
        assert_eq!([slot("123456789"), slot("foo"), slot("bar")], [12_739, 12_182, 5_061]);
    }
}
