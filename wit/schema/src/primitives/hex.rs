//! Identifiers that Redis generates at random: 20 bytes, written as 40 hex digits.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HexIdError {
    /// It does not have 40 characters.
    #[error("an id has 40 hex digits, not {0} characters")]
    Length(usize),
    /// It contains a character that is not a hex digit.
    #[error("an id consists of hex digits only")]
    Digit,
}

/// The 20 bytes behind every identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RedisHexIdBytes([u8; 20]);

impl RedisHexIdBytes {
    fn parse(text: &str) -> Result<Self, HexIdError> {
        let digits = text.as_bytes();
        if digits.len() != 40 {
            return Err(HexIdError::Length(digits.len()));
        }
        let mut bytes = [0; 20];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                *byte = (*byte << 4) | nibble(*digit).ok_or(HexIdError::Digit)?;
            }
        }
        Ok(Self(bytes))
    }
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for RedisHexIdBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Parses an identifier from a JSON string without allocating.
struct HexIdVisitor<T>(core::marker::PhantomData<T>);

impl<T: FromStr<Err = HexIdError>> de::Visitor<'_> for HexIdVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("40 hex digits")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(RedisHexIdBytes);

        impl FromStr for $name {
            type Err = HexIdError;

            fn from_str(text: &str) -> Result<Self, HexIdError> {
                RedisHexIdBytes::parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(HexIdVisitor(core::marker::PhantomData))
            }
        }
    };
}

hex_id! {
    /// The id of a Redis Cluster node, which the node generated itself (`CLUSTER MYID`).
    ///
    /// A node keeps it across restarts and address changes as long as it keeps its `nodes.conf`. Plans
    /// therefore name nodes by id and never by address.
    NodeId
}
hex_id! {
    /// The id of one Redis process (`run_id` of `INFO server`); new at each start.
    RunId
}
hex_id! {
    /// The id of one history of writes (`master_replid`); a primary and its in-sync replicas have the same
    /// id.
    ReplicationId
}

impl NodeId {
    /// Returns the first eight digits, for messages to people.
    #[must_use]
    pub fn short(&self) -> alloc::string::String {
        alloc::format!("{self}").chars().take(8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_id_is_written_as_it_was_parsed() {
        let text = "07c37dfeb235213a872192d90877d0cd55635b91";
        let id: NodeId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
    }

    #[test]
    fn an_invalid_id_is_refused() {
        assert_eq!("abc".parse::<NodeId>(), Err(HexIdError::Length(3)));
        assert_eq!("g".repeat(40).parse::<NodeId>(), Err(HexIdError::Digit));
        assert!(serde_json::from_str::<RunId>("\"\"").is_err());
        assert!(serde_json::from_str::<RunId>("7").is_err());
    }
}
