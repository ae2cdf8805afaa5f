//! Decides who owns which field: server-side apply, and the tracking of every other write.
//!
//! ```text
//! intent ─┐                                   ┌─► object with new managedFields
//! live  ──┴─► merge ─► compare ─► conflicts ──┤
//!                                             └─► ApplyError
//! ```
//!
//! It stores nothing and judges no value: pruning and defaulting come before or after, as the
//! functions say. Source of the semantics: kubernetes-sigs/structured-merge-diff `merge/update.go`
//! and k8s.io/apimachinery `pkg/util/managedfields`.
//!
//! Invariants:
//! - A write that changes nothing leaves every entry as it was, its time too.
//! - Fields that only the server sets (uid, resourceVersion, …) are never owned.
//! - One manager has at most one entry per operation, subresource and (for Update) API version.

use serde_json::{Map, Value};

use crate::merge_schema::MergeSchema;

mod compare;
mod conflict;
mod entries;
mod field_set;
mod merge;

pub use conflict::{Conflict, conflict_summary};

use compare::{ObjectDifference, compare, field_set_of};
use entries::{ManagedFieldsEntries, ManagedFieldsEntry, ManagedOperation, ManagerIdentity};
use field_set::FieldSet;

/// The manager that owns what an object had before its first apply, if nobody was known to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// What an apply request says beside the object.
#[derive(Clone, Copy, Debug)]
pub struct ApplyOptions<'a> {
    /// `fieldManager`, at most 128 bytes.
    pub manager: &'a str,
    /// Whether to take fields from their owners.
    pub force: bool,
    /// `status` for the status subresource, nothing for the object itself.
    pub subresource: Option<&'a str>,
    /// The time, RFC 3339 with whole seconds: `2026-01-02T03:04:05Z`.
    pub now: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
}

/// What an update, create or patch says beside the object.
#[derive(Clone, Copy, Debug)]
pub struct UpdateOptions<'a> {
    /// `fieldManager`, or what stands in for it (the user agent's first word).
    pub manager: &'a str,
    /// `status` for the status subresource, nothing for the object itself.
    pub subresource: Option<&'a str>,
    /// The time, RFC 3339 with whole seconds.
    pub now: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
}

/// The outcome of an apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The object to store, with its new `managedFields`.
    pub object: Value,
    /// Whether anything differs from the live object. If not, nothing is to be written.
    pub changed: bool,
    /// Whether there was no live object.
    pub created: bool,
}

/// Why an apply was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields that the intent changes: 409.
    #[error("{}", conflict_summary(.0))]
    Conflicts(Vec<Conflict>),
    /// The intent cannot be merged at all: 400.
    #[error("{0}")]
    Invalid(String),
}

/// Applies `intent`, the whole opinion of one manager, to the live object.
///
/// What the manager owned before and no longer mentions is removed, unless somebody else owns it
/// too. Members of `metadata` that only the server sets are taken from the live object, whatever
/// the intent says.
///
/// # Assumptions
///
/// `intent` is pruned, and reduced to the part that the request is about: no `status` for the
/// object itself where the kind has a status subresource, nothing but `status` for that. Defaults
/// are applied to the result, afterwards; since they can undo a difference, compare the final
/// object with the live one, without the times of its entries, before writing it.
///
/// # Errors
///
/// Fails on fields of other managers with other values, unless forced, and on intents that cannot be
/// merged (items without their keys, items twice, `managedFields` given).
pub fn apply(
    live: Option<&Value>,
    intent: &Value,
    options: &ApplyOptions<'_>,
    topology: &dyn MergeSchema,
) -> Result<Applied, ApplyError> {
    let intent = ownable_intent(intent)?;
    let mut wanted = field_set_of(&intent, topology).map_err(ApplyError::Invalid)?;
    drop_unowned(&mut wanted);

    let nothing = Value::Object(Map::new());
    let before = live.unwrap_or(&nothing);
    let mut entries = ManagedFieldsEntries::of(before);
    adopt_orphans(live, &mut entries, options, topology);

    let merged = merge::merge(before, &intent, topology).map_err(ApplyError::Invalid)?;
    let identity = ManagerIdentity::apply(options.manager, options.subresource);
    let mut difference = compare(before, &merged, topology);
    difference.strip();

    let taken = difference.changed();
    let conflicts = conflict::find(&entries, &identity, &taken);
    if !conflicts.is_empty() && !options.force {
        return Err(ApplyError::Conflicts(conflicts));
    }
    entries.retreat(&identity, &taken.union(&difference.removed));

    let mut object = merged;
    let previous = entries.take(&identity);
    if let Some(previous) = &previous {
        let dropped = previous.fields.difference(&wanted);
        let kept = entries.all_fields().union(&wanted);
        merge::remove(&mut object, &dropped, &kept, topology);
    }
    if live.is_none() {
        // Nobody can own fields of an object that is only now made.
        entries = ManagedFieldsEntries::default();
    }
    let mut removed = compare(before, &object, topology);
    removed.strip();
    let unchanged = removed.is_empty();
    entries.retreat(&identity, &removed.removed);
    let time = match &previous {
        Some(previous) if unchanged && previous.fields == wanted => previous.time.clone(),
        _ => Some(options.now.to_owned()),
    };
    let api_version = options.api_version.to_owned();
    entries.put(ManagedFieldsEntry { identity, api_version, time, fields: wanted });
    entries.write(&mut object);
    let changed = live.is_none_or(|live| *live != object);
    Ok(Applied { object, changed, created: live.is_none() })
}

/// Records who changed what when `new` replaces `old` by create, update or patch.
///
/// `new` holds the `managedFields` that the request left there: an edited list is taken as it is,
/// `[{}]` drops all entries, and an absent, empty or unreadable one means those of `old` (the real
/// server does not let an empty list reset them either). Fields that changed pass to the manager;
/// entries without fields vanish. An existing object without entries stays so until its first apply.
///
/// # Assumptions
///
/// `new` is pruned and defaulted, and holds what the request may not change as `old` has it.
pub fn track_update(
    old: Option<&Value>,
    new: &mut Value,
    options: &UpdateOptions<'_>,
    topology: &dyn MergeSchema,
) {
    let mut entries = entries::after_request(old, new, options.subresource);
    if old.is_some() && entries.is_empty() {
        entries.write(new);
        return;
    }
    let nothing = Value::Object(Map::new());
    let mut difference = compare(old.unwrap_or(&nothing), new, topology);
    difference.strip();
    if !difference.is_empty() {
        let ObjectDifference { removed, .. } = &difference;
        let taken = difference.changed();
        let identity =
            ManagerIdentity::update(options.manager, options.subresource, options.api_version);
        entries.retreat(&identity, &taken.union(removed));
        let own = entries.take(&identity);
        let own = own.map(|entry| entry.fields).unwrap_or_default();
        let fields = own.difference(removed).union(&taken);
        let api_version = options.api_version.to_owned();
        let time = Some(options.now.to_owned());
        entries.put(ManagedFieldsEntry { identity, api_version, time, fields });
        entries.bound_updates();
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

/// The intent without what only the server sets.
fn ownable_intent(intent: &Value) -> Result<Value, ApplyError> {
    let given = intent.pointer("/metadata/managedFields").and_then(Value::as_array);
    if given.is_some_and(|entries| !entries.is_empty()) {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".to_owned()));
    }
    if !intent.is_object() {
        return Err(ApplyError::Invalid("the body of an apply must be an object".to_owned()));
    }
    let mut intent = intent.clone();
    if let Some(metadata) = intent.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !METADATA_OF_THE_SERVER.contains(&name.as_str()));
    }
    Ok(intent)
}

/// Takes away what identifies an object or is the server's: nobody owns it.
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

impl ObjectDifference {
    fn strip(&mut self) {
        for fields in [&mut self.added, &mut self.modified, &mut self.removed] {
            drop_unowned(fields);
        }
    }
}

/// Gives the fields of an object that nobody manages to a stand-in, so that they can conflict.
fn adopt_orphans(
    live: Option<&Value>,
    entries: &mut ManagedFieldsEntries,
    options: &ApplyOptions<'_>,
    topology: &dyn MergeSchema,
) {
    let Some(live) = live.filter(|_| entries.is_empty()) else { return };
    let nothing = Value::Object(Map::new());
    let mut difference = compare(&nothing, live, topology);
    difference.strip();
    entries.put(ManagedFieldsEntry {
        identity: ManagerIdentity::update(BEFORE_FIRST_APPLY, None, options.api_version),
        api_version: options.api_version.to_owned(),
        time: Some(options.now.to_owned()),
        fields: difference.added,
    });
}

impl ManagedOperation {
    /// As `managedFields` writes it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

#[cfg(test)]
mod tests;
