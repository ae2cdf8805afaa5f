//! Parses `CLUSTER INFO`: a node's view of the state of the cluster.

use tholepin_schema::{primitives::ConfigEpoch, snapshot::ClusterInfo};

use super::{
    RedisReplyParseError,
    info::{InfoFields, info},
};

/// Parses a reply to `CLUSTER INFO`. Source of the fields:
/// <https://redis.io/docs/latest/commands/cluster-info/>.
///
/// # Errors
///
/// Fails if a field is missing or has an invalid value.
pub fn cluster_info(text: &str) -> Result<ClusterInfo, RedisReplyParseError> {
    let fields: InfoFields<'_> = info(text);
    let ok = match fields.text("cluster_state")? {
        "ok" => true,
        "fail" => false,
        other => {
            return Err(RedisReplyParseError::Value {
                field: "cluster_state",
                value: other.to_owned(),
            });
        }
    };
    Ok(ClusterInfo {
        ok,
        known_nodes: fields.number("cluster_known_nodes")?,
        size: fields.number("cluster_size")?,
        current_epoch: fields.number("cluster_current_epoch")?,
        epoch: ConfigEpoch(fields.number("cluster_my_epoch")?),
        slots_assigned: fields.number("cluster_slots_assigned")?,
        slots_ok: fields.number("cluster_slots_ok")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\n\
        cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:6\r\ncluster_size:3\r\n\
        cluster_current_epoch:6\r\ncluster_my_epoch:2\r\n";

    #[test]
    fn the_state_is_parsed() {
        let facts = cluster_info(TEXT).unwrap();
        assert!(facts.ok);
        assert_eq!((facts.known_nodes, facts.size, facts.current_epoch), (6, 3, 6));
        assert_eq!((facts.epoch, facts.slots_assigned), (ConfigEpoch(2), 16_384));
        assert!(!cluster_info(&TEXT.replace(":ok", ":fail")).unwrap().ok);
    }

    #[test]
    fn a_missing_or_invalid_field_is_an_error() {
        let missing = TEXT.replace("cluster_size", "cluster_girth");
        assert_eq!(cluster_info(&missing), Err(RedisReplyParseError::Missing("cluster_size")));
        for invalid in [TEXT.replace(":ok", ":well"), TEXT.replace(":6", ":-6")] {
            assert!(
                matches!(cluster_info(&invalid), Err(RedisReplyParseError::Value { .. })),
                "{invalid}"
            );
        }
    }
}
