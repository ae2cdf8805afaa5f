//! Writes what the host itself keeps on a reconciled object: its conditions and its finalizers. The last
//! accepted spec, which is kept beside the object, is written by [`accepted`](crate::accepted). The status that a
//! plugin reports is an apply of the plugin, in `gate/src/kubernetes.rs`.
//!
//! Not `kube::runtime::finalizer`: it runs a whole reconcile between adding and removing a finalizer, while the
//! callers of this module add and remove each finalizer at their own time.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tholepin_core::{
    AcceptedSpec, BoxedFuture, CallError, ObjectRef,
    condition::{HOST_FIELD_MANAGER, HostWrittenCondition, READY, RESERVED, is_host_ready},
    port::{HostFieldsWriter, Kubernetes},
};

use crate::KubernetesApi;

/// How often a change of finalizers is sent if another client changes the object in between.
const ATTEMPTS_MAX: u32 = 4;

impl KubernetesApi {
    /// Returns the object from the store, or from the API server if the store does not have it.
    async fn current(&self, object: &ObjectRef) -> Result<Value, CallError> {
        match self.store.get(object) {
            Some(stored) => Ok(stored.value()),
            None => Kubernetes::get(self, object.clone()).await,
        }
    }

    async fn write_conditions(
        &self,
        object: ObjectRef,
        desired: Vec<HostWrittenCondition>,
    ) -> Result<(), CallError> {
        let current = match self.current(&object).await {
            Err(CallError::NotFound(_)) => return Ok(()),
            current => current?,
        };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let Some(conditions) = next_conditions(&current, &desired, &now) else { return Ok(()) };
        let mut metadata = json!({"name": object.name, "uid": current.pointer("/metadata/uid")});
        if !object.namespace.is_empty()
            && let Some(metadata) = metadata.as_object_mut()
        {
            metadata.insert("namespace".to_owned(), object.namespace.clone().into());
        }
        let intent = json!({
            "apiVersion": object.kind.api_version,
            "kind": object.kind.kind,
            "metadata": metadata,
            // Without conditions the list itself is given up, so that no empty list stays in an object that had none.
            "status": if conditions.is_empty() { json!({}) } else { json!({"conditions": conditions}) },
        });
        // Forced, because no other manager may write the reserved types, and `Ready` is applied here only
        // while no plugin writes it.
        let params = PatchParams::apply(HOST_FIELD_MANAGER).force();
        match self.patch(&object, &Patch::Apply(intent), &params, true).await {
            Ok(_) | Err(CallError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes the list of finalizers that `change` returns; does nothing if it returns `None`. The patch
    /// carries the resource version, so that a finalizer that another client adds meanwhile is not lost.
    async fn change_finalizers(
        &self,
        object: &ObjectRef,
        change: impl Fn(&Value) -> Result<Option<Vec<String>>, CallError>,
    ) -> Result<Value, CallError> {
        let field_manager = Some(HOST_FIELD_MANAGER.to_owned());
        let params = PatchParams { field_manager, ..Default::default() };
        let mut current = self.current(object).await?;
        let mut attempt = 1;
        loop {
            let Some(finalizers) = change(&current)? else { return Ok(current) };
            let patch = json!({"metadata": {
                "resourceVersion": current.pointer("/metadata/resourceVersion"),
                "finalizers": finalizers,
            }});
            match self.patch(object, &Patch::Merge(patch), &params, false).await {
                Ok(stored) => return Ok(stored.value()),
                Err(CallError::Conflict(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
                Err(error) => return Err(error),
            }
            current = Kubernetes::get(self, object.clone()).await?;
        }
    }
}

impl HostFieldsWriter for KubernetesApi {
    fn set_conditions(
        &self,
        object: ObjectRef,
        conditions: Vec<HostWrittenCondition>,
    ) -> BoxedFuture<'_, Result<(), CallError>> {
        Box::pin(self.write_conditions(object, conditions))
    }

    fn add_finalizer(
        &self,
        object: ObjectRef,
        finalizer: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        Box::pin(async move {
            let change = |current: &Value| {
                let mut finalizers = finalizers(current);
                if finalizers.contains(&finalizer) {
                    return Ok(None);
                }
                if current.pointer("/metadata/deletionTimestamp").is_some() {
                    return Err(CallError::Conflict(format!("{object} is being deleted")));
                }
                finalizers.push(finalizer.clone());
                Ok(Some(finalizers))
            };
            self.change_finalizers(&object, change).await
        })
    }

    fn remove_finalizer(
        &self,
        object: ObjectRef,
        finalizer: String,
    ) -> BoxedFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let change = |current: &Value| {
                let all = finalizers(current);
                let kept: Vec<_> = all.iter().filter(|name| **name != finalizer).cloned().collect();
                Ok((kept.len() < all.len()).then_some(kept))
            };
            match self.change_finalizers(&object, change).await {
                Ok(_) | Err(CallError::NotFound(_)) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn accepted_spec(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Option<AcceptedSpec>, CallError>> {
        Box::pin(self.read_accepted(object, uid))
    }

    fn keep_accepted_spec(
        &self,
        object: ObjectRef,
        uid: String,
        accepted: AcceptedSpec,
    ) -> BoxedFuture<'_, Result<(), CallError>> {
        Box::pin(self.keep_accepted(object, uid, accepted))
    }

    fn lacks_accepted_spec(&self, object: &ObjectRef, uid: &str) -> bool {
        self.shows_no_accepted(object, uid)
    }
}

fn finalizers(object: &Value) -> Vec<String> {
    let names = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Returns the list of conditions that the host has to apply, or `None` if the object has them already. A
/// condition whose status does not change keeps its `lastTransitionTime`.
///
/// A `Ready` that the host wrote stays in the list until the plugin has written it. Server-side apply removes
/// a field when its last owner no longer applies it. The plugin does not own the `status` of such a `Ready`,
/// so without the host the item would lose this required field and become invalid.
fn next_conditions(
    object: &Value,
    desired: &[HostWrittenCondition],
    now: &str,
) -> Option<Vec<Value>> {
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let all: Vec<&Value> = all.into_iter().flatten().collect();
    let name = |condition: &Value| condition["type"].as_str().unwrap_or_default().to_owned();
    let host_conditions = all.iter().filter(|condition| {
        RESERVED.contains(&name(condition).as_str()) || is_host_ready(condition)
    });
    let host_conditions: Vec<&Value> = host_conditions.copied().collect();
    let mut next: Vec<Value> = desired
        .iter()
        .map(|condition| {
            let previous = all.iter().find(|current| name(current) == condition.condition_type);
            condition_json(condition, previous.copied(), now)
        })
        .collect();
    if desired.iter().all(|condition| condition.condition_type != READY) {
        next.extend(
            host_conditions.iter().filter(|current| name(current) == READY).copied().cloned(),
        );
    }
    let is_current =
        |next: &Value| host_conditions.iter().any(|current| agree_where_written(next, current));
    let is_unchanged = next.len() == host_conditions.len() && next.iter().all(is_current);
    (!is_unchanged).then_some(next)
}

/// Returns true if two conditions agree in every field that the host writes. Other managers may add fields
/// to an item of this map list, and an apply of the host does not remove those.
fn agree_where_written(left: &Value, right: &Value) -> bool {
    const WRITTEN: [&str; 6] =
        ["type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"];
    WRITTEN.iter().all(|name| left.get(name) == right.get(name))
}

fn condition_json(condition: &HostWrittenCondition, previous: Option<&Value>, now: &str) -> Value {
    let HostWrittenCondition { condition_type, status, reason, message, observed_generation } =
        condition;
    let status = status.as_str();
    let previous = previous.filter(|previous| previous["status"] == status);
    let since =
        previous.and_then(|previous| previous["lastTransitionTime"].as_str()).unwrap_or(now);
    let mut condition_json = json!({
        "type": condition_type,
        "status": status,
        "reason": reason.as_str(),
        "message": message,
        "lastTransitionTime": since,
    });
    if let (Some(generation), Some(condition_json)) =
        (observed_generation, condition_json.as_object_mut())
    {
        condition_json.insert("observedGeneration".to_owned(), (*generation).into());
    }
    condition_json
}

#[cfg(test)]
mod tests {
    use super::*;
    use tholepin_core::condition::{ConditionStatus, QUARANTINED, RECONCILED, Reason};

    fn condition(status: ConditionStatus, reason: Reason, generation: i64) -> HostWrittenCondition {
        HostWrittenCondition {
            condition_type: RECONCILED,
            status,
            reason,
            message: "m".to_owned(),
            observed_generation: Some(generation),
        }
    }

    #[test]
    fn conditions_are_written_on_change_only_and_time_moves_with_the_status() {
        let plugins = json!({"type": "Ready", "status": "False"});
        let mut object = json!({"status": {"conditions": [plugins]}});
        let good = condition(ConditionStatus::True, Reason::Succeeded, 1);
        let first = next_conditions(&object, std::slice::from_ref(&good), "t1").unwrap();
        assert_eq!(first[0]["lastTransitionTime"], "t1");
        object["status"]["conditions"] = json!([plugins, first[0]]);
        assert_eq!(next_conditions(&object, &[good], "t2"), None);

        let newer = condition(ConditionStatus::True, Reason::Succeeded, 2);
        let newer = next_conditions(&object, &[newer], "t2").unwrap();
        assert_eq!(newer[0]["lastTransitionTime"], "t1");
        assert_eq!(newer[0]["observedGeneration"], 2);

        object["status"]["conditions"][1]["foreign"] = json!("1");
        let is_unchanged = condition(ConditionStatus::True, Reason::Succeeded, 1);
        assert_eq!(
            next_conditions(&object, &[is_unchanged], "t2"),
            None,
            "a field of another manager"
        );

        let bad = condition(ConditionStatus::False, Reason::Failed, 1);
        let bad = next_conditions(&object, &[bad], "t3").unwrap();
        assert_eq!(bad[0]["lastTransitionTime"], "t3");
    }

    #[test]
    fn a_host_condition_that_is_no_longer_desired_is_removed() {
        let good = condition(ConditionStatus::True, Reason::Succeeded, 1);
        let mut object = json!({});
        let first = next_conditions(&object, std::slice::from_ref(&good), "t1").unwrap();
        object["status"] = json!({"conditions": [first[0],
            {"type": QUARANTINED, "status": "True", "reason": "TooManyStrikes"}]});
        assert_eq!(next_conditions(&object, &[good], "t2").map(|next| next.len()), Some(1));
    }

    #[test]
    fn ready_is_the_hosts_until_the_plugin_has_written_it() {
        let status = ConditionStatus::False;
        let missing = condition(status, Reason::PluginMissing, 1);
        let ready = HostWrittenCondition {
            condition_type: READY,
            status: ConditionStatus::Unknown,
            ..missing.clone()
        };
        let plugins = json!({"type": READY, "status": "True", "lastTransitionTime": "t0"});
        let mut object = json!({"status": {"conditions": [plugins]}});
        let taken = next_conditions(&object, &[missing, ready], "t1").unwrap();
        assert_eq!(taken[1]["lastTransitionTime"], "t1");
        object["status"]["conditions"] = json!([taken[1], taken[0]]);

        // The plugin is called again and has not written its status yet.
        let failed = condition(status, Reason::Failed, 1);
        let kept = next_conditions(&object, std::slice::from_ref(&failed), "t2").unwrap();
        assert_eq!(kept[1], taken[1]);
        assert_eq!(next_conditions(&object, &[], "t2").unwrap(), [taken[1].clone()]);

        object["status"]["conditions"] = json!([plugins, kept[0]]);
        assert_eq!(next_conditions(&object, &[], "t3").unwrap(), [] as [Value; 0]);
        object["status"]["conditions"] = json!([plugins]);
        assert_eq!(next_conditions(&object, &[], "t3"), None);
    }
}
