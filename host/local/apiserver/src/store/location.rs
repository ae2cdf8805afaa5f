//! Names what the store holds: a resource, an object within it, an object of any resource.

use std::sync::Arc;

/// Group and plural of a resource: the unit of storage, whatever the version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupResource {
    /// The API group, empty for the core group.
    pub(crate) group: Arc<str>,
    /// The plural name.
    pub(crate) plural: Arc<str>,
}

impl GroupResource {
    /// Names a resource.
    pub(crate) fn new(group: &str, plural: &str) -> Self {
        Self { group: group.into(), plural: plural.into() }
    }

    /// Whether this is the resource so named in the core group.
    pub(crate) fn is_core(&self, plural: &str) -> bool {
        self.group.is_empty() && *self.plural == *plural
    }

    /// Whether this is the resource so named.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        *self.group == *group && *self.plural == *plural
    }
}

/// Namespace (empty for cluster scope) and name, in list order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    /// The namespace, empty for cluster scope.
    pub(crate) namespace: Arc<str>,
    /// The name.
    pub(crate) name: Arc<str>,
}

impl ObjectKey {
    /// Names an object within its resource.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// An object of any resource.
pub(crate) type ObjectLocation = (GroupResource, ObjectKey);
