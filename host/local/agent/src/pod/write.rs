//! Writes the status of a Pod to the API server, always the newest one and only if it changed; deletes the
//! Pod.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Error, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use crate::backoff::RetryPauses;

/// The field manager that owns what this agent writes.
pub(crate) const FIELD_MANAGER: &str = "tholepin-agent";

const WRITE_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Writes each status that `statuses` receives until its sender is dropped. The last status is written even
/// then. A status is skipped if a newer one arrives before it is written. Returns early when the Pod is
/// deleted.
pub(super) async fn write_statuses(
    client: Client,
    pod: Pod,
    mut statuses: watch::Receiver<Option<PodStatus>>,
) {
    let api: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap_or_default());
    loop {
        let status = statuses.borrow_and_update().clone();
        if let Some(status) = status
            && write_until_overtaken(&api, &pod, status, &statuses).await
                == PodStatusWriteResult::PodGone
        {
            return;
        }
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

#[derive(PartialEq, Eq)]
enum PodStatusWriteResult {
    Done,
    PodGone,
}

async fn write_until_overtaken(
    api: &Api<Pod>,
    pod: &Pod,
    status: PodStatus,
    newer: &watch::Receiver<Option<PodStatus>>,
) -> PodStatusWriteResult {
    let name = pod.name_any();
    // The uid prevents that the status of one Pod is written to a later Pod with the same name.
    let patch = Patch::Apply(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": pod.namespace(), "uid": pod.uid()},
        "status": status,
    }));
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let mut pauses = RetryPauses::new(RETRY_FIRST, RETRY_LONGEST);
    loop {
        match judge(timeout(WRITE_DEADLINE, api.patch_status(&name, &parameters, &patch)).await) {
            ApiWriteReplyClass::Done => return PodStatusWriteResult::Done,
            ApiWriteReplyClass::Gone => return PodStatusWriteResult::PodGone,
            ApiWriteReplyClass::Refused(error) => {
                tracing::warn!(pod = name, error, "pod status refused");
                return PodStatusWriteResult::Done;
            }
            ApiWriteReplyClass::TryAgain(error) => {
                tracing::debug!(pod = name, error, "pod status not written");
                // Another Pod may have this name by now, and its status must not be overwritten.
                if let Ok(Ok(found)) = timeout(WRITE_DEADLINE, api.get_opt(&name)).await
                    && found.and_then(|found| found.uid()) != pod.uid()
                {
                    return PodStatusWriteResult::PodGone;
                }
            }
        }
        // A dropped sender does not count as a newer status: the last status is retried.
        if matches!(newer.has_changed(), Ok(true)) {
            return PodStatusWriteResult::Done;
        }
        sleep(pauses.after_failure()).await;
    }
}

/// The class of an API server's reply, by which a writer decides whether to retry.
enum ApiWriteReplyClass {
    Done,
    Gone,
    Refused(String),
    TryAgain(String),
}

fn judge<T>(answer: Result<Result<T, Error>, Elapsed>) -> ApiWriteReplyClass {
    match answer {
        Ok(Ok(_)) => ApiWriteReplyClass::Done,
        Ok(Err(Error::Api(status))) if status.code == 404 => ApiWriteReplyClass::Gone,
        Ok(Err(Error::Api(status))) if matches!(status.code, 400 | 403 | 405 | 415 | 422) => {
            ApiWriteReplyClass::Refused(status.message)
        }
        Ok(Err(error)) => ApiWriteReplyClass::TryAgain(error.to_string()),
        Err(_) => ApiWriteReplyClass::TryAgain(format!("no answer within {WRITE_DEADLINE:?}")),
    }
}

/// Deletes a Pod's object for good, after no process of it runs any more. Retries until the API server
/// accepts it.
pub(super) async fn remove(client: Client, pod: &Pod) {
    let api: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
    let parameters =
        DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
    let mut pauses = RetryPauses::new(RETRY_FIRST, RETRY_LONGEST);
    loop {
        let answer = timeout(WRITE_DEADLINE, api.delete(&name, &parameters)).await;
        // Another Pod has this name by now.
        if matches!(&answer, Ok(Err(Error::Api(status))) if status.code == 409) {
            return;
        }
        match judge(answer) {
            ApiWriteReplyClass::Done | ApiWriteReplyClass::Gone => return,
            ApiWriteReplyClass::Refused(error) | ApiWriteReplyClass::TryAgain(error) => {
                tracing::warn!(pod = name, error, "pod not removed");
            }
        }
        sleep(pauses.after_failure()).await;
    }
}
