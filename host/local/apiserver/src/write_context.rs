//! The context of a write, and the part of the object that it changes.

use std::sync::Arc;

use jiff::Timestamp;

use crate::registry::ServedKind;
use crate::server_state::ServerState;
use crate::status::{ApiError, ErrorStatusObject, StatusCause};
use crate::store::{NamespacedName, StoreCommitError};

/// The context of a write, by a client or by the server itself.
#[derive(Clone)]
pub(crate) struct ObjectWriteContext {
    /// The state that all requests share.
    pub(crate) server: Arc<ServerState>,
    /// The kind.
    pub(crate) served: Arc<ServedKind>,
    /// The namespace; empty for cluster scope.
    pub(crate) namespace: String,
    /// The time of the write.
    pub(crate) now: Timestamp,
    /// The field manager.
    pub(crate) manager: String,
    /// Whether the write is a dry run.
    pub(crate) dry_run: bool,
}

impl ObjectWriteContext {
    /// Returns the key of an object of this name.
    pub(crate) fn key(&self, name: &str) -> NamespacedName {
        NamespacedName::new(&self.namespace, name)
    }

    /// Converts the error of a commit.
    pub(crate) fn refused(&self, refused: &StoreCommitError, name: &str) -> ApiError {
        let namespace = || ErrorStatusObject::new("", "namespaces", &self.namespace);
        match refused {
            StoreCommitError::Exists => ApiError::already_exists(self.served.subject(name)),
            StoreCommitError::Missing => ApiError::not_found(self.served.subject(name)),
            StoreCommitError::Changed => ApiError::modified(self.served.subject(name)),
            StoreCommitError::NamespaceMissing => ApiError::not_found(namespace()),
            StoreCommitError::NamespaceTerminating => {
                let subject = self.served.subject(name);
                ApiError {
                    causes: vec![StatusCause {
                        reason: "NamespaceTerminating".into(),
                        message: format!("namespace {} is being terminated", self.namespace),
                        field: "metadata.namespace".into(),
                    }],
                    ..ApiError::forbidden(format!(
                        "{} \"{name}\" is forbidden: unable to create new content in namespace {} \
                         because it is being terminated",
                        self.served.kind.resource_name(),
                        self.namespace
                    ))
                    .with_subject(subject)
                }
            }
            StoreCommitError::Full => ApiError::new(
                507,
                "InsufficientStorage",
                "the store is full; delete objects that are no longer needed",
            ),
        }
    }
}

/// The part of an object that a write changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MainOrStatusPart {
    /// The object without its status subresource.
    Main,
    /// The status subresource.
    Status,
}

impl MainOrStatusPart {
    /// Returns the subresource in `managedFields`.
    pub(crate) const fn subresource(self) -> Option<&'static str> {
        match self {
            Self::Main => None,
            Self::Status => Some("status"),
        }
    }
}
