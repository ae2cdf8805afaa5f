//! Classifies the error replies of Redis by the code at their beginning. No other module does so.
//!
//! The text after the code differs between versions and is never matched.

use tholepin_core::{CallError, RespNode, RespReply};

/// The class of an error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisErrorClass {
    /// The credentials are missing, wrong or not sufficient: `NOAUTH`, `WRONGPASS`, `NOPERM`.
    Auth,
    /// The error is temporary: `LOADING`, `CLUSTERDOWN`, `TRYAGAIN`, `MASTERDOWN`, `BUSY`, `NOREPLICAS`.
    Passing,
    /// Another node owns the slot: `MOVED`, `ASK`.
    Elsewhere,
    /// Writes are refused because memory is full, the disk fails or the node is a replica: `OOM`, `MISCONF`,
    /// `READONLY`.
    Unwritable,
    /// Any other code, such as `ERR`: this command with these arguments fails.
    Refused,
}

/// Classifies the text of an error reply (without the leading `-`).
#[must_use]
pub fn classify(text: &str) -> RedisErrorClass {
    match text.split(' ').next().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => RedisErrorClass::Auth,
        "LOADING" | "CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN" | "BUSY" | "NOREPLICAS" => {
            RedisErrorClass::Passing
        }
        "MOVED" | "ASK" => RedisErrorClass::Elsewhere,
        "OOM" | "MISCONF" | "READONLY" => RedisErrorClass::Unwritable,
        _ => RedisErrorClass::Refused,
    }
}

/// Converts an error reply to the error of a call. `what` names the member and the command.
#[must_use]
pub fn call_error(what: &str, text: &str) -> CallError {
    let kind = classify(text);
    let text = format!("{what}: {text}");
    match kind {
        RedisErrorClass::Auth => CallError::Denied(text),
        RedisErrorClass::Passing | RedisErrorClass::Unwritable => CallError::Transient(text),
        RedisErrorClass::Elsewhere => CallError::Conflict(text),
        RedisErrorClass::Refused => CallError::Refused(text),
    }
}

/// Returns the text of an error reply; absent if the reply is not an error.
#[must_use]
pub fn error_text(reply: &RespReply) -> Option<&str> {
    match reply.nodes.first() {
        Some(RespNode::Error(text)) => Some(text),
        _ => None,
    }
}

/// Returns the text of a reply that is a string.
///
/// # Errors
///
/// Fails with the text of an error reply, or if the reply is not a string.
pub fn text(reply: &RespReply) -> Result<&str, String> {
    match reply.nodes.first() {
        Some(RespNode::Bulk(bytes)) => {
            str::from_utf8(bytes).map_err(|_| "the reply is not UTF-8 text".to_owned())
        }
        Some(RespNode::Status(text)) => Ok(text),
        Some(RespNode::Error(text)) => Err(text.clone()),
        _ => Err("the reply is not a string".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_their_code() {
        let cases = [
            ("NOAUTH Authentication required.", "Denied"),
            ("WRONGPASS invalid", "Denied"),
            ("LOADING Redis is loading the dataset in memory", "Transient"),
            ("CLUSTERDOWN Hash slot not served", "Transient"),
            ("MOVED 3999 127.0.0.1:6381", "Conflict"),
            ("READONLY You can't write", "Transient"),
            ("ERR LOADING is not the code here", "Refused"),
            ("", "Refused"),
        ];
        for (text, reason) in cases {
            assert_eq!(call_error("demo-0: GET", text).reason(), reason, "{text}");
        }
    }
}
