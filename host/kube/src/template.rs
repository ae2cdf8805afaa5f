//! Fills the templates `${secret:NAME/KEY}` and `${random:N}` in the values of a Secret that a plugin applies.
//!
//! The functions are pure except for the random characters. Templates are filled after the gate has recorded
//! the call, so that recordings, plans and logs contain the template and never the value.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::{RngExt, distr::Alphanumeric};
use serde_json::{Map, Value};
use tholepin_core::CallError;

/// The most random characters that one template asks for.
const RANDOM_MAX: usize = 1024;

/// Clear values by key; never printed.
pub(crate) type TemplateValues = BTreeMap<String, Vec<u8>>;

/// The inputs that the templates of an intent need.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SecretTemplateRequirements {
    /// The names of Secrets in the same namespace.
    pub(crate) secrets: BTreeSet<String>,
    /// Whether a template asks for random characters.
    pub(crate) random: bool,
}

impl SecretTemplateRequirements {
    pub(crate) fn is_empty(&self) -> bool {
        self.secrets.is_empty() && !self.random
    }
}

/// The inputs that the templates are filled from.
#[derive(Default)]
pub(crate) struct SecretTemplateInputs {
    /// The values of each Secret that a template names.
    pub(crate) secrets: BTreeMap<String, Arc<TemplateValues>>,
    /// The current values of the Secret that is applied.
    pub(crate) stored: TemplateValues,
}

enum TemplatePart<'a> {
    Text(&'a str),
    Secret { name: &'a str, key: &'a str },
    Random(usize),
}

/// Returns the inputs that the templates in `stringData` need.
///
/// # Errors
///
/// Fails if a template is malformed or of an unknown kind.
pub(crate) fn requirements(intent: &Value) -> Result<SecretTemplateRequirements, CallError> {
    let mut requirements = SecretTemplateRequirements::default();
    for (_, text) in templates(intent) {
        for part in parse_parts(text)? {
            match part {
                TemplatePart::Text(_) => {}
                TemplatePart::Secret { name, .. } => {
                    requirements.secrets.insert(name.to_owned());
                }
                TemplatePart::Random(_) => requirements.random = true,
            }
        }
    }
    Ok(requirements)
}

/// Fills the templates: each entry of `stringData` with a template moves to `data` with its value. A value
/// with random characters keeps the stored value of its key, if there is one.
///
/// # Errors
///
/// Fails if a Secret does not have the key that a template names.
pub(crate) fn fill(intent: &mut Value, sources: &SecretTemplateInputs) -> Result<(), CallError> {
    let mut filled = Map::new();
    for (key, text) in templates(intent) {
        let parts = parse_parts(text)?;
        let is_random = parts.iter().any(|part| matches!(part, TemplatePart::Random(_)));
        let value = match sources.stored.get(key).filter(|_| is_random) {
            Some(stored) => stored.clone(),
            None => fill_text(&parts, sources)?,
        };
        filled.insert(key.to_owned(), STANDARD.encode(value).into());
    }
    let Some(object) = intent.as_object_mut() else { return Ok(()) };
    if let Some(texts) = object.get_mut("stringData").and_then(Value::as_object_mut) {
        texts.retain(|key, _| !filled.contains_key(key));
    }
    match object.get_mut("data").and_then(Value::as_object_mut) {
        Some(data) => data.extend(filled),
        None => {
            object.insert("data".to_owned(), Value::Object(filled));
        }
    }
    Ok(())
}

/// Returns the entries of `stringData` that contain a template.
fn templates(intent: &Value) -> impl Iterator<Item = (&str, &str)> {
    let entries = intent.get("stringData").and_then(Value::as_object).into_iter().flatten();
    let texts = entries.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    texts.filter(|(_, text)| text.contains("${"))
}

fn parse_parts(text: &str) -> Result<Vec<TemplatePart<'_>>, CallError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, template)) = rest.split_once("${") {
        let (body, after) = template.split_once('}').ok_or_else(|| malformed(template))?;
        parts.push(TemplatePart::Text(before));
        parts.push(parse_part(body)?);
        rest = after;
    }
    parts.push(TemplatePart::Text(rest));
    Ok(parts)
}

fn parse_part(body: &str) -> Result<TemplatePart<'_>, CallError> {
    let part = match body.split_once(':') {
        Some(("secret", place)) => {
            place.split_once('/').map(|(name, key)| TemplatePart::Secret { name, key })
        }
        Some(("random", count)) => {
            let count = count.parse().ok().filter(|count| (1..=RANDOM_MAX).contains(count));
            count.map(TemplatePart::Random)
        }
        _ => None,
    };
    part.ok_or_else(|| malformed(body))
}

fn malformed(body: &str) -> CallError {
    CallError::Invalid(format!(
        "`${{{body}` is not a template: use `${{secret:NAME/KEY}}` or `${{random:N}}` with N from 1 \
         to {RANDOM_MAX}"
    ))
}

fn fill_text(
    parts: &[TemplatePart<'_>],
    sources: &SecretTemplateInputs,
) -> Result<Vec<u8>, CallError> {
    let mut value = Vec::new();
    for part in parts {
        match part {
            TemplatePart::Text(text) => value.extend_from_slice(text.as_bytes()),
            TemplatePart::Secret { name, key } => {
                let found = sources.secrets.get(*name).and_then(|values| values.get(*key));
                let missing = || CallError::NotFound(format!("key `{key}` of Secret `{name}`"));
                value.extend_from_slice(found.ok_or_else(missing)?);
            }
            TemplatePart::Random(count) => {
                value.extend(rand::rng().sample_iter(Alphanumeric).take(*count))
            }
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sources(stored: &[(&str, &str)]) -> SecretTemplateInputs {
        let values = |pairs: &[(&str, &str)]| -> TemplateValues {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
                .collect()
        };
        let secrets = [("auth".to_owned(), Arc::new(values(&[("password", "hunter2")])))].into();
        SecretTemplateInputs { secrets, stored: values(stored) }
    }

    fn filled(text: &str, sources: &SecretTemplateInputs) -> Result<String, CallError> {
        let mut intent = json!({"stringData": {"k": text, "plain": "p"}, "data": {"d": "eA=="}});
        fill(&mut intent, sources)?;
        assert_eq!(intent["stringData"], json!({"plain": "p"}));
        assert_eq!(intent["data"]["d"], "eA==");
        let bytes = STANDARD.decode(intent["data"]["k"].as_str().unwrap()).unwrap();
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_template_is_filled_and_a_random_value_is_made_once() {
        let text = "user:${secret:auth/password}@host";
        assert_eq!(filled(text, &sources(&[])).unwrap(), "user:hunter2@host");
        let made = filled("${random:32}", &sources(&[])).unwrap();
        assert_eq!(made.len(), 32);
        assert_ne!(made, filled("${random:32}", &sources(&[])).unwrap());
        assert_eq!(filled("${random:32}", &sources(&[("k", &made)])).unwrap(), made);
        assert_eq!(filled(text, &sources(&[("k", "old")])).unwrap(), "user:hunter2@host");
    }

    #[test]
    fn a_malformed_template_is_refused_and_a_missing_key_named() {
        for text in ["${", "${x}", "${random:0}", "${random:9999}", "${secret:auth}", "${env:HOME}"]
        {
            let intent = json!({"stringData": {"k": text}});
            assert_eq!(requirements(&intent).unwrap_err().reason(), "Invalid", "{text}");
        }
        let missing = filled("${secret:auth/other}", &sources(&[])).unwrap_err();
        assert_eq!(missing.to_string(), "key `other` of Secret `auth` does not exist");
    }
}
