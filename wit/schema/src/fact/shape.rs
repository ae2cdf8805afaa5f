//! The fields of the documents that facts are about, so that a misspelt field is refused.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde_json::Value;

use super::{FactError, FactFieldTest, FieldPath, bounded_text, path, path::FieldPathStep};

/// The shape of a value in a document.
#[derive(Debug)]
pub(super) enum FactValueShape {
    /// A string.
    Text,
    /// A number.
    Number,
    /// A boolean.
    Bool,
    /// Any value: the shape is defined by Kubernetes.
    Any,
    /// An object whose keys are free and whose values have one shape.
    Map(&'static Self),
    /// A list whose items have one shape.
    List(&'static Self),
    /// An object with exactly these fields.
    Record(&'static [(&'static str, Self)]),
}

use FactValueShape::{Any, Bool, List, Map, Number, Record, Text};

/// [`crate::snapshot::Member`].
pub(super) const MEMBER: FactValueShape = Record(&[
    ("pod", Text),
    ("podUid", Text),
    ("kubeNode", Text),
    ("containerId", Text),
    ("running", Bool),
    ("ready", Bool),
    ("deleting", Bool),
    ("address", Text),
    ("kubernetes", Any),
    ("answer", Record(&[("answered", FACTS), ("unreachable", UNREACHABLE)])),
]);

/// [`crate::snapshot::Snapshot::view`].
pub(super) const VIEW: FactValueShape = Map(&NODE_ROW);

/// [`crate::snapshot::ClusterNodesRow`].
const NODE_ROW: FactValueShape = Record(&[
    ("role", Text),
    ("address", Text),
    ("primary", Text),
    ("epoch", Number),
    ("slots", List(&Text)),
    ("flags", List(&Text)),
    ("connected", Bool),
]);

const UNREACHABLE: FactValueShape = Record(&[("reason", Text), ("message", Text)]);

/// [`crate::snapshot::MemberFacts`].
const FACTS: FactValueShape = Record(&[
    ("answeredAtMs", Number),
    ("node", Text),
    ("runId", Text),
    ("version", Text),
    ("uptimeS", Number),
    ("loading", Bool),
    ("keys", Number),
    ("usedMemoryBytes", Number),
    ("role", Text),
    ("replication", REPLICATION),
    ("cluster", CLUSTER),
    ("openSlots", List(&OPEN_SLOT)),
    ("settings", Map(&Text)),
    ("differs", Map(&NODE_ROW)),
    ("lacks", List(&Text)),
    ("errors", Map(&Text)),
]);

const REPLICATION: FactValueShape = Record(&[
    ("id", Text),
    ("previousId", Text),
    ("offsetBytes", Number),
    ("upstream", UPSTREAM),
    ("replicas", List(&ATTACHED)),
]);

const UPSTREAM: FactValueShape = Record(&[
    ("address", Text),
    ("linkUp", Bool),
    ("syncInProgress", Bool),
    ("syncReadBytes", Number),
    ("lastIoS", Number),
    ("downSinceS", Number),
]);

const ATTACHED: FactValueShape =
    Record(&[("address", Text), ("state", Text), ("offsetBytes", Number), ("lagS", Number)]);

const CLUSTER: FactValueShape = Record(&[
    ("ok", Bool),
    ("knownNodes", Number),
    ("size", Number),
    ("currentEpoch", Number),
    ("epoch", Number),
    ("slotsAssigned", Number),
    ("slotsOk", Number),
]);

const OPEN_SLOT: FactValueShape = Record(&[("slot", Number), ("direction", Text), ("peer", Text)]);

impl FactValueShape {
    /// Returns the shape at the end of a path.
    pub(super) fn follow(
        &self,
        path: &FieldPath,
        document: &'static str,
    ) -> Result<&Self, FactError> {
        let mut current = self;
        for step in path.steps() {
            current = match (current, step) {
                (Any, _) => return Ok(current),
                (Map(shape), FieldPathStep::Name(_)) => shape,
                (List(shape @ Record(fields)), FieldPathStep::Item { key, .. })
                    if fields.iter().any(|(name, shape)| name == key && matches!(shape, Text)) =>
                {
                    shape
                }
                (Record(fields), FieldPathStep::Name(name)) => {
                    let found = fields.iter().find(|(known, _)| known == name);
                    &found.ok_or_else(|| unknown(path, document, name, fields))?.1
                }
                (shape, step) => {
                    let (field, name) = (path.to_string(), step.to_string());
                    return Err(FactError::BadStep { field, name, found: shape.description() });
                }
            };
        }
        Ok(current)
    }

    /// Checks that a test applies to a value of this shape.
    pub(super) fn check(&self, path: &FieldPath, test: &FactFieldTest) -> Result<(), FactError> {
        let (fits, value) = match (test, self) {
            (FactFieldTest::Exists | FactFieldTest::Absent, _)
            | (FactFieldTest::AtLeast(_) | FactFieldTest::AtMost(_), Number | Any)
            | (_, Any) => return Ok(()),
            (
                FactFieldTest::Equals(value) | FactFieldTest::NotEquals(value),
                Text | Number | Bool,
            ) => (self, value),
            (FactFieldTest::Contains(value), List(item @ (Text | Number | Bool))) => (*item, value),
            (_, shape) => {
                let (field, op) = (path.to_string(), test.op().to_string());
                return Err(FactError::Operator { field, op, found: shape.description() });
            }
        };
        if fits.matches_type(value) {
            return Ok(());
        }
        Err(FactError::Value {
            field: path.to_string(),
            op: test.op().to_string(),
            needed: fits.description(),
            found: format!("{}, {}", path::kind(value), bounded_text(value)),
        })
    }

    fn matches_type(&self, value: &Value) -> bool {
        match self {
            Text => value.is_string(),
            Number => value.is_number(),
            Bool => value.is_boolean(),
            Any => true,
            Map(_) | Record(_) => value.is_object(),
            List(_) => value.is_array(),
        }
    }

    const fn description(&self) -> &'static str {
        match self {
            Text => "a string",
            Number => "a number",
            Bool => "true or false",
            Any => "anything",
            Map(_) | Record(_) => "an object",
            List(_) => "a list",
        }
    }
}

fn unknown(
    path: &FieldPath,
    document: &'static str,
    name: &str,
    fields: &[(&'static str, FactValueShape)],
) -> FactError {
    let known: Vec<String> = fields.iter().map(|(name, _)| format!("`{name}`")).collect();
    FactError::UnknownField {
        field: path.to_string(),
        document,
        name: name.into(),
        known: known.join(", "),
    }
}

#[cfg(test)]
impl FactValueShape {
    /// Returns the paths of the values in a document that this shape does not describe.
    pub(super) fn undescribed(&self, document: &Value, at: &str) -> Vec<String> {
        match (self, document) {
            (Any, _) => Vec::new(),
            (Record(fields), Value::Object(values)) => {
                let of = |(name, value): (&String, &Value)| {
                    let at = format!("{at}.{name}");
                    let shape = fields.iter().find(|(known, _)| known == name);
                    shape.map_or_else(
                        || [at.clone()].into(),
                        |(_, shape)| shape.undescribed(value, &at),
                    )
                };
                values.iter().flat_map(of).collect()
            }
            (Map(shape), Value::Object(values)) => {
                let of = |(name, value)| shape.undescribed(value, &format!("{at}.{name}"));
                values.iter().flat_map(of).collect()
            }
            (List(shape), Value::Array(values)) => {
                values.iter().flat_map(|value| shape.undescribed(value, at)).collect()
            }
            (shape, value) if shape.matches_type(value) => Vec::new(),
            (shape, value) => [format!("{at}: {value} is not {}", shape.description())].into(),
        }
    }

    /// Returns the paths of all values that this shape describes.
    pub(super) fn leaves(&self, at: &str) -> Vec<String> {
        match self {
            Record(fields) => fields
                .iter()
                .flat_map(|(name, shape)| shape.leaves(&format!("{at}.{name}")))
                .collect(),
            Map(shape) | List(shape) => shape.leaves(&format!("{at}.*")),
            Text | Number | Bool | Any => [at.to_string()].into(),
        }
    }
}
