//! Decides. Pure: it gets data and gives data, so that a table of cases can test it.

use serde_json::Value;

use crate::observe::{FoundObject, ObservedObject};

/// What to do about one wanted object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedObject {
    pub(crate) wanted: Value,
    pub(crate) decision: Decision,
}

/// The decision, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Every field that is wanted is there as wanted.
    Keep,
    /// It is not there.
    Create,
    /// These fields are not as wanted.
    Correct(Vec<String>),
    /// It is not ours to write; the host's words.
    LeaveToOwner(String),
}

/// Decides about each object by itself.
pub(crate) fn plan(observed: Vec<ObservedObject>) -> Vec<PlannedObject> {
    let decided = observed.into_iter().map(|ObservedObject { wanted, found }| {
        let decision = match found {
            FoundObject::Nothing => Decision::Create,
            FoundObject::Denied(why) => Decision::LeaveToOwner(why),
            FoundObject::Ours(found) => match differences(&wanted, &found) {
                fields if fields.is_empty() => Decision::Keep,
                fields => Decision::Correct(fields),
            },
        };
        PlannedObject { wanted, decision }
    });
    decided.collect()
}

/// The fields of `wanted` that `found` does not have so. What `found` has besides may be a default, or
/// somebody else's; what we wanted ourselves once and no longer do, the next apply takes back. Values of
/// Secrets are fingerprints here and differ from all that is wanted: do not compare them.
fn differences(wanted: &Value, found: &Value) -> Vec<String> {
    let mut fields = Vec::new();
    collect(wanted, found, "", &mut fields);
    fields
}

fn collect(wanted: &Value, found: &Value, path: &str, fields: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for (name, wanted) in wanted {
                let found = found.get(name).unwrap_or(&Value::Null);
                collect(wanted, found, &format!("{path}.{name}"), fields);
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (index, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                collect(wanted, found, &format!("{path}[{index}]"), fields);
            }
        }
        (wanted, found) if wanted == found => {}
        _ => fields.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(found: FoundObject, expected: Decision) {
        let wanted =
            json!({"data": {"colour": "green", "title": "Hello"}, "ports": [{"port": 80}]});
        let planned = plan(vec![ObservedObject { wanted: wanted.clone(), found }]);
        assert_eq!(planned, [PlannedObject { wanted, decision: expected }]);
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
