//! Writes a command as redis-cli takes it.

use std::fmt::Write;

/// The longest argument that is shown whole.
const ARGUMENT_BYTES_MAX: usize = 128;

/// A command as one line that redis-cli takes: words with white space, quotes or bytes that are no text
/// are quoted. A long argument is cut, and says so.
#[must_use]
pub fn redis_cli<W: AsRef<[u8]>>(words: &[W]) -> String {
    let words: Vec<String> = words.iter().map(|word| shown(word.as_ref())).collect();
    words.join(" ")
}

fn shown(word: &[u8]) -> String {
    match word.get(..ARGUMENT_BYTES_MAX) {
        Some(start) if start.len() < word.len() => {
            format!("{}…({} bytes)", quoted(start), word.len())
        }
        _ => quoted(word),
    }
}

fn quoted(word: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    if !word.is_empty() && word.iter().all(is_plain) {
        return String::from_utf8_lossy(word).into_owned();
    }
    let mut text = String::from("\"");
    for byte in word {
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
        for (words, text) in cases {
            assert_eq!(redis_cli(words), text);
        }
        let long = redis_cli(&[vec![b'x'; 1000]]);
        assert!(long.len() < 160 && long.ends_with("…(1000 bytes)"), "{long}");
    }
}
