//! Parses label selectors in kubectl's syntax: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
//!
//! kube has the type and the matching (`kube::core::Selector`), but no parser: it converts from
//! `LabelSelector` only.

use kube::core::{Expression, Selector};
use tholepin_core::CallError;

/// Parses a label selector; an empty text selects everything.
///
/// # Errors
///
/// Fails if a part of the text is malformed, and names the part.
pub(crate) fn parse(text: &str) -> Result<Selector, CallError> {
    requirements(text).map(Selector::from_iter)
}

/// Parses the requirements of a label selector; an object must fulfil all of them.
///
/// # Errors
///
/// As [`parse`].
pub(crate) fn requirements(text: &str) -> Result<Vec<Expression>, CallError> {
    let parts = split(text);
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.map(requirement).collect()
}

/// Splits a selector at the commas that are not in parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|character| {
        depth += i32::from(character == '(') - i32::from(character == ')');
        character == ',' && depth == 0
    })
    .collect()
}

fn requirement(part: &str) -> Result<Expression, CallError> {
    let invalid = |what: &str, found: &str| {
        CallError::Invalid(format!(
            "`{part}` is not a label selector: `{found}` is not {what}; use letters, digits, `-`, `_` and `.`, at \
             most 63, with a letter or digit at both ends"
        ))
    };
    // No object has an invalid label, so that `l!="x"` and `!-l` would select every object.
    let checked = |key: &str| {
        let key = key.trim();
        let (prefix, name) = key.split_once('/').map_or((None, key), |(a, b)| (Some(a), b));
        let valid = !name.is_empty() && is_label_text(name);
        let valid = valid && prefix.is_none_or(|prefix| !prefix.is_empty() && is_domain(prefix));
        if valid { Ok(key.to_owned()) } else { Err(invalid("a label key", key)) }
    };
    let checked_value = |value: &str| {
        let value = value.trim();
        if is_label_text(value) {
            Ok(value.to_owned())
        } else {
            Err(invalid("a label value", value))
        }
    };
    if let Some((key, values)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let values = values.split(',').map(checked_value).collect::<Result<_, _>>()?;
        return match key.split_whitespace().collect::<Vec<_>>().as_slice() {
            [key, "in"] => Ok(Expression::In(checked(key)?, values)),
            [key, "notin"] => Ok(Expression::NotIn(checked(key)?, values)),
            _ => Err(CallError::Invalid(format!(
                "`{part}` is not a label selector: write `KEY in (A,B)` or `KEY notin (A,B)`"
            ))),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Expression::NotEqual(checked(key)?, checked_value(value)?));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Expression::Equal(checked(key)?, checked_value(value)?));
    }
    match part.strip_prefix('!') {
        Some(key) => Ok(Expression::DoesNotExist(checked(key)?)),
        None => Ok(Expression::Exists(checked(part)?)),
    }
}

/// Returns true for a label value, or the name part of a label key: empty, or `My_value.1`.
fn is_label_text(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Returns true for the prefix of a label key: a DNS subdomain.
fn is_domain(text: &str) -> bool {
    let is_part = |part: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.chars().all(inside)
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::SelectorExt;
    use std::collections::BTreeMap;

    #[test]
    fn a_selector_means_what_it_means_to_kubectl() {
        let labels: BTreeMap<String, String> = [("app", "web"), ("tier", "a"), ("x.io/part", "1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , tier=a", true),
            ("app=web,tier=b", false),
            ("app!=web", false),
            ("none!=web", true),
            ("tier in (a,b)", true),
            ("tier notin (a, b)", false),
            ("none notin (a)", true),
            ("x.io/part", true),
            ("!app", false),
            ("!none", true),
            ("tier in (a,b),app=db", false),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap().matches(&labels), expected, "{text}");
        }
        for text in [
            "a b",
            "in (a)",
            "a near (b)",
            "=b",
            "a in b)",
            "l!=\"x\"",
            "l=-x",
            "l in (\"x\")",
            "l=é",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
