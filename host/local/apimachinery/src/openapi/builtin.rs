//! The schemas of the built-in kinds, generated once from the types of `k8s-openapi`.
//!
//! They are used by the OpenAPI documents and by the checks for unknown fields and wrong types.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::{apps, coordination, core, discovery, events, policy, storage};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::Value;

use crate::Kind;

/// The schema of `metadata`.
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Any built-in kind: `apiVersion` and `kind` have the same description in all of them.
pub(crate) const ANY_KIND: &str = "io.k8s.api.core.v1.ConfigMap";

/// The `k8s-openapi` type of one kind.
struct BuiltinOpenApiType {
    group: &'static str,
    kind: &'static str,
    name: fn() -> String,
    register: fn(&mut SchemaGenerator),
}

impl BuiltinOpenApiType {
    const fn of<T: JsonSchema>(group: &'static str, kind: &'static str) -> Self {
        Self {
            group,
            kind,
            name: || T::schema_name().into_owned(),
            register: |generator| {
                generator.subschema_for::<T>();
            },
        }
    }
}

/// One row per built-in kind.
const TYPES: [BuiltinOpenApiType; 20] = [
    BuiltinOpenApiType::of::<core::v1::ConfigMap>("", "ConfigMap"),
    BuiltinOpenApiType::of::<core::v1::Endpoints>("", "Endpoints"),
    BuiltinOpenApiType::of::<core::v1::Event>("", "Event"),
    BuiltinOpenApiType::of::<core::v1::Namespace>("", "Namespace"),
    BuiltinOpenApiType::of::<core::v1::Node>("", "Node"),
    BuiltinOpenApiType::of::<core::v1::PersistentVolume>("", "PersistentVolume"),
    BuiltinOpenApiType::of::<core::v1::PersistentVolumeClaim>("", "PersistentVolumeClaim"),
    BuiltinOpenApiType::of::<core::v1::Pod>("", "Pod"),
    BuiltinOpenApiType::of::<core::v1::ResourceQuota>("", "ResourceQuota"),
    BuiltinOpenApiType::of::<core::v1::Secret>("", "Secret"),
    BuiltinOpenApiType::of::<core::v1::Service>("", "Service"),
    BuiltinOpenApiType::of::<core::v1::ServiceAccount>("", "ServiceAccount"),
    BuiltinOpenApiType::of::<apiextensions::v1::CustomResourceDefinition>(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
    ),
    BuiltinOpenApiType::of::<apps::v1::ControllerRevision>("apps", "ControllerRevision"),
    BuiltinOpenApiType::of::<apps::v1::StatefulSet>("apps", "StatefulSet"),
    BuiltinOpenApiType::of::<coordination::v1::Lease>("coordination.k8s.io", "Lease"),
    BuiltinOpenApiType::of::<discovery::v1::EndpointSlice>("discovery.k8s.io", "EndpointSlice"),
    BuiltinOpenApiType::of::<events::v1::Event>("events.k8s.io", "Event"),
    BuiltinOpenApiType::of::<policy::v1::PodDisruptionBudget>("policy", "PodDisruptionBudget"),
    BuiltinOpenApiType::of::<storage::v1::StorageClass>("storage.k8s.io", "StorageClass"),
];

fn find(kind: &Kind) -> Option<&'static BuiltinOpenApiType> {
    let is_builtin = !kind.custom && kind.version == "v1";
    TYPES.iter().find(|row| is_builtin && row.group == kind.group && row.kind == kind.kind)
}

/// Returns the name of a built-in kind's schema.
pub(crate) fn schema_name(kind: &Kind) -> Option<String> {
    find(kind).map(|row| (row.name)())
}

/// Returns the schema of a built-in kind; its references point into [`schemas`].
pub(crate) fn schema(kind: &Kind) -> Option<&'static Value> {
    schemas().get(&schema_name(kind)?)
}

/// Returns the schemas of all built-in kinds, of their parts, and of request bodies, by name.
pub(crate) fn schemas() -> &'static BTreeMap<String, Value> {
    static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
        let mut generator = SchemaSettings::openapi3().into_generator();
        for row in &TYPES {
            (row.register)(&mut generator);
        }
        generator.subschema_for::<core::v1::Binding>();
        generator.subschema_for::<meta::v1::DeleteOptions>();
        generator.subschema_for::<policy::v1::Eviction>();
        generator.take_definitions(true).into_iter().collect()
    });
    &SCHEMAS
}

/// Returns the name of the schema that a `$ref` points to.
pub(crate) fn reference(reference: &Value) -> Option<&str> {
    reference.as_str()?.strip_prefix("#/components/schemas/")
}
