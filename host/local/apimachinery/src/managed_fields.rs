//! Field ownership: server-side apply, and the tracking of owners in every other write.
//!
//! ```text
//! intent ─┐                                   ┌─► object with new managedFields
//! live  ──┴─► merge ─► compare ─► conflicts ──┤
//!                                             └─► ApplyError
//! ```
//!
//! The module stores nothing and validates no value. Pruning and defaulting are the caller's; the functions state
//! when. Source of the semantics: kubernetes-sigs/structured-merge-diff `merge/update.go` and k8s.io/apimachinery
//! `pkg/util/managedfields`.
//!
//! Invariants:
//! - A write that changes nothing leaves every entry unchanged, including its time.
//! - Fields that only the server sets (uid, resourceVersion, …) have no owner.
//! - One manager has at most one entry per operation, subresource and (for Update) API version.

use serde_json::{Map, Value};

use crate::merge_schema::MergeSchema;

mod compare;
mod conflict;
mod entries;
mod field_set;
mod merge;

pub use compare::ListItemError;
pub use conflict::{FieldConflict, conflict_summary};

use compare::{ChangedFieldSets, compare, field_set_of};
use entries::{ManagedFieldsEntries, ManagedFieldsEntry, ManagedOperation, ManagerIdentity};
use field_set::FieldSet;

/// The manager that becomes the owner of an object's fields at its first apply if the object has no entries.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The parameters of an apply request.
#[derive(Clone, Copy, Debug)]
pub struct ApplyOptions<'a> {
    /// `fieldManager`, at most 128 characters.
    pub manager: &'a str,
    /// Whether to take fields over from other managers instead of reporting conflicts.
    pub force: bool,
    /// `status` for the status subresource, `None` for the object itself.
    pub subresource: Option<&'a str>,
    /// The time, RFC 3339 with whole seconds: `2026-01-02T03:04:05Z`.
    pub now: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
}

/// The parameters of a create, update or patch request.
#[derive(Clone, Copy, Debug)]
pub struct ManagedFieldsUpdateOptions<'a> {
    /// `fieldManager`, or the user agent up to its first `/` where the request names none.
    pub manager: &'a str,
    /// `status` for the status subresource, `None` for the object itself.
    pub subresource: Option<&'a str>,
    /// The time, RFC 3339 with whole seconds.
    pub now: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
}

/// The outcome of an apply.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplyOutcome {
    /// The object to store, with its new `managedFields`.
    pub object: Value,
    /// Whether the object differs from the live object. If not, the caller need not write it.
    pub changed: bool,
    /// Whether there was no live object.
    pub created: bool,
}

/// The error of an apply. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that the intent changes: HTTP 409.
    #[error("{}", conflict_summary(.0))]
    Conflicts(Vec<FieldConflict>),
    /// An item of a list in the intent cannot be identified: HTTP 400.
    #[error(transparent)]
    Item(#[from] ListItemError),
    /// The intent has `managedFields`: HTTP 400.
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsSet,
    /// The intent is not an object: HTTP 400.
    #[error("the body of an apply must be an object")]
    NotAnObject,
}

/// Applies `intent`, which holds every field that one manager sets, to the live object.
///
/// Removes the fields that the manager owned before and that the intent does not have, unless another manager owns
/// them too. Takes the members of `metadata` that only the server sets from the live object, not from the intent.
///
/// # Assumptions
///
/// `intent` is pruned and reduced to the part that the request writes: for the object itself it has no `status` if
/// the kind has a status subresource; for the status subresource it has `status` only. The caller applies defaults
/// to the result. Defaults can undo a difference, so the caller must compare the defaulted object with the live
/// one, without the times of the entries, before it writes.
///
/// # Errors
///
/// Fails if the intent changes a field of another manager and `force` is not set, and if the intent cannot be
/// merged (a list item without its keys, a list item that occurs twice, `managedFields` present).
pub fn apply(
    live: Option<&Value>,
    intent: &Value,
    options: &ApplyOptions<'_>,
    schema: &dyn MergeSchema,
) -> Result<ApplyOutcome, ApplyError> {
    let intent = ownable_intent(intent)?;
    let mut intended = field_set_of(&intent, schema)?;
    drop_unowned(&mut intended);

    let empty = Value::Object(Map::new());
    let before = live.unwrap_or(&empty);
    let mut entries = ManagedFieldsEntries::of(before);
    own_unmanaged_fields(live, &mut entries, options, schema);

    let merged = merge::merge(before, &intent, schema)?;
    let identity = ManagerIdentity::apply(options.manager, options.subresource);
    let mut difference = compare(before, &merged, schema);
    difference.strip();

    let taken = difference.changed();
    let conflicts = conflict::find(&entries, &identity, &taken);
    if !conflicts.is_empty() && !options.force {
        return Err(ApplyError::Conflicts(conflicts));
    }
    entries.remove_from_others(&identity, &taken.union(&difference.removed));

    let mut object = merged;
    let previous = entries.take(&identity);
    if let Some(previous) = &previous {
        let dropped = previous.fields.difference(&intended);
        let kept = entries.all_fields().union(&intended);
        merge::remove(&mut object, &dropped, &kept, schema);
    }
    if live.is_none() {
        // The object is new, so no other manager owns fields of it.
        entries = ManagedFieldsEntries::default();
    }
    let mut removed = compare(before, &object, schema);
    removed.strip();
    let unchanged = removed.is_empty();
    entries.remove_from_others(&identity, &removed.removed);
    let time = match &previous {
        Some(previous) if unchanged && previous.fields == intended => previous.time.clone(),
        _ => Some(options.now.to_owned()),
    };
    let api_version = options.api_version.to_owned();
    entries.put(ManagedFieldsEntry { identity, api_version, time, fields: intended });
    entries.write(&mut object);
    let changed = live.is_none_or(|live| *live != object);
    Ok(ApplyOutcome { object, changed, created: live.is_none() })
}

/// Records the owner of each changed field when `new` replaces `old` by create, update or patch.
///
/// `new` holds the `managedFields` of the request. An edited list is used as it is; `[{}]` drops all entries; an
/// absent, empty or unreadable list means the entries of `old` (the real server does not reset entries for an empty
/// list either). The manager of the request becomes the owner of the fields that changed; entries without fields
/// are dropped. An existing object without entries gets none until its first apply.
///
/// # Assumptions
///
/// `new` is pruned and defaulted, and equals `old` in the fields that the request may not change.
pub fn track_update(
    old: Option<&Value>,
    new: &mut Value,
    options: &ManagedFieldsUpdateOptions<'_>,
    schema: &dyn MergeSchema,
) {
    let mut entries = entries::entries_of_request(old, new, options.subresource);
    if old.is_some() && entries.is_empty() {
        entries.write(new);
        return;
    }
    let empty = Value::Object(Map::new());
    let mut difference = compare(old.unwrap_or(&empty), new, schema);
    difference.strip();
    if !difference.is_empty() {
        let ChangedFieldSets { removed, .. } = &difference;
        let taken = difference.changed();
        let identity =
            ManagerIdentity::update(options.manager, options.subresource, options.api_version);
        entries.remove_from_others(&identity, &taken.union(removed));
        let own = entries.take(&identity);
        let own = own.map(|entry| entry.fields).unwrap_or_default();
        let fields = own.difference(removed).union(&taken);
        let api_version = options.api_version.to_owned();
        let time = Some(options.now.to_owned());
        entries.put(ManagedFieldsEntry { identity, api_version, time, fields });
        entries.limit_updates();
    }
    entries.write(new);
}

/// Members of `metadata` that a manager cannot own.
const METADATA_OF_THE_SERVER: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
];

/// Returns the intent without the fields that only the server sets.
fn ownable_intent(intent: &Value) -> Result<Value, ApplyError> {
    let given = intent.pointer("/metadata/managedFields").and_then(Value::as_array);
    if given.is_some_and(|entries| !entries.is_empty()) {
        return Err(ApplyError::ManagedFieldsSet);
    }
    if !intent.is_object() {
        return Err(ApplyError::NotAnObject);
    }
    let mut intent = intent.clone();
    if let Some(metadata) = intent.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !METADATA_OF_THE_SERVER.contains(&name.as_str()));
    }
    Ok(intent)
}

/// Removes the fields that identify an object and those that only the server sets: they have no owner.
fn drop_unowned(fields: &mut FieldSet) {
    fields.remove_child("f:apiVersion");
    fields.remove_child("f:kind");
    fields.edit_child("f:metadata", |metadata| {
        metadata.clear_member();
        for name in METADATA_OF_THE_SERVER.iter().chain(&["name", "namespace"]) {
            metadata.remove_child(&format!("f:{name}"));
        }
    });
}

impl ChangedFieldSets {
    fn strip(&mut self) {
        for fields in [&mut self.added, &mut self.modified, &mut self.removed] {
            drop_unowned(fields);
        }
    }
}

/// Makes [`BEFORE_FIRST_APPLY`] the owner of all fields of an object without entries, so that an apply that changes
/// them reports a conflict.
fn own_unmanaged_fields(
    live: Option<&Value>,
    entries: &mut ManagedFieldsEntries,
    options: &ApplyOptions<'_>,
    schema: &dyn MergeSchema,
) {
    let Some(live) = live.filter(|_| entries.is_empty()) else { return };
    let empty = Value::Object(Map::new());
    let mut difference = compare(&empty, live, schema);
    difference.strip();
    entries.put(ManagedFieldsEntry {
        identity: ManagerIdentity::update(BEFORE_FIRST_APPLY, None, options.api_version),
        api_version: options.api_version.to_owned(),
        time: Some(options.now.to_owned()),
        fields: difference.added,
    });
}

impl ManagedOperation {
    /// Returns the text in `managedFields`.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

#[cfg(test)]
mod tests;
