//! Reads the current objects. The only step that reads state from the host.

use serde_json::Value;
use tholepin_sdk::{Error, Host, ObjectRef, ReadMode, ReconcileFailure};

/// A desired object and the object that exists under its name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DesiredAndFoundObject {
    pub(crate) desired: Value,
    pub(crate) found: DesiredObjectLookup,
}

/// The object that exists under the name of a desired one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DesiredObjectLookup {
    /// There is none.
    Nothing,
    /// It belongs to our object.
    Ours(Value),
    /// The host does not let us read it: the object of that name belongs to another owner, or its kind is not
    /// granted. Contains the host's error text.
    Denied(String),
}

/// Reads each desired object from the host's store, without a round trip.
///
/// # Errors
///
/// Fails if the host cannot read.
pub(crate) fn observe(
    host: &dyn Host,
    desired: Vec<Value>,
) -> Result<Vec<DesiredAndFoundObject>, ReconcileFailure> {
    desired
        .into_iter()
        .map(|desired| Ok(DesiredAndFoundObject { found: read(host, &desired)?, desired }))
        .collect()
}

fn read(host: &dyn Host, desired: &Value) -> Result<DesiredObjectLookup, ReconcileFailure> {
    let Some(name) = ObjectRef::of(desired) else { return Ok(DesiredObjectLookup::Nothing) };
    match host.get(&name, ReadMode::Cached, &[]) {
        Ok(object) => Ok(DesiredObjectLookup::Ours(object)),
        Err(Error::NotFound(_)) => Ok(DesiredObjectLookup::Nothing),
        // The grant covers only objects that belong to our object.
        Err(Error::Denied(why)) => Ok(DesiredObjectLookup::Denied(why)),
        Err(error) => Err(error.into()),
    }
}
