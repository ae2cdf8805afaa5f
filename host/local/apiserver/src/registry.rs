//! The registry of served kinds, with their versions and the resource under which each is stored.
//!
//! Built-in kinds are always registered; [`KindRegistry::set_versions`] and [`KindRegistry::remove`] add and remove the
//! kinds of CRDs. The registry holds no objects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;
use tholepin_apimachinery::merge_schema::{BuiltinMergeSchema, MergeSchema};
use tholepin_apimachinery::table::{self, TableColumn};
use tholepin_apimachinery::{Kind, StructuralSchema};
use tholepin_apimachinery::{kinds, openapi};

use crate::status::{ApiError, ErrorStatusObject};
use crate::store::GroupResource;

/// One served version of a kind.
pub(crate) struct ServedKind {
    /// Names, scope and subresources.
    pub(crate) kind: Kind,
    /// `apiVersion` of objects in responses.
    pub(crate) api_version: String,
    /// The resource under which objects are stored, the same for all versions and for both API groups of events.
    pub(crate) resource: GroupResource,
    /// `apiVersion` of stored objects.
    pub(crate) stored_api_version: String,
    /// The columns of the kind's tables.
    pub(crate) columns: Vec<TableColumn>,
    /// The schema of a custom kind.
    pub(crate) custom: Option<CustomResourceSchema>,
    /// The merge rules of a built-in kind.
    builtin: Option<BuiltinMergeSchema>,
}

/// The schema of a CRD version.
pub(crate) struct CustomResourceSchema {
    /// The compiled schema.
    pub(crate) schema: StructuralSchema,
    /// The source of the schema, for OpenAPI.
    pub(crate) open_api: Value,
    /// The warning, if the version is deprecated.
    pub(crate) deprecation: Option<String>,
}

impl ServedKind {
    /// Returns the served kind for a version of a CRD.
    ///
    /// # Errors
    ///
    /// Fails if the JSONPath of a printer column cannot be parsed.
    pub(crate) fn custom(
        kind: Kind,
        stored_api_version: String,
        custom: CustomResourceSchema,
        printer_columns: Option<&Value>,
    ) -> Result<Self, tholepin_apimachinery::jsonpath::JsonPathError> {
        let columns = table::columns(&kind, printer_columns)?;
        let resource = GroupResource::new(&kind.group, &kind.plural);
        let api_version = kind.api_version();
        Ok(Self {
            kind,
            api_version,
            resource,
            stored_api_version,
            columns,
            custom: Some(custom),
            builtin: None,
        })
    }

    fn builtin(kind: &Kind) -> Self {
        let is_event = kind.plural == "events";
        let group = if is_event { "" } else { kind.group.as_str() };
        Self {
            api_version: kind.api_version(),
            resource: GroupResource::new(group, &kind.plural),
            stored_api_version: if is_event { "v1".into() } else { kind.api_version() },
            // Built-in kinds have no printer columns, so there is no JSONPath that can fail.
            columns: table::columns(kind, None).unwrap_or_default(),
            custom: None,
            builtin: Some(BuiltinMergeSchema::for_kind(kind)),
            kind: kind.clone(),
        }
    }

    /// Returns the merge rules of the kind's fields.
    pub(crate) fn merge_schema(&self) -> &dyn MergeSchema {
        match (&self.custom, &self.builtin) {
            (Some(custom), _) => &custom.schema,
            (None, Some(builtin)) => builtin,
            (None, None) => &SchemalessMergeRules,
        }
    }

    /// Returns the target for messages that name an object by its resource.
    pub(crate) fn subject(&self, name: &str) -> ErrorStatusObject {
        ErrorStatusObject::new(&self.kind.group, &self.kind.plural, name)
    }

    /// Returns the target for messages that name an object by its kind.
    pub(crate) fn kind_subject(&self, name: &str) -> ErrorStatusObject {
        ErrorStatusObject::new(&self.kind.group, &self.kind.kind, name)
    }

    /// Returns true if the kind is stored under this resource.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.is(group, plural)
    }
}

/// The merge rules of a kind without a schema: lists are atomic, maps are merged.
struct SchemalessMergeRules;

impl MergeSchema for SchemalessMergeRules {
    fn list_shape(
        &self,
        _path: &[tholepin_apimachinery::merge_schema::MergeStep<'_>],
    ) -> tholepin_apimachinery::merge_schema::MergeShape {
        tholepin_apimachinery::merge_schema::MergeShape::Atomic
    }

    fn map_shape(
        &self,
        _path: &[tholepin_apimachinery::merge_schema::MergeStep<'_>],
    ) -> tholepin_apimachinery::merge_schema::MergeShape {
        tholepin_apimachinery::merge_schema::MergeShape::Granular
    }
}

/// An OpenAPI document as JSON, and its hash.
type OpenApiDocument = (Vec<u8>, String);

type KindVersions = BTreeMap<(String, String, String), Arc<ServedKind>>;

/// All served kinds.
pub(crate) struct KindRegistry {
    kinds: RwLock<KindVersions>,
    /// The OpenAPI documents that were built, by group and version; at most one for each served version.
    documents: Mutex<BTreeMap<(String, String), Arc<OpenApiDocument>>>,
}

impl KindRegistry {
    /// Returns a registry of the built-in kinds.
    pub(crate) fn builtin() -> Self {
        let kinds = kinds::builtin()
            .iter()
            .map(|kind| (version_key(kind), Arc::new(ServedKind::builtin(kind))));
        Self { kinds: RwLock::new(kinds.collect()), documents: Mutex::default() }
    }

    /// Returns the kind that is served at a path.
    ///
    /// # Errors
    ///
    /// 404 if there is none.
    pub(crate) fn find(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Result<Arc<ServedKind>, ApiError> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        kinds.get(&key).cloned().ok_or_else(ApiError::no_such_path)
    }

    /// Returns a served version of a resource: the stored version if it is served, else the first.
    pub(crate) fn of_resource(&self, resource: &GroupResource) -> Option<Arc<ServedKind>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = kinds.values().filter(|served| served.resource == *resource);
        let first = found.next()?;
        let is_stored = |served: &ServedKind| served.api_version == served.stored_api_version;
        if is_stored(first) {
            return Some(Arc::clone(first));
        }
        Some(Arc::clone(found.find(|served| is_stored(served)).unwrap_or(first)))
    }

    /// Returns all served kinds, ordered by group, version and plural.
    pub(crate) fn all(&self) -> Vec<Arc<ServedKind>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.values().cloned().collect()
    }

    /// Replaces the served versions of a CRD's kind.
    pub(crate) fn set_versions(&self, group: &str, plural: &str, versions: Vec<ServedKind>) {
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        kinds.retain(|(g, _, p), served| served.custom.is_none() || g != group || p != plural);
        for served in versions {
            kinds.insert(version_key(&served.kind), Arc::new(served));
        }
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        documents.retain(|(of, _), _| of != group);
    }

    /// Returns the index of the OpenAPI documents, with the hash of each.
    pub(crate) fn open_api_index(&self) -> Value {
        let mut places: Vec<(String, String)> =
            self.all().iter().map(|s| (s.kind.group.clone(), s.kind.version.clone())).collect();
        places.dedup();
        let found: Vec<(String, Arc<OpenApiDocument>)> = places
            .into_iter()
            .filter_map(|(group, version)| {
                let document = self.document(&group, &version)?;
                let name = if group.is_empty() { version } else { format!("{group}/{version}") };
                Some((name, document))
            })
            .collect();
        openapi::index(found.iter().map(|(name, document)| (name.as_str(), document.1.as_str())))
    }

    /// Returns the OpenAPI document of one version of a group, as JSON.
    pub(crate) fn open_api(&self, group: &str, version: &str) -> Option<Vec<u8>> {
        self.document(group, version).map(|document| document.0.clone())
    }

    fn document(&self, group: &str, version: &str) -> Option<Arc<OpenApiDocument>> {
        let kinds: Vec<Arc<ServedKind>> = self
            .all()
            .into_iter()
            .filter(|served| served.kind.group == group && served.kind.version == version)
            .collect();
        if kinds.is_empty() {
            return None;
        }
        let key = (group.to_owned(), version.to_owned());
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = documents.get(&key) {
            return Some(Arc::clone(document));
        }
        let parts: Vec<(&Kind, Option<&Value>)> = kinds
            .iter()
            .map(|served| (&served.kind, served.custom.as_ref().map(|custom| &custom.open_api)))
            .collect();
        let value = openapi::document(group, version, &parts);
        let text = serde_json::to_vec(&value).unwrap_or_default();
        let document = Arc::new((text, openapi::hash(&value)));
        documents.insert(key, Arc::clone(&document));
        Some(document)
    }

    /// Stops serving a CRD's kind.
    pub(crate) fn remove(&self, group: &str, plural: &str) {
        self.set_versions(group, plural, Vec::new());
    }
}

fn version_key(kind: &Kind) -> (String, String, String) {
    (kind.group.clone(), kind.version.clone(), kind.plural.clone())
}
