//! Performs a plan. It leaves nothing to choose here.

use tholepin_sdk::{Host, ObjectRef, ReconcileFailure};

use crate::plan::{Decision, PlannedObject};

/// What was done, by the titles of the objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ActSummary {
    pub(crate) kept: Vec<String>,
    pub(crate) made: Vec<String>,
    pub(crate) corrected: Vec<String>,
    /// With the host's words.
    pub(crate) left_to_owner: Vec<(String, String)>,
}

/// Writes what the plan says, in its order.
///
/// # Errors
///
/// Fails with the first write that does not go through. The next pass looks again and goes on.
pub(crate) fn act(
    host: &dyn Host,
    planned: Vec<PlannedObject>,
) -> Result<ActSummary, ReconcileFailure> {
    let mut acted = ActSummary::default();
    for PlannedObject { wanted, decision } in planned {
        let title = ObjectRef::of(&wanted)
            .map_or_else(String::new, |name| format!("{} {}", name.kind.kind, name.name));
        match decision {
            Decision::LeaveToOwner(why) => acted.left_to_owner.push((title, why)),
            // The host sends the same intent once. One that wants less than the last is sent, and the API
            // server takes back what it no longer says.
            Decision::Keep => {
                host.apply(&wanted, true)?;
                acted.kept.push(title);
            }
            Decision::Create => {
                host.apply(&wanted, true)?;
                acted.made.push(title);
            }
            Decision::Correct(fields) => {
                host.apply(&wanted, true)?;
                acted.corrected.push(format!("{title} ({})", fields.join(", ")));
            }
        }
    }
    Ok(acted)
}
