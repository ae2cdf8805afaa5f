//! Field selectors. Each kind supports a few fields only.
//!
//! An absent field is compared as its default: the empty string, or `false` for a boolean.

use serde_json::Value;

use super::SelectorError;
use crate::Kind;

/// A parsed field selector; an empty one matches every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    field: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses the query parameter `fieldSelector` (`metadata.name=a,status.phase!=Running`) for a
    /// kind. `\` escapes `,`, `=` and itself in a value.
    ///
    /// # Errors
    ///
    /// Fails on bad syntax, and on a field that the kind does not support with the server's text
    /// `field label not supported: FIELD`.
    pub fn parse(text: &str, kind: &Kind) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in split_terms(text).iter().filter(|term| !term.is_empty()) {
            let term = parse_term(term)?;
            let common = ["metadata.name", "metadata.namespace"].contains(&term.field.as_str());
            if !common && !kind.selectable_fields.contains(&term.field) {
                return Err(SelectorError(format!("field label not supported: {}", term.field)));
            }
            terms.push(term);
        }
        Ok(Self { terms })
    }

    /// Returns true if the selector has no terms and so matches every object.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Returns the `metadata.name` that the selector requires, if it has a term `metadata.name=NAME`.
    pub fn name(&self) -> Option<&str> {
        self.required("metadata.name")
    }

    /// Returns the value that the selector requires of this field, if it has a term `FIELD=VALUE`.
    pub fn required(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|term| term.equal && term.field == field)?;
        Some(&term.value)
    }

    /// Returns true if this object matches.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| (field_value(object, &term.field) == term.value) == term.equal)
    }
}

/// Splits the text at commas that are not escaped, and keeps the escapes.
fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        if character == ',' && !escaped {
            terms.push(String::new());
        } else if let Some(term) = terms.last_mut() {
            term.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    terms
}

fn parse_term(text: &str) -> Result<FieldTerm, SelectorError> {
    let invalid =
        || SelectorError(format!("invalid selector: '{text}'; can't understand '{text}'"));
    let at = text.find(['=', '!']).ok_or_else(invalid)?;
    let (field, rest) = text.split_at_checked(at).ok_or_else(invalid)?;
    let operators = [("!=", false), ("==", true), ("=", true)];
    let (value, equal) = operators
        .into_iter()
        .find_map(|(operator, equal)| Some((rest.strip_prefix(operator)?, equal)))
        .ok_or_else(invalid)?;
    let value = unescape(value).ok_or_else(invalid)?;
    Ok(FieldTerm { field: field.trim().to_owned(), equal, value })
}

/// Resolves `\,`, `\=` and `\\`; returns `None` for an unescaped `=` or `,` and for any other escape.
fn unescape(value: &str) -> Option<String> {
    let mut plain = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next()? {
                escaped @ (',' | '=' | '\\') => plain.push(escaped),
                _ => return None,
            },
            ',' | '=' => return None,
            plain_character => plain.push(plain_character),
        }
    }
    Some(plain)
}

/// Returns a field as text. The fields of events have different names in the two API versions in which an event is
/// served; the one that exists is read.
fn field_value(object: &Value, field: &str) -> String {
    let found = at_path(object, field).or_else(|| at_path(object, &other_name(field)?));
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        _ if matches!(field, "spec.hostNetwork" | "spec.unschedulable") => "false".to_owned(),
        _ => String::new(),
    }
}

/// Returns the name of an event's field in the other API version.
fn other_name(field: &str) -> Option<String> {
    if let Some(rest) = field.strip_prefix("involvedObject.") {
        return Some(format!("regarding.{rest}"));
    }
    if let Some(rest) = field.strip_prefix("regarding.") {
        return Some(format!("involvedObject.{rest}"));
    }
    let other = match field {
        "source" => "source.component",
        "reportingComponent" => "reportingController",
        "reportingController" => "reportingComponent",
        _ => return None,
    };
    Some(other.to_owned())
}

fn at_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let found = path.split('.').try_fold(object, |value, name| value.get(name))?;
    (!found.is_object()).then_some(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    fn pods() -> &'static Kind {
        kinds::find("", "v1", "pods").unwrap()
    }

    #[test]
    fn fields_compare_as_text_with_defaults() {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "n"},
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Running"},
        });
        let cases = [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==b", false),
            ("metadata.namespace!=n", false),
            ("spec.nodeName=node-1,status.phase!=Failed", true),
            ("spec.nodeName=node-1,status.phase=Failed", false),
            ("spec.hostNetwork=false", true),
            ("status.podIP=", true),
        ];
        for (selector, expected) in cases {
            let parsed = FieldSelector::parse(selector, pods()).unwrap();
            assert_eq!(parsed.matches(&pod), expected, "{selector}");
        }
    }

    #[test]
    fn an_unsupported_field_is_refused_by_name() {
        let maps = kinds::find("", "v1", "configmaps").unwrap();
        let error = FieldSelector::parse("spec.nodeName=a", maps).unwrap_err();
        assert_eq!(error.0, "field label not supported: spec.nodeName");
        for selector in ["metadata.name", "metadata.name=a=b", r"metadata.name=a\b"] {
            let error = FieldSelector::parse(selector, pods()).unwrap_err();
            assert!(error.0.starts_with("invalid selector: "), "{error}");
        }
    }

    #[test]
    fn escapes_stand_for_themselves() {
        let parsed = FieldSelector::parse(r"metadata.name=a\,b\=c\\", pods()).unwrap();
        assert_eq!(parsed.name(), Some(r"a,b=c\"));
        assert_eq!(parsed.required("spec.nodeName"), None);
    }

    #[test]
    fn events_match_the_field_names_of_both_versions() {
        let core = kinds::find("", "v1", "events").unwrap();
        let new = kinds::find("events.k8s.io", "v1", "events").unwrap();
        let old_shape = json!({"involvedObject": {"name": "a"}, "source": {"component": "x"}});
        let new_shape = json!({"regarding": {"name": "a"}, "source": {"component": "x"}});
        for event in [old_shape, new_shape] {
            let parsed = FieldSelector::parse("involvedObject.name=a,source=x", core).unwrap();
            assert!(parsed.matches(&event), "{event}");
            let parsed = FieldSelector::parse("regarding.name=a", new).unwrap();
            assert!(parsed.matches(&event), "{event}");
        }
    }
}
