//! The tables of settings. Names and ranges are those of Redis 7.0 (`config.c`). All of these settings exist
//! from Redis 6.2 to Valkey 9 unless a line says otherwise.

use super::kind::{BYTES_MAX, RedisSettingType};

/// A setting that a spec may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupportedSetting {
    /// The setting's name.
    pub name: &'static str,
    /// The values that it accepts.
    pub kind: RedisSettingType,
}

/// A setting, or a family of settings, that the plugin sets itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManagedSetting {
    /// The setting's name; the name of a family ends in `-` and is a prefix.
    pub name: &'static str,
    /// How to fix a spec that contains it.
    pub fix: &'static str,
}

impl ManagedSetting {
    /// Returns true if this entry includes the setting.
    #[must_use]
    pub fn covers(&self, setting: &str) -> bool {
        self.name == setting || self.name.ends_with('-') && setting.starts_with(self.name)
    }
}

const fn integer(name: &'static str, min: i64, max: i64) -> SupportedSetting {
    SupportedSetting { name, kind: RedisSettingType::Integer { min, max } }
}

const fn memory(name: &'static str, min: u64, max: u64) -> SupportedSetting {
    SupportedSetting { name, kind: RedisSettingType::Memory { min, max } }
}

const fn yes_no(name: &'static str) -> SupportedSetting {
    SupportedSetting { name, kind: RedisSettingType::YesNo }
}

const fn one_of(name: &'static str, words: &'static [&'static str]) -> SupportedSetting {
    SupportedSetting { name, kind: RedisSettingType::OneOf(words) }
}

const fn managed(name: &'static str, fix: &'static str) -> ManagedSetting {
    ManagedSetting { name, fix }
}

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;

// Limits that are stricter than those of the server, each with its reason:

/// The server asks the system for 32 files more than this, and for 16 fewer each time it is refused. With
/// `maxclients 2147483647` it does so for more than a minute before it listens. No process may open more than
/// `fs.nr_open` files, by default 1048576.
const MAXCLIENTS_MAX: i64 = 1_048_576 - 32;
/// The server raises a smaller value to this one.
const BACKLOG_MIN: u64 = 16_384;
/// The largest value that can be set while the server runs.
const BACKLOG_MAX: u64 = 64 << 30;
/// The largest value that can be set while the server runs; one entry takes up to a few kilobytes.
const SLOWLOG_MAX: i64 = 1_000_000;

/// The settings that a spec may contain, by name.
pub const OFFERED: &[SupportedSetting] = &[
    integer("active-expire-effort", 1, 10),
    yes_no("activedefrag"),
    one_of("appendfsync", &["always", "everysec", "no"]),
    memory("auto-aof-rewrite-min-size", 0, BYTES_MAX),
    integer("auto-aof-rewrite-percentage", 0, INT_MAX),
    SupportedSetting { name: "client-output-buffer-limit", kind: RedisSettingType::BufferLimits },
    integer("cluster-replica-validity-factor", 0, INT_MAX),
    yes_no("dynamic-hz"),
    integer("hash-max-listpack-entries", 0, LONG_MAX),
    memory("hash-max-listpack-value", 0, BYTES_MAX),
    integer("hz", 1, 500),
    integer("io-threads", 1, 128),
    integer("latency-monitor-threshold", 0, LONG_MAX),
    yes_no("lazyfree-lazy-eviction"),
    yes_no("lazyfree-lazy-expire"),
    yes_no("lazyfree-lazy-server-del"),
    yes_no("lazyfree-lazy-user-del"),
    yes_no("lazyfree-lazy-user-flush"),
    integer("lfu-decay-time", 0, INT_MAX),
    integer("lfu-log-factor", 0, INT_MAX),
    integer("list-max-listpack-size", -5, INT_MAX),
    one_of("loglevel", &["debug", "verbose", "notice", "warning"]),
    integer("maxclients", 1, MAXCLIENTS_MAX),
    memory("maxmemory", 0, BYTES_MAX),
    one_of(
        "maxmemory-policy",
        &[
            "noeviction",
            "allkeys-lru",
            "allkeys-lfu",
            "allkeys-random",
            "volatile-lru",
            "volatile-lfu",
            "volatile-random",
            "volatile-ttl",
        ],
    ),
    integer("maxmemory-samples", 1, 64),
    integer("min-replicas-max-lag", 0, INT_MAX),
    integer("min-replicas-to-write", 0, INT_MAX),
    yes_no("no-appendfsync-on-rewrite"),
    SupportedSetting { name: "notify-keyspace-events", kind: RedisSettingType::EventLetters },
    memory("proto-max-bulk-len", 1 << 20, BYTES_MAX),
    memory("repl-backlog-size", BACKLOG_MIN, BACKLOG_MAX),
    integer("repl-backlog-ttl", 0, INT_MAX),
    integer("repl-ping-replica-period", 1, INT_MAX),
    integer("repl-timeout", 1, INT_MAX),
    integer("set-max-intset-entries", 0, LONG_MAX),
    integer("slowlog-log-slower-than", -1, LONG_MAX),
    integer("slowlog-max-len", 0, SLOWLOG_MAX),
    memory("stream-node-max-bytes", 0, BYTES_MAX),
    integer("stream-node-max-entries", 0, LONG_MAX),
    integer("tcp-backlog", 0, INT_MAX),
    integer("tcp-keepalive", 0, INT_MAX),
    integer("timeout", 0, INT_MAX),
    integer("tracking-table-max-keys", 0, LONG_MAX),
    integer("zset-max-listpack-entries", 0, LONG_MAX),
    memory("zset-max-listpack-value", 0, BYTES_MAX),
];

const AUTH: &str = "name a Secret in `.spec.auth` instead";
const FILES: &str = "the Pod template defines the files; remove it";
const NETWORK: &str = "every member listens on its Pod's address; remove it";
const PERSISTENCE: &str = "use `.spec.storage` instead";
const TLS: &str = "TLS is not supported yet; remove it";
const TOPOLOGY: &str =
    "the topology follows `.spec.shards` and `.spec.replicasPerShard`; remove it";
const UNSAFE: &str = "it would disable commands that repairs need; remove it";

/// The settings that the plugin sets itself, by name.
pub const MANAGED: &[ManagedSetting] = &[
    managed("aclfile", AUTH),
    managed("aof-", PERSISTENCE),
    managed("appenddirname", FILES),
    managed("appendfilename", FILES),
    managed("appendonly", PERSISTENCE),
    managed("bind", NETWORK),
    managed("bind-", NETWORK),
    managed("cluster-allow-", TOPOLOGY),
    managed("cluster-announce-", NETWORK),
    managed("cluster-config-file", FILES),
    managed("cluster-enabled", TOPOLOGY),
    managed("cluster-migration-barrier", TOPOLOGY),
    managed("cluster-node-timeout", "use `.spec.failover.nodeTimeoutMs` instead"),
    managed("cluster-port", "use `.spec.port` instead; the cluster bus uses that port plus 10000"),
    managed("cluster-require-full-coverage", "use `.spec.failover.requireFullCoverage` instead"),
    managed("daemonize", FILES),
    managed("databases", "a cluster has database 0 only; remove it"),
    managed("dbfilename", FILES),
    managed("dir", FILES),
    managed("enable-", UNSAFE),
    managed("include", FILES),
    managed("loadmodule", "modules are not supported yet; remove it"),
    managed("logfile", FILES),
    managed("masterauth", AUTH),
    managed("masteruser", AUTH),
    managed("pidfile", FILES),
    managed("port", "use `.spec.port` instead"),
    managed("protected-mode", NETWORK),
    managed("rename-command", UNSAFE),
    managed(
        "repl-diskless-",
        "replicas are always synchronised diskless and without delay; remove it",
    ),
    managed("replica-announce-", NETWORK),
    managed("replicaof", TOPOLOGY),
    managed("requirepass", AUTH),
    managed("save", PERSISTENCE),
    managed("shutdown-", "the Pod's grace period decides; remove it"),
    managed("slaveof", TOPOLOGY),
    managed("supervised", FILES),
    managed("tls-", TLS),
    managed("unixsocket", NETWORK),
    managed("unixsocketperm", NETWORK),
    managed("user", AUTH),
];
