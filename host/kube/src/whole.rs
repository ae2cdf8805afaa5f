//! Writes of whole objects. The objects that the host keeps for itself are created or replaced and never
//! merged by the server, so that a write fails with a conflict if a second host wrote the object.

use kube::api::PostParams;
use serde_json::Value;
use tholepin_core::{CallError, ObjectMeta, ObjectRef};

use crate::{KubernetesApi, raw::RawObject};

impl KubernetesApi {
    pub(crate) async fn create_object(
        &self,
        object: Value,
        field_manager: String,
    ) -> Result<Value, CallError> {
        let (reference, raw) = reference_and_raw(&object)?;
        let served = self.served(&reference.kind).await?;
        let api = served.api(self.client.clone(), &reference.namespace);
        let params = PostParams { field_manager: Some(field_manager), ..PostParams::default() };
        let request = ("create", &reference, false);
        let stored = self.send(&served, request, api.create(&params, &raw)).await?;
        self.store_reply(&served, &stored)
    }

    pub(crate) async fn replace_object(
        &self,
        object: Value,
        field_manager: String,
    ) -> Result<Value, CallError> {
        let (reference, raw) = reference_and_raw(&object)?;
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        if version.is_none_or(str::is_empty) {
            let text = format!("cannot replace {reference}: metadata.resourceVersion is missing");
            return Err(CallError::Invalid(text));
        }
        let served = self.served(&reference.kind).await?;
        let api = served.api(self.client.clone(), &reference.namespace);
        let params = PostParams { field_manager: Some(field_manager), ..PostParams::default() };
        let request = ("update", &reference, false);
        let stored =
            self.send(&served, request, api.replace(&reference.name, &params, &raw)).await?;
        self.store_reply(&served, &stored)
    }
}

fn reference_and_raw(object: &Value) -> Result<(ObjectRef, RawObject), CallError> {
    let meta = ObjectMeta::of(object).map_err(|error| CallError::Invalid(error.to_string()))?;
    let raw = RawObject::new(object).map_err(|error| CallError::Invalid(error.to_string()))?;
    Ok((meta.object, raw))
}
