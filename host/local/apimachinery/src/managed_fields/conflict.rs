//! The conflicts of an apply, and their messages.
//!
//! Source of the wording: k8s.io/apimachinery `pkg/util/managedfields/internal/conflict.go`.

use std::collections::BTreeMap;

use super::entries::{ManagedFieldsEntries, ManagedOperation, ManagerIdentity};
use super::field_set::FieldSet;

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldConflict {
    /// The owner.
    pub manager: String,
    /// Whether the owner's operation is `Update`; it is `Apply` otherwise.
    pub by_update: bool,
    /// The owner's subresource.
    pub subresource: Option<String>,
    /// The owner's API version.
    pub api_version: String,
    /// The time of the last change to the owner's entry.
    pub time: Option<String>,
    /// The field: `.data.a`, `.spec.containers[name="a"].image`.
    pub field: String,
}

impl FieldConflict {
    /// Returns `message` of the `Status` cause with reason `FieldManagerConflict`:
    /// `conflict with "kubectl" using v1 at 2026-01-02T03:04:05Z`.
    pub fn message(&self) -> String {
        format!("conflict with {}", self.owner())
    }

    fn owner(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if let Some(subresource) = &self.subresource {
            text.push_str(&format!(" with subresource {subresource:?}"));
        }
        if self.by_update {
            text.push_str(&format!(" using {}", self.api_version));
            if let Some(time) = &self.time {
                text.push_str(&format!(" at {time}"));
            }
        }
        text
    }
}

/// Returns the text of `Status.message` for conflicts.
pub fn conflict_summary(conflicts: &[FieldConflict]) -> String {
    if let [single] = conflicts {
        return format!("Apply failed with 1 conflict: {}: {}", single.message(), single.field);
    }
    let mut by_owner: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        by_owner.entry(conflict.owner()).or_default().push(&conflict.field);
    }
    let mut lines = Vec::new();
    for (owner, fields) in by_owner {
        lines.push(format!("conflicts with {owner}:"));
        lines.extend(fields.iter().map(|field| format!("- {field}")));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Returns a conflict for each changed field that another manager owns.
pub(super) fn find(
    entries: &ManagedFieldsEntries,
    own: &ManagerIdentity,
    changed: &FieldSet,
) -> Vec<FieldConflict> {
    let others = entries.iter().filter(|entry| entry.identity != *own);
    let mut conflicts: Vec<FieldConflict> = others
        .flat_map(|entry| {
            entry.fields.intersection(changed).paths().into_iter().map(|field| FieldConflict {
                manager: entry.identity.manager.clone(),
                by_update: entry.identity.operation == ManagedOperation::Update,
                subresource: entry.identity.subresource.clone(),
                api_version: entry.api_version.clone(),
                time: entry.time.clone(),
                field,
            })
        })
        .collect();
    conflicts.sort();
    conflicts
}
