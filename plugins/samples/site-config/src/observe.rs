//! Reads what is there. The only step that asks the host for state.

use serde_json::Value;
use tholepin_sdk::{Error, Host, ObjectRef, ReadMode, ReconcileFailure};

/// A wanted object and what was found in its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ObservedObject {
    pub(crate) wanted: Value,
    pub(crate) found: FoundObject,
}

/// What was found in the place of a wanted object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FoundObject {
    /// Nothing.
    Nothing,
    /// Ours.
    Ours(Value),
    /// What the host does not let us see, in its words: one of that name that belongs to somebody else, or a
    /// kind that is not granted.
    Denied(String),
}

/// Looks at each wanted object, in the host's store: no round trip.
///
/// # Errors
///
/// Fails if the host cannot read.
pub(crate) fn observe(
    host: &dyn Host,
    wanted: Vec<Value>,
) -> Result<Vec<ObservedObject>, ReconcileFailure> {
    wanted
        .into_iter()
        .map(|wanted| Ok(ObservedObject { found: look(host, &wanted)?, wanted }))
        .collect()
}

fn look(host: &dyn Host, wanted: &Value) -> Result<FoundObject, ReconcileFailure> {
    let Some(name) = ObjectRef::of(wanted) else { return Ok(FoundObject::Nothing) };
    match host.get(&name, ReadMode::Cached, &[]) {
        Ok(object) => Ok(FoundObject::Ours(object)),
        Err(Error::NotFound(_)) => Ok(FoundObject::Nothing),
        // The grant is for our own objects only.
        Err(Error::Denied(why)) => Ok(FoundObject::Denied(why)),
        Err(error) => Err(error.into()),
    }
}
