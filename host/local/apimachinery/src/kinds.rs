//! The built-in kinds that the server serves, and the reading of custom kinds from CRDs.
//!
//! A [`Kind`] holds names, scope and subresources. The types of fields are in `schema` and `openapi`.
//! Source of the names: the discovery documents of Kubernetes 1.33.

use std::sync::LazyLock;

use serde_json::Value;

/// One kind in one version, as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for core.
    pub group: String,
    /// Version in the group: `v1`, `v1alpha1`.
    pub version: String,
    /// CamelCase name: `ConfigMap`.
    pub kind: String,
    /// Name of the list type: `ConfigMapList`.
    pub list_kind: String,
    /// Resource name in paths: `configmaps`.
    pub plural: String,
    /// Lower-case singular: `configmap`.
    pub singular: String,
    /// Abbreviations that kubectl accepts: `cm`.
    pub short_names: Vec<String>,
    /// Groups of kinds that kubectl accepts: `all`.
    pub categories: Vec<String>,
    /// Whether objects are in a namespace.
    pub namespaced: bool,
    /// Names of subresources: `status`, `log`.
    pub subresources: Vec<String>,
    /// Whether `metadata.generation` starts at 1 and counts changes outside `metadata` and
    /// `status`.
    pub tracks_generation: bool,
    /// Field selectors beyond `metadata.name` and `metadata.namespace`, as dotted paths.
    pub selectable_fields: Vec<String>,
    /// Whether the kind comes from a CRD (its schema prunes and defaults; lists carry the kind).
    pub custom: bool,
}

/// The error for a CRD from which no kind can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrdError {
    /// A field that every CRD has is absent or has the wrong type.
    #[error("the CRD has no usable `{0}`")]
    Missing(&'static str),
    /// The CRD does not list the requested version.
    #[error("the CRD has no version `{0}`")]
    NoVersion(String),
}

impl Kind {
    /// Returns `v1` for a core kind, else `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Returns the resource name as messages print it: `configmaps` for a core kind, else `statefulsets.apps`.
    pub fn resource_name(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Returns true if the kind has this subresource.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|subresource| subresource == name)
    }

    /// Reads one version of a `CustomResourceDefinition` (apiextensions.k8s.io/v1).
    ///
    /// Names come from `spec.names`. An absent singular is the kind in lower case; an absent list kind is the kind
    /// followed by `List`.
    ///
    /// # Errors
    ///
    /// Fails if a required field is missing or the version is not listed.
    pub fn from_crd(crd: &Value, version: &str) -> Result<Self, CrdError> {
        let text = |pointer: &str, name: &'static str| {
            crd.pointer(pointer).and_then(Value::as_str).ok_or(CrdError::Missing(name))
        };
        let optional = |pointer: &str| crd.pointer(pointer).and_then(Value::as_str);
        let kind = text("/spec/names/kind", "spec.names.kind")?;
        let entry = crd_version(crd, version)?;
        let mut subresources = Vec::new();
        if entry.pointer("/subresources/status").is_some_and(Value::is_object) {
            subresources.push("status".to_owned());
        }
        let selectable = entry.get("selectableFields").and_then(Value::as_array);
        let selectable_fields = selectable.into_iter().flatten();
        let selectable_fields = selectable_fields
            .filter_map(|field| field.get("jsonPath").and_then(Value::as_str))
            .map(|path| path.trim_start_matches('.').to_owned())
            .collect();
        Ok(Self {
            group: text("/spec/group", "spec.group")?.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            list_kind: optional("/spec/names/listKind")
                .map_or_else(|| format!("{kind}List"), str::to_owned),
            plural: text("/spec/names/plural", "spec.names.plural")?.to_owned(),
            singular: optional("/spec/names/singular")
                .map_or_else(|| kind.to_lowercase(), str::to_owned),
            short_names: strings(crd.pointer("/spec/names/shortNames")),
            categories: strings(crd.pointer("/spec/names/categories")),
            namespaced: text("/spec/scope", "spec.scope")? == "Namespaced",
            subresources,
            tracks_generation: true,
            selectable_fields,
            custom: true,
        })
    }
}

/// Returns the entry of `spec.versions` with this name.
///
/// # Errors
///
/// Fails if the CRD has no `spec.versions` or does not list this version.
pub fn crd_version<'a>(crd: &'a Value, version: &str) -> Result<&'a Value, CrdError> {
    let versions = crd
        .pointer("/spec/versions")
        .and_then(Value::as_array)
        .ok_or(CrdError::Missing("spec.versions"))?;
    versions
        .iter()
        .find(|entry| entry.get("name").and_then(Value::as_str) == Some(version))
        .ok_or_else(|| CrdError::NoVersion(version.to_owned()))
}

/// Returns the built-in kinds, ordered by group, version and plural.
pub fn builtin() -> &'static [Kind] {
    static KINDS: LazyLock<Vec<Kind>> =
        LazyLock::new(|| ROWS.iter().map(BuiltinKindRow::kind).collect());
    &KINDS
}

/// Returns the built-in kind with this resource name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    builtin()
        .iter()
        .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// One row of [`ROWS`]; the items of a list are separated by spaces.
struct BuiltinKindRow {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    categories: &'static str,
    scope: KindScope,
    subresources: &'static str,
    generation: GenerationRule,
    selectable: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KindScope {
    Namespaced,
    Cluster,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GenerationRule {
    Tracked,
    Absent,
}

impl BuiltinKindRow {
    const fn namespaced(group: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self {
            group,
            version: "v1",
            kind,
            plural,
            short: "",
            categories: "",
            scope: KindScope::Namespaced,
            subresources: "",
            generation: GenerationRule::Absent,
            selectable: "",
        }
    }

    const fn cluster(group: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self { scope: KindScope::Cluster, ..Self::namespaced(group, kind, plural) }
    }

    const fn short(self, short: &'static str) -> Self {
        Self { short, ..self }
    }

    const fn in_all(self) -> Self {
        Self { categories: "all", ..self }
    }

    const fn api_extensions(self) -> Self {
        Self { categories: "api-extensions", ..self }
    }

    const fn subresources(self, subresources: &'static str) -> Self {
        Self { subresources, ..self }
    }

    const fn tracked(self) -> Self {
        Self { generation: GenerationRule::Tracked, ..self }
    }

    const fn selectable(self, selectable: &'static str) -> Self {
        Self { selectable, ..self }
    }

    fn kind(&self) -> Kind {
        let split = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Kind {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            kind: self.kind.to_owned(),
            list_kind: format!("{}List", self.kind),
            plural: self.plural.to_owned(),
            singular: self.kind.to_lowercase(),
            short_names: split(self.short),
            categories: split(self.categories),
            namespaced: self.scope == KindScope::Namespaced,
            subresources: split(self.subresources),
            tracks_generation: self.generation == GenerationRule::Tracked,
            selectable_fields: split(self.selectable),
            custom: false,
        }
    }
}

/// Field selectors of core/v1 events; `kubectl describe` uses the first four.
const EVENT_FIELDS: &str = "involvedObject.kind involvedObject.namespace involvedObject.name \
    involvedObject.uid involvedObject.apiVersion involvedObject.resourceVersion \
    involvedObject.fieldPath reason reportingComponent source type";
/// The same fields under the names of events.k8s.io/v1.
const NEW_EVENT_FIELDS: &str = "regarding.kind regarding.namespace regarding.name regarding.uid \
    regarding.apiVersion regarding.resourceVersion regarding.fieldPath reason \
    reportingController type";
/// Field selectors of Pods; the scheduler and the node agent depend on `spec.nodeName`.
const POD_FIELDS: &str = "spec.nodeName spec.restartPolicy spec.schedulerName \
    spec.serviceAccountName spec.hostNetwork status.phase status.podIP status.nominatedNodeName";

/// The built-in kinds, in the order of [`builtin`].
const ROWS: &[BuiltinKindRow] = &[
    BuiltinKindRow::namespaced("", "ConfigMap", "configmaps").short("cm"),
    BuiltinKindRow::namespaced("", "Endpoints", "endpoints").short("ep"),
    BuiltinKindRow::namespaced("", "Event", "events").short("ev").selectable(EVENT_FIELDS),
    BuiltinKindRow::cluster("", "Namespace", "namespaces")
        .short("ns")
        .subresources("status")
        .selectable("status.phase"),
    BuiltinKindRow::cluster("", "Node", "nodes")
        .short("no")
        .subresources("status")
        .selectable("spec.unschedulable"),
    BuiltinKindRow::namespaced("", "PersistentVolumeClaim", "persistentvolumeclaims")
        .short("pvc")
        .subresources("status"),
    BuiltinKindRow::cluster("", "PersistentVolume", "persistentvolumes")
        .short("pv")
        .subresources("status"),
    BuiltinKindRow::namespaced("", "Pod", "pods")
        .short("po")
        .in_all()
        .subresources("status log")
        .tracked()
        .selectable(POD_FIELDS),
    BuiltinKindRow::namespaced("", "ResourceQuota", "resourcequotas").short("quota"),
    BuiltinKindRow::namespaced("", "Secret", "secrets").selectable("type"),
    BuiltinKindRow::namespaced("", "ServiceAccount", "serviceaccounts").short("sa"),
    BuiltinKindRow::namespaced("", "Service", "services")
        .short("svc")
        .in_all()
        .subresources("status")
        .selectable("spec.clusterIP spec.type"),
    BuiltinKindRow::cluster(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    )
    .short("crd crds")
    .api_extensions()
    .subresources("status")
    .tracked(),
    BuiltinKindRow::namespaced("apps", "ControllerRevision", "controllerrevisions"),
    BuiltinKindRow::namespaced("apps", "StatefulSet", "statefulsets")
        .short("sts")
        .in_all()
        .subresources("status")
        .tracked(),
    BuiltinKindRow::namespaced("coordination.k8s.io", "Lease", "leases"),
    BuiltinKindRow::namespaced("discovery.k8s.io", "EndpointSlice", "endpointslices").tracked(),
    BuiltinKindRow::namespaced("events.k8s.io", "Event", "events")
        .short("ev")
        .selectable(NEW_EVENT_FIELDS),
    BuiltinKindRow::namespaced("policy", "PodDisruptionBudget", "poddisruptionbudgets")
        .short("pdb")
        .subresources("status")
        .tracked(),
    BuiltinKindRow::cluster("storage.k8s.io", "StorageClass", "storageclasses").short("sc"),
];

fn strings(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_unique_and_ordered() {
        let names: Vec<_> =
            builtin().iter().map(|kind| (&kind.group, &kind.version, &kind.plural)).collect();
        assert!(names.is_sorted(), "{names:?}");
        let mut unique = names.clone();
        unique.dedup();
        assert_eq!(unique, names);
    }

    #[test]
    fn a_kind_is_read_from_a_crd() {
        let crd = json!({"spec": {
            "group": "redis.tholepin.dev", "scope": "Namespaced",
            "names": {"kind": "RedisCluster", "plural": "redisclusters", "shortNames": ["rc"]},
            "versions": [{"name": "v1alpha1", "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.color"}]}],
        }});
        let kind = Kind::from_crd(&crd, "v1alpha1").unwrap();
        assert_eq!(kind.api_version(), "redis.tholepin.dev/v1alpha1");
        assert_eq!(kind.resource_name(), "redisclusters.redis.tholepin.dev");
        assert_eq!(kind.singular, "rediscluster");
        assert_eq!(kind.list_kind, "RedisClusterList");
        assert!(kind.namespaced && kind.has_subresource("status"));
        assert_eq!(kind.selectable_fields, ["spec.color"]);
        assert_eq!(Kind::from_crd(&crd, "v2"), Err(CrdError::NoVersion("v2".to_owned())));
        assert_eq!(Kind::from_crd(&json!({}), "v1"), Err(CrdError::Missing("spec.names.kind")));
    }
}
