//! The connection to one API server, which implements the host's Kubernetes ports.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use http::header::HeaderValue;
use kube::{
    Client, Config,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tholepin_core::{
    BoxedFuture, CallError, ObjectMeta, ObjectRef, PluginName, WatchedStoreObject,
    condition::HOST_FIELD_MANAGER,
    port::{
        ApplyRequest, DeleteRequest, Kubernetes, PublishRequest, StoreSubscription, WarningEvent,
        WatchLease, WatchScope, WatchSource, WatchedStoreView,
    },
};
use tholepin_schema::manifest::KindName;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    SecretFingerprinter,
    apply_cache::{ApplyCacheKey, ApplyFingerprint, may_skip},
    error::REQUEST_DEADLINE,
    event_cache::EventCache,
    fingerprint::{is_secret, is_secret_kind, refuse_fingerprints},
    hub::{WatchHub, WatchReport},
    kinds::{DiscoveredKind, KindDiscoveryCache},
    lock::lock,
    meter,
    raw::RawObject,
    secrets::{SecretCache, decode_values},
    store::WatchedObjectStore,
    template::{self, TemplateValues},
    watch_context::{WatchHubContext, WatchHubOptions},
};

/// The options of a connection to the API server.
pub struct KubernetesApiOptions {
    /// The kubeconfig file. If absent, `KUBECONFIG`, the home directory or the Pod's service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// Makes the fingerprints of Secret values.
    pub fingerprinter: SecretFingerprinter,
    /// The name of this process in events; at most 128 bytes, more are cut off.
    pub reporting_instance: String,
    /// The timing of watches.
    pub hub: WatchHubOptions,
}

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesClientBuildError {
    /// The kubeconfig is missing or invalid.
    #[error("the kubeconfig `{path}` cannot be used; name a valid one with --kubeconfig")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why it cannot be used.
        source: Box<kube::config::KubeconfigError>,
    },
    /// No kubeconfig was found, and the process does not run in a Pod.
    #[error("no API server is configured; name a kubeconfig with --kubeconfig")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// The client cannot be built from the configuration.
    #[error("no client can be built from the kubeconfig")]
    Client(#[source] Box<kube::Error>),
}

/// One API server: watches, store and requests. Implements [`Kubernetes`], [`WatchSource`] and
/// [`HostFieldsWriter`](tholepin_core::port::HostFieldsWriter).
pub struct KubernetesApi {
    pub(crate) client: Client,
    pub(crate) store: Arc<WatchedObjectStore>,
    pub(crate) kinds: Arc<KindDiscoveryCache>,
    pub(crate) events: Arc<EventCache>,
    hub: Arc<WatchHub>,
    fingerprinter: SecretFingerprinter,
    secrets: Arc<SecretCache>,
    /// Clones of this connection with the user agent of a plugin, one per plugin.
    plugin_clients: Mutex<BTreeMap<PluginName, Arc<Self>>>,
}

/// The most user agents that are kept. A host has fewer plugins; the map is cleared then.
const PLUGIN_CLIENTS_MAX: usize = 1024;

/// Returns the user agent of a field manager, `MANAGER/VERSION`. A delete request has no field manager, so
/// that an audit log identifies the client by the user agent up to the slash.
fn user_agent(field_manager: &str) -> HeaderValue {
    let version = env!("CARGO_PKG_VERSION");
    let user_agent = HeaderValue::from_str(&format!("{field_manager}/{version}"));
    // Cannot fail: names of plugins are ASCII.
    user_agent.unwrap_or(HeaderValue::from_static("tholepin"))
}

impl KubernetesApi {
    /// Reads the configuration and builds the client. Sends no request yet.
    ///
    /// # Errors
    ///
    /// Fails if the configuration is missing or unusable.
    pub async fn connect(
        options: KubernetesApiOptions,
    ) -> Result<Arc<Self>, KubernetesClientBuildError> {
        let KubernetesApiOptions { kubeconfig, fingerprinter, reporting_instance, hub } = options;
        let mut config = match kubeconfig {
            Some(path) => {
                let kubeconfig_error = |error| KubernetesClientBuildError::Kubeconfig {
                    path: path.display().to_string(),
                    source: Box::new(error),
                };
                let file = Kubeconfig::read_from(&path).map_err(kubeconfig_error)?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(file, &options).await.map_err(kubeconfig_error)?
            }
            None => Config::infer()
                .await
                .map_err(|error| KubernetesClientBuildError::Infer(Box::new(error)))?,
        };
        // The client would retry a refused request for minutes while a reconcile waits.
        config.default_retry = false;
        config.connect_timeout = Some(REQUEST_DEADLINE);
        // Bounds the initial list of a watch, which has no other deadline. A watch request itself is ended by
        // `watcher` five seconds earlier.
        let longest_silence = u64::from(hub.watch_lasts_seconds).saturating_add(10);
        config.read_timeout = Some(std::time::Duration::from_secs(longest_silence));
        let host = config.cluster_url.host().unwrap_or_default().to_owned();
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config)
            .map_err(|error| KubernetesClientBuildError::Client(Box::new(error)))?;
        let client = meter::with_request_metrics(client, namespace, host);
        let client = meter::with_user_agent(client, user_agent(HOST_FIELD_MANAGER));
        let store = Arc::new(WatchedObjectStore::default());
        let kinds = Arc::new(KindDiscoveryCache::new(client.clone(), server.trim_end_matches('/')));
        let secrets = Arc::new(SecretCache::default());
        let context = WatchHubContext {
            client: client.clone(),
            store: store.clone(),
            kinds: kinds.clone(),
            fingerprinter: fingerprinter.clone(),
            secrets: secrets.clone(),
            options: hub,
            resumed: Notify::new(),
        };
        let hub = WatchHub::new(context);
        let events = Arc::new(EventCache::new(reporting_instance));
        let plugin_clients = Mutex::default();
        Ok(Arc::new(Self {
            client,
            store,
            kinds,
            events,
            hub,
            fingerprinter,
            secrets,
            plugin_clients,
        }))
    }

    /// Runs the watches until `stop`. No watch starts before this is called.
    pub async fn run(&self, stop: CancellationToken) {
        self.hub.run(stop).await;
    }

    /// Returns the state of all watches, ordered by scope.
    #[must_use]
    pub fn watches(&self) -> Vec<WatchReport> {
        self.hub.reports()
    }

    pub(crate) async fn served(&self, kind: &KindName) -> Result<DiscoveredKind, CallError> {
        self.kinds.find(kind).await.map_err(|unserved| unserved.into_error(kind))
    }

    /// Waits for the reply to a request within the deadline. Verb, object and whether the request is about the
    /// status subresource describe the request in errors.
    pub(crate) async fn send<T>(
        &self,
        served: &DiscoveredKind,
        (verb, object, status): (&'static str, &ObjectRef, bool),
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        let reply = served.request(verb, object, status).within(request).await;
        if matches!(reply, Err(CallError::NotFound(_))) {
            self.kinds.forget_if_old(&object.kind);
        }
        reply
    }

    /// Reads one object, with clear Secret values.
    async fn read(&self, object: &ObjectRef) -> Result<Value, CallError> {
        let served = self.served(&object.kind).await?;
        let api = served.api(self.client.clone(), &object.namespace);
        let raw = self.send(&served, ("get", object, false), api.get(&object.name)).await?;
        parse(&raw, &served)
    }

    /// Stores the reply to a write, and returns the object as plugins see it.
    pub(crate) fn store_reply(
        &self,
        served: &DiscoveredKind,
        raw: &RawObject,
    ) -> Result<Value, CallError> {
        let stored = self.to_stored(parse(raw, served)?)?;
        self.store.put_written(stored.clone());
        Ok(stored.value())
    }

    /// Converts a reply for the store: without Secret values and `managedFields`.
    pub(crate) fn to_stored(&self, mut object: Value) -> Result<WatchedStoreObject, CallError> {
        self.fingerprinter.replace_secret_values(&mut object);
        WatchedStoreObject::new(object).map_err(|error| CallError::Other(error.to_string()))
    }

    async fn apply_object(&self, request: ApplyRequest) -> Result<Value, CallError> {
        let ApplyRequest { field_manager, object: mut intent, force, status, dry_run } = request;
        let invalid =
            |error: tholepin_core::MissingObjectField| CallError::Invalid(error.to_string());
        let reference = ObjectMeta::of(&intent).map_err(invalid)?.object;
        if is_secret(&intent) {
            refuse_fingerprints(&intent)?;
            self.fill(&reference, &mut intent).await?;
        }
        let mut fingerprinted = intent.clone();
        self.fingerprinter.replace_secret_values(&mut fingerprinted);
        let target = |uid: &str| ApplyCacheKey {
            uid: uid.to_owned(),
            field_manager: field_manager.clone(),
            status,
        };
        if let Some(cached) = self.store.get(&reference).filter(|_| !dry_run) {
            let target = target(&cached.meta().uid);
            let value = cached.value();
            let outcome = ApplyFingerprint::of(&fingerprinted, &value, status);
            if may_skip(&fingerprinted, cached.meta())
                && self.store.applied.is_last_outcome(&target, outcome)
            {
                return Ok(value);
            }
            self.store.applied.forget(&target);
        }
        let params = PatchParams {
            dry_run,
            force,
            field_manager: Some(field_manager.clone()),
            ..Default::default()
        };
        let stored = self.patch(&reference, &Patch::Apply(intent), &params, status).await?;
        let value = stored.value();
        // Only for watched objects: of others, nothing reports a change or the deletion.
        if !dry_run && self.store.get(&reference).is_some() {
            let outcome = ApplyFingerprint::of(&fingerprinted, &value, status);
            self.store.applied.remember(target(&stored.meta().uid), outcome);
        }
        Ok(value)
    }

    /// Sends a patch, and stores the reply unless it is a dry run.
    pub(crate) async fn patch(
        &self,
        object: &ObjectRef,
        patch: &Patch<Value>,
        params: &PatchParams,
        status: bool,
    ) -> Result<WatchedStoreObject, CallError> {
        let served = self.served(&object.kind).await?;
        let api = served.api(self.client.clone(), &object.namespace);
        let request = ("patch", object, status);
        let raw = if status {
            self.send(&served, request, api.patch_status(&object.name, params, patch)).await?
        } else {
            self.send(&served, request, api.patch(&object.name, params, patch)).await?
        };
        let object = parse(&raw, &served)?;
        if params.dry_run {
            return self.to_stored(object);
        }
        self.secrets.update_if_used(&object);
        let stored = self.to_stored(object)?;
        self.store.put_written(stored.clone());
        Ok(stored)
    }

    /// Fills the templates in the values of a Secret. A value with random characters is made once: while the
    /// stored Secret has the key, its value is kept.
    async fn fill(&self, secret: &ObjectRef, intent: &mut Value) -> Result<(), CallError> {
        let requirements = template::requirements(intent)?;
        if requirements.is_empty() {
            return Ok(());
        }
        let mut sources = template::SecretTemplateInputs::default();
        for name in requirements.secrets {
            let source = ObjectRef { name: name.clone(), ..secret.clone() };
            sources.secrets.insert(name, self.secret_values(&source).await?);
        }
        if requirements.random {
            // Read from the server: an outdated copy in the store could cause a value to be made twice.
            match self.read(secret).await {
                Ok(stored) => sources.stored = decode_values(&stored),
                Err(CallError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        template::fill(intent, &sources)
    }

    async fn delete_object(&self, request: DeleteRequest) -> Result<(), CallError> {
        let DeleteRequest { object, uid, resource_version, grace_seconds, dry_run } = request;
        let served = self.served(&object.kind).await?;
        let api = served.api(self.client.clone(), &object.namespace);
        let conditional = uid.is_some() || resource_version.is_some();
        let params = DeleteParams {
            dry_run,
            grace_period_seconds: grace_seconds,
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: conditional.then_some(Preconditions { resource_version, uid }),
        };
        let deletion = api.delete(&object.name, &params);
        let reply = self.send(&served, ("delete", &object, false), deletion).await?;
        if let (Some(raw), false) = (reply.left(), dry_run) {
            // The object still exists, with a deletion timestamp; the watch reports its end.
            self.store.put_written(self.to_stored(parse(&raw, &served)?)?);
        }
        Ok(())
    }

    async fn secret_bytes(
        &self,
        namespace: String,
        name: String,
        key: String,
    ) -> Result<Vec<u8>, CallError> {
        let kind = KindName { api_version: "v1".to_owned(), kind: "Secret".to_owned() };
        let secret = ObjectRef { kind, namespace, name };
        let values = self.secret_values(&secret).await?;
        let missing = || CallError::NotFound(format!("key `{key}` of {secret}"));
        values.get(&key).cloned().ok_or_else(missing)
    }

    /// Returns the clear values of a Secret: the cached ones while a watch follows it, else those of the
    /// server, and the cached ones if the server does not answer.
    async fn secret_values(&self, secret: &ObjectRef) -> Result<Arc<TemplateValues>, CallError> {
        let stored = self.store.get(secret);
        if let Some(values) = stored.and_then(|state| self.secrets.for_state(state.meta())) {
            return Ok(values);
        }
        let error = match self.read(secret).await {
            Ok(object) => return Ok(self.secrets.insert_read(&object)),
            Err(error) => error,
        };
        let is_refused = matches!(&error, CallError::NotFound(_) | CallError::Denied(_));
        if is_refused || self.store.is_known_missing(secret) {
            self.secrets.forget(secret);
            return Err(error);
        }
        let is_passing = matches!(
            &error,
            CallError::Transient(_) | CallError::Timeout(_) | CallError::Throttled(_)
        );
        self.secrets.last(secret).filter(|_| is_passing).ok_or(error)
    }
}

pub(crate) fn parse(raw: &RawObject, served: &DiscoveredKind) -> Result<Value, CallError> {
    let unreadable =
        |error| CallError::Other(format!("the API server's reply is not an object: {error}"));
    raw.value(&served.resource).map_err(unreadable)
}

impl Kubernetes for KubernetesApi {
    fn on_behalf_of(self: Arc<Self>, plugin: &PluginName) -> Arc<dyn Kubernetes> {
        let mut plugin_clients = lock(&self.plugin_clients);
        if let Some(existing) = plugin_clients.get(plugin) {
            return existing.clone();
        }
        if PLUGIN_CLIENTS_MAX <= plugin_clients.len() {
            plugin_clients.clear();
        }
        let manager = format!("{HOST_FIELD_MANAGER}:{plugin}");
        let plugin_client = Arc::new(Self {
            client: meter::with_user_agent(self.client.clone(), user_agent(&manager)),
            store: self.store.clone(),
            kinds: self.kinds.clone(),
            events: self.events.clone(),
            hub: self.hub.clone(),
            fingerprinter: self.fingerprinter.clone(),
            secrets: self.secrets.clone(),
            plugin_clients: Mutex::default(),
        });
        plugin_clients.insert(plugin.clone(), plugin_client.clone());
        plugin_client
    }

    fn view(&self) -> Arc<dyn WatchedStoreView> {
        self.store.view()
    }

    fn get(&self, object: ObjectRef) -> BoxedFuture<'_, Result<Value, CallError>> {
        Box::pin(async move {
            let mut value = self.read(&object).await?;
            self.fingerprinter.replace_secret_values(&mut value);
            let stored = WatchedStoreObject::new(value);
            Ok(stored.map_err(|error| CallError::Other(error.to_string()))?.value())
        })
    }

    fn list(
        &self,
        kind: KindName,
        namespace: String,
        selector: String,
    ) -> BoxedFuture<'_, Result<Vec<Value>, CallError>> {
        Box::pin(self.list_objects(kind, namespace, selector))
    }

    fn apply(&self, request: ApplyRequest) -> BoxedFuture<'_, Result<Value, CallError>> {
        Box::pin(self.apply_object(request))
    }

    fn merge_patch(
        &self,
        object: ObjectRef,
        patch: Value,
        field_manager: String,
        dry_run: bool,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        Box::pin(async move {
            if is_secret_kind(&object.kind) {
                refuse_fingerprints(&patch)?;
            }
            let field_manager = Some(field_manager);
            let params = PatchParams { dry_run, field_manager, ..Default::default() };
            Ok(self.patch(&object, &Patch::Merge(patch), &params, false).await?.value())
        })
    }

    fn create(
        &self,
        object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        Box::pin(self.create_object(object, field_manager))
    }

    fn replace(
        &self,
        object: Value,
        field_manager: String,
    ) -> BoxedFuture<'_, Result<Value, CallError>> {
        Box::pin(self.replace_object(object, field_manager))
    }

    fn delete(&self, request: DeleteRequest) -> BoxedFuture<'_, Result<(), CallError>> {
        Box::pin(self.delete_object(request))
    }

    fn publish(&self, request: PublishRequest) -> BoxedFuture<'_, Result<(), CallError>> {
        Box::pin(self.publish_event(request))
    }

    fn warnings(
        &self,
        object: ObjectRef,
        uid: String,
    ) -> BoxedFuture<'_, Result<Vec<WarningEvent>, CallError>> {
        Box::pin(self.list_warnings(object, uid))
    }

    fn secret_value(
        &self,
        namespace: String,
        name: String,
        key: String,
    ) -> BoxedFuture<'_, Result<Vec<u8>, CallError>> {
        Box::pin(self.secret_bytes(namespace, name, key))
    }
}

impl WatchSource for KubernetesApi {
    fn lease(&self, scope: WatchScope) -> Box<dyn WatchLease> {
        Box::new(self.hub.lease(scope))
    }

    fn changes(&self) -> Box<dyn StoreSubscription> {
        self.store.changes()
    }
}
