//! Says which password an object's Redis processes have, and keeps it where their Pods read it.
//!
//! Pods read a reserved Secret, which the host makes once from the Secret that the object names. A later
//! change of that one reaches no Pod: a process that restarts would have another password than those that
//! run, and the host would be locked out of one or the other.
//!
//! Invariants:
//! - The password in force never changes while the object lives.
//! - No password is a value too, and is kept as an empty one.
//! - A clear value goes from the port to a connection, or into the reserved Secret, and nowhere else.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tholepin_core::{
    CallError, ObjectRef,
    condition::HOST_FIELD_MANAGER,
    port::{Credentials, Kubernetes},
};
use tholepin_schema::{
    instance::{CredentialsRef, Instance},
    manifest::KindName,
    reserved::{self, CREDENTIALS_KEY, Purpose},
    snapshot::{CredentialsFacts, NamedPassword},
};
use tracing::warn;

use crate::{Mode, PassContext};

/// Objects whose password is kept in memory; beyond that it is read again when needed.
const KEPT_MAX: usize = 4096;

/// The passwords in force, by the uid of their object.
#[derive(Default)]
pub(crate) struct Kept(Mutex<BTreeMap<String, Arc<str>>>);

/// How to authenticate, and how that compares with what the object names.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) credentials: Credentials,
    pub(crate) facts: CredentialsFacts,
}

/// What the Secret holds that the object names.
enum Named {
    /// The object names none.
    Nothing,
    Value(String),
    /// It cannot be used, for this reason.
    Unusable(NamedPassword),
    /// It could not be read now.
    Unread(CallError),
}

/// The password in force for the object of a pass. The first use makes the reserved Secret.
///
/// Without a password in force, because what the object names cannot be used, the host speaks without
/// one: to processes that have none too, and to none that has one.
///
/// # Errors
///
/// Fails if the object names a Secret that it may not use, or if the API server does not answer.
pub(crate) async fn in_force(
    kept: &Kept,
    kubernetes: &dyn Kubernetes,
    context: &PassContext,
    instance: &Instance,
) -> Result<InForce, CallError> {
    let named = match &instance.credentials {
        Some(reference) => named(kubernetes, context, reference).await?,
        None => Named::Nothing,
    };
    let password = match find(kept, kubernetes, context).await? {
        Some(password) => Some(password),
        None => make(kept, kubernetes, context, &named).await?,
    };
    let (password, facts) = compare(password.as_deref(), named)?;
    let user = instance.credentials.as_ref().and_then(|reference| reference.user.clone());
    Ok(InForce { credentials: Credentials { user, password }, facts })
}

/// What is in force, and what is to be said of what the object names. Nothing is in force of an object
/// that was never used, or of which nothing can be.
fn compare(
    in_force: Option<&str>,
    named: Named,
) -> Result<(Option<String>, CredentialsFacts), CallError> {
    let password = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let Some(in_force) = in_force else {
        let facts = |named, pending| CredentialsFacts { named, pending };
        return match named {
            Named::Nothing => Ok((None, facts(NamedPassword::InForce, false))),
            Named::Value(value) => Ok((password(&value), facts(NamedPassword::InForce, false))),
            Named::Unusable(why) => Ok((None, facts(why, true))),
            Named::Unread(error) => Err(error),
        };
    };
    let named = match named {
        Named::Nothing if in_force.is_empty() => NamedPassword::InForce,
        Named::Value(value) if value == in_force => NamedPassword::InForce,
        Named::Nothing | Named::Value(_) => NamedPassword::Differs,
        Named::Unusable(why) => why,
        // What is in force is known all the same.
        Named::Unread(_) => NamedPassword::Unread,
    };
    Ok((password(in_force), CredentialsFacts { named, pending: false }))
}

async fn named(
    kubernetes: &dyn Kubernetes,
    context: &PassContext,
    reference: &CredentialsRef,
) -> Result<Named, CallError> {
    let CredentialsRef { secret, key, user: _ } = reference;
    let name = ObjectRef { name: secret.clone(), ..reserved_name(context) };
    if reserved::is_reserved(&name.kind, secret) {
        let text = format!("the Secret `{secret}` has a name that is reserved for the host");
        return Err(CallError::Denied(text));
    }
    if !names_secret(&context.object, secret) {
        let text = format!("the object's spec does not name the Secret `{secret}`");
        return Err(CallError::Denied(text));
    }
    let value = kubernetes.secret_value(name.namespace.clone(), secret.clone(), key.clone()).await;
    Ok(match value.map(String::from_utf8) {
        Ok(Ok(value)) if value.is_empty() => Named::Unusable(NamedPassword::Empty),
        Ok(Ok(value)) => Named::Value(value),
        Ok(Err(_)) => Named::Unusable(NamedPassword::NoText),
        Err(CallError::NotFound(_)) if kubernetes.view().get(&name).is_some() => {
            Named::Unusable(NamedPassword::KeyMissing)
        }
        Err(CallError::NotFound(_)) => Named::Unusable(NamedPassword::SecretMissing),
        Err(error) => Named::Unread(error),
    })
}

/// The password that was kept for the object, in memory or in the reserved Secret. One that was deleted is
/// made again.
async fn find(
    kept: &Kept,
    kubernetes: &dyn Kubernetes,
    context: &PassContext,
) -> Result<Option<Arc<str>>, CallError> {
    let name = reserved_name(context);
    if let Some(password) = kept.get(context.uid()) {
        let view = kubernetes.view();
        let is_gone = view.covers(&name.kind) && view.get(&name).is_none();
        if is_gone && writes(kubernetes, context) {
            // The members that run are reached all the same.
            if let Err(error) = create(kubernetes, context, &password).await {
                warn!(%error, "{name} is gone and cannot be made again; the next pass tries again");
            }
        }
        return Ok(Some(password));
    }
    let found = read(kubernetes, &name).await?;
    if let Some(password) = &found {
        kept.put(context.uid(), password);
    }
    Ok(found)
}

/// Keeps what the object names, unless that cannot be used. A plan keeps nothing.
async fn make(
    kept: &Kept,
    kubernetes: &dyn Kubernetes,
    context: &PassContext,
    named: &Named,
) -> Result<Option<Arc<str>>, CallError> {
    let value = match named {
        Named::Nothing => "",
        Named::Value(value) => value.as_str(),
        Named::Unusable(_) | Named::Unread(_) => return Ok(None),
    };
    if !writes(kubernetes, context) {
        return Ok(None);
    }
    let password = match create(kubernetes, context, value).await {
        Ok(()) => Some(value.into()),
        // Another host was faster: its value counts.
        Err(CallError::Conflict(_)) => read(kubernetes, &reserved_name(context)).await?,
        Err(error) => return Err(error),
    };
    if let Some(password) = &password {
        kept.put(context.uid(), password);
    }
    Ok(password)
}

async fn read(
    kubernetes: &dyn Kubernetes,
    name: &ObjectRef,
) -> Result<Option<Arc<str>>, CallError> {
    let ObjectRef { namespace, name, .. } = name.clone();
    let key = CREDENTIALS_KEY.to_owned();
    match kubernetes.secret_value(namespace, name.clone(), key).await {
        Ok(value) => match String::from_utf8(value) {
            Ok(value) => Ok(Some(value.into())),
            Err(_) => Err(CallError::Invalid(format!(
                "the Secret `{name}`, which the host keeps, is no UTF-8 text; delete it to have it \
                 made again from the Secret that the object names"
            ))),
        },
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the host may write for this object now: a plan writes nothing, and nothing is written for an
/// object that is paused.
fn writes(kubernetes: &dyn Kubernetes, context: &PassContext) -> bool {
    let meta = kubernetes.view().meta(&context.reference());
    context.mode == Mode::Live && !meta.is_some_and(|meta| meta.is_paused() || meta.deleting)
}

async fn create(
    kubernetes: &dyn Kubernetes,
    context: &PassContext,
    password: &str,
) -> Result<(), CallError> {
    let object = secret(context, password);
    kubernetes.create(object, HOST_FIELD_MANAGER.to_owned()).await.map(|_| ())
}

/// Owned by the reconciled object, so that it goes with it; immutable, so that an edit by hand does not
/// lock the host out.
fn secret(context: &PassContext, password: &str) -> Value {
    let (name, owner) = (reserved_name(context), context.reference());
    json!({
        "apiVersion": name.kind.api_version,
        "kind": name.kind.kind,
        "metadata": {
            "namespace": name.namespace,
            "name": name.name,
            "labels": {"app.kubernetes.io/managed-by": "tholepin"},
            "ownerReferences": [{
                "apiVersion": owner.kind.api_version,
                "kind": owner.kind.kind,
                "name": owner.name,
                "uid": context.uid(),
            }],
        },
        "immutable": true,
        "stringData": {CREDENTIALS_KEY: password},
    })
}

fn reserved_name(context: &PassContext) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "Secret".to_owned() },
        namespace: context.key.namespace.clone(),
        name: reserved::name(Purpose::Credentials, &context.key.kind.kind, context.uid()),
    }
}

/// Whether any text in the object's spec is this name: a plugin may use only Secrets that the
/// object's author named.
pub(crate) fn names_secret(object: &Value, secret: &str) -> bool {
    fn contains(value: &Value, secret: &str) -> bool {
        match value {
            Value::String(text) => text == secret,
            Value::Array(items) => items.iter().any(|item| contains(item, secret)),
            Value::Object(fields) => fields.values().any(|field| contains(field, secret)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    object.get("spec").is_some_and(|spec| contains(spec, secret))
}

impl Kept {
    fn get(&self, uid: &str) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    fn put(&self, uid: &str, password: &Arc<str>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if KEPT_MAX <= kept.len() {
            kept.clear();
        }
        kept.insert(uid.to_owned(), password.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_stays_whatever_the_object_names() {
        use NamedPassword::{Differs, Empty, InForce, SecretMissing, Unread};
        let value = |text: &str| Named::Value(text.to_owned());
        let away = || Named::Unread(CallError::Transient("away".to_owned()));
        // in force, named, password, what is said, whether none is in force yet
        let rows = [
            (Some("old"), value("old"), Some("old"), InForce, false),
            (Some("old"), value("new"), Some("old"), Differs, false),
            (Some("old"), Named::Nothing, Some("old"), Differs, false),
            (Some("old"), Named::Unusable(SecretMissing), Some("old"), SecretMissing, false),
            (Some("old"), Named::Unusable(Empty), Some("old"), Empty, false),
            (Some("old"), away(), Some("old"), Unread, false),
            (Some(""), Named::Nothing, None, InForce, false),
            (Some(""), value("new"), None, Differs, false),
            (None, value("new"), Some("new"), InForce, false),
            (None, Named::Nothing, None, InForce, false),
            (None, Named::Unusable(Empty), None, Empty, true),
        ];
        for (in_force, named, password, said, pending) in rows {
            let (found, facts) = compare(in_force, named).unwrap();
            assert_eq!(found.as_deref(), password, "{in_force:?} {said:?}");
            assert_eq!((facts.named, facts.pending), (said, pending), "{in_force:?}");
        }
        assert!(compare(None, away()).is_err());
    }

    #[test]
    fn the_bound_of_what_is_kept_in_memory_holds() {
        let kept = Kept::default();
        for number in 0..KEPT_MAX + 1 {
            kept.put(&number.to_string(), &"x".into());
        }
        assert!(kept.get("0").is_none() && kept.get(&KEPT_MAX.to_string()).is_some());
    }
}
