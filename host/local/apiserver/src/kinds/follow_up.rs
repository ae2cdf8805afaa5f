//! Writes of the server itself that follow a write to an object of a built-in kind.
//!
//! A kind says what is to be written; the verbs write it.

use serde_json::Value;

use crate::write_context::WriteContext;

/// What follows the creation of an object. Where it fails, the log says so and the object stays.
pub(crate) enum FollowUpWrite {
    /// Another object is created.
    Create(FollowUpObject),
    /// The object gets another status.
    Status(FollowUpStatus),
}

/// An object that is created because another one was.
pub(crate) struct FollowUpObject {
    /// For the new object.
    pub(crate) cx: WriteContext,
    /// The new object.
    pub(crate) object: Value,
    /// What the log says where it is not created.
    pub(crate) failure: &'static str,
}

/// Another status of an object that was written.
pub(crate) struct FollowUpStatus {
    /// For the status.
    pub(crate) cx: WriteContext,
    /// Makes the object with that status of its newest state.
    pub(crate) edit: Box<dyn Fn(&Value) -> Value>,
    /// What the log says where it is not written.
    pub(crate) failure: &'static str,
}
