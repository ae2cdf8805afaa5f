//! Converts each import of the contract to a [`Call`](tholepin_core::Call), and each answer to the contract's
//! types.
//!
//! These modules convert, check sizes and count bytes, and do nothing else. Every conversion names every case,
//! so that a case added on one side does not compile until the other side has it.

mod kubernetes;
mod redis;
mod runtime;

use std::io;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tholepin_core::{Answer, CallError, Reply, size};

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
        self.spend_bytes(size::json_text(text))?;
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
        let mut room = ANSWER_BYTES_MAX;
        let mut texts = Vec::with_capacity(documents.len());
        for document in &documents {
            let text = to_bounded_text(document, room)?;
            room -= text.len();
            texts.push(text);
        }
        self.transferred.count_into_guest(ANSWER_BYTES_MAX - room);
        Ok(texts)
    }

    fn bounded(&mut self, document: &Value) -> Result<String, Error> {
        let text = to_bounded_text(document, ANSWER_BYTES_MAX)?;
        self.transferred.count_into_guest(text.len());
        Ok(text)
    }

    /// Counts an answer of this size, or refuses it if it is larger than [`ANSWER_BYTES_MAX`].
    fn check_size(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes <= ANSWER_BYTES_MAX {
            self.transferred.count_into_guest(bytes);
            return Ok(());
        }
        Err(too_large())
    }
}

fn too_large() -> Error {
    Error::Invalid(format!(
        "the answer has more than {ANSWER_BYTES_MAX} bytes; request fewer fields or fewer objects"
    ))
}

/// Serializes a document of at most `bytes_max` bytes. A longer text is not made.
fn to_bounded_text(document: &Value, bytes_max: usize) -> Result<String, Error> {
    let mut writer = BoundedWriter { bytes: Vec::new(), bytes_max };
    serde_json::to_writer(&mut writer, document).map_err(|_| too_large())?;
    String::from_utf8(writer.bytes).map_err(|_| too_large())
}

/// A writer that fails on more bytes than its bound.
struct BoundedWriter {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl io::Write for BoundedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes_max < self.bytes.len() + bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
    use std::sync::Arc;

    use super::*;
    use crate::{GuestLimits, state::GuestCallContext};
    use tholepin_core::{BoxedFuture, Call, HostCalls, PluginCallerIdentity, RevisionDigest};

    /// Has this many bytes in all, and performs nothing.
    struct BoundedCalls(usize);

    impl HostCalls for BoundedCalls {
        fn perform<'a>(&'a self, _: &'a PluginCallerIdentity, _: Call) -> BoxedFuture<'a, Answer> {
            Box::pin(async { Ok(Reply::Done) })
        }

        fn spend_bytes(&self, bytes: usize) -> Result<(), CallError> {
            if bytes <= self.0 { Ok(()) } else { Err(CallError::Throttled(1000)) }
        }
    }

    fn state(host_calls: Option<BoundedCalls>) -> GuestState {
        let context = host_calls.map(|host_calls| GuestCallContext {
            context: PluginCallerIdentity {
                plugin: "p".parse().unwrap(),
                revision: RevisionDigest("r".into()),
                object: None,
            },
            host_calls: Arc::new(host_calls),
        });
        GuestState::new("p".to_owned(), context, "reconcile", GuestLimits::default())
    }

    #[test]
    fn an_argument_is_spent_as_parsed_and_before_it_is_parsed() {
        let mut state = state(Some(BoundedCalls(100_000)));
        let maps = |count| format!("[{}0]", r#"{"":0},"#.repeat(count));
        assert!(state.parse_argument::<Value>("object", &maps(100)).is_ok());
        // 7 KB of text. It ends in the middle, which only a parser notices.
        for text in [maps(1000), maps(1000).replace(']', "")] {
            let refused = state.parse_argument::<Value>("object", &text);
            assert!(matches!(refused, Err(Error::Throttled(1000))), "{refused:?}");
        }
    }

    #[test]
    fn arguments_of_calls_that_are_denied_anyway_are_bounded() {
        let mut state = state(None);
        let text = format!("[{}0]", r#"{"":0},"#.repeat(1000));
        let parsed =
            (0..100).take_while(|_| state.parse_argument::<Value>("object", &text).is_ok());
        assert!((1..10).contains(&parsed.count()));
    }

    #[test]
    fn documents_share_the_bound_of_an_answer() {
        let mut state = state(None);
        let half = || Value::from("x".repeat(ANSWER_BYTES_MAX / 2 - 2));
        assert!(state.documents(Ok(Reply::Documents(vec![half(), half()]))).is_ok());
        assert_eq!(state.transferred.into_guest, ANSWER_BYTES_MAX);
        let more = state.documents(Ok(Reply::Documents(vec![half(), half(), Value::Null])));
        assert!(matches!(more, Err(Error::Invalid(_))), "{more:?}");
    }

    #[test]
    fn an_answer_that_is_too_large_is_refused_with_a_fix() {
        let mut state = state(None);
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
