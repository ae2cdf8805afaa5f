//! Keeps each instance's ledger: in memory while the host lives, in a ConfigMap beyond that.
//!
//! The ledger is written when it changed, and before a step that depends on it being kept. One lock
//! per instance also means that no two passes act on an instance at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tholepin_core::{
    CallError, ObjectRef,
    condition::HOST_FIELD_MANAGER,
    port::{ApplyRequest, Kubernetes},
};
use tholepin_schema::{ledger::Ledger, manifest::KindName};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{context::Mode, pass::Pass};

/// Instances whose ledger is kept in memory; beyond that, those not in use are read again when needed.
const BOOKS_MAX: usize = 4096;
/// The key in the ConfigMap.
const KEY: &str = "ledger.json";

/// The books of all instances.
#[derive(Default)]
pub(crate) struct Books {
    open: Mutex<BTreeMap<String, Arc<AsyncMutex<Book>>>>,
}

/// One instance's ledger.
#[derive(Default)]
pub(crate) struct Book {
    /// As it is now.
    pub(crate) ledger: Ledger,
    /// As the ConfigMap has it; nothing until it was read or written.
    stored: Option<Ledger>,
}

impl Books {
    /// Takes an instance's book, reading it from Kubernetes the first time.
    ///
    /// # Errors
    ///
    /// Fails if the ConfigMap cannot be read, or holds no ledger.
    pub(crate) async fn take(
        &self,
        pass: &Pass,
        instance: &str,
    ) -> Result<OwnedMutexGuard<Book>, CallError> {
        let book = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if BOOKS_MAX <= open.len() {
                open.retain(|_, book| 1 < Arc::strong_count(book));
            }
            open.entry(instance.to_owned()).or_default().clone()
        };
        let mut book = book.lock_owned().await;
        if book.stored.is_none() {
            *book = Book::read(pass).await?;
        }
        Ok(book)
    }

    /// A copy of an instance's book for a plan, which keeps nothing: neither in the ConfigMap nor in
    /// memory. Waits until whoever acts on the instance has finished.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub(crate) async fn copy(&self, pass: &Pass, instance: &str) -> Result<Book, CallError> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(instance).cloned();
        if let Some(open) = open {
            let book = open.lock().await;
            if book.stored.is_some() {
                return Ok(Book { ledger: book.ledger.clone(), stored: book.stored.clone() });
            }
        }
        Book::read(pass).await
    }
}

impl Book {
    /// Reads the book from Kubernetes.
    async fn read(pass: &Pass) -> Result<Self, CallError> {
        let stored = read(&*pass.gate.ports.kubernetes, reference(pass)).await?;
        Ok(Self { ledger: stored.clone().unwrap_or_default(), stored })
    }

    /// Writes the ledger if it differs from what is stored. Nothing is written in plan mode, nor for an
    /// object that is paused.
    ///
    /// # Errors
    ///
    /// Fails if the ConfigMap cannot be written.
    pub(crate) async fn save(&mut self, pass: &Pass) -> Result<(), CallError> {
        let writes = pass.context.mode == Mode::Live && !pass.is_paused();
        if !writes || self.stored.as_ref() == Some(&self.ledger) {
            return Ok(());
        }
        let text = serde_json::to_string(&self.ledger)
            .map_err(|error| CallError::Other(format!("the ledger cannot be written: {error}")))?;
        let request = ApplyRequest {
            field_manager: HOST_FIELD_MANAGER.to_owned(),
            object: config_map(pass, &text),
            force: true,
            status: false,
            dry_run: false,
        };
        pass.gate.ports.kubernetes.apply(request).await?;
        self.stored = Some(self.ledger.clone());
        Ok(())
    }
}

async fn read(kubernetes: &dyn Kubernetes, object: ObjectRef) -> Result<Option<Ledger>, CallError> {
    let name = object.to_string();
    let found = match kubernetes.get(object).await {
        Ok(found) => found,
        Err(CallError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = found.pointer(&format!("/data/{KEY}")).and_then(Value::as_str).unwrap_or_default();
    // A ledger that cannot be read must not be taken for none: the guards would know too little.
    serde_json::from_str(text).map(Some).map_err(|error| {
        let text = format!("{name} holds no ledger that this host can read ({error}); restore it");
        CallError::Invalid(text)
    })
}

fn reference(pass: &Pass) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "ConfigMap".to_owned() },
        namespace: pass.context.key.namespace.clone(),
        name: format!("{}-ledger", pass.context.key.name),
    }
}

/// Owned by the reconciled object, so that it goes with it.
fn config_map(pass: &Pass, text: &str) -> Value {
    let ObjectRef { kind, namespace, name } = reference(pass);
    let owner = pass.context.reference();
    json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "tholepin"},
            "ownerReferences": [{
                "apiVersion": owner.kind.api_version,
                "kind": owner.kind.kind,
                "name": owner.name,
                "uid": pass.context.uid(),
            }],
        },
        "data": {KEY: text},
    })
}
