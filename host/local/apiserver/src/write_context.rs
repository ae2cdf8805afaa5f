//! What a write needs to know, and which part of an object it is about.

use std::sync::Arc;

use jiff::Timestamp;

use crate::registry::ServedKind;
use crate::server_state::ServerState;
use crate::status::{ApiError, StatusCause, StatusTarget};
use crate::store::{CommitError, ObjectKey};

/// What a write needs to know, whether a client asked for it or the server itself.
#[derive(Clone)]
pub(crate) struct WriteContext {
    /// What all requests share.
    pub(crate) server: Arc<ServerState>,
    /// The kind.
    pub(crate) served: Arc<ServedKind>,
    /// The namespace, empty for cluster scope.
    pub(crate) namespace: String,
    /// The moment it is treated.
    pub(crate) now: Timestamp,
    /// The field manager.
    pub(crate) manager: String,
    /// Whether nothing is to be stored.
    pub(crate) dry_run: bool,
}

impl WriteContext {
    /// Where an object of this name is stored.
    pub(crate) fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::new(&self.namespace, name)
    }

    /// The failure that a refused commit means.
    pub(crate) fn refused(&self, refused: &CommitError, name: &str) -> ApiError {
        let namespace = || StatusTarget::new("", "namespaces", &self.namespace);
        match refused {
            CommitError::Exists => ApiError::already_exists(self.served.subject(name)),
            CommitError::Missing => ApiError::not_found(self.served.subject(name)),
            CommitError::Changed => ApiError::modified(self.served.subject(name)),
            CommitError::NamespaceMissing => ApiError::not_found(namespace()),
            CommitError::NamespaceTerminating => {
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
                    .about(subject)
                }
            }
            CommitError::Full => ApiError::new(
                507,
                "InsufficientStorage",
                "the store is full; delete objects that are no longer needed",
            ),
        }
    }
}

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectPart {
    /// All but what has a subresource of its own.
    Main,
    /// The status only.
    Status,
}

impl ObjectPart {
    /// As `managedFields` names it.
    pub(crate) const fn subresource(self) -> Option<&'static str> {
        match self {
            Self::Main => None,
            Self::Status => Some("status"),
        }
    }
}
