//! Instances: a group of Redis processes and how to reach them.
//!
//! An instance contains the name of a Secret, never the secret, and a membership rule, never an address. The
//! host resolves both again for each call.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// One Redis Cluster, or one primary with its replicas. Its members are the Pods in `namespace` whose chain
/// of controllers ends at `owner`, and the members in the host's ledger. `selector` chooses which of them a
/// snapshot shows; guards, adoption and the ledger always see all members.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// The namespace of the Pods.
    pub namespace: String,
    /// A label selector in kubectl's syntax (`app=demo,tier in (a,b)`); never empty.
    pub selector: String,
    /// The container that runs the server. Fixed by the first use of the group.
    pub container: String,
    /// The port on which the server listens. Fixed by the first use of the group.
    pub port: u16,
    /// The name of the group of processes within the owner; [`GROUP`] if absent. A Pod of the owner that runs
    /// the container of no group counts as a member that does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How the host authenticates; if absent, it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsRef>,
    /// The object at which the chain of controllers of a member ends; the object reconciled if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerRef>,
    /// Settings that snapshots show in addition to [`SETTINGS_SHOWN`]; at most [`SETTINGS_MAX`], each of at most
    /// [`SETTING_NAME_BYTES_MAX`] bytes. A setting that the host's table of readable settings does not have, such as
    /// a password, is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
}

/// The most instances of one object that the host polls at a time, for its wakes and its waits together. An
/// object has one instance for each kind of its processes, and Redis has two kinds (servers and Sentinels).
pub const INSTANCES_PER_OBJECT_MAX: usize = 8;

/// The most settings that one instance names, also in all wake triggers of an outcome together. Each poll of the
/// instance reads them from each member.
pub const SETTINGS_MAX: usize = 64;

/// The longest name of a setting, in bytes. The longest one of Redis has 40.
pub const SETTING_NAME_BYTES_MAX: usize = 64;

/// The group of an instance that names no group.
pub const GROUP: &str = "servers";

impl Instance {
    /// Returns the name of the group of processes.
    #[must_use]
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(GROUP)
    }
}

/// The settings that every snapshot shows.
pub const SETTINGS_SHOWN: &[&str] = &[
    "appendonly",
    "cluster-allow-replica-migration",
    "cluster-announce-ip",
    "cluster-node-timeout",
    "cluster-require-full-coverage",
    "maxmemory",
    "repl-diskless-sync-delay",
    "save",
];

/// The key of a Secret that holds the password. The Secret is in the namespace of the object reconciled.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialsRef {
    /// The Secret's name.
    pub secret: String,
    /// The key within the Secret.
    pub key: String,
    /// The ACL user; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// The object that the members belong to, in the instance's namespace.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerRef {
    /// Such as `redis.tholepin.dev/v1alpha1`.
    pub api_version: String,
    /// Such as `RedisCluster`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_read_and_written() {
        let text = r#"{"namespace":"default","selector":"app=demo","container":"redis","port":7000,"credentials":{"secret":"demo","key":"password"}}"#;
        let instance: Instance = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&instance).unwrap(), text);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text =
            r#"{"namespace":"a","selector":"b","container":"c","port":1,"address":"1.2.3.4"}"#;
        let error = serde_json::from_str::<Instance>(text).unwrap_err();
        assert!(alloc::format!("{error}").contains("address"), "{error}");
    }
}
