//! The value of a setting: a string, which a manifest may also write as a whole number.

use alloc::string::{String, ToString};
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A value that a manifest writes as `100` or as `"100"`.
///
/// It always serializes as a string.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RedisSettingValue(pub String);

impl RedisSettingValue {
    /// Returns the value as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RedisSettingValue {
    fn from(text: &str) -> Self {
        Self(text.to_string())
    }
}

impl fmt::Display for RedisSettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RedisSettingValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RedisSettingValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SettingValueVisitor)
    }
}

struct SettingValueVisitor;

impl de::Visitor<'_> for SettingValueVisitor {
    type Value = RedisSettingValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or a whole number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<RedisSettingValue, E> {
        Ok(RedisSettingValue(text.to_string()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<RedisSettingValue, E> {
        Ok(RedisSettingValue(number.to_string()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<RedisSettingValue, E> {
        Ok(RedisSettingValue(number.to_string()))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for RedisSettingValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "SettingValue".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"x-kubernetes-int-or-string": true})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_string_are_equal() {
        for text in ["\"100\"", "100"] {
            let value: RedisSettingValue = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), "\"100\"", "{text}");
        }
        assert!(serde_json::from_str::<RedisSettingValue>("true").is_err());
    }
}
