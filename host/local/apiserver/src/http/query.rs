//! The parameters of a URL's query string.
//!
//! The crate `form_urlencoded` is not used: it keeps a malformed escape as text and replaces invalid UTF-8, where the
//! API answers 400.

use std::collections::BTreeMap;

use tholepin_http::decode_query;

use crate::status::ApiError;

/// Decoded parameters. If one is repeated, its first value counts, as in Kubernetes.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueryParameters {
    values: BTreeMap<String, Vec<String>>,
}

impl QueryParameters {
    /// Decodes `a=b&c=d`.
    ///
    /// # Errors
    ///
    /// 400 if an escape is malformed or the text is not UTF-8.
    pub(crate) fn parse(query: &str) -> Result<Self, ApiError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text| decode_query(text).ok_or_else(|| malformed(text));
            values.entry(decoded(name)?).or_default().push(decoded(value)?);
        }
        Ok(Self { values })
    }

    /// Returns a parameter's value; an empty value counts as absent.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name)?.first()?;
        (!value.is_empty()).then_some(value.as_str())
    }

    /// Returns true if the parameter is present, even if its value is empty.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Returns all values of a parameter that may be repeated.
    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns a boolean parameter: false if it is absent, `0` or `false`, else true, as in Kubernetes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        match self.values.get(name).and_then(|values| values.first()) {
            None => false,
            Some(value) => !matches!(value.as_str(), "0" | "false" | "False" | "FALSE"),
        }
    }

    /// Returns a parameter that is a whole number.
    ///
    /// # Errors
    ///
    /// 400 if the parameter is present and is not a whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let number = value.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "query parameter `{name}`: `{value}` is not a whole number"
            ))
        });
        number.map(Some)
    }
}

/// Returns the 400 error for text whose escapes cannot be decoded.
pub(crate) fn malformed(text: &str) -> ApiError {
    ApiError::bad_request(format!("malformed URL escape in `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_follow_kubernetes() {
        let query = QueryParameters::parse("a&b=0&c=true&d=false").unwrap();
        for (name, expected) in [("a", true), ("b", false), ("c", true), ("d", false), ("e", false)]
        {
            assert_eq!(query.flag(name), expected, "{name}");
        }
    }
}
