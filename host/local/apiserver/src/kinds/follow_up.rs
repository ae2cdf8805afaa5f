//! Writes that the server makes after a client's write to an object of a built-in kind.
//!
//! The modules of the kinds return these writes, and the verbs make them.

use serde_json::Value;

use crate::write_context::ObjectWriteContext;

/// The write that follows the creation of an object. If it fails, the failure is logged and the object stays.
pub(crate) enum FollowUpWrite {
    /// Creates another object.
    Create(FollowUpCreate),
    /// Writes the status of the created object.
    Status(ApiServerFollowUpStatus),
}

/// An object that is created because another one was.
pub(crate) struct FollowUpCreate {
    /// The context of the create.
    pub(crate) cx: ObjectWriteContext,
    /// The object to create.
    pub(crate) object: Value,
    /// The log message if the create fails.
    pub(crate) failure: &'static str,
}

/// A new status for an object that was written.
pub(crate) struct ApiServerFollowUpStatus {
    /// The context of the update.
    pub(crate) cx: ObjectWriteContext,
    /// Returns the object with the new status, given its latest state.
    pub(crate) edit: Box<dyn Fn(&Value) -> Value>,
    /// The log message if the update fails.
    pub(crate) failure: &'static str,
}
