//! A JSON document that the host gave, read by whoever needs it.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;

/// What the host answered, unread: reading costs more than all else in a pass, and what a write answers
/// is seldom looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Document(DocumentForm);

#[derive(Clone, Debug, PartialEq)]
enum DocumentForm {
    /// As it crossed the border.
    Text(String),
    /// As a test or a recording has it.
    Value(Value),
}

impl Document {
    /// A document as the contract has it: JSON as text.
    #[must_use]
    pub const fn text(text: String) -> Self {
        Self(DocumentForm::Text(text))
    }

    /// Reads it without a schema.
    ///
    /// # Errors
    ///
    /// [`Error::Other`] if the host gave no JSON.
    pub fn value(self) -> Result<Value, Error> {
        match self.0 {
            DocumentForm::Text(text) => serde_json::from_str(&text).map_err(unreadable),
            DocumentForm::Value(value) => Ok(value),
        }
    }

    /// Reads it as a type.
    ///
    /// # Errors
    ///
    /// [`Error::Other`] if it is none of that type.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        // One way of reading a type, also in tests: a second one would be code in every component.
        let text = match self.0 {
            DocumentForm::Text(text) => text,
            DocumentForm::Value(value) => value.to_string(),
        };
        serde_json::from_str(&text).map_err(unreadable)
    }
}

impl From<Value> for Document {
    fn from(value: Value) -> Self {
        Self(DocumentForm::Value(value))
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Other(format!("the host's answer cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_read_alike() {
        let value = json!({"number": 7});
        for document in [Document::text(value.to_string()), value.clone().into()] {
            assert_eq!(document.clone().value(), Ok(value.clone()));
            let number: Result<std::collections::BTreeMap<String, u8>, _> = document.clone().read();
            assert_eq!(number, Ok([("number".to_owned(), 7)].into()));
            let wrong: Result<Vec<u8>, _> = document.read();
            assert!(matches!(wrong, Err(Error::Other(text)) if text.contains("cannot be read")));
        }
        assert!(matches!(Document::text("{".to_owned()).value(), Err(Error::Other(_))));
    }
}
