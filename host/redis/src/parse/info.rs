//! Parses `INFO`.
//!
//! Source of the fields: <https://redis.io/docs/latest/commands/info/>.

use std::{collections::BTreeMap, str::FromStr};

use tholepin_schema::{
    primitives::{ReplicationId, Role},
    snapshot::{AttachedReplica, Replication, Upstream},
};

use super::RedisReplyParseError;

/// The fields of an `INFO` reply by name.
#[derive(Clone, Debug, Default)]
pub struct InfoFields<'a> {
    fields: BTreeMap<&'a str, &'a str>,
}

/// Parses a reply to `INFO`. Ignores section titles and lines without a colon.
#[must_use]
pub fn info(text: &str) -> InfoFields<'_> {
    let fields = text.lines().filter(|line| !line.starts_with('#'));
    InfoFields { fields: fields.filter_map(|line| line.split_once(':')).collect() }
}

impl<'a> InfoFields<'a> {
    /// Returns the text of a field.
    ///
    /// # Errors
    ///
    /// Fails if the field is missing.
    pub fn text(&self, field: &'static str) -> Result<&'a str, RedisReplyParseError> {
        self.fields.get(field).copied().ok_or(RedisReplyParseError::Missing(field))
    }

    /// Parses a field as a number or an identifier.
    ///
    /// # Errors
    ///
    /// Fails if the field is missing or cannot be parsed.
    pub fn number<T: FromStr>(&self, field: &'static str) -> Result<T, RedisReplyParseError> {
        let value = self.text(field)?;
        value.parse().map_err(|_| RedisReplyParseError::Value { field, value: value.to_owned() })
    }

    /// Parses a field that is `1` or `0`.
    ///
    /// # Errors
    ///
    /// Fails if the field is missing or has another value.
    pub fn flag(&self, field: &'static str) -> Result<bool, RedisReplyParseError> {
        match self.text(field)? {
            "1" => Ok(true),
            "0" => Ok(false),
            value => Err(RedisReplyParseError::Value { field, value: value.to_owned() }),
        }
    }

    /// Parses the role.
    ///
    /// # Errors
    ///
    /// Fails if the field is missing or has another value than `master` or `slave`.
    pub fn role(&self) -> Result<Role, RedisReplyParseError> {
        match self.text("role")? {
            "master" => Ok(Role::Primary),
            "slave" => Ok(Role::Replica),
            value => Err(RedisReplyParseError::Value { field: "role", value: value.to_owned() }),
        }
    }

    /// Parses the replication state.
    ///
    /// The offset of a replica is `slave_repl_offset` and not `slave_read_repl_offset`, which also counts bytes that
    /// were received but not yet applied.
    ///
    /// # Errors
    ///
    /// Fails if a field is missing or has an invalid value.
    pub fn replication(&self) -> Result<Replication, RedisReplyParseError> {
        let previous: ReplicationId = self.number("master_replid2")?;
        let is_none = previous.to_string().bytes().all(|digit| digit == b'0');
        let (offset_bytes, upstream) = match self.role()? {
            Role::Primary => (self.number("master_repl_offset")?, None),
            Role::Replica | Role::Other => {
                (self.number("slave_repl_offset")?, Some(self.upstream()?))
            }
        };
        Ok(Replication {
            id: self.number("master_replid")?,
            previous_id: (!is_none).then_some(previous),
            offset_bytes,
            upstream,
            replicas: self.attached_replicas()?,
        })
    }

    fn upstream(&self) -> Result<Upstream, RedisReplyParseError> {
        let link_up = match self.text("master_link_status")? {
            "up" => true,
            "down" => false,
            value => {
                let value = value.to_owned();
                return Err(RedisReplyParseError::Value { field: "master_link_status", value });
            }
        };
        let count = |field| self.number::<i64>(field).map(|number| u64::try_from(number).ok());
        Ok(Upstream {
            address: format!(
                "{}:{}",
                self.text("master_host")?,
                self.number::<u16>("master_port")?
            ),
            link_up,
            sync_in_progress: self.flag("master_sync_in_progress")?,
            // -1 means that the primary has not started to send.
            sync_read_bytes: count("master_sync_read_bytes").ok().flatten(),
            // -1 means never.
            last_io_s: count("master_last_io_seconds_ago")?,
            down_since_s: if link_up { None } else { count("master_link_down_since_seconds")? },
        })
    }

    /// Parses the fields such as `slave0:ip=127.0.0.1,port=7001,state=online,offset=42,lag=0`.
    fn attached_replicas(&self) -> Result<Vec<AttachedReplica>, RedisReplyParseError> {
        let numbered = |name: &str| {
            let number = name.strip_prefix("slave").unwrap_or_default();
            !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
        };
        let lines = self.fields.iter().filter(|(name, _)| numbered(name));
        let mut replicas: Vec<_> =
            lines.map(|(_, line)| attached_replica(line)).collect::<Result<_, _>>()?;
        replicas.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(replicas)
    }
}

fn attached_replica(line: &str) -> Result<AttachedReplica, RedisReplyParseError> {
    let invalid = || RedisReplyParseError::Value { field: "slaveN", value: line.to_owned() };
    let parts: BTreeMap<&str, &str> =
        line.split(',').filter_map(|part| part.split_once('=')).collect();
    let part = |name| parts.get(name).copied().ok_or_else(invalid);
    let lag: i64 = part("lag")?.parse().map_err(|_| invalid())?;
    Ok(AttachedReplica {
        address: format!("{}:{}", part("ip")?, part("port")?),
        state: part("state")?.to_owned(),
        offset_bytes: part("offset")?.parse().map_err(|_| invalid())?,
        // -1 means that the replica has not acknowledged yet.
        lag_s: u64::try_from(lag).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: &str = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
        slave0:ip=127.26.0.5,port=7000,state=online,offset=980,lag=1\r\n\
        slave1:ip=127.26.0.4,port=7000,state=wait_bgsave,offset=0,lag=-1\r\n\
        master_failover_state:no-failover\r\nmaster_replid:8ab94aa2c8cba3a28a8c2e0c1b3a1c7e1e4e7d7a\r\n\
        master_replid2:0000000000000000000000000000000000000000\r\nmaster_repl_offset:1000\r\n";
    const REPLICA: &str = "role:slave\r\nmaster_host:127.26.0.1\r\nmaster_port:7000\r\n\
        master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\nmaster_sync_in_progress:1\r\n\
        slave_read_repl_offset:980\r\nslave_repl_offset:970\r\nmaster_link_down_since_seconds:7\r\n\
        slave_priority:100\r\nconnected_slaves:0\r\n\
        master_replid:8ab94aa2c8cba3a28a8c2e0c1b3a1c7e1e4e7d7a\r\n\
        master_replid2:1111111111111111111111111111111111111111\r\nmaster_repl_offset:970\r\n";

    #[test]
    fn a_primary_has_attached_replicas() {
        let replication = info(PRIMARY).replication().unwrap();
        assert_eq!(
            (replication.offset_bytes, replication.previous_id, replication.upstream),
            (1_000, None, None)
        );
        let [late, online] = &replication.replicas[..] else {
            panic!("{:?}", replication.replicas)
        };
        assert_eq!((online.address.as_str(), online.lag_s), ("127.26.0.5:7000", Some(1)));
        assert_eq!((late.state.as_str(), late.lag_s), ("wait_bgsave", None));
    }

    #[test]
    fn the_offset_of_a_replica_is_what_it_has_applied() {
        let replication = info(REPLICA).replication().unwrap();
        assert_eq!(replication.offset_bytes, 970);
        assert!(replication.previous_id.is_some());
        let upstream = replication.upstream.unwrap();
        assert_eq!(upstream.address, "127.26.0.1:7000");
        assert_eq!((upstream.link_up, upstream.sync_in_progress), (false, true));
        assert_eq!((upstream.last_io_s, upstream.down_since_s), (None, Some(7)));
    }

    #[test]
    fn a_missing_or_invalid_field_is_an_error() {
        let cases = [
            (PRIMARY.replace("role:master", "role:sentinel"), "role"),
            (PRIMARY.replace("master_repl_offset:1000\r\n", ""), "master_repl_offset"),
            (PRIMARY.replace(",lag=1", ""), "slaveN"),
            (REPLICA.replace(":down", ":sideways"), "master_link_status"),
            (REPLICA.replace("master_port:7000", "master_port:x"), "master_port"),
        ];
        for (text, field) in cases {
            let error = info(&text).replication().unwrap_err();
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
    }
}
