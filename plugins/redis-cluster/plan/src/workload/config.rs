//! The ConfigMaps: `redis.conf` and the scripts by revision, and the runtime settings.
//!
//! A Pod reads two files. Settings that only a restart can change are in an immutable ConfigMap, whose name
//! contains a hash of its content. The Pod's template names this ConfigMap, so a restarted container reads
//! the file with which its Pod was created. Settings that can be changed at run time are in a second
//! ConfigMap. [`crate::configuration`] has the rule for which values enter it.

use alloc::{format, string::String};
use core::fmt::Write as _;

use serde_json::{Value, json};
use tholepin_redis_types::redis_cluster::RedisClusterSpec;

use super::{OwnerRedisCluster, metadata, names};
use crate::configuration::{self, RedisConfigFileSettings};

/// Starts the server as soon as that is safe.
const START: &str = include_str!("script/start.sh");
/// The preStop hook: waits until a replica has taken over.
const STOP: &str = include_str!("script/stop.sh");
/// The readiness probe.
const READY: &str = include_str!("script/ready.sh");
/// The liveness probe.
const ALIVE: &str = include_str!("script/alive.sh");

/// The annotation of the second ConfigMap that records whether a server has ever answered.
const SERVER_ANSWERED: &str = "redis.tholepin.dev/taken";
/// The key of the second ConfigMap, which is the name of the file.
const RUNTIME_FILE: &str = "live.conf";

/// Returns the name of the revision for the spec.
pub(super) fn revision_name(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec) -> String {
    names(owner).revision(hash(&files(spec)))
}

/// Returns the ConfigMap of the revision for the spec.
pub(super) fn revision(owner: OwnerRedisCluster<'_>, spec: &RedisClusterSpec) -> Value {
    let files = files(spec);
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, &names(owner).revision(hash(&files)), None),
        "immutable": true,
        "data": files.into_iter().collect::<serde_json::Map<_, _>>(),
    })
}

/// Returns the second ConfigMap.
#[must_use]
pub fn runtime_config(owner: OwnerRedisCluster<'_>, settings: &RedisConfigFileSettings) -> Value {
    let mut metadata = metadata(owner, &names(owner).runtime_config(), None);
    if let Some(fields) = metadata.as_object_mut() {
        let has_answered = if settings.has_server_answered { "yes" } else { "no" };
        fields.insert("annotations".into(), json!({SERVER_ANSWERED: has_answered}));
    }
    let mut text = String::from(
        "# Written by Tholepin: settings that can be changed while the servers run. Changes here are overwritten.\n",
    );
    for (name, value) in &settings.values {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} {value}");
    }
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {RUNTIME_FILE: text},
    })
}

/// Parses the second ConfigMap; ignores lines that this plugin cannot have written.
#[must_use]
pub fn read_runtime_config(object: &Value) -> RedisConfigFileSettings {
    let text = |path: &[&str]| {
        let found = path.iter().try_fold(object, |at, key| at.get(key));
        found.and_then(Value::as_str).unwrap_or_default()
    };
    let lines = text(&["data", RUNTIME_FILE]).lines().filter_map(|line| line.split_once(' '));
    let values = lines.filter(|(name, value)| configuration::is_own_line(name, value));
    RedisConfigFileSettings {
        values: values.map(|(name, value)| (name.into(), value.into())).collect(),
        has_server_answered: text(&["metadata", "annotations", SERVER_ANSWERED]) == "yes",
    }
}

fn files(spec: &RedisClusterSpec) -> [(String, Value); 5] {
    [
        ("redis.conf", redis_conf(spec)),
        ("start.sh", START.into()),
        ("stop.sh", STOP.into()),
        ("ready.sh", READY.into()),
        ("alive.sh", ALIVE.into()),
    ]
    .map(|(name, text)| (name.into(), text.into()))
}

/// Returns the FNV-1a hash of names and contents, each followed by a byte that no text contains. It avoids
/// accidental collisions of names; it need not resist deliberate ones, which would only affect the user's own
/// cluster.
fn hash(files: &[(String, Value)]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let texts = files.iter().flat_map(|(name, text)| [name.as_str(), text.as_str().unwrap_or("")]);
    let bytes = texts.flat_map(|text| text.bytes().chain([0xff]));
    bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Returns the settings that all members share and that only a restart can change. `start.sh` adds addresses,
/// which differ, and passwords, which are secret, in a file that only the server reads.
fn redis_conf(spec: &RedisClusterSpec) -> String {
    let mut text = format!(
        "# Written by Tholepin from the RedisCluster. Changes here are overwritten.\n\
         port {port}\n\
         dir /data\n\
         protected-mode no\n\
         cluster-enabled yes\n\
         cluster-config-file nodes.conf\n\
         # Tholepin places the replicas; they do not migrate.\n\
         cluster-allow-replica-migration no\n\
         repl-diskless-sync yes\n\
         repl-diskless-sync-delay 0\n\
         # A memory-only member must not load files that a synchronisation left behind.\n\
         rdb-del-sync-files yes\n\
         save \"\"\n\
         appendonly {aof}\n",
        port = spec.port,
        aof = if spec.storage.is_some() { "yes" } else { "no" },
    );
    let fixed = spec.settings.iter().filter(|(name, _)| !configuration::is_runtime_setting(name));
    for (name, value) in fixed {
        // Validation ensures that a value is a single line; it may be empty or have several words.
        let value = if value.as_str().is_empty() { "\"\"" } else { value.as_str() };
        let _ = writeln!(text, "{name} {value}");
    }
    text
}
