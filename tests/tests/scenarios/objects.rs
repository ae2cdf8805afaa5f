//! Creates, changes and lists many objects of the test kinds.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use tests::redis_cluster::NAMESPACE;

/// How many requests are sent concurrently.
const CONCURRENCY_MAX: usize = 32;

/// The objects of one test kind.
pub(crate) struct TestObjects {
    api: Api<DynamicObject>,
    kind: &'static str,
}

impl TestObjects {
    /// Selects the kind `Greeting` or `Probe`.
    pub(crate) fn new(client: &Client, kind: &'static str) -> Self {
        let plural = kind.to_lowercase() + "s";
        let gvk = GroupVersionKind::gvk("tests.tholepin.dev", "v1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
        Self { api: Api::namespaced_with(client.clone(), NAMESPACE, &resource), kind }
    }

    /// Creates `count` objects; `spec` gives the spec for each name.
    pub(crate) async fn create(
        &self,
        count: usize,
        spec: impl Fn(&str) -> Value,
    ) -> Result<Vec<String>> {
        let names: Vec<_> = (0..count).map(|number| format!("object-{number:03}")).collect();
        let parameters = PostParams::default();
        let items = names.iter().map(|name| {
            let item = json!({
                "apiVersion": "tests.tholepin.dev/v1",
                "kind": self.kind,
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": spec(name),
            });
            async {
                let item: DynamicObject = serde_json::from_value(item)?;
                self.api.create(&parameters, &item).await?;
                anyhow::Ok(())
            }
        });
        stream::iter(items).buffer_unordered(CONCURRENCY_MAX).try_collect::<()>().await?;
        Ok(names)
    }

    /// Changes the specs of these objects, concurrently.
    pub(crate) async fn change(&self, names: &[String], spec: &Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let parameters = PatchParams::default();
        let changes = names.iter().map(|name| self.api.patch(name, &parameters, &patch));
        stream::iter(changes)
            .buffer_unordered(CONCURRENCY_MAX)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(())
    }

    /// Returns all objects by name.
    pub(crate) async fn all(&self) -> Result<BTreeMap<String, Value>> {
        let list = self.api.list(&ListParams::default()).await?;
        let named = list.items.into_iter().map(|object| {
            let name = object.name_any();
            Ok((name, serde_json::to_value(object).context("an object is JSON")?))
        });
        named.collect()
    }
}

/// Returns the host's conditions on an object at its present generation: type and reason.
pub(crate) fn conditions(object: &Value) -> Vec<(String, String)> {
    let text = |condition: &Value, field: &str| {
        condition.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let generation = object.pointer("/metadata/generation");
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let of_now = all
        .into_iter()
        .flatten()
        .filter(|condition| condition.get("observedGeneration") == generation);
    of_now.map(|condition| (text(condition, "type"), text(condition, "reason"))).collect()
}
