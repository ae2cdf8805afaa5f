//! Decides what to do. Pure: data in, data out, so a table of cases can test it.

use serde_json::Value;

use crate::observe::{DesiredAndFoundObject, DesiredObjectLookup};

/// What to do about one desired object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DesiredObjectDecision {
    pub(crate) desired: Value,
    pub(crate) decision: ObjectWriteDecision,
}

/// A decision, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ObjectWriteDecision {
    /// Every desired field has its desired value.
    Keep,
    /// The object does not exist.
    Create,
    /// These fields differ from the desired ones.
    Correct(Vec<String>),
    /// The object is not ours to write. Contains the host's error text.
    LeaveToOwner(String),
}

/// Decides about each object separately.
pub(crate) fn plan(observed: Vec<DesiredAndFoundObject>) -> Vec<DesiredObjectDecision> {
    let decided = observed.into_iter().map(|DesiredAndFoundObject { desired, found }| {
        let decision = match found {
            DesiredObjectLookup::Nothing => ObjectWriteDecision::Create,
            DesiredObjectLookup::Denied(why) => ObjectWriteDecision::LeaveToOwner(why),
            DesiredObjectLookup::Ours(found) => match differences(&desired, &found) {
                fields if fields.is_empty() => ObjectWriteDecision::Keep,
                fields => ObjectWriteDecision::Correct(fields),
            },
        };
        DesiredObjectDecision { desired, decision }
    });
    decided.collect()
}

/// Returns the fields of `desired` that have another value in `found`. Further fields of `found` can be
/// defaults or belong to others. Fields that this plugin applied earlier and no longer wants are removed by
/// the next apply. Do not compare values of Secrets: they are fingerprints here and differ from every desired
/// value.
fn differences(desired: &Value, found: &Value) -> Vec<String> {
    let mut fields = Vec::new();
    collect(desired, found, "", &mut fields);
    fields
}

fn collect(desired: &Value, found: &Value, path: &str, fields: &mut Vec<String>) {
    match (desired, found) {
        (Value::Object(desired), Value::Object(found)) => {
            for (name, desired) in desired {
                let found = found.get(name).unwrap_or(&Value::Null);
                collect(desired, found, &format!("{path}.{name}"), fields);
            }
        }
        (Value::Array(desired), Value::Array(found)) if desired.len() == found.len() => {
            for (index, (desired, found)) in desired.iter().zip(found).enumerate() {
                collect(desired, found, &format!("{path}[{index}]"), fields);
            }
        }
        (desired, found) if desired == found => {}
        _ => fields.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(found: DesiredObjectLookup, expected: ObjectWriteDecision) {
        let desired =
            json!({"data": {"colour": "green", "title": "Hello"}, "ports": [{"port": 80}]});
        let planned = plan(vec![DesiredAndFoundObject { desired: desired.clone(), found }]);
        assert_eq!(planned, [DesiredObjectDecision { desired, decision: expected }]);
    }

    #[test]
    fn each_object_gets_the_decision_that_it_needs() {
        let found = |colour: &str, port: u16| {
            DesiredObjectLookup::Ours(json!({
                "data": {"colour": colour, "title": "Hello", "by": "hand"},
                "ports": [{"port": port, "protocol": "TCP"}],
                "status": {},
            }))
        };
        check(DesiredObjectLookup::Nothing, ObjectWriteDecision::Create);
        let why = || "outside the scope".to_owned();
        check(DesiredObjectLookup::Denied(why()), ObjectWriteDecision::LeaveToOwner(why()));
        check(found("green", 80), ObjectWriteDecision::Keep);
        check(found("red", 80), ObjectWriteDecision::Correct(vec![".data.colour".to_owned()]));
        check(found("green", 81), ObjectWriteDecision::Correct(vec![".ports[0].port".to_owned()]));
        let both = vec![".data.colour".to_owned(), ".ports[0].port".to_owned()];
        check(found("red", 81), ObjectWriteDecision::Correct(both));
    }
}
