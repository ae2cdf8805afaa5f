//! A compiled and linked component, and the calls of its exports.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tholepin_core::{BoxedFuture, HostCalls, PluginCallerIdentity, port::GuestError, size};
use tholepin_schema::{
    manifest::Manifest,
    reconcile::{ReconcileFailure, ReconcileOutcome, ReconcileRequest, Violation},
};
use tokio::{task, time};
use wasmtime::{Store, Trap};

use crate::{
    bindings::Reconciler,
    cache::{self, CacheError, CompileCache, CompileCacheOutcome, CompiledComponent},
    code::{CompiledCode, CompiledCodeReloadError},
    engine::GuestEngine,
    imports::to_text,
    limits::{ANSWER_BYTES_MAX, GuestLimits, RESULT_BYTES_MAX},
    meter,
    state::{ComputedTooLong, GuestCallContext, GuestState},
    wasi,
};

/// The interfaces that this host offers, without their version.
const OFFERED: &[&str] = &[
    "tholepin:kubernetes/events",
    "tholepin:kubernetes/objects",
    "tholepin:redis/commands",
    "tholepin:redis/topology",
    "tholepin:runtime/clock",
    "tholepin:runtime/logging",
    "tholepin:runtime/parameters",
    "tholepin:runtime/random",
    "tholepin:runtime/probing",
    "tholepin:runtime/waiting",
    "tholepin:types/types",
];

/// The version of all WIT packages of the contract.
const CONTRACT_VERSION: &str = "0.1.0";

/// A component, ready to be called.
pub struct LoadedComponent {
    engine: Arc<GuestEngine>,
    digest: String,
    imports: Vec<String>,
    code: CompiledCode,
    /// The peak memory of all instances so far.
    memory_peak_bytes: AtomicUsize,
}

/// The reason why a component cannot be compiled or linked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The component does not compile.
    #[error(transparent)]
    Compile(#[from] CacheError),
    /// The component imports an interface that this host does not offer.
    #[error("the component imports `{import}`: {how_to_fix}")]
    UnknownImport {
        /// The name and version of the import.
        import: String,
        /// How to fix it.
        how_to_fix: String,
    },
    /// The imports or exports of the component do not match the contract.
    #[error(
        "the component does not match the plugin contract {CONTRACT_VERSION}; build it with this host's `tholepin-sdk`"
    )]
    NotLinkable(#[source] wasmtime::Error),
}

impl LoadedComponent {
    /// Compiles a component on a blocking thread, as the step before [`link`](Self::link).
    pub(crate) async fn compile(
        engine: &Arc<GuestEngine>,
        cache: &CompileCache,
        wasm: Arc<[u8]>,
        digest: String,
    ) -> Result<(CompiledComponent, CompileCacheOutcome), CacheError> {
        let (engine, cache) = (Arc::clone(engine), cache.clone());
        let work = task::spawn_blocking(move || cache.component(&engine, &digest, &wasm));
        work.await.unwrap_or_else(|error| Err(CacheError::Aborted(error)))
    }

    /// Links a compiled component with the imports of this host.
    pub(crate) fn link(
        engine: &Arc<GuestEngine>,
        compiled: CompiledComponent,
        digest: String,
    ) -> Result<Self, LoadError> {
        let imports: Vec<String> = compiled
            .component
            .component_type()
            .imports(engine.wasmtime())
            .map(|(name, _)| name.to_owned())
            .collect();
        for import in &imports {
            check_import(import)?;
        }
        let code =
            CompiledCode::new(Arc::clone(engine), compiled).map_err(LoadError::NotLinkable)?;
        let memory_peak_bytes = AtomicUsize::new(0);
        Ok(Self { engine: Arc::clone(engine), digest, imports, code, memory_peak_bytes })
    }

    /// Releases the compiled code if the component was not called for `idle_max`, and returns true if it did. The
    /// next call loads the code again.
    pub(crate) fn release_if_idle(&self, idle_max: Duration) -> bool {
        self.code.release_if_idle(idle_max)
    }

    /// Returns the component's SHA-256 in hex.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the interfaces that the component imports, by name and version.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// Calls `describe`; every import but `log` is denied. `label` names the plugin in log lines.
    ///
    /// # Errors
    ///
    /// Fails if the guest traps, exceeds a limit, or returns an invalid manifest.
    pub async fn describe(&self, label: &str) -> Result<Manifest, GuestError> {
        let state = GuestState::new(label.to_owned(), None, "describe", GuestLimits::DESCRIBE);
        let text = self
            .run(state, GuestLimits::DESCRIBE, |exports, store| {
                Box::pin(exports.tholepin_plugin_description().call_describe(store))
            })
            .await?;
        parse("describe", &text)
    }

    /// Calls `validate`; every import but `log` is denied.
    pub(crate) async fn validate(
        &self,
        context: PluginCallerIdentity,
        limits: GuestLimits,
        old: Option<Value>,
        new: Value,
    ) -> Result<Vec<Violation>, GuestError> {
        let label = context.plugin.to_string();
        let state = GuestState::new(label, None, "validate", limits);
        let (old, new) = (old.as_ref().map(to_text), to_text(&new));
        let text = self
            .run(state, limits, move |exports, store| {
                Box::pin(async move {
                    let exports = exports.tholepin_plugin_reconciliation();
                    exports.call_validate(store, old.as_ref(), &new).await
                })
            })
            .await?;
        parse("validate", &text)
    }

    /// Calls `reconcile`.
    pub(crate) async fn reconcile(
        &self,
        context: PluginCallerIdentity,
        limits: GuestLimits,
        request: &ReconcileRequest,
        host_calls: Arc<dyn HostCalls>,
    ) -> Result<Result<ReconcileOutcome, ReconcileFailure>, GuestError> {
        const EXPORT: &str = "reconcile";
        let label = context.plugin.to_string();
        let state =
            GuestState::new(label, Some(GuestCallContext { context, host_calls }), EXPORT, limits);
        let request = serde_json::to_string(request).map_err(|error| bad_answer(EXPORT, error))?;
        let mut state = state;
        state.transferred.count_into_guest(request.len());
        let result = self
            .run(state, limits, move |exports, store| {
                Box::pin(async move {
                    let exports = exports.tholepin_plugin_reconciliation();
                    exports.call_reconcile(store, &request).await
                })
            })
            .await?;
        match result {
            Ok(outcome) => parse(EXPORT, &outcome).map(Ok),
            Err(failure) => parse(EXPORT, &failure).map(Err),
        }
    }

    /// Creates an instance, calls an export within the limits, and drops the instance.
    async fn run<R, C>(
        &self,
        state: GuestState,
        limits: GuestLimits,
        call: C,
    ) -> Result<R, GuestError>
    where
        C: for<'a> FnOnce(
            &'a Reconciler,
            &'a mut Store<GuestState>,
        ) -> BoxedFuture<'a, wasmtime::Result<R>>,
    {
        let export = state.export();
        let mut store = state.into_store(&self.engine);
        let mut cpu = Duration::ZERO;
        let work = meter::cpu_time(&mut cpu, async {
            // The semaphore is never closed. Without a permit, the pool would refuse the instance.
            let _slot = self.engine.slots().acquire().await.ok();
            let exports = self.code.instances().await?.instantiate_async(&mut store).await?;
            call(&exports, &mut store).await
        });
        let result = time::timeout(limits.wall_clock, work).await;
        store.data_mut().flush().await;
        meter::record_call(store.data(), cpu, &self.memory_peak_bytes);
        match result {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(explain(export, limits, store.data(), &error)),
            Err(_) => Err(timeout_error(export, limits.wall_clock)),
        }
    }
}

/// Converts the error of a failed call, with the guest's own explanation if there is one.
fn explain(
    export: &'static str,
    limits: GuestLimits,
    state: &GuestState,
    error: &wasmtime::Error,
) -> GuestError {
    if error.is::<ComputedTooLong>() {
        return timeout_error(export, limits.compute);
    }
    if let Some(error) = error.downcast_ref::<CompiledCodeReloadError>() {
        return GuestError::NotLoaded { message: error.to_string() };
    }
    if state.was_refused_memory() {
        return GuestError::OutOfMemory { export, limit_bytes: limits.memory_bytes };
    }
    let message = state.explanation().unwrap_or_else(|| {
        let trap = error.root_cause().to_string();
        match error.downcast_ref() {
            // Compiled languages put their stack at the start of linear memory, so a stack overflow
            // accesses an address below 0.
            Some(Trap::MemoryOutOfBounds) => {
                format!("{trap}; usually caused by infinite recursion")
            }
            Some(_) | None => trap,
        }
    });
    GuestError::Trapped { export, message }
}

fn timeout_error(export: &'static str, limit: Duration) -> GuestError {
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    GuestError::TimedOut { export, limit_ms }
}

fn parse<T: DeserializeOwned>(export: &'static str, text: &str) -> Result<T, GuestError> {
    if ANSWER_BYTES_MAX < text.len() {
        let message = format!("it has {} bytes, more than {ANSWER_BYTES_MAX}", text.len());
        return Err(GuestError::BadAnswer { export, message });
    }
    let bytes = size::json_text(text);
    if RESULT_BYTES_MAX < bytes {
        let message = format!(
            "parsed, it takes up to {bytes} bytes, more than {RESULT_BYTES_MAX}; it has too many small values"
        );
        return Err(GuestError::BadAnswer { export, message });
    }
    serde_json::from_str(text).map_err(|error| bad_answer(export, error))
}

fn bad_answer(export: &'static str, error: serde_json::Error) -> GuestError {
    GuestError::BadAnswer { export, message: error.to_string() }
}

/// Checks that this host offers an import.
fn check_import(import: &str) -> Result<(), LoadError> {
    if import.starts_with(wasi::NAMESPACE) {
        return Ok(());
    }
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    let how_to_fix = if !OFFERED.contains(&name) {
        "this host does not offer this interface; build the plugin with this host's `tholepin-sdk`"
            .to_owned()
    } else if is_compatible(version) {
        return Ok(());
    } else {
        format!(
            "this host offers version {CONTRACT_VERSION}; use a host that has {version}, or build the \
             plugin against {CONTRACT_VERSION}"
        )
    };
    Err(LoadError::UnknownImport { import: import.to_owned(), how_to_fix })
}

/// Returns true if a version is compatible with [`CONTRACT_VERSION`]: before 1.0, major and minor must be
/// equal. A component with a newer patch version links if this host has the functions that it uses.
fn is_compatible(version: &str) -> bool {
    let line = |version: &str| {
        let mut parts = version.split('.').map(str::to_owned);
        (parts.next(), parts.next())
    };
    line(version) == line(CONTRACT_VERSION)
}

/// Returns the SHA-256 of bytes in hex.
pub(crate) fn wasm_digest(wasm: &[u8]) -> String {
    cache::hex(&Sha256::digest(wasm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_is_not_offered_is_refused_with_a_fix() {
        let rows = [
            ("tholepin:runtime/clock@0.1.0", None),
            ("tholepin:runtime/clock@0.1.7", None),
            ("wasi:cli/stderr@0.2.6", None),
            ("tholepin:runtime/clock@0.2.0", Some("offers version 0.1.0")),
            ("tholepin:runtime/clock", Some("offers version 0.1.0")),
            ("tholepin:network/sockets@0.1.0", Some("does not offer this interface")),
            ("acme:secrets/all@1.0.0", Some("does not offer this interface")),
        ];
        for (import, expected) in rows {
            let refused = check_import(import).err().map(|error| error.to_string());
            assert_eq!(refused.is_some(), expected.is_some(), "{import}");
            if let (Some(text), Some(expected)) = (refused, expected) {
                assert!(text.contains(expected) && text.contains(import), "{text}");
            }
        }
    }

    #[test]
    fn a_result_of_many_small_values_is_refused_by_its_parsed_size() {
        let result = |count| format!("[{}0]", r#"{"":0},"#.repeat(count));
        assert!(parse::<Value>("reconcile", &result(1000)).is_ok());
        let error = parse::<Value>("reconcile", &result(20_000)).unwrap_err();
        assert!(error.to_string().contains("too many small values"), "{error}");
    }
}
