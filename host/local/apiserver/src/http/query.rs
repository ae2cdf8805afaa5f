//! Reads a URL's query string. It knows no parameter by name.

use std::collections::BTreeMap;

use tholepin_http::decode_query;

use crate::status::ApiError;

/// Decoded parameters; of a repeated one the first counts, as in Kubernetes.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueryParameters {
    values: BTreeMap<String, Vec<String>>,
}

impl QueryParameters {
    /// Decodes `a=b&c=d`.
    ///
    /// # Errors
    ///
    /// 400 where an escape is malformed or the text is not UTF-8.
    pub(crate) fn parse(query: &str) -> Result<Self, ApiError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text| decode_query(text).ok_or_else(|| malformed(text));
            values.entry(decoded(name)?).or_default().push(decoded(value)?);
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
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let number = value.parse().map_err(|_| {
            ApiError::bad_request(format!("query parameter `{name}`: `{value}` is no whole number"))
        });
        number.map(Some)
    }
}

/// 400 for an escape that cannot be decoded.
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
