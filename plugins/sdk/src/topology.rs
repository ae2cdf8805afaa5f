//! `redis/topology` with the types of the schema instead of JSON.

use serde::Serialize;
use serde_json::Value;
use tholepin_schema::{
    action::{Action, ActionResult},
    instance::Instance,
    snapshot::Snapshot,
};

use crate::{Error, Host};

/// Asks all members of an instance concurrently and returns a snapshot; see [`Host::observe`].
///
/// # Errors
///
/// As [`Host::observe`]; [`Error::Other`] if this SDK cannot parse the host's snapshot.
pub fn observe(host: &dyn Host, instance: &Instance) -> Result<Snapshot, Error> {
    host.observe(&write("instance", instance)?)?.read()
}

/// Performs actions and returns one result per action, in the order given; see [`Host::act`].
///
/// # Errors
///
/// As [`Host::act`]. After an outer error, earlier waves of the list may have been sent: observe again.
pub fn act(
    host: &dyn Host,
    instance: &Instance,
    actions: &[Action],
) -> Result<Vec<Result<ActionResult, Error>>, Error> {
    let actions: Vec<Value> =
        actions.iter().map(|action| write("action", action)).collect::<Result<_, _>>()?;
    let results = host.act(&write("instance", instance)?, &actions)?;
    Ok(results.into_iter().map(|result| result?.read()).collect())
}

fn write<T: Serialize>(what: &str, document: &T) -> Result<Value, Error> {
    serde_json::to_value(document)
        .map_err(|error| Error::Invalid(format!("the {what} cannot be written as JSON: {error}")))
}
