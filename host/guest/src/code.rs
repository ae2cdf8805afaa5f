//! A plugin's compiled code: linked while it is called, given back while nobody calls it.
//!
//! What was compiled stands in a file of the cache that is held open, so that to load it again takes a
//! millisecond, and neither the compiler nor the file's name. Code that could not be kept in a file stays.
//!
//! Invariant: what runs keeps the code that it runs in, whatever is given back meanwhile.

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

/// Compiled code, and what is needed to load it again.
pub(crate) struct CompiledCode {
    engine: Arc<GuestEngine>,
    file: Option<Arc<CompiledFile>>,
    linked: Mutex<Option<LinkedCode>>,
}

/// Code that can be called at once.
struct LinkedCode {
    instances: ReconcilerPre<GuestState>,
    used: Instant,
}

/// Code that was given back cannot be loaded again.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(crate) struct ReloadError(wasmtime::Error);

impl CompiledCode {
    /// Links compiled code with what this host offers.
    pub(crate) fn new(
        engine: Arc<GuestEngine>,
        compiled: CompiledComponent,
    ) -> wasmtime::Result<Self> {
        let CompiledComponent { component, file } = compiled;
        let instances = link(&engine, &component)?;
        let linked = Mutex::new(Some(LinkedCode { instances, used: Instant::now() }));
        Ok(Self { engine, file: file.map(Arc::new), linked })
    }

    /// What instances are made of; loaded again if it was given back.
    pub(crate) async fn instances(&self) -> Result<ReconcilerPre<GuestState>, ReloadError> {
        let mut linked = self.linked.lock().await;
        let instances = match (&*linked, &self.file) {
            (Some(linked), _) => linked.instances.clone(),
            (None, Some(file)) => {
                let (engine, file) = (Arc::clone(&self.engine), Arc::clone(file));
                let load = move || link(&engine, &file.load(&engine)?);
                let start = Instant::now();
                let loaded = task::spawn_blocking(load).await;
                let loaded =
                    loaded.unwrap_or_else(|error| Err(error.into())).map_err(ReloadError)?;
                tracing::debug!(took = ?start.elapsed(), "loaded code again");
                loaded
            }
            (None, None) => return Err(ReloadError(wasmtime::Error::msg("it is in no file"))),
        };
        *linked = Some(LinkedCode { instances: instances.clone(), used: Instant::now() });
        Ok(instances)
    }

    /// Gives the code back if nobody has called it for so long, and says whether it did.
    pub(crate) fn rest(&self, idle_max: Duration) -> bool {
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
