//! Keeps what a plugin accepted last of an object, in a reserved ConfigMap that the object owns.
//!
//! A ConfigMap and not an annotation on the object: no plugin reaches it, whatever its grants; replacing
//! the object does not drop it; and neither the store nor the watches carry each spec twice.

use serde_json::{Value, json};
use tholepin_core::{
    AcceptedSpec, CallError, ObjectRef, condition::HOST_FIELD_MANAGER, kept_object,
};
use tholepin_schema::{
    manifest::KindName,
    reserved::{self, ReservedPurpose},
};

use crate::{KubernetesApi, events::namespace_of};

/// How often a write is tried that another host's write was faster than.
const ATTEMPTS_MAX: usize = 4;
/// The keys in the ConfigMap.
const GENERATION: &str = "generation";
const FIELDS: &str = "accepted.json";

/// What is kept, with the version that the API server has.
struct KeptSpec {
    accepted: AcceptedSpec,
    resource_version: String,
}

impl KubernetesApi {
    pub(crate) async fn read_accepted(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> Result<Option<AcceptedSpec>, CallError> {
        let kept = self.kept(&reference(&object, &uid)).await?;
        Ok(kept.map(|kept| kept.accepted))
    }

    pub(crate) async fn keep_accepted(
        &self,
        object: ObjectRef,
        uid: String,
        accepted: AcceptedSpec,
    ) -> Result<(), CallError> {
        let name = reference(&object, &uid);
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
                // Another host was faster, or somebody deleted it: what is there now decides.
                Err(CallError::Conflict(_) | CallError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CallError::Conflict(format!(
            "{name} was changed by somebody else {ATTEMPTS_MAX} times in a row; do several hosts \
             reconcile {object}?"
        )))
    }

    pub(crate) fn shows_no_accepted(&self, object: &ObjectRef, uid: &str) -> bool {
        let (name, view) = (reference(object, uid), tholepin_core::port::Kubernetes::view(self));
        view.covers(&name.kind) && view.get(&name).is_none()
    }

    /// Reads from the API server: the store may be behind another host's write.
    async fn kept(&self, name: &ObjectRef) -> Result<Option<KeptSpec>, CallError> {
        match tholepin_core::port::Kubernetes::get(self, name.clone()).await {
            Ok(map) => Ok(Some(parse(&map))),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether nothing needs to be written: the same is kept, or what a newer generation counts.
fn is_enough(kept: &AcceptedSpec, accepted: &AcceptedSpec) -> bool {
    kept == accepted || accepted.generation < kept.generation
}

/// What is unreadable counts as a generation before the first: it is written anew, and never used.
fn parse(map: &Value) -> KeptSpec {
    let text = |pointer: &str| map.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let generation = text(&format!("/data/{GENERATION}")).parse().unwrap_or_default();
    let accepted = AcceptedSpec { generation, fields: text(&format!("/data/{FIELDS}")).into() };
    KeptSpec { accepted, resource_version: text("/metadata/resourceVersion").to_owned() }
}

fn reference(object: &ObjectRef, uid: &str) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "ConfigMap".to_owned() },
        namespace: namespace_of(object).to_owned(),
        name: reserved::name(ReservedPurpose::AcceptedSpec, &object.kind.kind, uid),
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
    kept_object(name, object, uid, resource_version, json!({"data": data}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(generation: i64, fields: &str) -> AcceptedSpec {
        AcceptedSpec { generation, fields: fields.into() }
    }

    #[test]
    fn only_another_spec_of_this_or_a_later_generation_is_written() {
        let wanted = accepted(4, "{}");
        let rows = [
            (accepted(4, "{}"), true),
            (accepted(5, "{\"spec\":1}"), true),
            (accepted(3, "{}"), false),
            (accepted(4, "{\"spec\":1}"), false),
            (parse(&json!({"data": {GENERATION: "x"}})).accepted, false),
        ];
        for (kept, enough) in rows {
            assert_eq!(is_enough(&kept, &wanted), enough, "{kept:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let kind = KindName { api_version: "a/v1".to_owned(), kind: "K".to_owned() };
        let object = ObjectRef { kind, namespace: String::new(), name: "x".to_owned() };
        let name = reference(&object, "u");
        assert_eq!(
            (name.namespace.as_str(), name.name.as_str()),
            ("default", "tholepin-accepted-k-u")
        );
        let wanted = accepted(4, "{\"spec\":1}");
        let map = config_map(&name, &object, "u", &wanted, Some("7"));
        let kept = parse(&map);
        assert_eq!((kept.accepted, kept.resource_version.as_str()), (wanted, "7"));
    }
}
