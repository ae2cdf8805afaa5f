//! Keeps the ledger of each object: in memory while the host runs, and in a reserved ConfigMap.
//!
//! A ledger is written when it has changed, and before a step that depends on it. Each write names the
//! resource version that was read, so that a write of another host in between is noticed and merged. One lock
//! per object keeps two reconciles from using its ledger at the same time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tholepin_core::{
    CallError, ObjectRef, WriteMode,
    condition::HOST_FIELD_MANAGER,
    port::{Kubernetes, WatchedStoreView},
    reserved_object,
};
use tholepin_schema::{
    instance::Instance,
    manifest::KindName,
    reserved::{self, ReservedObjectPurpose},
    snapshot::Snapshot,
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::timeout,
};
use tracing::warn;

use crate::{
    ReconcileScope, absence_tracker::AbsentNodeTracker, ledger, ledger_document::Ledger,
    ownership::text,
};

/// The number of objects whose ledger is kept in memory. Beyond that, those not in use are dropped and read
/// again when needed.
const LEDGERS_MAX: usize = 4096;
/// How often a write is tried when other hosts write in between.
const ATTEMPTS_MAX: usize = 4;
/// How long a reconcile waits for a write of the ledger that may also happen later.
const SAVE_TIMEOUT: Duration = Duration::from_millis(300);
/// The key of the ledger in the ConfigMap.
const KEY: &str = "ledger.json";

/// The ledgers of all objects.
#[derive(Default)]
pub(crate) struct LedgerStore {
    /// By the uid of the object.
    open: Mutex<BTreeMap<String, LoadedLedger>>,
}

/// A ledger in memory, and the object that it is about.
struct LoadedLedger {
    object: ObjectRef,
    object_ledger: Arc<AsyncMutex<ObjectLedger>>,
}

/// The ledger of one object.
#[derive(Clone, Default)]
pub(crate) struct ObjectLedger {
    /// The current ledger.
    pub(crate) ledger: Ledger,
    /// The ledger as the ConfigMap has it; `None` if there is no ConfigMap yet.
    stored: Option<StoredLedger>,
    /// The instance of each group as a call last named it: how to connect to its members.
    pub(crate) instances: BTreeMap<String, Instance>,
    /// What is remembered only in memory about nodes that do not answer.
    pub(crate) absences: AbsentNodeTracker,
    /// Whether the ConfigMap was read.
    is_read: bool,
}

/// A ledger as the API server has it.
#[derive(Clone)]
struct StoredLedger {
    ledger: Ledger,
    resource_version: String,
}

impl LedgerStore {
    /// Locks the ledger of the reconciled object, reading it from Kubernetes the first time.
    ///
    /// # Errors
    ///
    /// Fails if the ConfigMap cannot be read, or holds no ledger.
    pub(crate) async fn take(
        &self,
        kubernetes: &dyn Kubernetes,
        scope: &ReconcileScope,
    ) -> Result<OwnedMutexGuard<ObjectLedger>, CallError> {
        let object_ledger = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if LEDGERS_MAX <= open.len() {
                open.retain(|_, open| 1 < Arc::strong_count(&open.object_ledger));
            }
            let new = || LoadedLedger { object: scope.reference(), object_ledger: Arc::default() };
            open.entry(scope.uid().to_owned()).or_insert_with(new).object_ledger.clone()
        };
        let mut object_ledger = object_ledger.lock_owned().await;
        if !object_ledger.is_read {
            *object_ledger = ObjectLedger::read(kubernetes, scope).await?;
        }
        Ok(object_ledger)
    }

    /// Returns a copy of the ledger for reading: neither the ConfigMap nor the ledger in memory changes.
    /// Waits until a reconcile that has locked the ledger has released it.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub(crate) async fn copy(
        &self,
        kubernetes: &dyn Kubernetes,
        scope: &ReconcileScope,
    ) -> Result<ObjectLedger, CallError> {
        let open = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.get(scope.uid()).map(|open| open.object_ledger.clone())
        };
        if let Some(open) = open {
            let object_ledger = open.lock().await;
            if object_ledger.is_read {
                return Ok(object_ledger.clone());
            }
        }
        ObjectLedger::read(kubernetes, scope).await
    }

    /// Drops the ledgers of deleted objects with this name.
    pub(crate) fn drop_gone(&self, view: &dyn WatchedStoreView, object: &ObjectRef) {
        let uid = view.meta(object).map(|meta| meta.uid.clone());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|owner, open| open.object != *object || uid.as_ref() == Some(owner));
    }
}

impl ObjectLedger {
    /// Reads the ledger from Kubernetes, or the one that an older host kept under the object's name.
    async fn read(kubernetes: &dyn Kubernetes, scope: &ReconcileScope) -> Result<Self, CallError> {
        if let Some(stored) = read(kubernetes, reference(scope)).await? {
            let ledger = stored.ledger.clone();
            let stored = Some(stored);
            return Ok(Self { ledger, stored, is_read: true, ..Self::default() });
        }
        let old = read_old(kubernetes, scope).await?;
        Ok(Self { ledger: old.unwrap_or_default(), is_read: true, ..Self::default() })
    }

    /// Records a snapshot in the ledger and in the memory of absences.
    pub(crate) fn record(&mut self, snapshot: &Snapshot, now_ms: u64) {
        ledger::record(&mut self.ledger, snapshot, now_ms);
        self.absences.update(&self.ledger, snapshot, now_ms);
    }

    /// Writes the ledger if it differs from what is stored. Nothing is written in plan mode or for a paused
    /// object.
    ///
    /// # Errors
    ///
    /// Fails if the ConfigMap cannot be written, or if other hosts keep writing it.
    pub(crate) async fn save(
        &mut self,
        kubernetes: &dyn Kubernetes,
        scope: &ReconcileScope,
    ) -> Result<(), CallError> {
        let writes = scope.mode == WriteMode::Live && !scope.is_paused(&*kubernetes.view());
        if !writes {
            return Ok(());
        }
        for _ in 0..ATTEMPTS_MAX {
            let is_kept = match &self.stored {
                Some(stored) => stored.ledger == self.ledger,
                None => self.ledger == Ledger::default(),
            };
            if is_kept {
                return Ok(());
            }
            let object = config_map(scope, &self.ledger, self.stored.as_ref())?;
            let manager = HOST_FIELD_MANAGER.to_owned();
            let written = match self.stored {
                Some(_) => kubernetes.replace(object, manager).await,
                None => kubernetes.create(object, manager).await,
            };
            match written {
                Ok(object) => {
                    let resource_version = text(&object, "/metadata/resourceVersion").to_owned();
                    let ledger = self.ledger.clone();
                    self.stored = Some(StoredLedger { ledger, resource_version });
                }
                // The ConfigMap was deleted: it is created again.
                Err(CallError::NotFound(_)) if self.stored.is_some() => self.stored = None,
                Err(CallError::Conflict(_)) => self.merge(kubernetes, scope).await?,
                Err(error) => return Err(error),
            }
        }
        let name = reference(scope);
        Err(CallError::Conflict(format!(
            "another writer changed {name} {ATTEMPTS_MAX} times in a row; do several hosts reconcile this \
             object?"
        )))
    }

    /// Writes the ledger like [`save`](Self::save), but waits at most [`SAVE_TIMEOUT`] and ignores temporary
    /// failures. What is not written now is written by the next call.
    ///
    /// # Errors
    ///
    /// Fails if the ConfigMap cannot be written for a reason that is not temporary.
    pub(crate) async fn save_or_later(
        &mut self,
        kubernetes: &dyn Kubernetes,
        scope: &ReconcileScope,
    ) -> Result<(), CallError> {
        let saved = timeout(SAVE_TIMEOUT, self.save(kubernetes, scope)).await;
        match saved.unwrap_or_else(|_| Err(CallError::Timeout("the ledger".to_owned()))) {
            Err(error) if error.is_passing() => {
                warn!(%error, "the ledger is not written now; the next reconcile writes it");
                Ok(())
            }
            saved => saved,
        }
    }

    /// Merges what another host has written since this one last read or wrote.
    async fn merge(
        &mut self,
        kubernetes: &dyn Kubernetes,
        scope: &ReconcileScope,
    ) -> Result<(), CallError> {
        let theirs = read(kubernetes, reference(scope)).await?;
        if let Some(theirs) = &theirs {
            let base = self.stored.as_ref().map(|stored| stored.ledger.clone()).unwrap_or_default();
            self.ledger = ledger::merge(&base, &self.ledger, &theirs.ledger);
        }
        self.stored = theirs;
        Ok(())
    }
}

async fn read(
    kubernetes: &dyn Kubernetes,
    name: ObjectRef,
) -> Result<Option<StoredLedger>, CallError> {
    match kubernetes.get(name.clone()).await {
        Ok(found) => {
            let resource_version = text(&found, "/metadata/resourceVersion").to_owned();
            Ok(Some(StoredLedger { ledger: parse(&name, &found)?, resource_version }))
        }
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the ledger that older hosts kept in `NAME-ledger`, before names contained a kind and a uid. No
/// plugin can write that name either. It may belong to an object of another kind with the same name, which
/// its owner reference shows.
async fn read_old(
    kubernetes: &dyn Kubernetes,
    scope: &ReconcileScope,
) -> Result<Option<Ledger>, CallError> {
    let name = format!("{}{}", scope.key.name, reserved::OLD_LEDGER_SUFFIX);
    let name = ObjectRef { name, ..reference(scope) };
    let found = match kubernetes.get(name.clone()).await {
        Ok(found) => found,
        Err(CallError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let owners = found.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let is_ours = owners.into_iter().flatten().any(|owner| text(owner, "/uid") == scope.uid());
    if is_ours { parse(&name, &found).map(Some) } else { Ok(None) }
}

/// Parses a ledger. An unreadable ledger is an error, not an empty ledger: with an empty one the guards would
/// know too little.
fn parse(name: &ObjectRef, found: &Value) -> Result<Ledger, CallError> {
    let text = found.pointer(&format!("/data/{KEY}")).and_then(Value::as_str).unwrap_or_default();
    serde_json::from_str(text).map_err(|error| {
        let text = format!(
            "{name} holds no ledger that this host can read ({error}); restore it, or delete it so that the \
             instance is adopted again"
        );
        CallError::Invalid(text)
    })
}

fn reference(scope: &ReconcileScope) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "ConfigMap".to_owned() },
        namespace: scope.key.namespace.clone(),
        name: reserved::name(ReservedObjectPurpose::Ledger, &scope.key.kind.kind, scope.uid()),
    }
}

fn config_map(
    scope: &ReconcileScope,
    ledger: &Ledger,
    stored: Option<&StoredLedger>,
) -> Result<Value, CallError> {
    let text = serde_json::to_string(ledger)
        .map_err(|error| CallError::Other(format!("the ledger cannot be serialised: {error}")))?;
    let version = stored.map(|stored| stored.resource_version.as_str());
    let data = json!({"data": {KEY: text}});
    Ok(reserved_object(&reference(scope), &scope.reference(), scope.uid(), version, data))
}
