//! The names of all objects that are created for one RedisCluster, and the position for a Pod's name.
//!
//! No name contains a role, because roles change.

use alloc::{format, string::String};

use crate::layout::MemberPosition;

/// The names of the objects of one RedisCluster.
#[derive(Clone, Copy, Debug)]
pub struct RedisClusterObjectNames<'a> {
    /// The name of the RedisCluster.
    pub cluster: &'a str,
}

impl RedisClusterObjectNames<'_> {
    /// Returns the name of the Service for clients.
    #[must_use]
    pub fn client_service(&self) -> String {
        String::from(self.cluster)
    }

    /// Returns the name of the headless Service, which gives each Pod a DNS name.
    #[must_use]
    pub fn headless_service(&self) -> String {
        format!("{}-nodes", self.cluster)
    }

    /// Returns the name of the ConfigMap for one revision of the files that only a restart can change:
    /// `redis.conf` and the scripts.
    #[must_use]
    pub fn revision(&self, hash: u64) -> String {
        format!("{}-config-{hash:016x}", self.cluster)
    }

    /// Returns true if a ConfigMap is such a revision. Earlier versions of the plugin created a single one,
    /// without a hash.
    #[must_use]
    pub fn is_revision(&self, config_map: &str) -> bool {
        let rest =
            config_map.strip_prefix(self.cluster).and_then(|rest| rest.strip_prefix("-config"));
        rest.is_some_and(|rest| {
            let hash = rest.strip_prefix('-').unwrap_or_default();
            let digits =
                |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            rest.is_empty() || hash.len() == 16 && digits(hash)
        })
    }

    /// Returns the name of the ConfigMap with the settings that running servers have accepted.
    #[must_use]
    pub fn runtime_config(&self) -> String {
        format!("{}-live", self.cluster)
    }

    /// Returns the name of a shard, which is also that of its StatefulSet.
    #[must_use]
    pub fn shard(&self, shard: u16) -> String {
        format!("{}-shard-{shard}", self.cluster)
    }

    /// Returns the name of the Pod at a position.
    #[must_use]
    pub fn pod(&self, position: MemberPosition) -> String {
        format!("{}-{}", self.shard(position.shard), position.ordinal)
    }

    /// Returns the position of a Pod; `None` for a name that this type does not create.
    #[must_use]
    pub fn position(&self, pod: &str) -> Option<MemberPosition> {
        let rest = pod.strip_prefix(self.cluster)?.strip_prefix("-shard-")?;
        let (shard, ordinal) = rest.split_once('-')?;
        let position =
            MemberPosition { shard: shard.parse().ok()?, ordinal: ordinal.parse().ok()? };
        // `007` parses as a number, but such a name is not created here.
        (self.pod(position) == pod).then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_name_maps_to_its_position() {
        let names = RedisClusterObjectNames { cluster: "demo" };
        let position = MemberPosition { shard: 2, ordinal: 11 };
        assert_eq!(names.pod(position), "demo-shard-2-11");
        assert_eq!(names.position("demo-shard-2-11"), Some(position));
        for other in
            ["demo-2-11", "demox-shard-2-1", "demo-shard-2", "demo-shard-02-1", "demo-shard--1-0"]
        {
            assert_eq!(names.position(other), None, "{other}");
        }
    }

    #[test]
    fn a_revision_is_recognised_by_its_name() {
        let names = RedisClusterObjectNames { cluster: "demo" };
        assert_eq!(names.revision(255), "demo-config-00000000000000ff");
        assert!(names.is_revision(&names.revision(u64::MAX)) && names.is_revision("demo-config"));
        for other in [
            "demo-live",
            "demo-config-x",
            "demo-config-00ff",
            "demo-configs",
            "demo-config-",
            "other-config-00000000000000ff",
        ] {
            assert!(!names.is_revision(other), "{other}");
        }
    }
}
