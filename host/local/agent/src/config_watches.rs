//! The watches of the ConfigMaps and Secrets that the Pods of this node reference. Each object has one watch,
//! which its Pods share and which ends with the last of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config_source::{
    ConfigSourceData, ConfigSourceKind, ConfigSourceRef, ConfigSourceState, config_map_data,
    secret_data,
};

/// How many watches may wait to be started.
const REQUESTS_MAX: usize = 1024;

type Key = (String, ConfigSourceRef);

/// A handle that returns the state of a ConfigMap or Secret.
#[derive(Clone, Debug)]
pub(crate) struct ConfigMapAndSecretWatches {
    states: Arc<Mutex<BTreeMap<Key, watch::Sender<ConfigSourceState>>>>,
    start: mpsc::Sender<Key>,
}

/// The part that runs the watches. No state is known before [`serve`](Self::serve) runs.
#[derive(Debug)]
pub(crate) struct ConfigMapSecretWatchTask {
    watches: ConfigMapAndSecretWatches,
    started: mpsc::Receiver<Key>,
}

impl ConfigMapAndSecretWatches {
    pub(crate) fn new() -> (Self, ConfigMapSecretWatchTask) {
        let (start, started) = mpsc::channel(REQUESTS_MAX);
        let watches = Self { states: Arc::default(), start };
        (watches.clone(), ConfigMapSecretWatchTask { watches, started })
    }

    /// Returns the state of `key` in `namespace`, now and whenever it changes.
    pub(crate) async fn follow(
        &self,
        namespace: &str,
        key: &ConfigSourceRef,
    ) -> watch::Receiver<ConfigSourceState> {
        let key = (namespace.to_owned(), key.clone());
        let (receiver, is_new) = {
            let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = !states.contains_key(&key);
            let sender = states
                .entry(key.clone())
                .or_insert_with(|| watch::Sender::new(ConfigSourceState::Unknown));
            (sender.subscribe(), is_new)
        };
        if is_new {
            // Fails only while the agent stops.
            let _ = self.start.send(key).await;
        }
        receiver
    }

    /// Forgets `key` if no Pod follows it any more. Returns true if it did.
    fn forget_unused(&self, key: &Key) -> bool {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = states.get(key).is_none_or(|sender| sender.receiver_count() == 0);
        if unused {
            states.remove(key);
        }
        unused
    }

    fn sender(&self, key: &Key) -> Option<watch::Sender<ConfigSourceState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

impl ConfigMapSecretWatchTask {
    /// Runs the watches until every [`ConfigMapAndSecretWatches`] is dropped. That does not happen before the agent drops
    /// this future, which holds one itself.
    pub(crate) async fn serve(mut self, client: Client) {
        let mut tasks = JoinSet::new();
        loop {
            let key = tokio::select! {
                key = self.started.recv() => key,
                Some(_) = tasks.join_next() => continue,
            };
            let Some(key) = key else { return };
            let (client, watches) = (client.clone(), self.watches.clone());
            tasks.spawn(async move {
                match key.1.kind {
                    ConfigSourceKind::ConfigMap => {
                        follow::<ConfigMap>(client, watches, key, config_map_data).await
                    }
                    ConfigSourceKind::Secret => {
                        follow::<Secret>(client, watches, key, secret_data).await
                    }
                }
            });
        }
    }
}

async fn follow<K>(
    client: Client,
    watches: ConfigMapAndSecretWatches,
    key: Key,
    data: fn(K) -> ConfigSourceData,
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<K> = Api::namespaced(client, &key.0);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.1.name));
    let mut events = pin!(watch_objects(api, config).default_backoff());
    let Some(sender) = watches.sender(&key) else { return };
    let mut listed = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = sender.closed() => {
                if watches.forget_unused(&key) {
                    return;
                }
                continue;
            }
        };
        match event {
            Some(Ok(Event::Init)) => listed = false,
            Some(Ok(Event::InitApply(object) | Event::Apply(object))) => {
                listed = true;
                publish(&sender, ConfigSourceState::Present(Arc::new(data(object))));
            }
            Some(Ok(Event::InitDone)) if listed => {}
            Some(Ok(Event::InitDone | Event::Delete(_))) => {
                publish(&sender, ConfigSourceState::Missing)
            }
            Some(Err(error)) => {
                tracing::warn!(namespace = key.0, reference = %key.1, %error, "watch interrupted");
            }
            None => return,
        }
    }
}

/// Publishes a state only if it differs, so that a relist does not wake any Pod.
fn publish(sender: &watch::Sender<ConfigSourceState>, reference: ConfigSourceState) {
    sender.send_if_modified(|state| {
        let changed = *state != reference;
        if changed {
            *state = reference;
        }
        changed
    });
}
