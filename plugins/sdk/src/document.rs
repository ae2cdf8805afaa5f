//! JSON documents that the host returned, parsed only on demand.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;

/// A document that the host returned, not yet parsed. Parsing is the most expensive part of a reconcile, and
/// plugins seldom read the result of a write.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonDocument(TextOrParsedDocument);

#[derive(Clone, Debug, PartialEq)]
enum TextOrParsedDocument {
    /// JSON text, as the host passed it.
    Text(String),
    /// A parsed value, as tests and recordings contain it.
    Value(Value),
}

impl JsonDocument {
    /// Returns a document of JSON text, as the contract passes it.
    #[must_use]
    pub const fn text(text: String) -> Self {
        Self(TextOrParsedDocument::Text(text))
    }

    /// Parses the document without a type.
    ///
    /// # Errors
    ///
    /// [`Error::Other`] if the host's text is not JSON.
    pub fn value(self) -> Result<Value, Error> {
        match self.0 {
            TextOrParsedDocument::Text(text) => serde_json::from_str(&text).map_err(parse_error),
            TextOrParsedDocument::Value(value) => Ok(value),
        }
    }

    /// Parses the document as a type.
    ///
    /// # Errors
    ///
    /// [`Error::Other`] if the document does not fit the type.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        // Always parses from text, also in tests: parsing from a `Value` would add code to every component.
        let text = match self.0 {
            TextOrParsedDocument::Text(text) => text,
            TextOrParsedDocument::Value(value) => value.to_string(),
        };
        serde_json::from_str(&text).map_err(parse_error)
    }
}

impl From<Value> for JsonDocument {
    fn from(value: Value) -> Self {
        Self(TextOrParsedDocument::Value(value))
    }
}

fn parse_error(error: serde_json::Error) -> Error {
    Error::Other(format!("the host's answer cannot be parsed: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_parse_alike() {
        let value = json!({"number": 7});
        for document in [JsonDocument::text(value.to_string()), value.clone().into()] {
            assert_eq!(document.clone().value(), Ok(value.clone()));
            let number: Result<std::collections::BTreeMap<String, u8>, _> = document.clone().read();
            assert_eq!(number, Ok([("number".to_owned(), 7)].into()));
            let wrong: Result<Vec<u8>, _> = document.read();
            assert!(matches!(wrong, Err(Error::Other(text)) if text.contains("cannot be parsed")));
        }
        assert!(matches!(JsonDocument::text("{".to_owned()).value(), Err(Error::Other(_))));
    }
}
