//! Paths to a field of a JSON document: `.status.conditions[type=Ready].status`.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use serde_json::Value;

/// The most steps of a path.
const STEPS_MAX: usize = 32;

/// A path to a field. A step is either `.name` (a dot within the name is written `\.`), or `[key=text]` for
/// the first item of a list whose field `key` is that text. `.` alone is the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    // Invariant: at most `STEPS_MAX`.
    steps: Vec<FieldPathStep>,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FieldPathStep {
    /// Into an object, by the field's name.
    Name(String),
    /// Into a list, to the first item whose field `key` is the string `text`.
    Item { key: String, text: String },
}

/// Why a text is not a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactFieldPathError {
    /// It does not begin with a dot.
    #[error("`{0}` is not a field path: it must begin with a dot, as in `.spec.replicas`")]
    Begin(String),
    /// A name is empty.
    #[error("`{0}` is not a field path: a name in it is empty")]
    Empty(String),
    /// Brackets do not contain `key=text`, or are not closed.
    #[error(
        "`{0}` is not a field path: brackets contain `key=text`, as in `.conditions[type=Ready]`"
    )]
    Item(String),
    /// Too many steps.
    #[error("`{0}` is not a field path: it has more than {STEPS_MAX} steps")]
    TooLong(String),
}

/// A step of the path does not apply to the value found there.
#[derive(Debug, thiserror::Error)]
#[error("`{field}`: `{step}` does not apply to {found}")]
pub(super) struct FieldPathStepError {
    field: String,
    step: String,
    found: &'static str,
}

impl FieldPath {
    pub(super) fn steps(&self) -> &[FieldPathStep] {
        &self.steps
    }

    /// Returns true if the first steps are these names.
    pub(super) fn begins_with(&self, names: &[&str]) -> bool {
        let is_name = |(step, name): (&FieldPathStep, &&str)| matches!(step, FieldPathStep::Name(own) if own == name);
        names.len() <= self.steps.len() && self.steps.iter().zip(names).all(is_name)
    }

    /// Returns the value in a document; `None` if it is absent or null.
    pub(super) fn find<'a>(
        &self,
        document: &'a Value,
    ) -> Result<Option<&'a Value>, FieldPathStepError> {
        let mut current = document;
        for step in &self.steps {
            let next = match (step, current) {
                (_, Value::Null) => None,
                (FieldPathStep::Name(name), Value::Object(fields)) => fields.get(name),
                (FieldPathStep::Item { key, text }, Value::Array(items)) => {
                    let has = |item: &&Value| item.get(key).and_then(Value::as_str) == Some(text);
                    items.iter().find(has)
                }
                (step, other) => {
                    let (field, step) = (self.to_string(), step.to_string());
                    return Err(FieldPathStepError { field, step, found: kind(other) });
                }
            };
            match next {
                Some(next) => current = next,
                None => return Ok(None),
            }
        }
        Ok((!current.is_null()).then_some(current))
    }
}

/// Returns the kind of a value, for messages.
pub(super) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl core::str::FromStr for FieldPath {
    type Err = FactFieldPathError;

    fn from_str(text: &str) -> Result<Self, FactFieldPathError> {
        let Some(first) = text.strip_prefix('.') else {
            return Err(FactFieldPathError::Begin(text.into()));
        };
        let mut steps = Vec::new();
        let mut rest = first;
        // After a dot comes a name; after a name or an item comes a dot, a bracket or the end.
        while !first.is_empty() {
            let (name, after) = take_name(rest);
            if name.is_empty() {
                return Err(FactFieldPathError::Empty(text.into()));
            }
            steps.push(FieldPathStep::Name(name));
            rest = after;
            while let Some(inside) = rest.strip_prefix('[') {
                let (item, after) =
                    take_item(inside).ok_or_else(|| FactFieldPathError::Item(text.into()))?;
                steps.push(item);
                rest = after;
            }
            match rest.strip_prefix('.') {
                Some(after) => rest = after,
                None if rest.is_empty() => break,
                None => return Err(FactFieldPathError::Item(text.into())),
            }
        }
        if STEPS_MAX < steps.len() {
            return Err(FactFieldPathError::TooLong(text.into()));
        }
        Ok(Self { steps })
    }
}

/// Splits a text into the name at its start, up to a dot or a bracket, and the rest.
fn take_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '.' | '[' => return (name, text.get(at..).unwrap_or_default()),
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            other => name.push(other),
        }
    }
    (name, "")
}

/// Parses `key=text]` at the start of a text and returns the item and the rest.
fn take_item(text: &str) -> Option<(FieldPathStep, &str)> {
    let (inside, after) = text.split_once(']')?;
    let (key, text) = inside.split_once('=')?;
    (!key.is_empty()).then(|| (FieldPathStep::Item { key: key.into(), text: text.into() }, after))
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return f.write_str(".");
        }
        self.steps.iter().try_for_each(|step| step.fmt(f))
    }
}

impl fmt::Display for FieldPathStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => {
                f.write_str(".")?;
                for letter in name.chars() {
                    if matches!(letter, '.' | '[' | '\\') {
                        f.write_str("\\")?;
                    }
                    write!(f, "{letter}")?;
                }
                Ok(())
            }
            Self::Item { key, text } => write!(f, "[{key}={text}]"),
        }
    }
}
