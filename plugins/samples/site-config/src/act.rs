//! Performs a plan. All decisions are in the plan already.

use tholepin_sdk::{Host, ObjectRef, ReconcileFailure};

use crate::plan::{DesiredObjectDecision, ObjectWriteDecision};

/// The result of the writes, by the titles of the objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SiteConfigWriteSummary {
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
    planned: Vec<DesiredObjectDecision>,
) -> Result<SiteConfigWriteSummary, ReconcileFailure> {
    let mut acted = SiteConfigWriteSummary::default();
    for DesiredObjectDecision { desired, decision } in planned {
        let title = ObjectRef::of(&desired)
            .map_or_else(String::new, |name| format!("{} {}", name.kind.kind, name.name));
        match decision {
            ObjectWriteDecision::LeaveToOwner(why) => acted.left_to_owner.push((title, why)),
            // The host does not send an apply that would change nothing. It sends one with fewer fields than
            // the last, and the API server then removes the fields that are left out.
            ObjectWriteDecision::Keep => {
                host.apply(&desired, true)?;
                acted.kept.push(title);
            }
            ObjectWriteDecision::Create => {
                host.apply(&desired, true)?;
                acted.created.push(title);
            }
            ObjectWriteDecision::Correct(fields) => {
                host.apply(&desired, true)?;
                acted.corrected.push(format!("{title} ({})", fields.join(", ")));
            }
        }
    }
    Ok(acted)
}
