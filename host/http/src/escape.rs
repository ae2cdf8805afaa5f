//! Percent-encoding in URLs.
//!
//! Malformed escapes are refused. `percent-encoding` keeps them as they are, and `form_urlencoded` also replaces
//! invalid UTF-8.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The characters that are escaped in a query: all except letters, digits and `-._~`.
const ESCAPED_IN_QUERY: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes a name or value of a query.
#[must_use]
pub fn encode_query(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED_IN_QUERY).to_string()
}

/// Decodes a path. Returns `None` if an escape is malformed or the result is not UTF-8.
#[must_use]
pub fn decode_path(text: &str) -> Option<String> {
    let is_well_formed = |position: usize| {
        let digits = text.as_bytes().get(position + 1..position + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.match_indices('%').all(|(position, _)| is_well_formed(position)) {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// Decodes a name or value of a query, in which `+` means a space. Fails as [`decode_path`].
#[must_use]
pub fn decode_query(text: &str) -> Option<String> {
    decode_path(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_or_refused() {
        let rows = [
            ("a%2Fb", Some("a/b")),
            ("a+b%2b", Some("a b+")),
            ("%C3%bc", Some("ü")),
            ("", Some("")),
            ("%", None),
            ("%2", None),
            ("%zz", None),
            ("%+1", None),
            ("%%31", None),
            ("%ü", None),
            ("%ff", None),
        ];
        for (text, expected) in rows {
            assert_eq!(decode_query(text).as_deref(), expected, "{text}");
        }
        assert_eq!(decode_path("%2B+").as_deref(), Some("++"));
    }
}
