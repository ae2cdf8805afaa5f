//! Makes the addresses of Services usable: accepts connections at ClusterIP:port and forwards them to a ready
//! endpoint.
//!
//! The proxy runs in user space, and supports only TCP and ClusterIP (no NodePort). The pure module `routes`
//! decides on which addresses to listen and to which endpoints to forward.
//!
//! Invariants:
//! - A Service without an endpoint that can serve has no listener, so its clients are refused immediately.
//! - If an endpoint cannot be dialled, the connection goes to another one. If all fail it is reset, never
//!   left open.
//! - The number of connections is bounded. Beyond the bound new ones wait to be accepted.

mod connection;
pub(crate) mod routes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::reflector::ReflectorObjectChange;
use crate::reflectors::LocalClusterReflectors;
use crate::worker::{ControllerPanicError, DirtyKeys, Requeue, WorkLoop};
use connection::{ServiceListenerState, accept};
use routes::{ServiceBackends, routes};

/// The name of this part in log lines.
const NAME: &str = "service proxy";
/// The maximum number of connections of all Services together.
const CONNECTIONS_MAX: usize = 4_096;
/// The pause before listening is tried again on an address where it failed.
const LISTEN_RETRY: Duration = Duration::from_millis(500);
/// How long connections may take to end when the proxy stops.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// The proxy.
pub struct ServiceProxy {
    reflectors: LocalClusterReflectors,
    dirty_keys: Arc<DirtyKeys<AllServiceRoutesKey>>,
}

/// The only key: the routes of all Services are compared as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AllServiceRoutesKey;

impl std::fmt::Display for AllServiceRoutesKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("all Services")
    }
}

/// The current listeners, and their tasks.
struct ServiceProxyListeners {
    listeners: BTreeMap<SocketAddr, ServiceProxyListener>,
    tasks: JoinSet<()>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
}

struct ServiceProxyListener {
    backends: watch::Sender<ServiceBackends>,
    // Stops accepting. Existing connections continue.
    accepting: CancellationToken,
}

impl ServiceProxy {
    /// Registers listeners at the reflectors, which must not have been started yet.
    pub fn new(reflectors: &LocalClusterReflectors) -> Self {
        let dirty_keys = Arc::new(DirtyKeys::default());
        let on_service = Arc::clone(&dirty_keys);
        reflectors.services.listen(move |_: &ReflectorObjectChange<'_, Service>| {
            on_service.enqueue(AllServiceRoutesKey)
        });
        let on_slice = Arc::clone(&dirty_keys);
        reflectors.slices.listen(move |_: &ReflectorObjectChange<'_, EndpointSlice>| {
            on_slice.enqueue(AllServiceRoutesKey)
        });
        Self { reflectors: reflectors.clone(), dirty_keys }
    }

    /// Forwards connections until it is told to stop.
    ///
    /// # Errors
    ///
    /// Returns an error if a task panics.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ControllerPanicError> {
        let listening = Arc::new(Mutex::new(ServiceProxyListeners {
            listeners: BTreeMap::new(),
            tasks: JoinSet::new(),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            stop: stop.clone(),
        }));
        let worker = WorkLoop { name: NAME, dirty_keys: self.dirty_keys, concurrency: 1, stop };
        let (reflectors, shared) = (self.reflectors, Arc::clone(&listening));
        let result = worker
            .run(move |AllServiceRoutesKey| {
                let (reflectors, listening) = (reflectors.clone(), Arc::clone(&shared));
                async move { reconcile(&reflectors, &listening).await }
            })
            .await;
        let mut tasks = {
            let mut listening = listening.lock().unwrap_or_else(PoisonError::into_inner);
            listening.stop.cancel();
            std::mem::take(&mut listening.tasks)
        };
        let drain = async { while tasks.join_next().await.is_some() {} };
        if timeout(STOP_DEADLINE, drain).await.is_err() {
            tasks.shutdown().await;
        }
        result
    }
}

async fn reconcile(
    reflectors: &LocalClusterReflectors,
    listening: &Mutex<ServiceProxyListeners>,
) -> Result<Requeue, JoinError> {
    let desired = routes(&reflectors.services.all(), &reflectors.slices.all());
    let missing = {
        let mut listening = listening.lock().unwrap_or_else(PoisonError::into_inner);
        listening.follow(desired)?
    };
    let mut next = Requeue::AwaitChange;
    for (address, backends) in missing {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let mut listening = listening.lock().unwrap_or_else(PoisonError::into_inner);
                listening.add(address, listener, backends);
                debug!(%address, "forwarding");
            }
            Err(error) => {
                warn!(%address, %error, "cannot listen for a Service; trying again");
                next = Requeue::After(LISTEN_RETRY);
            }
        }
    }
    Ok(next)
}

impl ServiceProxyListeners {
    /// Updates the endpoints of existing listeners, stops listeners that are not needed any more, and returns
    /// the missing ones.
    fn follow(
        &mut self,
        desired: BTreeMap<SocketAddr, ServiceBackends>,
    ) -> Result<Vec<(SocketAddr, ServiceBackends)>, JoinError> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended?;
        }
        self.listeners.retain(|address, listener| {
            let is_desired = desired.contains_key(address);
            if !is_desired {
                listener.accepting.cancel();
            }
            is_desired
        });
        let mut missing = Vec::new();
        for (address, backends) in desired {
            match self.listeners.get(&address) {
                Some(listener) => drop(listener.backends.send_replace(backends)),
                None => missing.push((address, backends)),
            }
        }
        Ok(missing)
    }

    fn add(&mut self, address: SocketAddr, listener: TcpListener, backends: ServiceBackends) {
        let (sender, backends) = watch::channel(backends);
        let accepting = CancellationToken::new();
        let connections = ServiceListenerState {
            backends,
            permits: Arc::clone(&self.permits),
            accepting: accepting.clone(),
            stop: self.stop.clone(),
        };
        self.tasks.spawn(accept(listener, connections));
        self.listeners.insert(address, ServiceProxyListener { backends: sender, accepting });
    }
}
