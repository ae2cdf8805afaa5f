//! The compiled code of a plugin, which is released while the plugin is idle and loaded again by the next call.
//!
//! The code is in a cache file that is held open. Loading it again takes a millisecond, and works also after
//! the cache has evicted the entry. Code that could not be stored in a file is never released.
//!
//! Invariant: a running call keeps its code, even if the code is released meanwhile.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, task, time::Instant};
use wasmtime::component::{Component, HasSelf, Linker};

use crate::{
    bindings::{Reconciler, ReconcilerPre},
    cache::{CompiledComponent, CompiledFile},
    engine::GuestEngine,
    state::GuestState,
    wasi,
};

/// Compiled code, and the file to load it from again.
pub(crate) struct CompiledCode {
    engine: Arc<GuestEngine>,
    file: Option<Arc<CompiledFile>>,
    linked: Mutex<Option<LinkedCode>>,
}

/// Code that is loaded and linked.
struct LinkedCode {
    instances: ReconcilerPre<GuestState>,
    used: Instant,
}

/// Released code cannot be loaded again.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(crate) struct CompiledCodeReloadError(wasmtime::Error);

impl CompiledCode {
    /// Links compiled code with the imports of this host.
    pub(crate) fn new(
        engine: Arc<GuestEngine>,
        compiled: CompiledComponent,
    ) -> wasmtime::Result<Self> {
        let CompiledComponent { component, file } = compiled;
        let instances = link(&engine, &component)?;
        let linked = Mutex::new(Some(LinkedCode { instances, used: Instant::now() }));
        Ok(Self { engine, file: file.map(Arc::new), linked })
    }

    /// Returns the template of instances. Loads the code again if it was released.
    pub(crate) async fn instances(
        &self,
    ) -> Result<ReconcilerPre<GuestState>, CompiledCodeReloadError> {
        let mut linked = self.linked.lock().await;
        let instances = match (&*linked, &self.file) {
            (Some(linked), _) => linked.instances.clone(),
            (None, Some(file)) => {
                let (engine, file) = (Arc::clone(&self.engine), Arc::clone(file));
                let load = move || link(&engine, &file.load(&engine)?);
                let start = Instant::now();
                let loaded = task::spawn_blocking(load).await;
                let loaded = loaded
                    .unwrap_or_else(|error| Err(error.into()))
                    .map_err(CompiledCodeReloadError)?;
                tracing::debug!(took = ?start.elapsed(), "loaded code again");
                loaded
            }
            (None, None) => {
                return Err(CompiledCodeReloadError(wasmtime::Error::msg(
                    "the code is not in a file",
                )));
            }
        };
        *linked = Some(LinkedCode { instances: instances.clone(), used: Instant::now() });
        Ok(instances)
    }

    /// Releases the code if it was not called for `idle_max`, and returns true if it did.
    pub(crate) fn release_if_idle(&self, idle_max: Duration) -> bool {
        let (Some(_), Ok(mut linked)) = (&self.file, self.linked.try_lock()) else { return false };
        linked.take_if(|linked| idle_max < linked.used.elapsed()).is_some()
    }
}

fn link(
    engine: &GuestEngine,
    component: &Component,
) -> wasmtime::Result<ReconcilerPre<GuestState>> {
    let mut linker = Linker::new(engine.wasmtime());
    Reconciler::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    wasi::define(&mut linker, component)?;
    ReconcilerPre::new(linker.instantiate_pre(component)?)
}
