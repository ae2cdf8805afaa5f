//! Reserved names: of the ConfigMaps and Secrets that the host keeps for an object and that no plugin can
//! access, and of two annotations about data loss and starts.
//!
//! The name of a reserved object contains the kind and the uid of the object that it belongs to, never its
//! name. An object that was deleted and created again under the same name therefore starts without one.
//!
//! Invariants:
//! - No grant covers a reserved name: the gate refuses it for every verb, whatever the scope.
//! - A reserved object is owned by the object that it belongs to, so Kubernetes deletes it with its owner.

use alloc::{format, string::String};

use crate::manifest::KindName;

/// The key of the password in a reserved Secret of [`ReservedObjectPurpose::Credentials`]; an empty value means
/// that there is no password.
pub const CREDENTIALS_KEY: &str = "password";

/// The prefix of every reserved name.
pub const PREFIX: &str = "tholepin-";

/// The suffix of a ledger's name before names contained a kind and a uid. Still reserved: the host takes over
/// such a ledger, so no plugin may be able to write it.
pub const OLD_LEDGER_SUFFIX: &str = "-ledger";

/// The annotation with which the host lets a waiting process in a Pod start: the id of the node that the
/// process was, a slash, and the host's time in milliseconds since 1970. A process ignores an annotation that
/// is older than its own start.
pub const MAY_START: &str = "tholepin.dev/may-start";

/// The annotation with which a person approves the loss of data that only certain processes had: for each
/// process its node id, a slash and its run id; several are separated by commas or spaces.
pub const APPROVE_DATA_LOSS: &str = "tholepin.dev/approve-data-loss";

/// The purpose of a reserved object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReservedObjectPurpose {
    /// The ConfigMap of the ledger, which records which process was which node.
    Ledger,
    /// The ConfigMap with the last spec that the plugin accepted.
    AcceptedSpec,
    /// The Secret from which the Pods read their password.
    Credentials,
}

impl ReservedObjectPurpose {
    /// Returns the purpose as it is written in a name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::AcceptedSpec => "accepted",
            Self::Credentials => "credentials",
        }
    }
}

/// Returns the name of the reserved object with this purpose for the object with this kind and uid:
/// `tholepin-ledger-rediscluster-4c3f…`. Valid for every kind that an API server accepts.
#[must_use]
pub fn name(purpose: ReservedObjectPurpose, kind: &str, uid: &str) -> String {
    format!("{PREFIX}{}-{}-{uid}", purpose.as_str(), kind.to_ascii_lowercase())
}

/// Returns true if only the host may access an object of this kind and name.
#[must_use]
pub fn is_reserved(kind: &KindName, name: &str) -> bool {
    let is_map = kind.kind == "ConfigMap";
    let is_map_or_secret = (is_map || kind.kind == "Secret") && kind.group().is_empty();
    is_map_or_secret && (name.starts_with(PREFIX) || is_map && name.ends_with(OLD_LEDGER_SUFFIX))
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
        let ledger = name(ReservedObjectPurpose::Ledger, "RedisCluster", "4c3f");
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
