//! Answers how a place in an object is merged: field by field, item by item, or as a whole.
//!
//! Server-side apply asks this for each list and map it meets. The answer comes from the schema of a
//! custom resource or from the table of the built-in kinds; objects are never looked at.

use serde_json::Value;

mod builtin;

pub use builtin::BuiltinMergeSchema;

/// One step from an object to a place in it. Items of a list are all alike.
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
    /// A list whose items are identified by the values of these keys, each with the default that
    /// stands for an absent one.
    Map(Vec<ListMapKey>),
    /// A list of scalars, each owned by itself.
    Set,
    /// A map or struct, merged field by field.
    Granular,
}

/// A key of a list of type map.
#[derive(Clone, Debug, PartialEq)]
pub struct ListMapKey {
    /// Name of the field.
    pub name: String,
    /// What an absent value means: the port's `protocol` is `TCP`.
    pub default: Option<Value>,
}

/// Says how each place of a kind's objects is merged.
pub trait MergeSchema {
    /// The shape of the list at `path`. Lists without any declaration are [`MergeShape::Atomic`].
    fn list_shape(&self, path: &[MergeStep<'_>]) -> MergeShape;

    /// The shape of the map or struct at `path`. Without any declaration it is
    /// [`MergeShape::Granular`].
    fn map_shape(&self, path: &[MergeStep<'_>]) -> MergeShape;
}

/// The shape of the lists that every object has in its metadata; nothing for other places.
pub(crate) fn metadata_list_shape(path: &[MergeStep<'_>]) -> Option<MergeShape> {
    let key =
        |name: &str| MergeShape::Map(vec![ListMapKey { name: name.to_owned(), default: None }]);
    match path {
        [MergeStep::Field("metadata"), MergeStep::Field("finalizers")] => Some(MergeShape::Set),
        [MergeStep::Field("metadata"), MergeStep::Field("ownerReferences")] => Some(key("uid")),
        _ => None,
    }
}

/// Whether a map in the metadata that every object has is atomic: an owner reference.
pub(crate) fn is_atomic_metadata(path: &[MergeStep<'_>]) -> bool {
    path == [MergeStep::Field("metadata"), MergeStep::Field("ownerReferences"), MergeStep::Item]
}
