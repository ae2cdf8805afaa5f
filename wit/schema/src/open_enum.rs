//! Enums in documents from the host to a plugin, with a last case `Other` for what a later host names.
//!
//! A plugin that was built before a case existed reads it as `Other` and does not lose the rest of the document. A
//! known case with a wrong content stays an error. Enums of plain words use `#[serde(other)]`, which cannot skip a
//! content.

use alloc::string::String;
use core::{fmt, marker::PhantomData};

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, IntoDeserializer, MapAccess,
    VariantAccess, Visitor, value::StrDeserializer,
};

/// An enum that reads an unknown case as its last one.
pub(crate) trait OpenEnum<'de>: Sized {
    /// The names of the known cases in JSON.
    const NAMES: &'static [&'static str];

    /// Reads a known case.
    fn known<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;

    /// Returns the case for everything else.
    fn other() -> Self;
}

/// Implements reading and writing for an enum with a case `Other` that derives both with `#[serde(remote = "Self")]`.
macro_rules! open_enum {
    ($type:ident: $($name:literal),+) => {
        impl<'de> $crate::open_enum::OpenEnum<'de> for $type {
            const NAMES: &'static [&'static str] = &[$($name),+];

            fn known<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::deserialize(deserializer)
            }

            fn other() -> Self {
                Self::Other
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::open_enum::deserialize(deserializer)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }
    };
}
pub(crate) use open_enum;

/// Reads an open enum: a word, or a map with the case's name as its only key.
pub(crate) fn deserialize<'de, T: OpenEnum<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(CaseVisitor(PhantomData))
}

struct CaseVisitor<T>(PhantomData<T>);

impl<'de, T: OpenEnum<'de>> Visitor<'de> for CaseVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {}", T::NAMES.join(", "))
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<T, E> {
        if !T::NAMES.contains(&name) {
            return Ok(T::other());
        }
        let word: StrDeserializer<'_, E> = name.into_deserializer();
        T::known(word)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let Some(name) = map.next_key::<String>()? else {
            return Err(serde::de::Error::invalid_length(0, &self));
        };
        let case = if T::NAMES.contains(&name.as_str()) {
            T::known(NamedContent { name, map: &mut map })?
        } else {
            map.next_value::<IgnoredAny>()?;
            T::other()
        };
        match map.next_key::<IgnoredAny>()? {
            None => Ok(case),
            Some(_) => Err(serde::de::Error::invalid_length(2, &"one case")),
        }
    }
}

/// A case whose name was read already, with the map that holds its content.
struct NamedContent<'a, A> {
    name: String,
    map: &'a mut A,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for NamedContent<'_, A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, 'a, A: MapAccess<'de>> EnumAccess<'de> for NamedContent<'a, A> {
    type Error = A::Error;
    type Variant = Content<'a, A>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Content<'a, A>), A::Error> {
        let name: StrDeserializer<'_, A::Error> = self.name.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, Content { map: self.map }))
    }
}

/// The content of a case.
struct Content<'a, A> {
    map: &'a mut A,
}

impl<'de, A: MapAccess<'de>> VariantAccess<'de> for Content<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.map.next_value()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(ContentSeed(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(ContentSeed(visitor))
    }
}

struct ContentSeed<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for ContentSeed<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(self.0)
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use serde_json::{Value, json};

    use crate::{
        action::{ActionOutcome, ActionResult},
        fact::{FactCheckOutcome, WaitOutcome},
        primitives::Role,
        probe::NetworkProbeOutcome,
        snapshot::{MemberAnswer, NodeFlag, UnreachableReason},
    };

    #[test]
    fn a_case_of_a_later_host_is_read_as_other() {
        let later =
            [json!("later"), json!({"later": {"a": [1, {"b": null}]}}), json!({"later": 1})];
        for value in later {
            let text = format!("{value}");
            assert_eq!(serde_json::from_str::<ActionOutcome>(&text).unwrap(), ActionOutcome::Other);
            assert_eq!(serde_json::from_str::<WaitOutcome>(&text).unwrap(), WaitOutcome::Other);
            let held = serde_json::from_str::<FactCheckOutcome>(&text).unwrap();
            assert_eq!(held, FactCheckOutcome::Other);
            let probed = serde_json::from_str::<NetworkProbeOutcome>(&text).unwrap();
            assert_eq!(probed, NetworkProbeOutcome::Other);
            assert_eq!(serde_json::from_str::<MemberAnswer>(&text).unwrap(), MemberAnswer::Other);
        }
        assert_eq!(serde_json::from_str::<Role>("\"later\"").unwrap(), Role::Other);
        assert_eq!(serde_json::from_str::<NodeFlag>("\"later\"").unwrap(), NodeFlag::Other);
        let reason = serde_json::from_str::<UnreachableReason>("\"later\"").unwrap();
        assert_eq!(reason, UnreachableReason::Other);
    }

    #[test]
    fn the_rest_of_the_document_is_kept() {
        let text = r#"[{"id": "a", "outcome": {"later": {}}}, {"id": "b", "outcome": {"skipped": {"after": "a"}}}]"#;
        let results: alloc::vec::Vec<ActionResult> = serde_json::from_str(text).unwrap();
        assert_eq!(results[0].outcome, ActionOutcome::Other);
        assert_eq!(results[1].outcome, ActionOutcome::Skipped { after: "a".into() });
    }

    #[test]
    fn a_known_case_is_read_as_before_and_its_faults_are_errors() {
        for (text, fault) in [
            (r#"{"done": {"tookMs": 1}}"#, "note"),
            (r#"{"done": 1}"#, "invalid type"),
            (r#"{"done": {"tookMs": 1, "note": ""}, "refused": {}}"#, "invalid length"),
            ("{}", "invalid length"),
            ("1", "one of done"),
        ] {
            let error = format!("{}", serde_json::from_str::<ActionOutcome>(text).unwrap_err());
            assert!(error.contains(fault), "{text}: {error}");
        }
        let values: [Value; 4] = [
            json!({"done": {"tookMs": 1, "note": "n"}}),
            json!({"refused": {"guard": "g", "message": "m"}}),
            json!({"failed": {"reason": "r", "message": "m", "mayHaveRun": true}}),
            json!("other"),
        ];
        for value in values {
            let read: ActionOutcome = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), value);
        }
        let yes: FactCheckOutcome = serde_json::from_str("\"yes\"").unwrap();
        assert_eq!(yes, FactCheckOutcome::Yes);
    }
}
