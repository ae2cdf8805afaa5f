//! Names of the ConfigMaps and Secrets that the host keeps for an object, and that no plugin reaches.
//!
//! A reserved object carries the kind and the uid of the object that it is about, never its name: an
//! object that was deleted and made anew under the same name starts without one.
//!
//! Invariants:
//! - No grant covers a reserved name: the gate refuses it for every verb, whatever the scope.
//! - The reserved object has the object that it is about as its owner, so that it goes with it.

use alloc::{format, string::String};

use crate::manifest::KindName;

/// The key of the password in a reserved Secret of [`ReservedPurpose::Credentials`]; an empty value means that
/// there is none.
pub const CREDENTIALS_KEY: &str = "password";

/// What every reserved name begins with.
pub const PREFIX: &str = "tholepin-";

/// What the name of a ledger ended with before names carried a kind and a uid. Still reserved: a host
/// takes such a ledger over, so that no plugin may have written it.
pub const OLD_LEDGER_SUFFIX: &str = "-ledger";

/// The annotation by which the host tells a process that waits in its Pod that it may start: the id of the
/// node that it was, a slash, and the host's time in milliseconds since 1970. A process takes one that is
/// not older than its own start.
pub const MAY_START: &str = "tholepin.dev/may-start";

/// The annotation on an object by which a person gives up the data that only these processes had: for each
/// the id of its node, a slash and its run id; separated by commas.
pub const APPROVE_DATA_LOSS: &str = "tholepin.dev/approve-data-loss";

/// What a reserved object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReservedPurpose {
    /// The ConfigMap of the ledger: which process was which node.
    Ledger,
    /// The ConfigMap of the last spec that the plugin accepted.
    AcceptedSpec,
    /// The Secret that the Pods read their password from.
    Credentials,
}

impl ReservedPurpose {
    /// The purpose as it stands in the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::AcceptedSpec => "accepted",
            Self::Credentials => "credentials",
        }
    }
}

/// The name of the reserved object of this purpose for the object with this kind and uid:
/// `tholepin-ledger-rediscluster-4c3f…`. A valid name for every kind that an API server accepts.
#[must_use]
pub fn name(purpose: ReservedPurpose, kind: &str, uid: &str) -> String {
    format!("{PREFIX}{}-{}-{uid}", purpose.as_str(), kind.to_ascii_lowercase())
}

/// Whether an object of this kind and name is the host's alone.
#[must_use]
pub fn is_reserved(kind: &KindName, name: &str) -> bool {
    let is_map = kind.kind == "ConfigMap";
    let is_kept = (is_map || kind.kind == "Secret") && kind.group().is_empty();
    is_kept && (name.starts_with(PREFIX) || is_map && name.ends_with(OLD_LEDGER_SUFFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_config_maps_and_secrets_with_the_prefix_are_reserved() {
        let kind = |api_version: &str, kind: &str| KindName {
            api_version: api_version.into(),
            kind: kind.into(),
        };
        let ledger = name(ReservedPurpose::Ledger, "RedisCluster", "4c3f");
        assert_eq!(ledger, "tholepin-ledger-rediscluster-4c3f");
        let rows = [
            (kind("v1", "ConfigMap"), ledger.as_str(), true),
            (kind("v1", "Secret"), "tholepin-credentials-rediscluster-4c3f", true),
            (kind("v1", "ConfigMap"), "demo-ledger", true),
            (kind("v1", "Secret"), "demo-ledger", false),
            (kind("v1", "Service"), ledger.as_str(), false),
            (kind("example.dev/v1", "ConfigMap"), ledger.as_str(), false),
            (kind("v1", "ConfigMap"), "demo-config", false),
        ];
        for (kind, name, reserved) in rows {
            assert_eq!(is_reserved(&kind, name), reserved, "{kind} {name}");
        }
    }
}
