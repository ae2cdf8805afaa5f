//! Keeps the ledger of each object: in memory while the host lives, in a reserved ConfigMap beyond that.
//!
//! The ledger is written when it changed, and before a step that depends on it being kept. Each write
//! names the version that was read, so that a second host that wrote meanwhile is noticed and merged
//! with. One lock per object also means that no two passes act on it at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tholepin_core::{
    CallError, ObjectRef,
    condition::HOST_FIELD_MANAGER,
    kept_object,
    port::{Kubernetes, StoreView},
};
use tholepin_schema::{
    instance::Instance,
    ledger::Ledger,
    manifest::KindName,
    reserved::{self, ReservedPurpose},
    snapshot::Snapshot,
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::timeout,
};
use tracing::warn;

use crate::{
    ReconcileScope, absence_tracker::AbsenceTracker, ledger, ownership::text,
    reconcile_scope::WriteMode,
};

/// Objects whose ledger is kept in memory; beyond that, those not in use are read again when needed.
const BOOKS_MAX: usize = 4096;
/// How often a write is tried that another host's write was faster than.
const ATTEMPTS_MAX: usize = 4;
/// How long a pass waits for the ledger to be written where it need not be.
const SAVE_MS_MAX: Duration = Duration::from_millis(300);
/// The key in the ConfigMap.
const KEY: &str = "ledger.json";

/// The books of all objects.
#[derive(Default)]
pub(crate) struct LedgerStore {
    /// By the uid of the object.
    open: Mutex<BTreeMap<String, OpenLedger>>,
}

/// A book in memory, and which object it is about.
struct OpenLedger {
    object: ObjectRef,
    book: Arc<AsyncMutex<ObjectLedger>>,
}

/// One object's ledger.
#[derive(Clone, Default)]
pub(crate) struct ObjectLedger {
    /// As it is now.
    pub(crate) ledger: Ledger,
    /// As the ConfigMap has it; nothing if there is none yet.
    stored: Option<StoredLedger>,
    /// The instance of each group as a call named it last: how to reach its members.
    pub(crate) instances: BTreeMap<String, Instance>,
    /// What is remembered in memory alone of the nodes that do not answer.
    pub(crate) absences: AbsenceTracker,
    /// Whether Kubernetes was asked for it.
    is_read: bool,
}

/// A ledger as the API server has it.
#[derive(Clone)]
struct StoredLedger {
    ledger: Ledger,
    resource_version: String,
}

impl LedgerStore {
    /// Takes the book of the object of a pass, reading it from Kubernetes the first time.
    ///
    /// # Errors
    ///
    /// Fails if the ConfigMap cannot be read, or holds no ledger.
    pub(crate) async fn take(
        &self,
        kubernetes: &dyn Kubernetes,
        context: &ReconcileScope,
    ) -> Result<OwnedMutexGuard<ObjectLedger>, CallError> {
        let book = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if BOOKS_MAX <= open.len() {
                open.retain(|_, open| 1 < Arc::strong_count(&open.book));
            }
            let new = || OpenLedger { object: context.reference(), book: Arc::default() };
            open.entry(context.uid().to_owned()).or_insert_with(new).book.clone()
        };
        let mut book = book.lock_owned().await;
        if !book.is_read {
            *book = ObjectLedger::read(kubernetes, context).await?;
        }
        Ok(book)
    }

    /// A copy of the book for those who only read it: neither the ConfigMap nor what is in memory
    /// changes. Waits until whoever acts on the object has finished.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub(crate) async fn copy(
        &self,
        kubernetes: &dyn Kubernetes,
        context: &ReconcileScope,
    ) -> Result<ObjectLedger, CallError> {
        let open = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.get(context.uid()).map(|open| open.book.clone())
        };
        if let Some(open) = open {
            let book = open.lock().await;
            if book.is_read {
                return Ok(book.clone());
            }
        }
        ObjectLedger::read(kubernetes, context).await
    }

    /// Drops the books of objects of this name that are gone.
    pub(crate) fn drop_gone(&self, view: &dyn StoreView, object: &ObjectRef) {
        let uid = view.meta(object).map(|meta| meta.uid.clone());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|book, open| open.object != *object || uid.as_ref() == Some(book));
    }
}

impl ObjectLedger {
    /// Reads the book from Kubernetes, or the one that an older host kept under the object's name.
    async fn read(
        kubernetes: &dyn Kubernetes,
        context: &ReconcileScope,
    ) -> Result<Self, CallError> {
        if let Some(stored) = read(kubernetes, reference(context)).await? {
            let ledger = stored.ledger.clone();
            let stored = Some(stored);
            return Ok(Self { ledger, stored, is_read: true, ..Self::default() });
        }
        let old = read_old(kubernetes, context).await?;
        Ok(Self { ledger: old.unwrap_or_default(), is_read: true, ..Self::default() })
    }

    /// Takes in a snapshot.
    pub(crate) fn learn(&mut self, snapshot: &Snapshot, now_ms: u64) {
        ledger::learn(&mut self.ledger, snapshot, now_ms);
        self.absences.look(&self.ledger, snapshot, now_ms);
    }

    /// Writes the ledger if it differs from what is stored. Nothing is written in plan mode, nor for an
    /// object that is paused.
    ///
    /// # Errors
    ///
    /// Fails if the ConfigMap cannot be written, or if other hosts write it all the time.
    pub(crate) async fn save(
        &mut self,
        kubernetes: &dyn Kubernetes,
        context: &ReconcileScope,
    ) -> Result<(), CallError> {
        let writes = context.mode == WriteMode::Live && !context.is_paused(&*kubernetes.view());
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
            let object = config_map(context, &self.ledger, self.stored.as_ref())?;
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
                // Somebody deleted it: what is known is written anew.
                Err(CallError::NotFound(_)) if self.stored.is_some() => self.stored = None,
                Err(CallError::Conflict(_)) => self.merge(kubernetes, context).await?,
                Err(error) => return Err(error),
            }
        }
        let name = reference(context);
        Err(CallError::Conflict(format!(
            "{name} was changed by somebody else {ATTEMPTS_MAX} times in a row; do several hosts \
             reconcile this object?"
        )))
    }

    /// Writes the ledger as [`save`](Self::save) does, but lets nothing wait for an API server that is away:
    /// what is not written now is written by the next call.
    ///
    /// # Errors
    ///
    /// Fails if the ConfigMap cannot be written for a reason that does not pass by itself.
    pub(crate) async fn save_or_later(
        &mut self,
        kubernetes: &dyn Kubernetes,
        context: &ReconcileScope,
    ) -> Result<(), CallError> {
        let saved = timeout(SAVE_MS_MAX, self.save(kubernetes, context)).await;
        match saved.unwrap_or_else(|_| Err(CallError::Timeout("the ledger".to_owned()))) {
            Err(error) if error.is_passing() => {
                warn!(%error, "the ledger is not written now; it will be with the next pass");
                Ok(())
            }
            saved => saved,
        }
    }

    /// Takes in what another host wrote since this one read or wrote last.
    async fn merge(
        &mut self,
        kubernetes: &dyn Kubernetes,
        context: &ReconcileScope,
    ) -> Result<(), CallError> {
        let theirs = read(kubernetes, reference(context)).await?;
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

/// The ledger that hosts kept before names were reserved: in `NAME-ledger`, of which no plugin can write
/// one either. Another kind's object of the same name may have it.
async fn read_old(
    kubernetes: &dyn Kubernetes,
    context: &ReconcileScope,
) -> Result<Option<Ledger>, CallError> {
    let name = format!("{}{}", context.key.name, reserved::OLD_LEDGER_SUFFIX);
    let name = ObjectRef { name, ..reference(context) };
    let found = match kubernetes.get(name.clone()).await {
        Ok(found) => found,
        Err(CallError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let owners = found.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let is_ours = owners.into_iter().flatten().any(|owner| text(owner, "/uid") == context.uid());
    if is_ours { parse(&name, &found).map(Some) } else { Ok(None) }
}

/// A ledger that cannot be read is an error and not an empty ledger: the guards would know too little.
fn parse(name: &ObjectRef, found: &Value) -> Result<Ledger, CallError> {
    let text = found.pointer(&format!("/data/{KEY}")).and_then(Value::as_str).unwrap_or_default();
    serde_json::from_str(text).map_err(|error| {
        let text = format!(
            "{name} holds no ledger that this host can read ({error}); restore it, or delete it to have \
             the instance adopted anew"
        );
        CallError::Invalid(text)
    })
}

fn reference(context: &ReconcileScope) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "ConfigMap".to_owned() },
        namespace: context.key.namespace.clone(),
        name: reserved::name(ReservedPurpose::Ledger, &context.key.kind.kind, context.uid()),
    }
}

fn config_map(
    context: &ReconcileScope,
    ledger: &Ledger,
    stored: Option<&StoredLedger>,
) -> Result<Value, CallError> {
    let text = serde_json::to_string(ledger)
        .map_err(|error| CallError::Other(format!("the ledger cannot be written: {error}")))?;
    let version = stored.map(|stored| stored.resource_version.as_str());
    let data = json!({"data": {KEY: text}});
    Ok(kept_object(&reference(context), &context.reference(), context.uid(), version, data))
}
