//! Performs a plan. All decisions are in the plan already.

use tholepin_sdk::{Host, ObjectRef, ReconcileFailure};

use crate::plan::{Decision, PlannedObject};

/// The result of the writes, by the titles of the objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct WriteSummary {
    pub(crate) kept: Vec<String>,
    pub(crate) created: Vec<String>,
    pub(crate) corrected: Vec<String>,
    /// With the host's error text.
    pub(crate) left_to_owner: Vec<(String, String)>,
}

/// Writes the planned objects in their order.
///
/// # Errors
///
/// Fails with the first write that fails. The next reconcile observes again and continues.
pub(crate) fn act(
    host: &dyn Host,
    planned: Vec<PlannedObject>,
) -> Result<WriteSummary, ReconcileFailure> {
    let mut acted = WriteSummary::default();
    for PlannedObject { desired, decision } in planned {
        let title = ObjectRef::of(&desired)
            .map_or_else(String::new, |name| format!("{} {}", name.kind.kind, name.name));
        match decision {
            Decision::LeaveToOwner(why) => acted.left_to_owner.push((title, why)),
            // The host does not send an apply that would change nothing. It sends one with fewer fields than
            // the last, and the API server then removes the fields that are left out.
            Decision::Keep => {
                host.apply(&desired, true)?;
                acted.kept.push(title);
            }
            Decision::Create => {
                host.apply(&desired, true)?;
                acted.created.push(title);
            }
            Decision::Correct(fields) => {
                host.apply(&desired, true)?;
                acted.corrected.push(format!("{title} ({})", fields.join(", ")));
            }
        }
    }
    Ok(acted)
}
