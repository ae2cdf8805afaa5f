//! Creates many objects through the API server.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    core::GroupVersionKind,
};
use serde_json::Value;
use tests::redis_cluster::NAMESPACE;

/// How many requests are sent concurrently.
const CONCURRENCY_MAX: usize = 16;

/// Returns the API of a kind in the namespace of the tests.
pub(crate) fn api(client: &Client, [group, version, kind]: [&str; 3]) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client.clone(), NAMESPACE, &kind)
}

/// Creates objects as this field manager, several concurrently.
pub(crate) async fn create(
    api: &Api<DynamicObject>,
    manager: &str,
    objects: impl IntoIterator<Item = Value>,
) -> Result<()> {
    let params = &PostParams { field_manager: Some(manager.to_owned()), ..PostParams::default() };
    let create = |object: Value| async move {
        let object: DynamicObject = serde_json::from_value(object)?;
        api.create(params, &object).await.context("cannot create an object")?;
        anyhow::Ok(())
    };
    run_all(objects.into_iter().map(create)).await
}

/// Waits for all futures, several concurrently, or until the first one fails.
pub(crate) async fn run_all(
    work: impl Iterator<Item = impl Future<Output = Result<()>>>,
) -> Result<()> {
    stream::iter(work).buffer_unordered(CONCURRENCY_MAX).try_collect().await
}
