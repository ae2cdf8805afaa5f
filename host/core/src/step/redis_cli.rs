//! Formats a command in the syntax of redis-cli.
//!
//! In this crate because steps hold commands as text, in JSON documents too: Redis and the gate both make steps.

use std::fmt::Write;

/// The longest argument that is shown whole.
const ARGUMENT_BYTES_MAX: usize = 128;

/// Returns a command as one line for redis-cli: arguments with white space, quotes or non-ASCII bytes are quoted. A
/// long argument is cut and marked as cut.
#[must_use]
pub fn redis_cli<A: AsRef<[u8]>>(arguments: &[A]) -> String {
    let arguments: Vec<String> =
        arguments.iter().map(|argument| shortened(argument.as_ref())).collect();
    arguments.join(" ")
}

fn shortened(argument: &[u8]) -> String {
    match argument.get(..ARGUMENT_BYTES_MAX) {
        Some(start) if start.len() < argument.len() => {
            format!("{}…({} bytes)", quoted(start), argument.len())
        }
        _ => quoted(argument),
    }
}

fn quoted(argument: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    if !argument.is_empty() && argument.iter().all(is_plain) {
        return String::from_utf8_lossy(argument).into_owned();
    }
    let mut text = String::from("\"");
    for byte in argument {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b' '..=b'~' => text.push(char::from(*byte)),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            // Writing to a string does not fail.
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted() {
        let cases: [(&[&[u8]], &str); 4] = [
            (&[b"CLUSTER", b"NODES"], "CLUSTER NODES"),
            (&[b"SET", b"my key", b"a\"b\\"], r#"SET "my key" "a\"b\\""#),
            (&[b"SET", b"", b"\xff\n"], r#"SET "" "\xff\n""#),
            (&[b"GET", b"it's"], r#"GET "it's""#),
        ];
        for (arguments, text) in cases {
            assert_eq!(redis_cli(arguments), text);
        }
        let long = redis_cli(&[vec![b'x'; 1000]]);
        assert!(long.len() < 160 && long.ends_with("…(1000 bytes)"), "{long}");
    }
}
