//! The oracle Quiet: after convergence no object changes and nothing is written.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Api, Client,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;

use crate::wait::elapse;

/// Kinds whose objects change all the time on any cluster.
const RESTLESS: &[&str] = &["Lease", "Event", "Node"];
/// The same kinds, as the audit log names them.
const RESTLESS_PLURALS: &[&str] = &["leases", "events", "nodes"];

/// Checks that for the duration `pause` no object's resource version changes and that the audit logs get no
/// new line, except for Leases, Events and Nodes.
///
/// # Errors
///
/// Fails with the objects that were changed, created or deleted, or with the first write.
pub async fn quiet(client: &Client, audit_logs: &[PathBuf], pause: Duration) -> Result<()> {
    let lengths = audit_logs.iter().map(fs::metadata).collect::<Result<Vec<_>, _>>()?;
    let before = versions(client).await?;
    elapse(pause).await;
    let after = versions(client).await?;
    let changed: Vec<_> = after
        .iter()
        .filter(|(object, version)| before.get(*object) != Some(version))
        .map(|(object, _)| object.as_str())
        .chain(before.keys().filter(|object| !after.contains_key(*object)).map(String::as_str))
        .collect();
    ensure!(changed.is_empty(), "not quiet for {pause:?}: {}", changed.join(", "));
    for (log, length) in audit_logs.iter().zip(lengths) {
        let text = fs::read_to_string(log)?;
        let start = usize::try_from(length.len())?;
        let new = text.get(start..).context("the audit log became shorter")?;
        // The last line may be incomplete; the next call reads it.
        let whole = new.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let write: Value = serde_json::from_str(line)?;
            let plural = write.get("resource").and_then(Value::as_str).unwrap_or_default();
            if !RESTLESS_PLURALS.contains(&plural) {
                bail!("not quiet for {pause:?}: {line}");
            }
        }
    }
    Ok(())
}

/// Returns every object's resource version by kind, namespace and name.
async fn versions(client: &Client) -> Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for resource in kinds(client).await? {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        for object in api.list(&ListParams::default()).await? {
            let metadata = object.metadata;
            let namespace = metadata.namespace.unwrap_or_default();
            let name = metadata.name.unwrap_or_default();
            let kind = &resource.kind;
            versions.insert(
                format!("{kind} {namespace}/{name}"),
                metadata.resource_version.unwrap_or_default(),
            );
        }
    }
    Ok(versions)
}

/// Returns the kinds that the API server can list, without those that change all the time.
pub(super) async fn kinds(client: &Client) -> Result<Vec<ApiResource>> {
    let mut kinds = Vec::new();
    let mut group_versions = vec![("api".to_owned(), String::new(), "v1".to_owned())];
    for group in client.list_api_groups().await?.groups {
        let Some(version) = group.preferred_version.or_else(|| group.versions.first().cloned())
        else {
            continue;
        };
        group_versions.push(("apis".to_owned(), group.name, version.version));
    }
    for (_, group, version) in group_versions {
        let resources = if group.is_empty() {
            client.list_core_api_resources(&version).await?
        } else {
            client.list_api_group_resources(&format!("{group}/{version}")).await?
        };
        for resource in resources.resources {
            let can_list = resource.verbs.iter().any(|verb| verb == "list");
            if resource.name.contains('/') || !can_list || RESTLESS.contains(&&*resource.kind) {
                continue;
            }
            let kind = GroupVersionKind::gvk(&group, &version, &resource.kind);
            kinds.push(ApiResource::from_gvk_with_plural(&kind, &resource.name));
        }
    }
    Ok(kinds)
}
