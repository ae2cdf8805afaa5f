//! The server settings that a spec may contain, and those that the plugin sets itself.
//!
//! Validation, messages and documentation use the same tables. A setting that is in no table is refused, so
//! that a typing error is found before a server crashes on it.

mod kind;
mod table;
mod value;

use alloc::string::String;

use tholepin_schema::primitives::nearest;

pub use kind::RedisSettingType;
pub use table::{MANAGED, ManagedSetting, OFFERED, SupportedSetting};
pub use value::RedisSettingValue;

/// The most characters of a refused value that a message repeats.
const VALUE_CHARS_SHOWN: usize = 80;

/// Checks one setting of a spec.
///
/// # Errors
///
/// Fails with the problem and the way to fix it.
pub fn check(name: &str, value: &str) -> Result<(), RedisClusterSettingError> {
    if let Some(managed) = MANAGED.iter().find(|managed| managed.covers(name)) {
        return Err(RedisClusterSettingError::Managed { fix: managed.fix });
    }
    let Some(offered) = offered(name) else {
        return Err(RedisClusterSettingError::Unknown { similar: similar(name) });
    };
    // A line break would start a new line in `redis.conf`, which could contain any setting.
    if value.chars().any(char::is_control) {
        return Err(RedisClusterSettingError::ControlCharacter);
    }
    if offered.kind.accepts(value) {
        Ok(())
    } else {
        let value = value.chars().take(VALUE_CHARS_SHOWN).collect();
        Err(RedisClusterSettingError::Value { value, expected: offered.kind })
    }
}

/// Returns the value of an offered setting in the form that `CONFIG GET` returns; `None` if the setting is
/// not offered, or if servers write the value in more than one form.
#[must_use]
pub fn as_shown(name: &str, value: &str) -> Option<String> {
    offered(name)?.kind.as_shown(value)
}

fn offered(name: &str) -> Option<&'static SupportedSetting> {
    OFFERED.iter().find(|offered| offered.name == name)
}

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisClusterSettingError {
    /// The setting is not offered.
    Unknown {
        /// The offered name that is most similar, if there is one.
        similar: Option<&'static str>,
    },
    /// The plugin sets it itself.
    Managed {
        /// How to fix it.
        fix: &'static str,
    },
    /// The value contains a line break or another control character.
    ControlCharacter,
    /// The server would not accept the value.
    Value {
        /// The value, or its beginning.
        value: String,
        /// The values that are accepted.
        expected: RedisSettingType,
    },
}

impl core::fmt::Display for RedisClusterSettingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unknown { similar: Some(similar) } => {
                write!(f, "is not a setting that can be used here; did you mean `{similar}`?")
            }
            Self::Unknown { similar: None } => f.write_str(
                "is not a setting that can be used here; remove it, or use one that `kubectl explain \
                 rediscluster.spec.settings` lists",
            ),
            Self::Managed { fix } => write!(f, "is managed by Tholepin: {fix}"),
            Self::ControlCharacter => f.write_str("must not contain control characters"),
            Self::Value { value, expected } => {
                write!(f, "cannot be `{value}`: it must be {expected}")
            }
        }
    }
}

impl core::error::Error for RedisClusterSettingError {}

/// Returns the offered name that a misspelt name probably means.
fn similar(name: &str) -> Option<&'static str> {
    nearest(name, OFFERED.iter().map(|offered| offered.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn every_offered_setting_can_be_read_from_a_server() {
        for offered in OFFERED {
            let command = ["CONFIG", "GET", offered.name].map(|word| word.as_bytes().to_vec());
            assert!(tholepin_schema::command::check(&command).is_ok(), "{}", offered.name);
        }
    }

    #[test]
    fn offered_settings_accept_values_of_their_kind() {
        let good = [
            ("maxmemory", "100mb"),
            ("maxmemory", "0"),
            ("maxmemory-policy", "allkeys-lru"),
            ("slowlog-log-slower-than", "-1"),
            ("appendfsync", "always"),
            ("client-output-buffer-limit", "replica 256mb 64mb 60"),
            ("client-output-buffer-limit", "normal 0 0 0 slave 1gb 1mb 5 pubsub 1k 1k 0"),
            ("notify-keyspace-events", ""),
            ("notify-keyspace-events", "KEg$lshzxetdmnA"),
            ("repl-backlog-size", "16kb"),
            ("repl-backlog-size", "64gb"),
            ("proto-max-bulk-len", "1mb"),
            ("maxclients", "1048544"),
        ];
        for (name, value) in good {
            assert_eq!(check(name, value), Ok(()), "{name} {value}");
        }
        let bad = [
            ("maxmemory", "lots"),
            ("maxmemory", "10 mb"),
            ("maxmemory-policy", "lru"),
            ("maxclients", "0"),
            ("maxclients", ""),
            ("activedefrag", "true"),
            ("hz", "+5"),
            ("hz", "010"),
            // Each of these values stopped a server at its next start, or made it start with another value.
            ("client-output-buffer-limit", "lots"),
            ("client-output-buffer-limit", ""),
            ("client-output-buffer-limit", "replica 256mb 64mb"),
            ("client-output-buffer-limit", "master 0 0 0"),
            ("client-output-buffer-limit", "replica 1x 64mb 60"),
            ("client-output-buffer-limit", "replica 1mb 64mb -1"),
            ("client-output-buffer-limit", "replica 1mb 64mb 2147483648"),
            ("notify-keyspace-events", "hello"),
            ("repl-backlog-size", "0"),
            ("repl-backlog-size", "16383"),
            ("repl-backlog-size", "65gb"),
            ("proto-max-bulk-len", "1kb"),
            ("maxclients", "2147483647"),
            ("maxmemory", "99999999999gb"),
        ];
        for (name, value) in bad {
            assert!(
                matches!(check(name, value), Err(RedisClusterSettingError::Value { .. })),
                "{name} {value}"
            );
        }
    }

    #[test]
    fn a_refusal_names_the_fix() {
        let cases = [
            ("port", "6380", "`.spec.port`"),
            ("requirepass", "x", "`.spec.auth`"),
            ("cluster-announce-hostname", "x", "managed"),
            ("tls-port", "1", "not supported yet"),
            ("maxmemory-polcy", "noeviction", "did you mean `maxmemory-policy`?"),
            ("foo", "1", "used here; remove it"),
            ("frobnicate", "1", "remove it"),
            ("maxclients", "many", "cannot be `many`: it must be a whole number from 1 to 1048544"),
            ("repl-backlog-size", "0", "cannot be `0`: it must be a number of bytes"),
            ("notify-keyspace-events", "E\nrequirepass x", "control characters"),
        ];
        for (name, value, expected) in cases {
            let error = check(name, value).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }

    #[test]
    fn the_tables_are_sorted_and_disjoint() {
        assert!(OFFERED.is_sorted_by(|a, b| a.name < b.name));
        assert!(MANAGED.is_sorted_by(|a, b| a.name < b.name));
        for offered in OFFERED {
            assert!(
                !MANAGED.iter().any(|managed| managed.covers(offered.name)),
                "{}",
                offered.name
            );
        }
    }
}
