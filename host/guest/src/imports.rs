//! Converts each import of the contract to a [`Call`](tholepin_core::Call), and each answer to the contract's
//! types.
//!
//! These modules convert, check sizes and count bytes, and do nothing else. Every conversion names every case,
//! so that a case added on one side does not compile until the other side has it.

mod kubernetes;
mod redis;
mod runtime;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tholepin_core::{Answer, CallError, Reply};

use crate::{
    bindings::tholepin::types::types::{self, Error},
    limits::ANSWER_BYTES_MAX,
    state::GuestState,
};

impl types::Host for GuestState {}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotFound(text) => Self::NotFound(text),
            CallError::Conflict(text) => Self::Conflict(text),
            CallError::Denied(text) => Self::Denied(text),
            CallError::Refused(text) => Self::Refused(text),
            CallError::Busy(text) => Self::Busy(text),
            CallError::NeedsApproval(text) => Self::NeedsApproval(text),
            CallError::Timeout(text) => Self::Timeout(text),
            CallError::Gone(text) => Self::Gone(text),
            CallError::Interrupted => Self::Interrupted,
            CallError::Throttled(ms) => Self::Throttled(ms),
            CallError::Transient(text) => Self::Transient(text),
            CallError::Invalid(text) => Self::Invalid(text),
            CallError::Unsupported(text) => Self::Unsupported(text),
            CallError::PlanEnds(text) => Self::PlanEnds(text),
            CallError::Other(text) => Self::Other(text),
        }
    }
}

/// Documents passed between host and guest are parsed, checked for size and counted here.
impl GuestState {
    /// Parses a JSON argument.
    fn parse_argument<T: DeserializeOwned>(&mut self, what: &str, text: &str) -> Result<T, Error> {
        self.transferred.count_out_of_guest(text.len());
        serde_json::from_str(text).map_err(|error| Error::Invalid(format!("`{what}`: {error}")))
    }

    /// Converts the answer to a call that returns one document.
    fn document(&mut self, answer: Answer) -> Result<String, Error> {
        let Reply::Document(document) = answer? else {
            return Err(wrong_type("a document"));
        };
        self.bounded(&document)
    }

    /// Converts the answer to a call that returns several documents.
    fn documents(&mut self, answer: Answer) -> Result<Vec<String>, Error> {
        let Reply::Documents(documents) = answer? else {
            return Err(wrong_type("documents"));
        };
        let texts: Vec<String> = documents.iter().map(to_text).collect();
        self.check_size(texts.iter().map(String::len).sum())?;
        Ok(texts)
    }

    fn bounded(&mut self, document: &Value) -> Result<String, Error> {
        let text = to_text(document);
        self.check_size(text.len())?;
        Ok(text)
    }

    /// Counts an answer of this size, or refuses it if it is larger than [`ANSWER_BYTES_MAX`].
    fn check_size(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes <= ANSWER_BYTES_MAX {
            self.transferred.count_into_guest(bytes);
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "the answer has {bytes} bytes, more than {ANSWER_BYTES_MAX}; request fewer fields or fewer objects"
        )))
    }
}

/// Serializes a document. This cannot fail because the keys of a JSON value are strings.
pub(crate) fn to_text(document: &Value) -> String {
    serde_json::to_string(document).unwrap_or_default()
}

/// Converts the answer to a call that returns nothing.
fn done(answer: Answer) -> Result<(), Error> {
    let Reply::Done = answer? else {
        return Err(wrong_type("nothing"));
    };
    Ok(())
}

/// Returns the error for an answer of the wrong type, which is a bug in the implementation of `HostCalls`.
fn wrong_type(expected: &str) -> Error {
    Error::Other(format!("the host's answer has the wrong type: it is not {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GuestLimits;

    #[test]
    fn an_answer_that_is_too_large_is_refused_with_a_fix() {
        let mut state = GuestState::new("p".to_owned(), None, "reconcile", GuestLimits::default());
        let mut document_of =
            |bytes: usize| state.document(Ok(Reply::Document(Value::from("x".repeat(bytes)))));
        assert!(document_of(ANSWER_BYTES_MAX - 2).is_ok());
        let Err(Error::Invalid(text)) = document_of(ANSWER_BYTES_MAX) else {
            panic!("must be refused")
        };
        assert!(text.contains("fewer fields"), "{text}");
        assert_eq!(
            state.transferred.into_guest, ANSWER_BYTES_MAX,
            "a refused answer is not counted"
        );
    }
}
