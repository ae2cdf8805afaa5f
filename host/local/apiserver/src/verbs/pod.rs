//! The subresources `log`, `binding` and `eviction` of Pods.

use std::time::Duration;

use futures::StreamExt;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tholepin_apimachinery::selector::LabelSelector;
use tholepin_apimachinery::validation::NonObjectRequestBody;
use tracing::debug;

use crate::http::answer::ApiResponse;
use crate::http::query::QueryParameters;
use crate::object::{as_map_mut, child_mut, items, text};
use crate::options::{LogError, LogOptions, LogTarget};
use crate::status::{ApiError, error_text};
use crate::store::{GroupResource, StoreCommitError};
use crate::verbs::delete::{self, DeleteOptions};
use crate::verbs::update::{ObjectEditResult, update};
use crate::verbs::{ResourceRequest, input};
use crate::write_context::MainOrStatusPart;

/// Answers a GET of a Pod's log.
pub(crate) async fn log(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let cx = request.context()?;
    let pod = request.server.store.get(&request.served.resource, &cx.key(request.name()));
    let pod = pod.ok_or_else(|| cx.refused(&StoreCommitError::Missing, request.name()))?;
    let container = container(request, &pod)?;
    let target = LogTarget {
        namespace: request.namespace().to_owned(),
        pod: request.name().to_owned(),
        uid: text(&pod, "/metadata/uid").unwrap_or("").to_owned(),
        node: text(&pod, "/spec/nodeName").unwrap_or("").to_owned(),
        container,
    };
    let query = &request.call.query;
    let since = positive(query, "sinceSeconds")?;
    let since_time = match query.text("sinceTime") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "query parameter `sinceTime`: `{text}` is not an RFC 3339 time; write a `+` as `%2B`"
            ))
        })?),
    };
    if since.is_some() && since_time.is_some() {
        let message = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        return Err(ApiError::new(422, "Invalid", message));
    }
    let options = LogOptions {
        follow: query.flag("follow"),
        tail_lines: query.number("tailLines")?,
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        since: since.map(Duration::from_secs),
        since_time,
        limit_bytes: positive(query, "limitBytes")?,
    };
    let Some(logs) = &request.server.options.pod_logs else {
        let message = "this server has no source of container logs";
        return Err(ApiError::new(501, "NotImplemented", message));
    };
    if target.node.is_empty() {
        let message = format!("pod {} does not have a host assigned", target.pod);
        return Err(ApiError::bad_request(message));
    }
    let stream = logs.open(target, options).await.map_err(|error| match error {
        LogError::NotFound(_) => ApiError::bad_request(error_text(&error)),
        LogError::Io(_) => ApiError::internal(error_text(&error)),
    })?;
    let stop = request.server.stop.clone();
    let pieces = stream
        .take_until(async move { stop.cancelled().await })
        .take_while(|piece| {
            if let Err(error) = piece {
                debug!(%error, "a log ended early");
            }
            std::future::ready(piece.is_ok())
        })
        .map(Result::unwrap_or_default)
        .filter(|piece: &Bytes| std::future::ready(!piece.is_empty()));
    Ok(ApiResponse::Stream { content_type: "text/plain", pieces: pieces.boxed() })
}

/// Returns a parameter that must be greater than 0 if it is present.
fn positive(query: &QueryParameters, name: &str) -> Result<Option<u64>, ApiError> {
    match query.number(name)? {
        Some(0) => {
            let message = format!("query parameter `{name}`: `0` must be greater than 0");
            Err(ApiError::new(422, "Invalid", message))
        }
        number => Ok(number),
    }
}

/// Returns the container that the request names, or the Pod's only one.
fn container(request: &ResourceRequest<'_>, pod: &Value) -> Result<String, ApiError> {
    let lists = ["/spec/containers", "/spec/initContainers"];
    let names: Vec<&str> = lists
        .iter()
        .flat_map(|list| items(pod, list))
        .filter_map(|container| text(container, "/name"))
        .collect();
    let choice = names.join(", ");
    match (request.call.query.text("container"), names.as_slice()) {
        (Some(named), all) if all.contains(&named) => Ok(named.to_owned()),
        (Some(named), _) => Err(ApiError::bad_request(format!(
            "container {named} is not valid for pod {}; choose one of: [{choice}]",
            request.name()
        ))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) if items(pod, "/spec/containers").len() == 1 => {
            let only = items(pod, "/spec/containers").first();
            Ok(only.and_then(|c| text(c, "/name")).unwrap_or("").to_owned())
        }
        (None, _) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{choice}]",
            request.name()
        ))),
    }
}

/// Answers a POST of a Binding: binds the Pod to a node.
pub(crate) fn bind(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let body = input::body(request.call, NonObjectRequestBody::Binding)?;
    let node = text(&body, "/target/name").unwrap_or("").to_owned();
    if node.is_empty() {
        return Err(ApiError::bad_request("target.name: must be the name of a node"));
    }
    let cx = request.context()?;
    let edit = |old: &Value| {
        let bound = text(old, "/spec/nodeName").unwrap_or("");
        if !bound.is_empty() {
            let why = format!("pod {} is already assigned to node \"{bound}\"", request.name());
            return Err(ApiError::conflict(request.served.subject(request.name()), &why));
        }
        if crate::object::is_deleting(old) {
            let why = format!("pod {} is being deleted, cannot be assigned", request.name());
            return Err(ApiError::conflict(request.served.subject(request.name()), &why));
        }
        let mut new = old.clone();
        child_mut(&mut new, "spec").insert("nodeName".into(), json!(node));
        Ok(ObjectEditResult::Put(new))
    };
    update(&cx, request.name(), MainOrStatusPart::Main, &edit)?;
    let scheduled = json!({
        "type": "PodScheduled", "status": "True",
        "lastTransitionTime": crate::object::seconds(request.now),
    });
    let edit = |old: &Value| {
        let mut new = old.clone();
        let conditions =
            child_mut(&mut new, "status").entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = conditions.as_array_mut() {
            list.retain(|condition| text(condition, "/type") != Some("PodScheduled"));
            list.push(scheduled.clone());
        }
        Ok(ObjectEditResult::Put(new))
    };
    if !cx.dry_run {
        update(&cx, request.name(), MainOrStatusPart::Status, &edit)?;
    }
    Ok(success(201))
}

/// Answers a POST of an Eviction: deletes the Pod if all its disruption budgets allow it.
pub(crate) fn evict(request: &ResourceRequest<'_>) -> Result<ApiResponse, ApiError> {
    let mut body = input::body(request.call, NonObjectRequestBody::Eviction)?;
    let cx = request.context()?;
    let pod = request.server.store.get(&request.served.resource, &cx.key(request.name()));
    let pod = pod.ok_or_else(|| cx.refused(&StoreCommitError::Missing, request.name()))?;
    check_budgets(request, &pod)?;
    let options = as_map_mut(&mut body).remove("deleteOptions").unwrap_or(Value::Null);
    let options = DeleteOptions {
        grace_s: options.get("gracePeriodSeconds").and_then(Value::as_u64),
        uid: text(&options, "/preconditions/uid").map(str::to_owned),
        resource_version: text(&options, "/preconditions/resourceVersion").map(str::to_owned),
        ..DeleteOptions::default()
    };
    delete::delete_object(&cx, request.name(), &options)?;
    Ok(success(201))
}

/// Refuses the eviction if a budget that selects the Pod allows no disruption, or has no status yet.
fn check_budgets(request: &ResourceRequest<'_>, pod: &Value) -> Result<(), ApiError> {
    let budgets = request.server.store.all(&GroupResource::new("policy", "poddisruptionbudgets"));
    let is_in_namespace =
        |budget: &Value| text(budget, "/metadata/namespace") == Some(request.namespace());
    for budget in budgets.iter().filter(|budget| is_in_namespace(budget)) {
        let Some(selector) = budget.pointer("/spec/selector") else { continue };
        let is_selected = LabelSelector::from_object(selector).is_ok_and(|s| s.matches(pod));
        let allowed = budget.pointer("/status/disruptionsAllowed").and_then(Value::as_u64);
        if is_selected && allowed.unwrap_or(0) == 0 {
            let message = format!(
                "Cannot evict pod as it would violate the pod's disruption budget \"{}\".",
                crate::object::name(budget)
            );
            return Err(ApiError::new(429, "TooManyRequests", message));
        }
    }
    Ok(())
}

fn success(code: u16) -> ApiResponse {
    let value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code,
    });
    ApiResponse::Json { code, value, warnings: Vec::new() }
}
