//! Names and keys. They are parsed and checked when they enter the host.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use tholepin_schema::manifest::KindName;

/// A plugin's name: a DNS label, also the name of its `Plugin` object and of its file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PluginName(
    // Invariant: a DNS-1123 label of at most 63 characters.
    String,
);

/// A text that is no plugin name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no plugin name: use at most 63 lowercase letters, digits and `-`, with a letter or \
     digit at both ends"
)]
pub struct PluginNameError(String);

impl PluginName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PluginName {
    type Err = PluginNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(allowed)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if valid { Ok(Self(text.to_owned())) } else { Err(PluginNameError(text.to_owned())) }
    }
}

impl TryFrom<String> for PluginName {
    type Error = PluginNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PluginName> for String {
    fn from(name: PluginName) -> Self {
        name.0
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of an object in the queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileKey {
    /// The plugin that reconciles it.
    pub plugin: PluginName,
    /// Its kind.
    pub kind: KindName,
    /// Its namespace; empty for a cluster-scoped object.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ReconcileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugin: _, kind, namespace, name } = self;
        write!(f, "{} {namespace}/{name}", kind.kind)
    }
}

/// The name of one revision of a plugin: the SHA-256 of its component and its settings, in hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
pub struct RevisionDigest(pub String);

impl RevisionDigest {
    /// Returns the first 12 digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for RevisionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_name_is_a_dns_label() {
        for name in ["a", "redis-cluster", "x9"] {
            assert_eq!(name.parse::<PluginName>().map(String::from).as_deref(), Ok(name));
        }
        let long = "a".repeat(64);
        for name in ["", "-a", "a-", "A", "a.b", "a/b", "ä", long.as_str()] {
            assert!(name.parse::<PluginName>().is_err(), "{name}");
        }
    }
}
