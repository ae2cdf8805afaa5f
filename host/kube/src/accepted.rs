//! Keeps the spec of an object that its plugin accepted last, in a reserved ConfigMap that the object owns.
//!
//! It is a ConfigMap and not an annotation on the object because no plugin can write the ConfigMap, whatever
//! its grants; because replacing the object does not delete it; and because neither the store nor the watches
//! then carry each spec twice.

use serde_json::{Value, json};
use tholepin_core::{
    AcceptedSpec, CallError, ObjectRef, condition::HOST_FIELD_MANAGER, reserved_object,
};
use tholepin_schema::{
    manifest::KindName,
    reserved::{self, ReservedObjectPurpose},
};

use crate::{KubernetesApi, events::namespace_of};

/// How often a write is sent if another client changes or deletes the ConfigMap in between.
const ATTEMPTS_MAX: usize = 4;
/// The key of the ConfigMap that holds the generation.
const GENERATION: &str = "generation";
/// The key of the ConfigMap that holds the accepted fields as JSON.
const FIELDS: &str = "accepted.json";

/// A kept spec, with the resource version of its ConfigMap.
struct StoredAcceptedSpec {
    accepted: AcceptedSpec,
    resource_version: String,
}

impl KubernetesApi {
    pub(crate) async fn read_accepted(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> Result<Option<AcceptedSpec>, CallError> {
        let kept = self.kept(&kept_reference(&object, &uid)).await?;
        Ok(kept.map(|kept| kept.accepted))
    }

    pub(crate) async fn keep_accepted(
        &self,
        object: ObjectRef,
        uid: String,
        accepted: AcceptedSpec,
    ) -> Result<(), CallError> {
        let name = kept_reference(&object, &uid);
        for _ in 0..ATTEMPTS_MAX {
            let kept = self.kept(&name).await?;
            if kept.as_ref().is_some_and(|kept| is_enough(&kept.accepted, &accepted)) {
                return Ok(());
            }
            let version = kept.map(|kept| kept.resource_version);
            let map = config_map(&name, &object, &uid, &accepted, version.as_deref());
            let manager = HOST_FIELD_MANAGER.to_owned();
            let written = match version {
                Some(_) => self.replace_object(map, manager).await,
                None => self.create_object(map, manager).await,
            };
            match written {
                Ok(_) => return Ok(()),
                // Another client created, changed or deleted it meanwhile: read it again and repeat the decision.
                Err(CallError::Conflict(_) | CallError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CallError::Conflict(format!(
            "{name} was changed by another client {ATTEMPTS_MAX} times in a row; do several hosts \
             reconcile {object}?"
        )))
    }

    /// Returns true if the store watches the ConfigMaps and shows that this one does not exist.
    pub(crate) fn shows_no_accepted(&self, object: &ObjectRef, uid: &str) -> bool {
        let (name, view) =
            (kept_reference(object, uid), tholepin_core::port::Kubernetes::view(self));
        view.covers(&name.kind) && view.get(&name).is_none()
    }

    /// Reads the kept spec from the API server, because the store may be behind a write of another host.
    async fn kept(&self, name: &ObjectRef) -> Result<Option<StoredAcceptedSpec>, CallError> {
        match tholepin_core::port::Kubernetes::get(self, name.clone()).await {
            Ok(map) => Ok(Some(parse(&map))),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns true if nothing needs to be written: the same spec is kept, or the one of a newer generation.
fn is_enough(kept: &AcceptedSpec, accepted: &AcceptedSpec) -> bool {
    kept == accepted || accepted.generation < kept.generation
}

/// Reads a kept spec from its ConfigMap. An unreadable generation becomes 0, which is before the first: such
/// a spec is overwritten and never used.
fn parse(map: &Value) -> StoredAcceptedSpec {
    let text = |pointer: &str| map.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let generation = text(&format!("/data/{GENERATION}")).parse().unwrap_or_default();
    let accepted = AcceptedSpec { generation, fields: text(&format!("/data/{FIELDS}")).into() };
    StoredAcceptedSpec { accepted, resource_version: text("/metadata/resourceVersion").to_owned() }
}

/// Returns the reference of the ConfigMap that keeps the accepted spec of an object.
fn kept_reference(object: &ObjectRef, uid: &str) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "ConfigMap".to_owned() },
        namespace: namespace_of(object).to_owned(),
        name: reserved::name(ReservedObjectPurpose::AcceptedSpec, &object.kind.kind, uid),
    }
}

fn config_map(
    name: &ObjectRef,
    object: &ObjectRef,
    uid: &str,
    accepted: &AcceptedSpec,
    resource_version: Option<&str>,
) -> Value {
    let data = json!({GENERATION: accepted.generation.to_string(), FIELDS: &*accepted.fields});
    reserved_object(name, object, uid, resource_version, json!({"data": data}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(generation: i64, fields: &str) -> AcceptedSpec {
        AcceptedSpec { generation, fields: fields.into() }
    }

    #[test]
    fn only_a_different_spec_of_this_or_a_later_generation_is_written() {
        let accepted_spec = accepted(4, "{}");
        let rows = [
            (accepted(4, "{}"), true),
            (accepted(5, "{\"spec\":1}"), true),
            (accepted(3, "{}"), false),
            (accepted(4, "{\"spec\":1}"), false),
            (parse(&json!({"data": {GENERATION: "x"}})).accepted, false),
        ];
        for (kept, expected) in rows {
            assert_eq!(is_enough(&kept, &accepted_spec), expected, "{kept:?}");
        }
    }

    #[test]
    fn a_written_spec_is_read_back() {
        let kind = KindName { api_version: "a/v1".to_owned(), kind: "K".to_owned() };
        let object = ObjectRef { kind, namespace: String::new(), name: "x".to_owned() };
        let name = kept_reference(&object, "u");
        assert_eq!(
            (name.namespace.as_str(), name.name.as_str()),
            ("default", "tholepin-accepted-k-u")
        );
        let accepted_spec = accepted(4, "{\"spec\":1}");
        let map = config_map(&name, &object, "u", &accepted_spec, Some("7"));
        let kept = parse(&map);
        assert_eq!((kept.accepted, kept.resource_version.as_str()), (accepted_spec, "7"));
    }
}
