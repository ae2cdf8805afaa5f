//! The result of subscribing the wake triggers of an outcome.

use std::time::Duration;

/// The result of subscribing the wake triggers of an outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribedWakes {
    /// The delay after which the object must be reconciled at the latest: a fact holds already, or a trigger failed for
    /// a reason that can pass.
    pub requeue: Option<Duration>,
    /// One line for people: which triggers are not in force, why, and how to fix it. Absent if all are, or if the others
    /// failed only a moment ago for reasons that can pass.
    pub refusal: Option<String>,
}
