//! Reads a URL's query string. It knows no parameter by name.

use std::collections::BTreeMap;

use crate::status::Failure;

/// Decoded parameters; of a repeated one the first counts, as in Kubernetes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    values: BTreeMap<String, Vec<String>>,
}

impl Query {
    /// Decodes `a=b&c=d`.
    ///
    /// # Errors
    ///
    /// 400 where an escape is malformed or the text is not UTF-8.
    pub(crate) fn parse(query: &str) -> Result<Self, Failure> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(name, true)?).or_default().push(decode(value, true)?);
        }
        Ok(Self { values })
    }

    /// A parameter's value; an empty one counts as absent.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name)?.first()?;
        (!value.is_empty()).then_some(value.as_str())
    }

    /// Whether a parameter is given at all, be it empty.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// All values of a parameter that may be repeated.
    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// A boolean; anything but `0` and `false` is true, as in Kubernetes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        match self.values.get(name).and_then(|values| values.first()) {
            None => false,
            Some(value) => !matches!(value.as_str(), "0" | "false" | "False" | "FALSE"),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    ///
    /// 400 where it is given and is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let number = value.parse().map_err(|_| {
            Failure::bad_request(format!("query parameter `{name}`: `{value}` is no whole number"))
        });
        number.map(Some)
    }
}

/// Decodes `%XX`, and `+` as a space where `plus` says so.
///
/// # Errors
///
/// 400 where an escape is malformed or the result is not UTF-8.
pub(crate) fn decode(text: &str, plus: bool) -> Result<String, Failure> {
    let malformed = || Failure::bad_request(format!("malformed URL escape in `{text}`"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2).ok_or_else(malformed)?;
                let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| malformed())?);
                rest = tail;
            }
            b'+' if plus => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_or_refused() {
        let cases = [
            ("a%2Fb", Some("a/b")),
            ("a+b", Some("a b")),
            ("%zz", None),
            ("%2", None),
            ("%ff", None),
            ("", Some("")),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text, true).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn flags_follow_kubernetes() {
        let query = Query::parse("a&b=0&c=true&d=false").unwrap();
        for (name, expected) in [("a", true), ("b", false), ("c", true), ("d", false), ("e", false)]
        {
            assert_eq!(query.flag(name), expected, "{name}");
        }
    }
}
