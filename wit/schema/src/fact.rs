//! Facts: statements about one field of one document, and the check whether a fact holds.
//!
//! A fact names a document (a member of a snapshot, the majority's view, or a Kubernetes object), a field in
//! it, and a test. It has three uses: as a precondition of an action, as the goal of a wait, and as a wake
//! trigger of an outcome. The host reads the document; [`holds`] decides from the document alone.
//!
//! Invariants:
//! - A [`Fact`] is well-formed. A field that the snapshot does not document, a value of the wrong type and an
//!   operator without its value are refused when the fact is parsed, with an error that names the problem.
//!   Otherwise such a fact would silently never hold.
//! - A test of a field that the document does not contain does not hold, except `absent`.

mod path;
mod shape;
mod wait;

pub use path::{FactFieldPathError, FieldPath};
pub use wait::{UnmetAwaitedFact, WAIT_MS_MAX, WaitOutcome};

use alloc::{
    format,
    string::{String, ToString},
};
use core::{cmp::Ordering, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::instance::Instance;
use crate::open_enum::open_enum;
use shape::FactValueShape;

/// The most facts in one wait, in the preconditions of one action, and in the wakes of one outcome.
pub const FACTS_MAX: usize = 64;

/// The most characters of a value that messages show.
const SHOWN_CHARS_MAX: usize = 120;

/// A statement about one field of one document: `{"subject": …, "field": …, "op": …, "value": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "FactJson", into = "FactJson")]
pub struct Fact {
    subject: FactSubject,
    // Invariant: `field` exists in the subject's documented shape, and `test` fits the type found there.
    field: FieldPath,
    test: FactFieldTest,
}

/// The document that a fact is about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum FactSubject {
    /// One member of a snapshot ([`crate::snapshot::Member`]).
    Member {
        /// The instance; absent in an action's preconditions, which are about the action's own instance.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<Instance>,
        /// The name of the member's Pod.
        pod: String,
    },
    /// The majority's view of an instance ([`crate::snapshot::Snapshot::view`]): the nodes by id.
    View {
        /// As for `Member`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<Instance>,
    },
    /// A Kubernetes object. Needs a grant to `get` its kind. To wait for it or to be woken by it, the
    /// manifest must also watch its kind.
    #[serde(rename_all = "camelCase")]
    Object {
        /// `apps/v1`, or `v1` for the core group.
        api_version: String,
        /// `StatefulSet`.
        kind: String,
        /// Its namespace; empty for a cluster-scoped object.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl FactSubject {
    /// Returns the instance that the fact is about, if the fact names one.
    #[must_use]
    pub const fn instance(&self) -> Option<&Instance> {
        match self {
            Self::Member { instance, .. } | Self::View { instance } => instance.as_ref(),
            Self::Object { .. } => None,
        }
    }

    /// Returns the subject for a Kubernetes object, given by kind, namespace and name.
    #[must_use]
    pub fn object((api_version, kind): (&str, &str), namespace: &str, name: &str) -> Self {
        Self::Object {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for FactSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member { instance: _, pod } => write!(f, "member `{pod}`"),
            Self::View { instance: _ } => f.write_str("the majority's view"),
            Self::Object { api_version: _, kind, namespace, name } => {
                write!(f, "{kind} {namespace}/{name}")
            }
        }
    }
}

/// The test of a field's value: `{"op": …, "value": …}` in JSON. Every test but `absent` requires that the
/// field exists, `not-equals` too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactFieldTest {
    /// `equals`: the field has this value.
    Equals(Value),
    /// `not-equals`: the field exists and has another value.
    NotEquals(Value),
    /// `at-least`: the field is a number and not less than this one.
    AtLeast(Number),
    /// `at-most`: the field is a number and not greater than this one.
    AtMost(Number),
    /// `contains`: the field is a list that contains this value.
    Contains(Value),
    /// `exists`: the field exists, whatever its value.
    Exists,
    /// `absent`: the field does not exist.
    Absent,
}

impl FactFieldTest {
    const fn op(&self) -> FactOperator {
        match self {
            Self::Equals(_) => FactOperator::Equals,
            Self::NotEquals(_) => FactOperator::NotEquals,
            Self::AtLeast(_) => FactOperator::AtLeast,
            Self::AtMost(_) => FactOperator::AtMost,
            Self::Contains(_) => FactOperator::Contains,
            Self::Exists => FactOperator::Exists,
            Self::Absent => FactOperator::Absent,
        }
    }

    fn value(&self) -> Option<Value> {
        match self {
            Self::Equals(value) | Self::NotEquals(value) | Self::Contains(value) => {
                Some(value.clone())
            }
            Self::AtLeast(bound) | Self::AtMost(bound) => Some(Value::Number(bound.clone())),
            Self::Exists | Self::Absent => None,
        }
    }
}

/// An operator, as written in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum FactOperator {
    Equals,
    NotEquals,
    AtLeast,
    AtMost,
    Contains,
    Exists,
    Absent,
}

impl fmt::Display for FactOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equals => "equals",
            Self::NotEquals => "not-equals",
            Self::AtLeast => "at-least",
            Self::AtMost => "at-most",
            Self::Contains => "contains",
            Self::Exists => "exists",
            Self::Absent => "absent",
        })
    }
}

/// Why a document is not a valid fact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FactError {
    /// The field is not a path.
    #[error(transparent)]
    Path(#[from] FactFieldPathError),
    /// The subject's document has no such field.
    #[error("`{field}`: a {document} has no field `{name}`; it has {known}")]
    UnknownField {
        /// The path.
        field: String,
        /// The name of the document in messages.
        document: &'static str,
        /// The step that does not exist.
        name: String,
        /// The fields that exist there.
        known: String,
    },
    /// A step follows a value that has no fields or items, or is of the wrong kind for it.
    #[error("`{field}`: `{name}` does not apply to {found}")]
    BadStep {
        /// The path.
        field: String,
        /// The step that does not apply.
        name: String,
        /// The kind of value that it is applied to.
        found: &'static str,
    },
    /// The operator's value is missing, superfluous, or of the wrong type.
    #[error("`{field}`: `{op}` needs {needed}, not {found}")]
    Value {
        /// The path.
        field: String,
        /// The operator.
        op: String,
        /// The kind of value that it needs.
        needed: &'static str,
        /// The value found.
        found: String,
    },
    /// The operator does not fit the field.
    #[error("`{field}` is {found}: `{op}` does not apply to it")]
    Operator {
        /// The path.
        field: String,
        /// The operator.
        op: String,
        /// The kind of the field.
        found: &'static str,
    },
}

impl Fact {
    /// Returns a checked fact.
    ///
    /// # Errors
    ///
    /// Fails if `field` is not a path, the subject's document has no such field, or the test does not fit the
    /// field. For a Kubernetes object only the path and the test by itself are checked, because its fields
    /// are defined by its CustomResourceDefinition.
    pub fn new(subject: FactSubject, field: &str, test: FactFieldTest) -> Result<Self, FactError> {
        let path: FieldPath = field.parse()?;
        let (shape, document) = match subject {
            FactSubject::Member { .. } => (&shape::MEMBER, "member"),
            FactSubject::View { .. } => (&shape::VIEW, "node row"),
            FactSubject::Object { .. } => (&FactValueShape::Any, "object"),
        };
        shape.follow(&path, document)?.check(&path, &test)?;
        Ok(Self { subject, field: path, test })
    }

    /// Returns a fact about one member of a snapshot.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn of_member(
        instance: &Instance,
        pod: &str,
        field: &str,
        test: FactFieldTest,
    ) -> Result<Self, FactError> {
        let subject = FactSubject::Member { instance: Some(instance.clone()), pod: pod.into() };
        Self::new(subject, field, test)
    }

    /// Returns the subject.
    #[must_use]
    pub const fn subject(&self) -> &FactSubject {
        &self.subject
    }

    /// Returns the path of the field.
    #[must_use]
    pub const fn field(&self) -> &FieldPath {
        &self.field
    }

    /// Returns the test of the field's value.
    #[must_use]
    pub const fn test(&self) -> &FactFieldTest {
        &self.test
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, field, test } = self;
        write!(f, "{subject} `{field}` {}", test.op())?;
        match test.value() {
            Some(value) => write!(f, " {}", bounded_text(&value)),
            None => Ok(()),
        }
    }
}

/// The result of checking a fact.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
#[non_exhaustive]
pub enum FactCheckOutcome {
    /// The fact holds.
    Yes,
    /// The fact does not hold.
    No {
        /// The value found; null if the field is absent.
        seen: Value,
    },
    /// The document does not decide it.
    Unknown {
        /// Why, for people.
        why: String,
    },
    /// A case that this version does not name.
    Other,
}

open_enum!(FactCheckOutcome: "yes", "no", "unknown", "other");

impl fmt::Display for FactCheckOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("it holds"),
            Self::No { seen: Value::Null } => f.write_str("it is absent"),
            Self::No { seen } => write!(f, "it is {}", bounded_text(seen)),
            Self::Unknown { why } => f.write_str(why),
            Self::Other => f.write_str("its result is not known to this version"),
        }
    }
}

/// Checks a fact against its subject's document; `None` if the member or object does not exist.
///
/// Returns [`FactCheckOutcome::Unknown`] if the member does not answer and only its process knows the field, or if
/// an object has a value of the wrong kind where the path or the test needs an object, a list or a number.
#[must_use]
pub fn holds(fact: &Fact, document: Option<&Value>) -> FactCheckOutcome {
    let Fact { subject, field, test } = fact;
    let Some(document) = document else { return check_value(test, None) };
    if let FactSubject::Member { pod, .. } = subject
        && field.begins_with(&["answer", "answered"])
        && document.pointer("/answer/answered").is_none()
    {
        let why = document.pointer("/answer/unreachable/message").and_then(Value::as_str);
        let why = why.unwrap_or("no reason is known");
        return FactCheckOutcome::Unknown { why: format!("`{pod}` does not answer: {why}") };
    }
    match field.find(document) {
        Ok(found) => check_value(test, found),
        Err(error) => FactCheckOutcome::Unknown { why: error.to_string() },
    }
}

fn check_value(test: &FactFieldTest, found: Option<&Value>) -> FactCheckOutcome {
    let Some(found) = found else {
        let is_expected = matches!(test, FactFieldTest::Absent);
        return if is_expected {
            FactCheckOutcome::Yes
        } else {
            FactCheckOutcome::No { seen: Value::Null }
        };
    };
    let holds_now = match test {
        FactFieldTest::Equals(value) => found == value,
        FactFieldTest::NotEquals(value) => found != value,
        FactFieldTest::Exists => true,
        FactFieldTest::Absent => false,
        FactFieldTest::AtLeast(bound) | FactFieldTest::AtMost(bound) => {
            let Value::Number(number) = found else { return wrong_kind("a number", found) };
            let order = compare(number, bound);
            let is_least = matches!(test, FactFieldTest::AtLeast(_));
            order == Ordering::Equal || (order == Ordering::Greater) == is_least
        }
        FactFieldTest::Contains(value) => {
            let Value::Array(items) = found else { return wrong_kind("a list", found) };
            items.contains(value)
        }
    };
    if holds_now { FactCheckOutcome::Yes } else { FactCheckOutcome::No { seen: found.clone() } }
}

fn wrong_kind(needed: &str, found: &Value) -> FactCheckOutcome {
    FactCheckOutcome::Unknown { why: format!("{needed} is needed, not {}", bounded_text(found)) }
}

/// Compares whole numbers as integers: counters exceed 2^53, above which an `f64` skips some.
fn compare(a: &Number, b: &Number) -> Ordering {
    let whole = |number: &Number| {
        number.as_u64().map(i128::from).or_else(|| number.as_i64().map(i128::from))
    };
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
    }
}

fn bounded_text(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A fact in its JSON form.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FactJson {
    subject: FactSubject,
    field: String,
    op: FactOperator,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
}

impl TryFrom<FactJson> for Fact {
    type Error = FactError;

    fn try_from(raw: FactJson) -> Result<Self, FactError> {
        let FactJson { subject, field, op, value } = raw;
        let wrong = |needed: &'static str, value: &Option<Value>| FactError::Value {
            field: field.clone(),
            op: op.to_string(),
            needed,
            found: value.as_ref().map_or_else(|| "nothing".into(), bounded_text),
        };
        let some = || value.clone().ok_or_else(|| wrong("a value", &value));
        let number = || match &value {
            Some(Value::Number(number)) => Ok(number.clone()),
            _ => Err(wrong("a number", &value)),
        };
        let test = match op {
            FactOperator::Equals => FactFieldTest::Equals(some()?),
            FactOperator::NotEquals => FactFieldTest::NotEquals(some()?),
            FactOperator::Contains => FactFieldTest::Contains(some()?),
            FactOperator::AtLeast => FactFieldTest::AtLeast(number()?),
            FactOperator::AtMost => FactFieldTest::AtMost(number()?),
            FactOperator::Exists | FactOperator::Absent if value.is_some() => {
                return Err(wrong("no value", &value));
            }
            FactOperator::Exists => FactFieldTest::Exists,
            FactOperator::Absent => FactFieldTest::Absent,
        };
        Self::new(subject, &field, test)
    }
}

impl From<Fact> for FactJson {
    fn from(fact: Fact) -> Self {
        let Fact { subject, field, test } = fact;
        Self { subject, field: field.to_string(), op: test.op(), value: test.value() }
    }
}

#[cfg(test)]
mod tests;
