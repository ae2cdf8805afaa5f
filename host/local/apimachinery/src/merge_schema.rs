//! How the lists and maps of a kind's objects are merged: field by field, item by item, or as a whole.
//!
//! Server-side apply uses this for each list and map. The source is the schema of a custom resource or the table of
//! the built-in kinds, never an object.

use serde_json::Value;

mod builtin;

pub use builtin::BuiltinMergeSchema;

/// One step of a path into an object. All items of a list have the same step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MergeStep<'a> {
    /// Into the member of this name.
    Field(&'a str),
    /// Into an item of a list.
    Item,
}

/// How a list or map is merged.
#[derive(Clone, Debug, PartialEq)]
pub enum MergeShape {
    /// Replaced as a whole; one manager owns all of it.
    Atomic,
    /// A list whose items are identified by the values of these keys.
    Map(Vec<ListMapKey>),
    /// A list of scalars, each with its own owners.
    Set,
    /// A map or struct, merged field by field.
    Granular,
}

/// A key of a list of type map.
#[derive(Clone, Debug, PartialEq)]
pub struct ListMapKey {
    /// Name of the field.
    pub name: String,
    /// The value that an absent key stands for: `TCP` for the `protocol` of a port.
    pub default: Option<Value>,
}

/// The merge rules of one kind's objects.
pub trait MergeSchema {
    /// Returns the shape of the list at `path`; [`MergeShape::Atomic`] if the schema declares none.
    fn list_shape(&self, path: &[MergeStep<'_>]) -> MergeShape;

    /// Returns the shape of the map or struct at `path`; [`MergeShape::Granular`] if the schema declares none.
    fn map_shape(&self, path: &[MergeStep<'_>]) -> MergeShape;
}

/// Returns the shape of the lists in `metadata`, which all kinds share; `None` for other paths.
pub(crate) fn metadata_list_shape(path: &[MergeStep<'_>]) -> Option<MergeShape> {
    let key =
        |name: &str| MergeShape::Map(vec![ListMapKey { name: name.to_owned(), default: None }]);
    match path {
        [MergeStep::Field("metadata"), MergeStep::Field("finalizers")] => Some(MergeShape::Set),
        [MergeStep::Field("metadata"), MergeStep::Field("ownerReferences")] => Some(key("uid")),
        _ => None,
    }
}

/// Returns true for an owner reference, the only atomic map in `metadata`.
pub(crate) fn is_atomic_metadata(path: &[MergeStep<'_>]) -> bool {
    path == [MergeStep::Field("metadata"), MergeStep::Field("ownerReferences"), MergeStep::Item]
}
