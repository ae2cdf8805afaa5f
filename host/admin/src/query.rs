//! Encodes and decodes the query of a URL.

use std::collections::BTreeMap;

use tholepin_http::{decode_query, encode_query};

/// Decodes `a=b&c=d`. Returns `None` if an escape is malformed or the result is not UTF-8.
pub(crate) fn decode(query: &str) -> Option<BTreeMap<String, String>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode_query(name)?, decode_query(value)?))
    };
    pairs.map(pair).collect()
}

/// Encodes parameters; every character except letters, digits and `-._~` is escaped.
pub(crate) fn encode(parameters: &[(&str, &str)]) -> String {
    let pair =
        |(name, value): &(&str, &str)| format!("{}={}", encode_query(name), encode_query(value));
    parameters.iter().map(pair).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_round_trip_and_broken_ones_are_refused() {
        let parameters = [("kind", "Redis Cluster"), ("name", "a/b&c=d+ü%")];
        let decoded = decode(&encode(&parameters)).unwrap();
        let expected = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(decoded, BTreeMap::from(expected));
        assert_eq!(decode("a+b&c").unwrap().into_keys().collect::<Vec<_>>(), ["a b", "c"]);
        assert_eq!(decode("a=b&c=%zz"), None);
    }
}
