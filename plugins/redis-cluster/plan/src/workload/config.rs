//! The ConfigMap: `redis.conf` and the scripts that the Pod runs.

use alloc::{format, string::String};
use core::fmt::Write as _;

use serde_json::{Value, json};
use tholepin_redis_types::redis_cluster::RedisClusterSpec;

use super::{Owner, metadata, names};

/// Starts the server once that is safe.
const START: &str = include_str!("script/start.sh");
/// The preStop hook: lets another take over first.
const STOP: &str = include_str!("script/stop.sh");
/// The readiness probe.
const READY: &str = include_str!("script/ready.sh");
/// The liveness probe.
const ALIVE: &str = include_str!("script/alive.sh");

pub(super) fn config_map(owner: Owner<'_>, spec: &RedisClusterSpec) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, &names(owner).config_map(), None),
        "data": {
            "redis.conf": redis_conf(spec),
            "start.sh": START,
            "stop.sh": STOP,
            "ready.sh": READY,
            "alive.sh": ALIVE,
        },
    })
}

/// What all members have in common. What differs (addresses) and what is secret (passwords) is added
/// by `start.sh` in a file that only the server reads.
fn redis_conf(spec: &RedisClusterSpec) -> String {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let mut text = format!(
        "# Written by Tholepin from the RedisCluster; changes here are undone.\n\
         port {port}\n\
         dir /data\n\
         protected-mode no\n\
         cluster-enabled yes\n\
         cluster-config-file nodes.conf\n\
         cluster-node-timeout {timeout}\n\
         cluster-require-full-coverage {coverage}\n\
         # Replicas are placed by Tholepin and do not wander.\n\
         cluster-allow-replica-migration no\n\
         repl-diskless-sync yes\n\
         repl-diskless-sync-delay 0\n\
         # Of a memory-only member nothing must be loaded that a synchronisation left behind.\n\
         rdb-del-sync-files yes\n\
         save \"\"\n\
         appendonly {aof}\n",
        port = spec.port,
        timeout = spec.failover.node_timeout_ms,
        coverage = yes_no(spec.failover.require_full_coverage),
        aof = yes_no(spec.storage.is_some()),
    );
    for (name, value) in &spec.settings {
        // A value is one line (validated), but may be empty or have several words.
        let value = if value.as_str().is_empty() { "\"\"" } else { value.as_str() };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} {value}");
    }
    text
}
