//! Identifiers in the store: a resource, an object of a resource, and both together.

use std::sync::Arc;

/// Group and plural of a resource: the unit of storage, for all versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupResource {
    /// The API group, empty for the core group.
    pub(crate) group: Arc<str>,
    /// The plural name.
    pub(crate) plural: Arc<str>,
}

impl GroupResource {
    /// Returns the identifier of a resource.
    pub(crate) fn new(group: &str, plural: &str) -> Self {
        Self { group: group.into(), plural: plural.into() }
    }

    /// Returns true if this is the resource of this name in the core group.
    pub(crate) fn is_core(&self, plural: &str) -> bool {
        self.group.is_empty() && *self.plural == *plural
    }

    /// Returns true if this is the resource of this group and name.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        *self.group == *group && *self.plural == *plural
    }
}

/// Namespace and name of an object; the order is that of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NamespacedName {
    /// The namespace, empty for cluster scope.
    pub(crate) namespace: Arc<str>,
    /// The name.
    pub(crate) name: Arc<str>,
}

impl NamespacedName {
    /// Returns the key of an object in its resource.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// The resource and the key of an object.
pub(crate) type ObjectLocation = (GroupResource, NamespacedName);
