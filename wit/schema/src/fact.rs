//! One statement about the world, and whether it holds.
//!
//! The same statement is used three times: an action *presumes* it, a pass *waits* for it, an outcome
//! wants to be *woken* by it. It names a document (what a member says, what the majority sees, an
//! object of Kubernetes), a field in it, and a test. Looking is the host's work; whether the fact holds
//! is decided here, by [`holds`], from the document alone.
//!
//! Invariants:
//! - A [`Fact`] is well-formed: a field that the snapshot does not document, a value of another type
//!   than the field has, or an operator without its value is refused where the fact is read, with the
//!   name of what is wrong. It is never a fact that silently does not hold.
//! - What the document does not tell does not hold. Only `absent` asks for that.

mod path;
mod shape;
mod wait;

pub use path::{FieldPath, PathError};
pub use wait::{UnmetFact, WAIT_MS_MAX, WaitOutcome};

use alloc::{
    format,
    string::{String, ToString},
};
use core::{cmp::Ordering, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::instance::Instance;
use shape::FieldShape;

/// The most facts of one wait, of one action's presumptions, and of one outcome's wakes.
pub const FACTS_MAX: usize = 64;

/// How much of a value is shown to people.
const SHOWN_CHARS_MAX: usize = 120;

/// A statement about one field of one document: `{"subject": …, "field": …, "op": …, "value": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Fact {
    subject: FactSubject,
    // Leads into the subject's documented shape, and `test` fits what is there.
    field: FieldPath,
    test: FactTest,
}

/// Which document a fact is about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum FactSubject {
    /// What a snapshot shows of one member ([`crate::snapshot::Member`]).
    Member {
        /// The instance; absent where an action presumes the fact, which is about its own instance.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<Instance>,
        /// The member, by its Pod's name.
        pod: String,
    },
    /// What the majority of an instance sees ([`crate::snapshot::Snapshot::view`]): the nodes by id.
    View {
        /// As in `Member`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<Instance>,
    },
    /// An object of Kubernetes. Needs a grant of `get`; to wait for it or be woken by it, its kind must
    /// be watched, too.
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
    /// The instance that the fact is about, if it is about one and names it.
    #[must_use]
    pub const fn instance(&self) -> Option<&Instance> {
        match self {
            Self::Member { instance, .. } | Self::View { instance } => instance.as_ref(),
            Self::Object { .. } => None,
        }
    }

    /// An object, by its kind and name.
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

/// What must be so about the field's value.
///
/// In JSON `{"op": …, "value": …}`. Every test but `absent` wants the field to be there: a field that is
/// not there differs from nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactTest {
    /// `equals`: it is this value.
    Equals(Value),
    /// `not-equals`: it is there and is another value.
    NotEquals(Value),
    /// `at-least`: it is a number and no smaller than this.
    AtLeast(Number),
    /// `at-most`: it is a number and no larger than this.
    AtMost(Number),
    /// `contains`: it is a list, and one of its items is this value.
    Contains(Value),
    /// `exists`: it is there, whatever its value.
    Exists,
    /// `absent`: it is not there.
    Absent,
}

impl FactTest {
    const fn op(&self) -> Op {
        match self {
            Self::Equals(_) => Op::Equals,
            Self::NotEquals(_) => Op::NotEquals,
            Self::AtLeast(_) => Op::AtLeast,
            Self::AtMost(_) => Op::AtMost,
            Self::Contains(_) => Op::Contains,
            Self::Exists => Op::Exists,
            Self::Absent => Op::Absent,
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

/// An operator as JSON writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Op {
    Equals,
    NotEquals,
    AtLeast,
    AtMost,
    Contains,
    Exists,
    Absent,
}

impl fmt::Display for Op {
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

/// Why something is no fact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FactError {
    /// The field is no path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The subject's document has no such field.
    #[error("`{field}`: a {document} has no field `{name}`; it has {known}")]
    UnknownField {
        /// The path.
        field: String,
        /// What the document is called.
        document: &'static str,
        /// The step that leads nowhere.
        name: String,
        /// The fields that are there.
        known: String,
    },
    /// The path goes on where the document ends, or steps into it the wrong way.
    #[error("`{field}`: what stands before `{name}` is {is}, so that the path leads nowhere")]
    NoWay {
        /// The path.
        field: String,
        /// The step that cannot be taken.
        name: String,
        /// What it would be taken from.
        is: &'static str,
    },
    /// The operator needs a value, has one too many, or one of the wrong type.
    #[error("`{field}`: `{op}` wants {wants}, not {is}")]
    Value {
        /// The path.
        field: String,
        /// The operator.
        op: String,
        /// What it wants.
        wants: &'static str,
        /// What it got.
        is: String,
    },
    /// The operator does not fit the field.
    #[error("`{field}` is {is}: `{op}` cannot be asked of it")]
    Operator {
        /// The path.
        field: String,
        /// The operator.
        op: String,
        /// What the field is.
        is: &'static str,
    },
}

impl Fact {
    /// A fact.
    ///
    /// # Errors
    ///
    /// Fails if `field` is no path, the subject's document has no such field, or the test does not fit
    /// it. Of an object of Kubernetes only the path and the test by itself are checked: its fields are
    /// its definition's business.
    pub fn new(subject: FactSubject, field: &str, test: FactTest) -> Result<Self, FactError> {
        let path: FieldPath = field.parse()?;
        let (shape, document) = match subject {
            FactSubject::Member { .. } => (&shape::MEMBER, "member"),
            FactSubject::View { .. } => (&shape::VIEW, "node row"),
            FactSubject::Object { .. } => (&FieldShape::Any, "object"),
        };
        shape.follow(&path, document)?.check(&path, &test)?;
        Ok(Self { subject, field: path, test })
    }

    /// A fact about what a snapshot shows of a member.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn of_member(
        instance: &Instance,
        pod: &str,
        field: &str,
        test: FactTest,
    ) -> Result<Self, FactError> {
        let subject = FactSubject::Member { instance: Some(instance.clone()), pod: pod.into() };
        Self::new(subject, field, test)
    }

    /// What it is about.
    #[must_use]
    pub const fn subject(&self) -> &FactSubject {
        &self.subject
    }

    /// Which field it is about.
    #[must_use]
    pub const fn field(&self) -> &FieldPath {
        &self.field
    }

    /// What it says of the field.
    #[must_use]
    pub const fn test(&self) -> &FactTest {
        &self.test
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, field, test } = self;
        write!(f, "{subject} `{field}` {}", test.op())?;
        match test.value() {
            Some(value) => write!(f, " {}", shown(&value)),
            None => Ok(()),
        }
    }
}

/// Whether a fact holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum FactOutcome {
    /// It does.
    Yes,
    /// It does not.
    No {
        /// The value that is there; null if none is.
        seen: Value,
    },
    /// The document does not say.
    Unknown {
        /// Why, for people.
        why: String,
    },
}

impl fmt::Display for FactOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("it does"),
            Self::No { seen: Value::Null } => f.write_str("it is not there"),
            Self::No { seen } => write!(f, "it is {}", shown(seen)),
            Self::Unknown { why } => f.write_str(why),
        }
    }
}

/// Whether a fact holds in its subject's document; `None` if there is no such member or object.
///
/// The answer is [`FactOutcome::Unknown`] if the member does not answer and the field is one that only its
/// process knows, and if an object holds something else where the path or the test wants an object, a
/// list or a number.
#[must_use]
pub fn holds(fact: &Fact, document: Option<&Value>) -> FactOutcome {
    let Fact { subject, field, test } = fact;
    let Some(document) = document else { return judge(test, None) };
    if let FactSubject::Member { pod, .. } = subject
        && field.begins_with(&["answer", "answered"])
        && document.pointer("/answer/answered").is_none()
    {
        let why = document.pointer("/answer/unreachable/message").and_then(Value::as_str);
        let why = why.unwrap_or("it was not asked");
        return FactOutcome::Unknown { why: format!("`{pod}` does not answer: {why}") };
    }
    match field.find(document) {
        Ok(found) => judge(test, found),
        Err(error) => FactOutcome::Unknown { why: error.to_string() },
    }
}

fn judge(test: &FactTest, found: Option<&Value>) -> FactOutcome {
    let Some(found) = found else {
        let is_wanted = matches!(test, FactTest::Absent);
        return if is_wanted { FactOutcome::Yes } else { FactOutcome::No { seen: Value::Null } };
    };
    let is_so = match test {
        FactTest::Equals(value) => found == value,
        FactTest::NotEquals(value) => found != value,
        FactTest::Exists => true,
        FactTest::Absent => false,
        FactTest::AtLeast(bound) | FactTest::AtMost(bound) => {
            let Value::Number(number) = found else { return unfit("a number", found) };
            let order = compare(number, bound);
            let is_least = matches!(test, FactTest::AtLeast(_));
            order == Ordering::Equal || (order == Ordering::Greater) == is_least
        }
        FactTest::Contains(value) => {
            let Value::Array(items) = found else { return unfit("a list", found) };
            items.contains(value)
        }
    };
    if is_so { FactOutcome::Yes } else { FactOutcome::No { seen: found.clone() } }
}

fn unfit(wanted: &str, found: &Value) -> FactOutcome {
    FactOutcome::Unknown { why: format!("{wanted} is wanted, and there is {}", shown(found)) }
}

/// Whole numbers are compared as such: counters pass 2^53, from where a double skips some.
fn compare(a: &Number, b: &Number) -> Ordering {
    let whole = |number: &Number| {
        number.as_u64().map(i128::from).or_else(|| number.as_i64().map(i128::from))
    };
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A fact as it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    subject: FactSubject,
    field: String,
    op: Op,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
}

impl TryFrom<Raw> for Fact {
    type Error = FactError;

    fn try_from(raw: Raw) -> Result<Self, FactError> {
        let Raw { subject, field, op, value } = raw;
        let wrong = |wants: &'static str, value: &Option<Value>| FactError::Value {
            field: field.clone(),
            op: op.to_string(),
            wants,
            is: value.as_ref().map_or_else(|| "nothing".into(), shown),
        };
        let some = || value.clone().ok_or_else(|| wrong("a value", &value));
        let number = || match &value {
            Some(Value::Number(number)) => Ok(number.clone()),
            _ => Err(wrong("a number", &value)),
        };
        let test = match op {
            Op::Equals => FactTest::Equals(some()?),
            Op::NotEquals => FactTest::NotEquals(some()?),
            Op::Contains => FactTest::Contains(some()?),
            Op::AtLeast => FactTest::AtLeast(number()?),
            Op::AtMost => FactTest::AtMost(number()?),
            Op::Exists | Op::Absent if value.is_some() => return Err(wrong("no value", &value)),
            Op::Exists => FactTest::Exists,
            Op::Absent => FactTest::Absent,
        };
        Self::new(subject, &field, test)
    }
}

impl From<Fact> for Raw {
    fn from(fact: Fact) -> Self {
        let Fact { subject, field, test } = fact;
        Self { subject, field: field.to_string(), op: test.op(), value: test.value() }
    }
}

#[cfg(test)]
mod tests;
