//! A JSONPath evaluator for the subset that the printer columns of CRDs use.
//!
//! The subset: `.name`, `['x.y']`, `[0]`, `[-1]`, `[*]`, `.*`, `[a:b]`,
//! `[?(@.type=="Ready")]` with `== != < <= > >=`, or `[?(@.n)]` for existence. Recursion (`..`), functions and
//! templates around the path are not supported. A missing member selects nothing; it is not an error.

use serde_json::Value;

mod parser;

/// A compiled path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<JsonPathStep>,
}

#[derive(Clone, Debug, PartialEq)]
enum JsonPathStep {
    Member(String),
    /// Counts from the end if negative.
    Index(i64),
    /// `[from:to]`, without the item at `to`; each counts from the end if negative.
    Slice(Option<i64>, Option<i64>),
    Every,
    Filter(JsonPathFilter),
}

#[derive(Clone, Debug, PartialEq)]
struct JsonPathFilter {
    path: Vec<JsonPathStep>,
    /// `None` tests only whether the path selects anything.
    comparison: Option<(JsonPathFilterOperator, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonPathFilterOperator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The error for a path that does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot parse the JSONPath `{path}` at byte {at}: expected {expected}")]
pub struct JsonPathError {
    /// The whole path.
    pub path: String,
    /// Offset in bytes at which parsing failed.
    pub at: usize,
    /// The token that the parser expected there.
    pub expected: &'static str,
}

impl JsonPath {
    /// Compiles a path, with or without braces and `$`: `.spec.a`, `{.spec.a}`, `$.spec.a`.
    ///
    /// # Errors
    ///
    /// Fails on syntax outside the subset.
    pub fn parse(path: &str) -> Result<Self, JsonPathError> {
        parser::parse(path).map(|steps| Self { steps })
    }

    /// Returns every value that the path selects, in document order.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        select(&self.steps, object)
    }

    /// Returns the first value that the path selects.
    pub fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.find(object).into_iter().next()
    }
}

fn select<'a>(steps: &[JsonPathStep], object: &'a Value) -> Vec<&'a Value> {
    let mut selected = vec![object];
    for step in steps {
        selected = selected.into_iter().flat_map(|value| step.from(value)).collect();
    }
    selected
}

impl JsonPathStep {
    fn from<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Member(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                items
                    .get(position(*index, items.len())..)
                    .and_then(<[Value]>::first)
                    .into_iter()
                    .collect()
            }
            Self::Slice(from, to) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let from = position(from.unwrap_or(0), items.len());
                let to = to.map_or(items.len(), |to| position(to, items.len())).min(items.len());
                items.get(from..to).unwrap_or_default().iter().collect()
            }
            Self::Every => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(members) => members.values().collect(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
            },
            Self::Filter(filter) => {
                let items = value.as_array().into_iter().flatten();
                items.filter(|item| filter.matches(item)).collect()
            }
        }
    }
}

/// Returns the offset of an index in a list, or `usize::MAX` for a negative index beyond the list's start.
fn position(index: i64, length: usize) -> usize {
    let from_end = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
    if index < 0 { length.checked_sub(from_end).unwrap_or(usize::MAX) } else { from_end }
}

impl JsonPathFilter {
    fn matches(&self, item: &Value) -> bool {
        let found = select(&self.path, item);
        match &self.comparison {
            None => !found.is_empty(),
            Some((operator, expected)) => {
                found.into_iter().any(|value| operator.matches(value, expected))
            }
        }
    }
}

impl JsonPathFilterOperator {
    fn matches(self, left: &Value, right: &Value) -> bool {
        let numbers = left.as_f64().zip(right.as_f64());
        let texts = left.as_str().zip(right.as_str());
        let ordering = match (numbers, texts) {
            (Some((left, right)), _) => left.partial_cmp(&right),
            (None, Some((left, right))) => Some(left.cmp(right)),
            (None, None) => (left == right).then_some(std::cmp::Ordering::Equal),
        };
        match self {
            Self::Equal => ordering.is_some_and(std::cmp::Ordering::is_eq),
            Self::NotEqual => !ordering.is_some_and(std::cmp::Ordering::is_eq),
            Self::Less => ordering.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessOrEqual => ordering.is_some_and(std::cmp::Ordering::is_le),
            Self::Greater => ordering.is_some_and(std::cmp::Ordering::is_gt),
            Self::GreaterOrEqual => ordering.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_select_what_kubectl_prints() {
        let object = json!({
            "spec": {"a": 1, "x.y": "dotted", "list": [{"b": "p"}, {"b": "q"}], "flag": true},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "n": 3},
                {"type": "Degraded", "status": "False"},
            ]},
        });
        let cases = [
            (".spec.a", json!([1])),
            ("{.spec.a}", json!([1])),
            ("$.spec.a", json!([1])),
            ("spec.a", json!([1])),
            (".spec.missing.a", json!([])),
            (".spec['x.y']", json!(["dotted"])),
            (r#".spec["x.y"]"#, json!(["dotted"])),
            (r".spec.x\.y", json!(["dotted"])),
            (".spec.list[0].b", json!(["p"])),
            (".spec.list[-1].b", json!(["q"])),
            (".spec.list[7].b", json!([])),
            (".spec.list[-7].b", json!([])),
            (".spec.list[*].b", json!(["p", "q"])),
            (".spec.list[1:].b", json!(["q"])),
            (".spec.list[:9].b", json!(["p", "q"])),
            (".spec.flag", json!([true])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type != 'Ready')].status", json!(["False"])),
            (".status.conditions[?(@.n>=3)].type", json!(["Ready"])),
            (".status.conditions[?(@.n)].type", json!(["Ready"])),
            (".status.conditions[?(@.n<3)].type", json!([])),
        ];
        for (path, expected) in cases {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&object)), expected, "{path}");
        }
    }

    #[test]
    fn paths_outside_the_subset_are_refused() {
        let cases =
            ["", "{.a", ".a[", ".a[x]", "..a", ".a[?(@.b==)]", ".a[?(b)]", ".a['b]", ".a b"];
        for path in cases {
            let error = JsonPath::parse(path).unwrap_err();
            assert!(error.at <= path.len(), "{error}");
        }
    }
}
