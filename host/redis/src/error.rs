//! What Redis' errors mean, by the code that they begin with. The one place that looks at it.
//!
//! The text after the code changes between versions and is for people only.

use tholepin_core::{CallError, RespNode, RespReply};

/// What an error reply says, by its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Credentials are missing, wrong or do not suffice: `NOAUTH`, `WRONGPASS`, `NOPERM`.
    Auth,
    /// It will pass by itself: `LOADING`, `CLUSTERDOWN`, `TRYAGAIN`, `MASTERDOWN`, `BUSY`,
    /// `NOREPLICAS`.
    Passing,
    /// The key is elsewhere: `MOVED`, `ASK`.
    Elsewhere,
    /// Writes are refused for want of room, of disk or of the role: `OOM`, `MISCONF`, `READONLY`.
    Unwritable,
    /// Anything else, `ERR` among it: this command with these arguments will not work.
    Refused,
}

/// Classifies the text of an error reply (without the leading `-`).
#[must_use]
pub fn classify(text: &str) -> ErrorKind {
    match text.split(' ').next().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => ErrorKind::Auth,
        "LOADING" | "CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN" | "BUSY" | "NOREPLICAS" => {
            ErrorKind::Passing
        }
        "MOVED" | "ASK" => ErrorKind::Elsewhere,
        "OOM" | "MISCONF" | "READONLY" => ErrorKind::Unwritable,
        _ => ErrorKind::Refused,
    }
}

/// An error reply as the error of a call. `what` says whose reply to which command it is.
#[must_use]
pub fn call_error(what: &str, text: &str) -> CallError {
    let kind = classify(text);
    let text = format!("{what}: {text}");
    match kind {
        ErrorKind::Auth => CallError::Denied(text),
        ErrorKind::Passing | ErrorKind::Unwritable => CallError::Transient(text),
        ErrorKind::Elsewhere => CallError::Conflict(text),
        ErrorKind::Refused => CallError::Refused(text),
    }
}

/// The text of a reply that is an error.
#[must_use]
pub fn error_text(reply: &RespReply) -> Option<&str> {
    match reply.nodes.first() {
        Some(RespNode::Error(text)) => Some(text),
        _ => None,
    }
}

/// The text of a reply that is one string.
///
/// # Errors
///
/// Fails with the error that the reply is, or if it is no text.
pub fn text(reply: &RespReply) -> Result<&str, String> {
    match reply.nodes.first() {
        Some(RespNode::Bulk(bytes)) => {
            str::from_utf8(bytes).map_err(|_| "the reply is no UTF-8 text".to_owned())
        }
        Some(RespNode::Status(text)) => Ok(text),
        Some(RespNode::Error(text)) => Err(text.clone()),
        _ => Err("the reply is no text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_known_by_their_code() {
        let cases = [
            ("NOAUTH Authentication required.", "Denied"),
            ("WRONGPASS invalid", "Denied"),
            ("LOADING Redis is loading the dataset in memory", "Transient"),
            ("CLUSTERDOWN Hash slot not served", "Transient"),
            ("MOVED 3999 127.0.0.1:6381", "Conflict"),
            ("READONLY You can't write", "Transient"),
            ("ERR LOADING is no code here", "Refused"),
            ("", "Refused"),
        ];
        for (text, reason) in cases {
            assert_eq!(call_error("demo-0: GET", text).reason(), reason, "{text}");
        }
    }
}
