//! CustomResourceDefinitions: defaults, validation, and the registration of their kinds.

use serde_json::{Value, json};
use tholepin_apimachinery::kinds as names;
use tholepin_apimachinery::{FieldError, Kind, StructuralSchema};
use tracing::warn;

use crate::kinds::follow_up::ApiServerFollowUpStatus;
use crate::object::{
    as_map_mut, child_mut, default, is_deleting, items, metadata_mut, name, seconds, text,
};
use crate::registry::{CustomResourceSchema, ServedKind};
use crate::status::ApiError;
use crate::store::{GroupResource, NamespacedName};
use crate::write_context::ObjectWriteContext;

/// The finalizer that keeps a CRD until its objects are deleted.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Sets the defaults of names and conversion.
pub(super) fn defaults(object: &mut Value) {
    let spec = child_mut(object, "spec");
    default(spec, "conversion", json!({"strategy": "None"}));
    let kind = spec.get("names").and_then(|names| text(names, "/kind")).map(str::to_owned);
    if let (Some(kind), Some(Value::Object(names))) = (kind, spec.get_mut("names")) {
        default(names, "singular", json!(kind.to_lowercase()));
        default(names, "listKind", json!(format!("{kind}List")));
    }
}

/// Validates a CRD, and checks that an update does not change kind, plural, group and scope.
pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["/spec/group", "/spec/names/plural", "/spec/names/kind", "/spec/scope"] {
        if text(new, field).unwrap_or("").is_empty() {
            errors.push(FieldError::required(field.trim_start_matches('/').replace('/', "."), ""));
        }
    }
    let group = text(new, "/spec/group").unwrap_or("");
    let plural = text(new, "/spec/names/plural").unwrap_or("");
    let expected = format!("{plural}.{group}");
    if name(new) != expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &json!(name(new)), detail));
    }
    if !group.contains('.') || names::builtin().iter().any(|kind| kind.group == group) {
        let detail = "should be a domain with at least one dot that no built-in kind uses";
        errors.push(FieldError::invalid("spec.group", &json!(group), detail));
    }
    let scope = new.pointer("/spec/scope").unwrap_or(&Value::Null);
    if !matches!(scope.as_str(), Some("Namespaced" | "Cluster")) {
        let allowed = [json!("Cluster"), json!("Namespaced")];
        errors.push(FieldError::not_supported("spec.scope", scope, &allowed));
    }
    if text(new, "/spec/conversion/strategy").is_some_and(|strategy| strategy != "None") {
        let value = new.pointer("/spec/conversion/strategy").unwrap_or(&Value::Null);
        let field = "spec.conversion.strategy";
        errors.push(FieldError::not_supported(field, value, &[json!("None")]));
    }
    errors.extend(validate_versions(new));
    for field in ["/spec/group", "/spec/names/kind", "/spec/names/plural", "/spec/scope"] {
        if let Some(before) = old.and_then(|old| old.pointer(field)) {
            let after = new.pointer(field).unwrap_or(&Value::Null);
            if before != after {
                let path = field.trim_start_matches('/').replace('/', ".");
                errors.push(FieldError::invalid(path, after, "field is immutable"));
            }
        }
    }
    errors
}

fn validate_versions(crd: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let versions = items(crd, "/spec/versions");
    let stored = versions.iter().filter(|v| v.get("storage") == Some(&json!(true))).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &json!(versions.len()), detail));
    }
    for (index, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{index}]");
        if text(version, "/name").unwrap_or("").is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
            continue;
        }
        let field = format!("{at}.schema.openAPIV3Schema");
        let Some(schema) = version.pointer("/schema/openAPIV3Schema") else {
            errors.push(FieldError::required(field, "schemas are required"));
            continue;
        };
        match StructuralSchema::parse(schema) {
            Err(faults) => errors.extend(faults.into_iter().map(|fault| {
                let inside = fault.field.trim_start_matches('.');
                let dot = if inside.is_empty() || inside.starts_with('[') { "" } else { "." };
                FieldError { field: format!("{field}{dot}{inside}"), ..fault }
            })),
            Ok(compiled) => errors.extend(check_columns(crd, version, schema, compiled, &at)),
        }
    }
    errors
}

fn check_columns(
    crd: &Value,
    version: &Value,
    schema: &Value,
    compiled: StructuralSchema,
    at: &str,
) -> Option<FieldError> {
    let own_name = text(version, "/name").unwrap_or("");
    let kind = Kind::from_crd(crd, own_name).ok()?;
    let columns = version.get("additionalPrinterColumns");
    let custom =
        CustomResourceSchema { schema: compiled, open_api: schema.clone(), deprecation: None };
    let error = ServedKind::custom(kind, String::new(), custom, columns).err()?;
    let field = format!("{at}.additionalPrinterColumns");
    Some(FieldError::invalid(field, &Value::Null, error))
}

/// Refuses new objects of a kind whose CRD is being deleted.
pub(super) fn before_create(cx: &ObjectWriteContext) -> Result<(), ApiError> {
    let definitions = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
    let key = NamespacedName::new("", &cx.served.kind.resource_name());
    let definition = cx.server.store.get(&definitions, &key);
    if definition.as_deref().is_some_and(is_deleting) {
        let message = "create not allowed while custom resource definition is terminating";
        return Err(ApiError::new(405, "MethodNotAllowed", message));
    }
    Ok(())
}

/// Returns true if the kind is served.
pub(super) fn is_established(crd: &Value) -> bool {
    has_condition(crd, "Established")
}

fn has_condition(crd: &Value, kind: &str) -> bool {
    items(crd, "/status/conditions").iter().any(|condition| {
        text(condition, "/type") == Some(kind) && text(condition, "/status") == Some("True")
    })
}

/// Adds the finalizer and the condition `Terminating`: the kind's objects are deleted first.
pub(super) fn begin_delete(object: &mut Value) {
    let metadata = metadata_mut(object);
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.contains(&json!(FINALIZER))
    {
        list.push(json!(FINALIZER));
    }
    let stamp = text(object, "/metadata/deletionTimestamp").unwrap_or("").to_owned();
    let condition = json!({
        "type": "Terminating", "status": "True", "reason": "InstanceDeletionInProgress",
        "message": "CustomResource deletion is in progress", "lastTransitionTime": stamp,
    });
    let conditions = child_mut(object, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = conditions.as_array_mut() {
        list.push(condition);
    }
}

/// Registers the served versions of the kind, and returns the status that reports it.
pub(super) fn register(cx: &ObjectWriteContext, crd: &Value) -> Option<ApiServerFollowUpStatus> {
    if is_deleting(crd) {
        return None;
    }
    let conflict = conflict(cx, crd);
    if conflict.is_none() {
        match served(crd) {
            Ok(versions) => {
                let group = text(crd, "/spec/group").unwrap_or("");
                let plural = text(crd, "/spec/names/plural").unwrap_or("");
                cx.server.registry.set_versions(group, plural, versions);
            }
            Err(failure) => {
                warn!(crd = name(crd), message = %failure.message, "cannot serve the kind of a CRD");
                return None;
            }
        }
    }
    let now = seconds(cx.now);
    Some(ApiServerFollowUpStatus {
        cx: ObjectWriteContext { manager: super::namespace::MANAGER.to_owned(), ..cx.clone() },
        edit: Box::new(move |old| with_status(old, conflict.as_deref(), &now)),
        failure: "cannot write the status of a CRD",
    })
}

/// Returns the reason why the kind cannot be registered: another resource of the group has the same kind.
fn conflict(cx: &ObjectWriteContext, crd: &Value) -> Option<String> {
    let group = text(crd, "/spec/group")?;
    let plural = text(crd, "/spec/names/plural")?;
    let kind = text(crd, "/spec/names/kind")?;
    let others = cx.server.registry.all();
    let mut others =
        others.iter().filter(|other| other.kind.group == group && other.kind.plural != plural);
    let other = others.find(|other| other.kind.kind == kind)?;
    Some(format!("kind \"{kind}\" is already in use by \"{}\"", other.kind.resource_name()))
}

fn served(crd: &Value) -> Result<Vec<ServedKind>, ApiError> {
    let versions = items(crd, "/spec/versions");
    let group = text(crd, "/spec/group").unwrap_or("");
    let storage = versions.iter().find(|version| version.get("storage") == Some(&json!(true)));
    let storage = storage.and_then(|version| text(version, "/name")).unwrap_or("");
    let stored_api_version = format!("{group}/{storage}");
    let mut served = Vec::new();
    for version in versions.iter().filter(|v| v.get("served") == Some(&json!(true))) {
        let own_name = text(version, "/name").unwrap_or("");
        let unusable = |what: String| ApiError::internal(format!("version `{own_name}`: {what}"));
        let kind = Kind::from_crd(crd, own_name).map_err(|error| unusable(error.to_string()))?;
        let open_api = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or(Value::Null);
        let schema = StructuralSchema::parse(&open_api)
            .map_err(|faults| unusable(tholepin_apimachinery::field_error::aggregate(&faults)))?;
        let is_deprecated = version.get("deprecated") == Some(&json!(true));
        let own_warning = text(version, "/deprecationWarning").map(str::to_owned);
        let deprecation = is_deprecated.then(|| {
            own_warning.unwrap_or_else(|| format!("{group}/{own_name} {} is deprecated", kind.kind))
        });
        let custom = CustomResourceSchema { schema, open_api, deprecation };
        let columns = version.get("additionalPrinterColumns");
        let served_kind = ServedKind::custom(kind, stored_api_version.clone(), custom, columns);
        served.push(served_kind.map_err(|error| unusable(error.to_string()))?);
    }
    Ok(served)
}

fn with_status(crd: &Value, conflict: Option<&str>, now: &str) -> Value {
    let mut new = crd.clone();
    let accepted = conflict.is_none();
    let texts = if accepted {
        [
            "NoConflicts",
            "no conflicts found",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ]
    } else {
        ["KindConflict", conflict.unwrap_or(""), "NotAccepted", "not all names are accepted"]
    };
    let [names_reason, names_message, reason, message] = texts;
    let mut conditions = vec![
        condition(crd, "NamesAccepted", accepted, (names_reason, names_message), now),
        condition(crd, "Established", accepted, (reason, message), now),
    ];
    let others = items(crd, "/status/conditions").iter();
    let ours = |c: &&Value| !matches!(text(c, "/type"), Some("NamesAccepted" | "Established"));
    conditions.extend(others.filter(ours).cloned());
    let mut stored: Vec<Value> = items(crd, "/status/storedVersions").to_vec();
    for version in items(crd, "/spec/versions") {
        let storage = version.get("storage") == Some(&json!(true));
        if let (true, Some(own)) = (storage, version.get("name"))
            && !stored.contains(own)
        {
            stored.push(own.clone());
        }
    }
    let names = crd.pointer("/spec/names").cloned().unwrap_or(Value::Null);
    let status = json!({
        "conditions": conditions,
        "acceptedNames": if accepted { names } else { json!({"plural": "", "kind": ""}) },
        "storedVersions": stored,
    });
    as_map_mut(&mut new).insert("status".into(), status);
    new
}

fn condition(
    crd: &Value,
    kind: &str,
    is_true: bool,
    (reason, message): (&str, &str),
    now: &str,
) -> Value {
    let status = if is_true { "True" } else { "False" };
    let old = items(crd, "/status/conditions").iter().find(|c| text(c, "/type") == Some(kind));
    let since = old.filter(|old| text(old, "/status") == Some(status));
    let since = since.and_then(|old| text(old, "/lastTransitionTime")).unwrap_or(now);
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since,
    })
}

/// Unregisters the kind, and removes objects that were created after the collector deleted the others.
pub(super) fn unregister(cx: &ObjectWriteContext, crd: &Value) {
    let group = text(crd, "/spec/group").unwrap_or("");
    let plural = text(crd, "/spec/names/plural").unwrap_or("");
    cx.server.registry.remove(group, plural);
    let resource = GroupResource::new(group, plural);
    for object in cx.server.store.all(&resource) {
        let key =
            NamespacedName::new(text(&object, "/metadata/namespace").unwrap_or(""), name(&object));
        let last = (*object).clone();
        if cx.server.store.remove(&resource, &key, &object, last, false).is_err() {
            warn!(name = &*key.name, "cannot remove an object of a deleted CRD");
        }
    }
}
