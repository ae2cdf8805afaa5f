//! The port to Kubernetes.

use std::sync::Arc;

use serde_json::{Value, json};
use tholepin_core::{
    BoxedFuture, CallError, ObjectMeta, ObjectRef, PluginName,
    port::{
        ApplyRequest, DeleteRequest, Kubernetes, PublishRequest, WarningEvent, WatchedStoreView,
    },
};
use tholepin_schema::manifest::KindName;

use crate::{
    FakeCluster, FakeView,
    view::{Objects, select},
};

impl Kubernetes for FakeCluster {
    fn on_behalf_of(self: Arc<Self>, _: &PluginName) -> Arc<dyn Kubernetes> {
        self
    }

    fn view(&self) -> Arc<dyn WatchedStoreView> {
        let unwatched = self.unwatched_kinds.lock().unwrap().clone();
        Arc::new(FakeView::new(&self.objects.lock().unwrap(), unwatched))
    }

    fn get(&self, object: ObjectRef) -> BoxedFuture<'_, Result<Value, CallError>> {
        let result = self.check_api_server().and_then(|()| self.found(&object));
        Box::pin(async { result })
    }

    fn list(
        &self,
        kind: KindName,
        namespace: String,
        selector: String,
    ) -> BoxedFuture<'_, Result<Vec<Value>, CallError>> {
        let objects: Objects = self.objects.lock().unwrap().clone();
        let result = self
            .check_api_server()
            .and_then(|()| select(&objects, &kind, &namespace, &selector))
            .map(|found| found.iter().map(|object| (**object).clone()).collect());
        Box::pin(async { result })
    }

    fn warnings(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Vec<WarningEvent>, CallError>> {
        let warning = WarningEvent {
            reason: "FailedCreate".to_owned(),
            message: format!("{} with the uid {uid}", object.name),
            count: 1,
            last_seen: String::new(),
        };
        let result = self.check_api_server().map(|()| vec![warning]);
        Box::pin(async { result })
    }

    fn apply(&self, request: ApplyRequest) -> BoxedFuture<'_, Result<Value, CallError>> {
        let result = self.check_api_server().and_then(|()| {
            self.check_preconditions(&request.object)?;
            let name = request.object["metadata"]["name"].as_str().unwrap().to_owned();
            let kept = if request.dry_run { "dry run" } else { "kept" };
            let force = if request.force { ", forced" } else { "" };
            self.record_write(format!("apply {name} by {} {kept}{force}", request.field_manager));
            let mut stored = request.object;
            self.identify(&mut stored);
            if !request.dry_run {
                self.put(stored.clone());
            }
            Ok(stored)
        });
        Box::pin(async { result })
    }

    fn merge_patch(
        &self,
        object: ObjectRef,
        patch: Value,
        _: String,
        dry_run: bool,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        let result = self.check_api_server().and_then(|()| {
            let mut patched = self.found(&object)?;
            let before = patched.clone();
            merge(&mut patched, patch);
            if patched["metadata"]["uid"] != before["metadata"]["uid"]
                || patched["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
            {
                return Err(CallError::Conflict(object.to_string()));
            }
            if !dry_run {
                self.record_write(format!("patch {}", object.name));
                self.put(patched.clone());
            }
            Ok(patched)
        });
        Box::pin(async { result })
    }

    fn create(
        &self,
        mut object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        let reference = ObjectMeta::of(&object).unwrap().object;
        let result = self.check_api_server().and_then(|()| {
            if self.object(&reference).is_some() {
                return Err(CallError::Conflict(reference.to_string()));
            }
            // The reserved Secret of an instance is made at its first use; no plugin asked for it.
            if reference.kind.kind != "Secret" {
                self.record_write(format!("create {} by {field_manager}", reference.name));
            }
            self.identify(&mut object);
            self.put(object.clone());
            Ok(object)
        });
        Box::pin(async { result })
    }

    fn replace(
        &self,
        mut object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        let reference = ObjectMeta::of(&object).unwrap().object;
        let result = self.check_api_server().and_then(|()| {
            let found = self.found(&reference)?;
            if resource_version(&found) != resource_version(&object) {
                return Err(CallError::Conflict(reference.to_string()));
            }
            self.record_write(format!("replace {} by {field_manager}", reference.name));
            self.identify(&mut object);
            self.put(object.clone());
            Ok(object)
        });
        Box::pin(async { result })
    }

    fn delete(&self, request: DeleteRequest) -> BoxedFuture<'_, Result<(), CallError>> {
        let result = self.check_api_server().and_then(|()| {
            let found = self.found(&request.object)?;
            let differs = |expected: &Option<String>, found: Option<&str>| {
                expected.as_deref().is_some_and(|expected| Some(expected) != found)
            };
            let found_uid = found["metadata"]["uid"].as_str();
            if differs(&request.uid, found_uid)
                || differs(&request.resource_version, resource_version(&found))
            {
                return Err(CallError::Conflict(request.object.to_string()));
            }
            let kept = if request.dry_run { "dry run" } else { "kept" };
            let uid = request.uid.unwrap_or_default();
            self.record_write(format!("delete {} uid {uid} {kept}", request.object.name));
            if !request.dry_run {
                self.remove(&request.object);
            }
            Ok(())
        });
        Box::pin(async { result })
    }

    fn publish(&self, request: PublishRequest) -> BoxedFuture<'_, Result<(), CallError>> {
        let result = self.check_api_server().map(|()| {
            self.record_write(format!("publish {}", request.reason));
            self.events.lock().unwrap().push((request.regarding.name, request.message));
        });
        Box::pin(async { result })
    }

    fn secret_value(
        &self,
        namespace: String,
        name: String,
        key: String,
    ) -> BoxedFuture<'_, Result<Vec<u8>, CallError>> {
        let kind = KindName { api_version: "v1".into(), kind: "Secret".into() };
        let reference = ObjectRef { kind, namespace, name };
        self.secrets_read.lock().unwrap().push(reference.name.clone());
        // A Secret in use can be read while the API server is away, as the port promises.
        let result = self.found(&reference).and_then(|secret| {
            let value = secret["stringData"].get(&key).and_then(Value::as_str);
            let missing = || CallError::NotFound(reference.to_string());
            value.map(|value| value.as_bytes().to_vec()).ok_or_else(missing)
        });
        Box::pin(async { result })
    }
}

impl FakeCluster {
    /// Gives an object that is written the uid that it has, or a new one, and a new resource version.
    fn identify(&self, object: &mut Value) {
        let reference = ObjectMeta::of(object).unwrap().object;
        let stored_uid = self.object(&reference).map(|stored| stored["metadata"]["uid"].clone());
        let uid = stored_uid.unwrap_or_else(|| json!(format!("uid-{}", reference.name)));
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!(self.next_resource_version());
    }

    /// Fails with `Conflict` if a write names another uid or resource version than the object has.
    fn check_preconditions(&self, written: &Value) -> Result<(), CallError> {
        let reference = ObjectMeta::of(written).unwrap().object;
        let stored = self.object(&reference).unwrap_or_default();
        for field in ["uid", "resourceVersion"] {
            let named = &written["metadata"][field];
            if named.is_string() && *named != stored["metadata"][field] {
                return Err(CallError::Conflict(format!("{reference} has another {field}")));
            }
        }
        Ok(())
    }

    fn found(&self, reference: &ObjectRef) -> Result<Value, CallError> {
        self.object(reference).ok_or_else(|| CallError::NotFound(reference.to_string()))
    }
}

fn resource_version(object: &Value) -> Option<&str> {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str)
}

/// Applies a JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(fields) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(&name);
        } else {
            merge(&mut target[name], value);
        }
    }
}
