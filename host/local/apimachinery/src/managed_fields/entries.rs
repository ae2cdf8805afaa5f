//! The entries of `metadata.managedFields`: the owner of each field, with the operation and the time.
//!
//! The module moves ownership between entries; it compares no values.

use serde_json::{Map, Value, json};

use super::field_set::FieldSet;

/// The most Update entries that an object keeps; older ones are merged, as in the real server.
const UPDATE_ENTRIES_MAX: usize = 10;
/// The manager of the merged entry.
const ANCIENT_CHANGES: &str = "ancient-changes";

/// The kind of write by which a manager became the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ManagedOperation {
    Apply,
    Update,
}

/// The identity of an entry: an object has at most one entry of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ManagerIdentity {
    pub(super) operation: ManagedOperation,
    pub(super) manager: String,
    pub(super) subresource: Option<String>,
    /// Set for Update entries only: an applier has one entry for all API versions.
    api_version: Option<String>,
}

impl ManagerIdentity {
    pub(super) fn apply(manager: &str, subresource: Option<&str>) -> Self {
        Self {
            operation: ManagedOperation::Apply,
            manager: manager.to_owned(),
            subresource: subresource.map(str::to_owned),
            api_version: None,
        }
    }

    pub(super) fn update(manager: &str, subresource: Option<&str>, api_version: &str) -> Self {
        Self {
            operation: ManagedOperation::Update,
            api_version: Some(api_version.to_owned()),
            ..Self::apply(manager, subresource)
        }
    }
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ManagedFieldsEntry {
    pub(super) identity: ManagerIdentity,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
    pub(super) fields: FieldSet,
}

impl ManagedFieldsEntry {
    fn read(json: &Value) -> Option<Self> {
        let text = |name: &str| json.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
        let manager = text("manager").unwrap_or_default();
        let subresource = text("subresource");
        let api_version = text("apiVersion")?;
        let identity = match text("operation")? {
            "Apply" => ManagerIdentity::apply(manager, subresource),
            "Update" => ManagerIdentity::update(manager, subresource, api_version),
            _ => return None,
        };
        Some(Self {
            identity,
            api_version: api_version.to_owned(),
            time: text("time").map(str::to_owned),
            fields: FieldSet::from_json(json.get("fieldsV1")?)?,
        })
    }

    fn to_json(&self) -> Value {
        let Self { identity, api_version, time, fields } = self;
        let mut members = Map::new();
        members.insert("apiVersion".to_owned(), json!(api_version));
        members.insert("fieldsType".to_owned(), json!("FieldsV1"));
        members.insert("fieldsV1".to_owned(), fields.to_json());
        members.insert("manager".to_owned(), json!(identity.manager));
        members.insert("operation".to_owned(), json!(identity.operation.as_str()));
        if let Some(subresource) = &identity.subresource {
            members.insert("subresource".to_owned(), json!(subresource));
        }
        if let Some(time) = time {
            members.insert("time".to_owned(), json!(time));
        }
        Value::Object(members)
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ManagedFieldsEntries(Vec<ManagedFieldsEntry>);

impl ManagedFieldsEntries {
    /// Returns the entries of an object, or none if one of them cannot be read, as the real server does.
    pub(super) fn of(object: &Value) -> Self {
        Self::read(object).unwrap_or_default()
    }

    /// Returns the entries of an object, or `None` if there are none or one cannot be read.
    fn read(object: &Value) -> Option<Self> {
        let list = object.pointer("/metadata/managedFields")?.as_array()?;
        let mut entries = Self::default();
        for json in list {
            entries.put(ManagedFieldsEntry::read(json)?);
        }
        (!entries.is_empty()).then_some(entries)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ManagedFieldsEntry> {
        self.0.iter()
    }

    /// Removes the entry with this identity and returns it.
    pub(super) fn take(&mut self, identity: &ManagerIdentity) -> Option<ManagedFieldsEntry> {
        let position = self.0.iter().position(|entry| entry.identity == *identity)?;
        Some(self.0.remove(position))
    }

    /// Adds an entry in place of one with the same identity; an entry without fields is not kept.
    pub(super) fn put(&mut self, entry: ManagedFieldsEntry) {
        self.take(&entry.identity);
        if !entry.fields.is_empty() {
            self.0.push(entry);
        }
    }

    /// Removes fields from all entries except this one, and then the entries that have no field left.
    pub(super) fn remove_from_others(&mut self, except: &ManagerIdentity, fields: &FieldSet) {
        for entry in self.0.iter_mut().filter(|entry| entry.identity != *except) {
            entry.fields = entry.fields.difference(fields);
        }
        self.0.retain(|entry| !entry.fields.is_empty());
    }

    /// Returns the fields that have an owner.
    pub(super) fn all_fields(&self) -> FieldSet {
        self.0.iter().fold(FieldSet::default(), |all, entry| all.union(&entry.fields))
    }

    /// Merges the oldest Update entries until at most [`UPDATE_ENTRIES_MAX`] are left.
    pub(super) fn limit_updates(&mut self) {
        self.sort();
        let is_update =
            |entry: &&ManagedFieldsEntry| entry.identity.operation == ManagedOperation::Update;
        let surplus = self.0.iter().filter(is_update).count().saturating_sub(UPDATE_ENTRIES_MAX);
        if surplus == 0 {
            return;
        }
        // One more, because the merged entry counts too.
        let oldest: Vec<ManagerIdentity> =
            self.0.iter().filter(is_update).take(surplus + 1).map(|e| e.identity.clone()).collect();
        for identity in oldest {
            let Some(entry) = self.take(&identity) else { continue };
            let ancient = ManagerIdentity::update(
                ANCIENT_CHANGES,
                identity.subresource.as_deref(),
                &entry.api_version,
            );
            let before = self.take(&ancient).map(|entry| entry.fields).unwrap_or_default();
            let fields = before.union(&entry.fields);
            self.put(ManagedFieldsEntry { identity: ancient, fields, ..entry });
        }
    }

    /// Writes the entries into an object: Apply entries first, then by time and manager.
    pub(super) fn write(mut self, object: &mut Value) {
        self.sort();
        let Some(object) = object.as_object_mut() else { return };
        if self.is_empty() {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
            return;
        }
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            let list = self.0.iter().map(ManagedFieldsEntry::to_json).collect();
            metadata.insert("managedFields".to_owned(), Value::Array(list));
        }
    }

    fn sort(&mut self) {
        let key = |entry: &ManagedFieldsEntry| {
            (entry.identity.operation, entry.time.clone(), entry.identity.clone())
        };
        self.0.sort_by_key(key);
    }
}

/// Returns the entries before the changes of a request are recorded: those in `new` if the request edited them, else
/// those of `old`.
pub(super) fn entries_of_request(
    old: Option<&Value>,
    new: &Value,
    subresource: Option<&str>,
) -> ManagedFieldsEntries {
    let of_old = || old.map(ManagedFieldsEntries::of).unwrap_or_default();
    if subresource.is_some() {
        return of_old();
    }
    let given = new.pointer("/metadata/managedFields").and_then(Value::as_array);
    let is_reset = given
        .is_some_and(|list| matches!(list.as_slice(), [Value::Object(entry)] if entry.is_empty()));
    if is_reset {
        return ManagedFieldsEntries::default();
    }
    ManagedFieldsEntries::read(new).unwrap_or_else(of_old)
}
