//! Which settings of the engine a spec may give, and which the plugin gives itself.
//!
//! One table answers for validation, messages and documentation. A setting that is in no table is
//! refused: a typing error must not be found by a crashing server.

mod kind;
mod table;
mod value;

use alloc::string::String;

use tholepin_schema::primitives::nearest;

pub use kind::SettingKind;
pub use table::{MANAGED, ManagedSetting, OFFERED, OfferedSetting};
pub use value::SettingValue;

/// The most of a refused value that a message repeats, in characters.
const VALUE_CHARS_SHOWN: usize = 80;

/// Checks one setting of a spec.
///
/// # Errors
///
/// Fails with what is wrong and what to do instead.
pub fn check(name: &str, value: &str) -> Result<(), SettingError> {
    if let Some(managed) = MANAGED.iter().find(|managed| managed.covers(name)) {
        return Err(SettingError::Managed { way_out: managed.way_out });
    }
    let Some(offered) = offered(name) else {
        return Err(SettingError::Unknown { similar: similar(name) });
    };
    // A line break would start a line of its own in `redis.conf`, with any setting in it.
    if value.chars().any(char::is_control) {
        return Err(SettingError::ControlCharacter);
    }
    if offered.kind.accepts(value) {
        Ok(())
    } else {
        let value = value.chars().take(VALUE_CHARS_SHOWN).collect();
        Err(SettingError::Value { value, wants: offered.kind })
    }
}

/// The value of an offered setting as `CONFIG GET` shows it; none where the engine writes it in more
/// than one way, or if the setting is not offered.
#[must_use]
pub fn as_shown(name: &str, value: &str) -> Option<String> {
    offered(name)?.kind.as_shown(value)
}

fn offered(name: &str) -> Option<&'static OfferedSetting> {
    OFFERED.iter().find(|offered| offered.name == name)
}

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingError {
    /// No such setting is offered.
    Unknown {
        /// The offered name that is most like it, if one is.
        similar: Option<&'static str>,
    },
    /// The plugin gives it itself.
    Managed {
        /// What to do instead.
        way_out: &'static str,
    },
    /// The value has a line break or the like.
    ControlCharacter,
    /// The engine would not take the value.
    Value {
        /// The value, or how it begins.
        value: String,
        /// What it should be.
        wants: SettingKind,
    },
}

impl core::fmt::Display for SettingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unknown { similar: Some(similar) } => {
                write!(f, "is no setting that can be given here; did you mean `{similar}`?")
            }
            Self::Unknown { similar: None } => f.write_str(
                "is no setting that can be given here; remove it (`kubectl explain \
                 rediscluster.spec.settings`)",
            ),
            Self::Managed { way_out } => write!(f, "is managed by Tholepin: {way_out}"),
            Self::ControlCharacter => f.write_str("must not contain control characters"),
            Self::Value { value, wants } => write!(f, "cannot be `{value}`: it must be {wants}"),
        }
    }
}

impl core::error::Error for SettingError {}

/// The offered name that a wrong one was probably meant to be.
fn similar(name: &str) -> Option<&'static str> {
    nearest(name, OFFERED.iter().map(|offered| offered.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn offered_settings_take_values_of_their_kind() {
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
            // Each of these stopped a server at its next start, or let it start with another value.
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
                matches!(check(name, value), Err(SettingError::Value { .. })),
                "{name} {value}"
            );
        }
    }

    #[test]
    fn a_refusal_names_the_way_out() {
        let cases = [
            ("port", "6380", "`.spec.port`"),
            ("requirepass", "x", "`.spec.auth`"),
            ("cluster-announce-hostname", "x", "managed"),
            ("tls-port", "1", "not served yet"),
            ("maxmemory-polcy", "noeviction", "did you mean `maxmemory-policy`?"),
            ("foo", "1", "given here; remove it"),
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
