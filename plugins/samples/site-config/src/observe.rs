//! Reads what is there. The only step that asks the host for state.

use serde_json::Value;
use tholepin_sdk::{Error, Failure, Host, ObjectRef, ReadMode};

/// A wanted object and what was found in its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observed {
    pub(crate) wanted: Value,
    pub(crate) found: Found,
}

/// What was found in the place of a wanted object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
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
pub(crate) fn observe(host: &dyn Host, wanted: Vec<Value>) -> Result<Vec<Observed>, Failure> {
    wanted.into_iter().map(|wanted| Ok(Observed { found: look(host, &wanted)?, wanted })).collect()
}

fn look(host: &dyn Host, wanted: &Value) -> Result<Found, Failure> {
    let Some(name) = ObjectRef::of(wanted) else { return Ok(Found::Nothing) };
    match host.get(&name, ReadMode::Cached, &[]) {
        Ok(object) => Ok(Found::Ours(object)),
        Err(Error::NotFound(_)) => Ok(Found::Nothing),
        // The grant is for our own objects only.
        Err(Error::Denied(why)) => Ok(Found::Denied(why)),
        Err(error) => Err(error.into()),
    }
}
