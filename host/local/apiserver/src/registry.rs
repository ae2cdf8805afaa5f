//! Knows which kinds are served, under which names and versions, and how each is stored.
//!
//! Built-in kinds are always there; those of CRDs come and go with [`KindRegistry::offer`] and
//! [`KindRegistry::withdraw`]. It holds no object.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;
use tholepin_apimachinery::merge_schema::{BuiltinMergeSchema, MergeSchema};
use tholepin_apimachinery::table::{self, TableColumn};
use tholepin_apimachinery::{Kind, StructuralSchema};
use tholepin_apimachinery::{kinds, openapi};

use crate::status::{ApiError, StatusTarget};
use crate::store::GroupResource;

/// One kind in one version, ready to be served.
pub(crate) struct ServedKind {
    /// Names, scope and subresources.
    pub(crate) kind: Kind,
    /// `apiVersion` of the objects shown.
    pub(crate) api_version: String,
    /// Where its objects are stored, shared by all versions and by both event groups.
    pub(crate) resource: GroupResource,
    /// `apiVersion` of stored objects.
    pub(crate) stored_api_version: String,
    /// The columns of its table.
    pub(crate) columns: Vec<TableColumn>,
    /// What a CRD says about its fields.
    pub(crate) custom: Option<CustomResourceSchema>,
    /// How a built-in kind's fields are merged.
    builtin: Option<BuiltinMergeSchema>,
}

/// What a CRD version says about its fields.
pub(crate) struct CustomResourceSchema {
    /// The schema, compiled.
    pub(crate) schema: StructuralSchema,
    /// The schema as written, for OpenAPI.
    pub(crate) open_api: Value,
    /// The sentence to warn with, where the version is deprecated.
    pub(crate) deprecation: Option<String>,
}

impl ServedKind {
    /// Makes a CRD's version ready. Fails with the text of a column that cannot be read.
    ///
    /// # Errors
    ///
    /// A printer column's path is not understood.
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
            // Built-in kinds have no printer columns of their own, so no path can be wrong.
            columns: table::columns(kind, None).unwrap_or_default(),
            custom: None,
            builtin: Some(BuiltinMergeSchema::for_kind(kind)),
            kind: kind.clone(),
        }
    }

    /// How its fields are merged.
    pub(crate) fn topology(&self) -> &dyn MergeSchema {
        match (&self.custom, &self.builtin) {
            (Some(custom), _) => &custom.schema,
            (None, Some(builtin)) => builtin,
            (None, None) => &Schemaless,
        }
    }

    /// Names one object of this kind in messages that speak of resources.
    pub(crate) fn subject(&self, name: &str) -> StatusTarget {
        StatusTarget::new(&self.kind.group, &self.kind.plural, name)
    }

    /// Names one object of this kind in messages that speak of kinds.
    pub(crate) fn kind_subject(&self, name: &str) -> StatusTarget {
        StatusTarget::new(&self.kind.group, &self.kind.kind, name)
    }

    /// Whether this is the built-in resource so named.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.is(group, plural)
    }
}

/// Nothing is known of the fields: lists are whole, maps are merged.
struct Schemaless;

impl MergeSchema for Schemaless {
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

/// An OpenAPI document, as sent, and its hash.
type OpenApiDocument = (Vec<u8>, String);

type KindVersions = BTreeMap<(String, String, String), Arc<ServedKind>>;

/// All kinds served.
pub(crate) struct KindRegistry {
    kinds: RwLock<KindVersions>,
    /// Documents made already, by group and version; at most one for each version served.
    documents: Mutex<BTreeMap<(String, String), Arc<OpenApiDocument>>>,
}

impl KindRegistry {
    /// The built-in kinds.
    pub(crate) fn builtin() -> Self {
        let kinds =
            kinds::builtin().iter().map(|kind| (place(kind), Arc::new(ServedKind::builtin(kind))));
        Self { kinds: RwLock::new(kinds.collect()), documents: Mutex::default() }
    }

    /// Finds what is served at a path.
    ///
    /// # Errors
    ///
    /// 404 where nothing is.
    pub(crate) fn find(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Result<Arc<ServedKind>, ApiError> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let place = (group.to_owned(), version.to_owned(), plural.to_owned());
        kinds.get(&place).cloned().ok_or_else(ApiError::no_such_path)
    }

    /// Finds any version of a stored resource, the stored one if it is served.
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

    /// Everything served, ordered by group, version and plural.
    pub(crate) fn all(&self) -> Vec<Arc<ServedKind>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.values().cloned().collect()
    }

    /// Serves exactly these versions of a CRD's kind, instead of what was served before.
    pub(crate) fn offer(&self, group: &str, plural: &str, versions: Vec<ServedKind>) {
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        kinds.retain(|(g, _, p), served| served.custom.is_none() || g != group || p != plural);
        for served in versions {
            kinds.insert(place(&served.kind), Arc::new(served));
        }
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        documents.retain(|(of, _), _| of != group);
    }

    /// The index of OpenAPI documents, with the hash of each.
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

    /// The OpenAPI document of one version of a group, as JSON.
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
        let place = (group.to_owned(), version.to_owned());
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = documents.get(&place) {
            return Some(Arc::clone(document));
        }
        let parts: Vec<(&Kind, Option<&Value>)> = kinds
            .iter()
            .map(|served| (&served.kind, served.custom.as_ref().map(|custom| &custom.open_api)))
            .collect();
        let value = openapi::document(group, version, &parts);
        let text = serde_json::to_vec(&value).unwrap_or_default();
        let document = Arc::new((text, openapi::hash(&value)));
        documents.insert(place, Arc::clone(&document));
        Some(document)
    }

    /// Stops serving a CRD's kind.
    pub(crate) fn withdraw(&self, group: &str, plural: &str) {
        self.offer(group, plural, Vec::new());
    }
}

fn place(kind: &Kind) -> (String, String, String) {
    (kind.group.clone(), kind.version.clone(), kind.plural.clone())
}
