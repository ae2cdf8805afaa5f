//! Decides what to do. Pure: data in, data out, so a table of cases can test it.

use serde_json::Value;

use crate::observe::{FoundObject, ObservedObject};

/// What to do about one desired object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedObject {
    pub(crate) desired: Value,
    pub(crate) decision: Decision,
}

/// A decision, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
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
pub(crate) fn plan(observed: Vec<ObservedObject>) -> Vec<PlannedObject> {
    let decided = observed.into_iter().map(|ObservedObject { desired, found }| {
        let decision = match found {
            FoundObject::Nothing => Decision::Create,
            FoundObject::Denied(why) => Decision::LeaveToOwner(why),
            FoundObject::Ours(found) => match differences(&desired, &found) {
                fields if fields.is_empty() => Decision::Keep,
                fields => Decision::Correct(fields),
            },
        };
        PlannedObject { desired, decision }
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
    fn check(found: FoundObject, expected: Decision) {
        let desired =
            json!({"data": {"colour": "green", "title": "Hello"}, "ports": [{"port": 80}]});
        let planned = plan(vec![ObservedObject { desired: desired.clone(), found }]);
        assert_eq!(planned, [PlannedObject { desired, decision: expected }]);
    }

    #[test]
    fn each_object_gets_the_decision_that_it_needs() {
        let found = |colour: &str, port: u16| {
            FoundObject::Ours(json!({
                "data": {"colour": colour, "title": "Hello", "by": "hand"},
                "ports": [{"port": port, "protocol": "TCP"}],
                "status": {},
            }))
        };
        check(FoundObject::Nothing, Decision::Create);
        let why = || "outside the scope".to_owned();
        check(FoundObject::Denied(why()), Decision::LeaveToOwner(why()));
        check(found("green", 80), Decision::Keep);
        check(found("red", 80), Decision::Correct(vec![".data.colour".to_owned()]));
        check(found("green", 81), Decision::Correct(vec![".ports[0].port".to_owned()]));
        let both = vec![".data.colour".to_owned(), ".ports[0].port".to_owned()];
        check(found("red", 81), Decision::Correct(both));
    }
}
