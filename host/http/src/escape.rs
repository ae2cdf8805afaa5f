//! Percent-encoding in URLs.

/// Decodes a path. Returns `None` if an escape is malformed or the result is not UTF-8.
#[must_use]
pub fn decode_path(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        // `from_str_radix` accepts a sign, which an escape cannot have.
        let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
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
            ("%ff", None),
        ];
        for (text, expected) in rows {
            assert_eq!(decode_query(text).as_deref(), expected, "{text}");
        }
        assert_eq!(decode_path("%2B+").as_deref(), Some("++"));
    }
}
