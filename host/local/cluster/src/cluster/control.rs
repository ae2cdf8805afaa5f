//! Starts the controllers of a local host.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::LocalError;
use crate::api_writer::{ApiRequestError, ApiWriter};
use crate::hosts_file_names::NamespaceHostsFileLines;
use crate::reflectors::LocalClusterReflectors;
use crate::scheduler::PodScheduler;
use crate::service::EndpointSliceController;
use crate::service_proxy::ServiceProxy;
use crate::statefulset::StatefulSets;
use crate::task_group::{PartError, TaskGroup};
use crate::volumes::{self, VolumeController};
use crate::worker::ControllerPanicError;

/// The pause between two checks of the API server.
const API_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the API server may take to reply to a check.
const API_CHECK_DEADLINE: Duration = Duration::from_secs(5);
/// After this many consecutive failed checks the local host ends.
const API_MISSES_MAX: u32 = 3;

/// Creates the objects that a cluster has from the beginning: the storage class.
pub(super) async fn create_initial(client: &Client) -> Result<(), LocalError> {
    let writer = ApiWriter::new(Api::<StorageClass>::all(client.clone()), "tholepin-local");
    let applied = writer.apply(volumes::CLASS, &volumes::storage_class()).await;
    applied.map(|_| ()).map_err(LocalError::Initial)
}

/// Starts all controllers. Their listeners are registered before the reflectors start, and no controller runs
/// before the reflectors are synced.
pub(super) fn start(
    client: &Client,
    reflectors: &LocalClusterReflectors,
    names: Arc<NamespaceHostsFileLines>,
    volume_directory: PathBuf,
    parts: &mut TaskGroup,
) {
    let stop = parts.stop();
    let sets = StatefulSets::new(client.clone(), reflectors);
    let scheduler = PodScheduler::new(client.clone(), reflectors);
    let slices = EndpointSliceController::new(client.clone(), reflectors);
    let proxy = ServiceProxy::new(reflectors);
    let volumes = VolumeController::new(client.clone(), reflectors, volume_directory);
    spawn(parts, reflectors, "StatefulSet controller", |stop| sets.run(stop));
    spawn(parts, reflectors, "scheduler", |stop| scheduler.run(stop));
    spawn(parts, reflectors, "EndpointSlice controller", |stop| slices.run(stop));
    spawn(parts, reflectors, "service proxy", |stop| proxy.run(stop));
    spawn(parts, reflectors, "volume controller", |stop| volumes.run(stop));
    let until = stop.clone();
    parts.spawn("hosts file names", async move {
        names.run(until).await;
        Ok(())
    });
    let (reflectors, client) = (reflectors.clone(), client.clone());
    parts.spawn("reflectors", async move {
        tokio::select! {
            never = reflectors.follow(client) => match never {},
            () = stop.cancelled() => Ok(()),
        }
    });
}

/// Why the API server counts as ended.
#[derive(Debug, thiserror::Error)]
enum ApiServerCheckError {
    #[error("{API_MISSES_MAX} checks in a row failed")]
    Failed(#[source] ApiRequestError),
    #[error("{API_MISSES_MAX} checks in a row failed: no reply within {API_CHECK_DEADLINE:?}")]
    NoReply,
}

/// Checks the API server at intervals, because no other part works without it. Returns an error after several
/// failures in a row.
pub(super) async fn watch_api(client: Client, stop: CancellationToken) -> Result<(), PartError> {
    let mut misses = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep(API_CHECK_INTERVAL) => {}
        }
        let error = match timeout(API_CHECK_DEADLINE, client.apiserver_version()).await {
            Ok(Ok(_)) => {
                misses = 0;
                continue;
            }
            Ok(Err(error)) => ApiServerCheckError::Failed(error.into()),
            Err(_) => ApiServerCheckError::NoReply,
        };
        misses += 1;
        if API_MISSES_MAX <= misses {
            return Err(error.into());
        }
    }
}

fn spawn<F>(
    parts: &mut TaskGroup,
    reflectors: &LocalClusterReflectors,
    name: &'static str,
    run: impl FnOnce(CancellationToken) -> F + Send + 'static,
) where
    F: Future<Output = Result<(), ControllerPanicError>> + Send + 'static,
{
    let (reflectors, stop) = (reflectors.clone(), parts.stop());
    parts.spawn(name, async move {
        tokio::select! {
            () = reflectors.wait_synced() => {}
            () = stop.cancelled() => return Ok(()),
        }
        run(stop).await.map_err(Into::into)
    });
}
