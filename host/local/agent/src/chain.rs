//! Prints an error with its causes on one line: `outer: middle: root`.

use std::error::Error;

/// The text of `error` and of each of its causes; a cause that is already in the text is left out,
/// because some libraries repeat it themselves.
pub(crate) fn chain(error: &dyn Error) -> String {
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
