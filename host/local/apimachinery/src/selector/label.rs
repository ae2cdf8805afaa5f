//! Label selectors, as query text and as `LabelSelector` objects.
//!
//! The parser of query text checks the grammar, and that keys and values are valid for labels.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::SelectorError;
use crate::validation::{is_label_value, is_qualified_name};

/// A parsed label selector; an empty one matches every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelRequirement {
    key: String,
    operator: LabelOperator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelOperator {
    Exists,
    Absent,
    /// The label exists and has one of these values.
    In(BTreeSet<String>),
    /// The label is absent or has none of these values.
    NotIn(BTreeSet<String>),
    /// The label is a whole number greater than this.
    Above(i64),
    /// The label is a whole number less than this.
    Below(i64),
}

impl LabelSelector {
    /// Parses the query parameter `labelSelector`: `a=b,c!=d,e in (x,y),g notin (z),f,!h,i>3`.
    ///
    /// # Errors
    ///
    /// Fails if the text does not follow the grammar.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = LabelSelectorParser { tokens: tokens(text), at: 0, text };
        let mut requirements = Vec::new();
        if parser.peek().is_none() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.next() {
                None => return Ok(Self { requirements }),
                Some(LabelToken::Comma) => {}
                Some(other) => return Err(parser.unexpected(&other, "`,` or the end")),
            }
        }
    }

    /// Converts a `LabelSelector` object (`matchLabels`, `matchExpressions`).
    ///
    /// # Errors
    ///
    /// Fails on an operator other than In, NotIn, Exists and DoesNotExist, and on a missing key.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        let labels = selector.get("matchLabels").and_then(Value::as_object);
        for (key, value) in labels.into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(LabelRequirement {
                key: key.clone(),
                operator: LabelOperator::In([value].into()),
            });
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            requirements.push(LabelRequirement::from_expression(expression)?);
        }
        Ok(Self { requirements })
    }

    /// Converts a plain map of labels (`spec.selector` of a Service), all of which must be equal.
    pub fn from_map(labels: &Map<String, Value>) -> Self {
        let requirement = |(key, value): (&String, &Value)| LabelRequirement {
            key: key.clone(),
            operator: LabelOperator::In([value.as_str().unwrap_or_default().to_owned()].into()),
        };
        Self { requirements: labels.iter().map(requirement).collect() }
    }

    /// Returns true if the selector has no terms and so matches every object.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Returns true if `metadata.labels` of this object match.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_labels(object.pointer("/metadata/labels").and_then(Value::as_object))
    }

    /// Returns true if these labels match; `None` is the same as an empty map.
    pub fn matches_labels(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.requirements.iter().all(|requirement| {
            let label = labels.and_then(|labels| labels.get(&requirement.key));
            requirement.operator.matches(label.and_then(Value::as_str))
        })
    }
}

impl LabelRequirement {
    fn from_expression(expression: &Value) -> Result<Self, SelectorError> {
        let text = |name: &str| expression.get(name).and_then(Value::as_str);
        let key =
            text("key").ok_or_else(|| SelectorError("a match expression has no key".into()))?;
        let values = expression.get("values").and_then(Value::as_array);
        let values = values.into_iter().flatten().filter_map(Value::as_str);
        let values: BTreeSet<String> = values.map(str::to_owned).collect();
        let operator = match text("operator").unwrap_or_default() {
            "In" => LabelOperator::In(values),
            "NotIn" => LabelOperator::NotIn(values),
            "Exists" => LabelOperator::Exists,
            "DoesNotExist" => LabelOperator::Absent,
            other => {
                return Err(SelectorError(format!(
                    "\"{other}\" is not a valid label selector operator"
                )));
            }
        };
        Ok(Self { key: key.to_owned(), operator })
    }
}

impl LabelOperator {
    fn matches(&self, label: Option<&str>) -> bool {
        match self {
            Self::Exists => label.is_some(),
            Self::Absent => label.is_none(),
            Self::In(values) => label.is_some_and(|label| values.contains(label)),
            Self::NotIn(values) => label.is_none_or(|label| !values.contains(label)),
            Self::Above(bound) => number(label).is_some_and(|number| *bound < number),
            Self::Below(bound) => number(label).is_some_and(|number| number < *bound),
        }
    }
}

fn number(label: Option<&str>) -> Option<i64> {
    label?.parse().ok()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelToken {
    Word(String),
    Comma,
    Open,
    Close,
    Not,
    Equal,
    NotEqual,
    Above,
    Below,
}

/// Splits the text into tokens at white space and at operators.
fn tokens(text: &str) -> Vec<LabelToken> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            ',' => (LabelToken::Comma, 1),
            '(' => (LabelToken::Open, 1),
            ')' => (LabelToken::Close, 1),
            '>' => (LabelToken::Above, 1),
            '<' => (LabelToken::Below, 1),
            '=' if rest.starts_with("==") => (LabelToken::Equal, 2),
            '=' => (LabelToken::Equal, 1),
            '!' if rest.starts_with("!=") => (LabelToken::NotEqual, 2),
            '!' => (LabelToken::Not, 1),
            _ => {
                let ends = |c: char| c.is_whitespace() || ",()><=!".contains(c);
                let length = rest.find(ends).unwrap_or(rest.len());
                (LabelToken::Word(rest.get(..length).unwrap_or_default().to_owned()), length)
            }
        };
        tokens.push(token);
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    tokens
}

struct LabelSelectorParser<'a> {
    tokens: Vec<LabelToken>,
    at: usize,
    text: &'a str,
}

impl LabelSelectorParser<'_> {
    fn peek(&self) -> Option<&LabelToken> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<LabelToken> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<LabelRequirement, SelectorError> {
        if self.peek() == Some(&LabelToken::Not) {
            self.at += 1;
            return Ok(LabelRequirement { key: self.key()?, operator: LabelOperator::Absent });
        }
        let key = self.key()?;
        let operator = match self.peek() {
            None | Some(LabelToken::Comma) => {
                return Ok(LabelRequirement { key, operator: LabelOperator::Exists });
            }
            Some(operator) => {
                let operator = operator.clone();
                self.at += 1;
                self.operator_and_values(&operator)?
            }
        };
        Ok(LabelRequirement { key, operator })
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        match self.next() {
            Some(LabelToken::Word(text)) => match is_qualified_name(&text) {
                Ok(()) => Ok(text),
                Err(why) => Err(self.error(&format!("`{text}` is not a label key: {why}"))),
            },
            Some(other) => Err(self.unexpected(&other, "a label key")),
            None => Err(self.error("a label key is missing at the end")),
        }
    }

    fn operator_and_values(
        &mut self,
        operator: &LabelToken,
    ) -> Result<LabelOperator, SelectorError> {
        match operator {
            LabelToken::Equal => Ok(LabelOperator::In([self.value()?].into())),
            LabelToken::NotEqual => Ok(LabelOperator::NotIn([self.value()?].into())),
            LabelToken::Above => self.bound().map(LabelOperator::Above),
            LabelToken::Below => self.bound().map(LabelOperator::Below),
            LabelToken::Word(text) if text == "in" => self.values().map(LabelOperator::In),
            LabelToken::Word(text) if text == "notin" => self.values().map(LabelOperator::NotIn),
            LabelToken::Word(_)
            | LabelToken::Comma
            | LabelToken::Open
            | LabelToken::Close
            | LabelToken::Not => {
                Err(self.unexpected(operator, "one of: in, notin, =, ==, !=, >, <"))
            }
        }
    }

    /// Parses a value after an operator; a missing one is the empty value.
    fn value(&mut self) -> Result<String, SelectorError> {
        let Some(LabelToken::Word(text)) = self.peek() else { return Ok(String::new()) };
        let text = text.clone();
        self.at += 1;
        // No object has an invalid label, so that `l!="x"` would match every object, also those with `l=x`.
        match is_label_value(&text) {
            Ok(()) => Ok(text),
            Err(why) => Err(self.error(&format!("`{text}` is not a label value: {why}"))),
        }
    }

    fn bound(&mut self) -> Result<i64, SelectorError> {
        let value = self.value()?;
        value.parse().map_err(|_| self.error(&format!("`{value}` is not a whole number")))
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if self.next() != Some(LabelToken::Open) {
            return Err(self.error("`in` and `notin` need values in parentheses"));
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.value()?);
            match self.next() {
                Some(LabelToken::Close) => return Ok(values),
                Some(LabelToken::Comma) => {}
                Some(other) => return Err(self.unexpected(&other, "`,` or `)`")),
                None => return Err(self.error("`)` is missing at the end")),
            }
        }
    }

    fn unexpected(&self, token: &LabelToken, expected: &str) -> SelectorError {
        let found = match token {
            LabelToken::Word(text) => text,
            LabelToken::Comma => ",",
            LabelToken::Open => "(",
            LabelToken::Close => ")",
            LabelToken::Not => "!",
            LabelToken::Equal => "=",
            LabelToken::NotEqual => "!=",
            LabelToken::Above => ">",
            LabelToken::Below => "<",
        };
        self.error(&format!("found '{found}', expected: {expected}"))
    }

    fn error(&self, what: &str) -> SelectorError {
        SelectorError(format!("unable to parse requirement: {what} (in \"{}\")", self.text))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn each_operator_matches_as_in_the_server() {
        let labels = json!({"a": "b", "e": "x", "n": "5", "x.y/z": ""});
        let cases = [
            ("", true),
            ("a", true),
            ("z", false),
            ("!z", true),
            ("! a", false),
            ("a=b", true),
            ("a == b", true),
            ("a=c", false),
            ("a!=b", false),
            ("z!=b", true),
            ("e in (x,y)", true),
            ("e in (y)", false),
            ("z in (y)", false),
            ("e notin (y, z)", true),
            ("z notin (y)", true),
            ("n>4", true),
            ("n<5", false),
            ("a>4", false),
            ("x.y/z=", true),
            ("a=b,e in (x),!z", true),
            ("a=b,e notin (x)", false),
        ];
        for (selector, expected) in cases {
            assert_eq!(matches(selector, labels.clone()), expected, "{selector}");
        }
    }

    #[test]
    fn an_object_without_labels_has_none() {
        assert!(LabelSelector::parse("!a").unwrap().matches(&json!({})));
        assert!(!LabelSelector::parse("a").unwrap().matches(&json!({})));
    }

    #[test]
    fn bad_syntax_is_refused() {
        let long = format!("a={}", "x".repeat(64));
        for selector in [
            "=b",
            ",",
            "a=b,",
            "a in",
            "a in (x",
            "a in x",
            "a b",
            "a=b c",
            "n>x",
            "!",
            // Keys and values that no object can have.
            "l!=\"x\"",
            "-l=x",
            "l=-x",
            "/l=x",
            "a/b/c=1",
            "A.b/c=1",
            "l=é",
            "l=a/b",
            "l~x",
            "l in (\"x\")",
            "!-l",
            &long,
        ] {
            let error = LabelSelector::parse(selector).unwrap_err();
            assert!(error.0.starts_with("unable to parse requirement: "), "{selector}: {error}");
        }
    }

    #[test]
    fn the_object_form_means_the_same() {
        let selector = json!({
            "matchLabels": {"a": "b"},
            "matchExpressions": [
                {"key": "e", "operator": "In", "values": ["x", "y"]},
                {"key": "z", "operator": "DoesNotExist"},
            ],
        });
        let parsed = LabelSelector::from_object(&selector).unwrap();
        assert_eq!(parsed, LabelSelector::parse("a=b,e in (x,y),!z").unwrap());
        assert!(LabelSelector::from_object(&json!({})).unwrap().is_empty());
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]});
        assert!(LabelSelector::from_object(&bad).is_err());
    }
}
