//! Names a group of Redis processes and how to reach them.
//!
//! An instance holds a name of a secret, never a secret, and a rule of membership, never an address:
//! the host resolves both anew for each call.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// One Redis Cluster (or primary with replicas): its members are the Pods in `namespace` whose chain of
/// controllers ends at `owner`, and those that the ledger knows. `selector` chooses which of them a
/// snapshot shows; guards, adoption and the ledger always see all of them.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// Where the Pods are.
    pub namespace: String,
    /// A label selector as kubectl writes it (`app=demo,tier in (a,b)`); never empty.
    pub selector: String,
    /// The container that runs the server. The first use of a group fixes it.
    pub container: String,
    /// The port that the server listens on. The first use of a group fixes it.
    pub port: u16,
    /// Which of the owner's groups of processes this is; [`GROUP`] if absent. A Pod of the owner that
    /// runs the container of no group counts as a member that does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How the host authenticates; without it, not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsRef>,
    /// The object at which a member's chain of controllers ends; the object reconciled if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerRef>,
    /// Settings that snapshots show beside the usual ones ([`SETTINGS_SHOWN`]); none that holds a
    /// secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
}

/// The group of an instance that names none.
pub const GROUP: &str = "servers";

impl Instance {
    /// The name of the group of processes.
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

/// Where a password is kept: in a Secret in the namespace of the object reconciled.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialsRef {
    /// The Secret's name.
    pub secret: String,
    /// The key of the password in it.
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
