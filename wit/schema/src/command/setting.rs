//! Settings: the check of those that a plugin reads, and those that the verb `configure` may change at run time.

use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};

use super::{CommandRefused, readable};

/// Checks that every name is in the table of readable settings. A pattern is in no table.
pub(super) fn check_readable(names: &[Vec<u8>]) -> Result<(), CommandRefused> {
    for name in names {
        let name = String::from_utf8_lossy(name).to_lowercase();
        if !readable::is_readable(&name) {
            return Err(CommandRefused::Setting(name));
        }
    }
    Ok(())
}

/// A setting that the verb `configure` may change while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisRuntimeSetting {
    /// The setting's name.
    pub name: &'static str,
    /// The allowed values.
    pub values: RedisSettingAllowedValues,
}

/// The values that a setting may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisSettingAllowedValues {
    /// `yes` or `no`.
    YesNo,
    /// A decimal number from `min` to `max`, both included.
    Number {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// The member's own address, compared with the address of its Pod.
    OwnAddress,
}

/// The settings that `configure` may change, in ascending order of name. None of them can by itself lose
/// data, open or close access, or stop the server.
///
/// Low values of `cluster-node-timeout` and `repl-diskless-sync-delay` make forming a cluster ten times
/// faster. `cluster-announce-ip` repairs a node that shows clients an old address.
pub const RUNTIME_SETTINGS: &[RedisRuntimeSetting] = &[
    yes_no("activedefrag"),
    yes_no("cluster-allow-replica-migration"),
    RedisRuntimeSetting {
        name: "cluster-announce-ip",
        values: RedisSettingAllowedValues::OwnAddress,
    },
    number("cluster-node-timeout", 250, 300_000),
    yes_no("cluster-replica-no-failover"),
    number("cluster-replica-validity-factor", 0, i32::MAX as i64),
    yes_no("cluster-require-full-coverage"),
    number("latency-monitor-threshold", 0, i64::MAX),
    number("repl-backlog-size", 16_384, 1 << 36),
    number("repl-diskless-sync-delay", 0, 60),
    number("slowlog-log-slower-than", -1, i64::MAX),
    number("slowlog-max-len", 0, 1_000_000),
];

const fn number(name: &'static str, min: i64, max: i64) -> RedisRuntimeSetting {
    RedisRuntimeSetting { name, values: RedisSettingAllowedValues::Number { min, max } }
}

const fn yes_no(name: &'static str) -> RedisRuntimeSetting {
    RedisRuntimeSetting { name, values: RedisSettingAllowedValues::YesNo }
}

/// Why settings cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureSettingError {
    /// No setting is named.
    #[error("name at least one setting")]
    Empty,
    /// The table does not contain the setting.
    #[error("the setting `{0}` cannot be changed at run time by `configure`")]
    NotInTable(String),
    /// The value is not allowed.
    #[error("the setting `{name}` cannot be `{value}`: {expected}")]
    Value {
        /// The setting.
        name: String,
        /// The value requested.
        value: String,
        /// The allowed values.
        expected: String,
    },
}

/// Checks that `configure` may change all these settings to these values. `own_address` is the IP address of
/// the Pod.
///
/// # Errors
///
/// Fails with the first setting that must not be changed to its value.
pub fn check_settings(
    settings: &BTreeMap<String, String>,
    own_address: Option<&str>,
) -> Result<(), ConfigureSettingError> {
    if settings.is_empty() {
        return Err(ConfigureSettingError::Empty);
    }
    for (name, value) in settings {
        let found = RUNTIME_SETTINGS.iter().find(|setting| setting.name == name);
        let setting = found.ok_or_else(|| ConfigureSettingError::NotInTable(name.clone()))?;
        let expected = match setting.values {
            RedisSettingAllowedValues::YesNo if value == "yes" || value == "no" => continue,
            RedisSettingAllowedValues::YesNo => "it must be `yes` or `no`".to_string(),
            RedisSettingAllowedValues::Number { min, max } => {
                let digits = value.strip_prefix('-').unwrap_or(value);
                let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
                match value.parse() {
                    Ok(number) if plain && min <= number && number <= max => continue,
                    _ => alloc::format!("it must be a number from {min} to {max}"),
                }
            }
            RedisSettingAllowedValues::OwnAddress if Some(value.as_str()) == own_address => {
                continue;
            }
            RedisSettingAllowedValues::OwnAddress => match own_address {
                Some(address) => alloc::format!("the Pod's address is {address}"),
                None => "the Pod has no address".to_string(),
            },
        };
        return Err(ConfigureSettingError::Value {
            name: name.clone(),
            value: value.clone(),
            expected,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<(), ConfigureSettingError> {
        check_settings(&[(name.to_string(), value.to_string())].into(), Some("10.0.0.7"))
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(RUNTIME_SETTINGS.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn values_are_checked() {
        let cases = [
            ("cluster-node-timeout", "500", true),
            ("cluster-node-timeout", "10", false),
            ("cluster-node-timeout", "+500", false),
            ("cluster-node-timeout", "", false),
            ("cluster-node-timeout", "-500", false),
            ("slowlog-log-slower-than", "-1", true),
            ("slowlog-log-slower-than", "-2", false),
            ("cluster-allow-replica-migration", "no", true),
            ("cluster-allow-replica-migration", "off", false),
            ("cluster-announce-ip", "10.0.0.7", true),
            ("cluster-announce-ip", "10.0.0.8", false),
            ("requirepass", "x", false),
            ("dir", "/etc", false),
        ];
        for (name, value, allowed) in cases {
            assert_eq!(check(name, value).is_ok(), allowed, "{name} {value}");
        }
        assert_eq!(check_settings(&BTreeMap::new(), None), Err(ConfigureSettingError::Empty));
    }
}
