//! The ConfigMaps: `redis.conf` and the scripts by revision, and the settings that servers have taken.
//!
//! A Pod reads two files. What only a restart can change is in an immutable ConfigMap whose name has a
//! hash of its content, and the Pod's template names it: a container that is restarted reads the file
//! that its Pod was made with. What can be changed while a server runs is in a second ConfigMap, and a
//! value enters it after a running server took it ([`crate::configuration`]): no restart reads a value
//! that no server has taken.

use alloc::{format, string::String};
use core::fmt::Write as _;

use serde_json::{Value, json};
use tholepin_redis_types::redis_cluster::RedisClusterSpec;

use super::{Owner, metadata, names};
use crate::configuration::{self, LiveSettings};

/// Starts the server once that is safe.
const START: &str = include_str!("script/start.sh");
/// The preStop hook: lets another take over first.
const STOP: &str = include_str!("script/stop.sh");
/// The readiness probe.
const READY: &str = include_str!("script/ready.sh");
/// The liveness probe.
const ALIVE: &str = include_str!("script/alive.sh");

/// The annotation of the second ConfigMap that says whether a server has ever run with it.
const TAKEN: &str = "redis.tholepin.dev/taken";
/// The file in the second ConfigMap.
const LIVE_FILE: &str = "live.conf";

/// The name of the revision that the spec asks for.
pub(super) fn revision_name(owner: Owner<'_>, spec: &RedisClusterSpec) -> String {
    names(owner).revision(hash(&files(spec)))
}

/// The revision that the spec asks for.
pub(super) fn revision(owner: Owner<'_>, spec: &RedisClusterSpec) -> Value {
    let files = files(spec);
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, &names(owner).revision(hash(&files)), None),
        "immutable": true,
        "data": files.into_iter().collect::<serde_json::Map<_, _>>(),
    })
}

/// The second ConfigMap.
#[must_use]
pub fn live_config(owner: Owner<'_>, live: &LiveSettings) -> Value {
    let mut metadata = metadata(owner, &names(owner).live_config(), None);
    if let Some(fields) = metadata.as_object_mut() {
        let taken = if live.taken { "yes" } else { "no" };
        fields.insert("annotations".into(), json!({TAKEN: taken}));
    }
    let mut text = String::from(
        "# Written by Tholepin from what the running servers have taken; changes here are undone.\n",
    );
    for (name, value) in &live.values {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} {value}");
    }
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {LIVE_FILE: text},
    })
}

/// Reads the second ConfigMap back; what is no setting that could be in it is left out.
#[must_use]
pub fn read_live_config(object: &Value) -> LiveSettings {
    let text = |path: &[&str]| {
        let found = path.iter().try_fold(object, |at, key| at.get(key));
        found.and_then(Value::as_str).unwrap_or_default()
    };
    let lines = text(&["data", LIVE_FILE]).lines().filter_map(|line| line.split_once(' '));
    let values = lines.filter(|(name, value)| configuration::may_be_live(name, value));
    LiveSettings {
        values: values.map(|(name, value)| (name.into(), value.into())).collect(),
        taken: text(&["metadata", "annotations", TAKEN]) == "yes",
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

/// FNV-1a over names and contents, each closed by a byte that no text has. A name in hand must not lead
/// to other content by accident; nobody is kept from making such content on purpose, for their own
/// cluster.
fn hash(files: &[(String, Value)]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let texts = files.iter().flat_map(|(name, text)| [name.as_str(), text.as_str().unwrap_or("")]);
    let bytes = texts.flat_map(|text| text.bytes().chain([0xff]));
    bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// What all members have in common and only a restart can change. What differs (addresses) and what is
/// secret (passwords) is added by `start.sh` in a file that only the server reads.
fn redis_conf(spec: &RedisClusterSpec) -> String {
    let mut text = format!(
        "# Written by Tholepin from the RedisCluster; changes here are undone.\n\
         port {port}\n\
         dir /data\n\
         protected-mode no\n\
         cluster-enabled yes\n\
         cluster-config-file nodes.conf\n\
         # Replicas are placed by Tholepin and do not wander.\n\
         cluster-allow-replica-migration no\n\
         repl-diskless-sync yes\n\
         repl-diskless-sync-delay 0\n\
         # Of a memory-only member nothing must be loaded that a synchronisation left behind.\n\
         rdb-del-sync-files yes\n\
         save \"\"\n\
         appendonly {aof}\n",
        port = spec.port,
        aof = if spec.storage.is_some() { "yes" } else { "no" },
    );
    let fixed = spec.settings.iter().filter(|(name, _)| !configuration::is_live(name));
    for (name, value) in fixed {
        // A value is one line (validated), but may be empty or have several words.
        let value = if value.as_str().is_empty() { "\"\"" } else { value.as_str() };
        let _ = writeln!(text, "{name} {value}");
    }
    text
}
