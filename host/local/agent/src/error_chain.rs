//! Formats an error with its causes on one line: `outer: middle: root`.
//!
//! This repeats `ErrorChain` of `tholepin-core`, which the crates of the local host must not depend on (R3).

use std::error::Error;

/// Returns the text of `error` and of each of its causes. A cause that the text already contains is left out,
/// because some libraries repeat their cause in their own text.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = source.source();
    }
    text
}
