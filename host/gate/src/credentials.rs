//! Says which password an object's Redis processes have, and keeps it where their Pods read it.
//!
//! Pods read a reserved Secret, which the host makes once from the Secret that the object names. A later
//! change of that one reaches no Pod: a process that restarts would have another password than those that
//! run, and the host would be locked out of one or the other.
//!
//! Invariants:
//! - While processes run, a password is kept only if one of them accepts it.
//! - The password that is kept is replaced only if no process accepts it and one accepts the other, or if
//!   no process ever had it.
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
    kept_object,
    port::{DeleteRequest, InstanceMembers, Kubernetes, Redis, RedisCredentials},
};
use tholepin_schema::{
    instance::{CredentialsRef, Instance},
    ledger::Ledger,
    manifest::KindName,
    reserved::{self, CREDENTIALS_KEY, ReservedPurpose},
    snapshot::{CredentialsFacts, Member, NamedPassword, Snapshot},
};
use tracing::{info, warn};

use crate::{GatePorts, ReconcileScope, WriteMode, ownership::text};

/// Objects whose password is kept in memory; beyond that it is read again when needed.
const KEPT_MAX: usize = 4096;

/// The passwords in force, by the uid of their object.
#[derive(Default)]
pub(crate) struct CredentialsStore(Mutex<BTreeMap<String, Arc<str>>>);

/// What the Secret holds that the object names.
enum NamedSecret {
    /// The object names none.
    Nothing,
    Value(String),
    /// It cannot be used, for this reason.
    Unusable(NamedPassword),
    /// It could not be read now.
    Unread(CallError),
}

/// What the processes that run say of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PasswordResponse {
    /// At least one accepts it.
    Accepted,
    /// At least one refuses it, and none accepts it.
    Refused,
    /// None answers.
    Nothing,
}

/// Fills in how to authenticate to these members, and what is to be said of what the object names. The
/// first use makes the reserved Secret.
///
/// Without a password in force the host speaks with the one that the object names; if that cannot be used,
/// without one.
///
/// # Errors
///
/// Fails if the object names a Secret that it may not use, or if the API server does not answer.
pub(crate) async fn put_in_force(
    kept: &CredentialsStore,
    ports: &GatePorts,
    context: &ReconcileScope,
    ledger: &Ledger,
    instance: &Instance,
    members: &mut InstanceMembers,
) -> Result<(), CallError> {
    let kubernetes = &*ports.kubernetes;
    let named = named_by(kubernetes, context, instance).await?;
    members.credentials.user =
        instance.credentials.as_ref().and_then(|reference| reference.user.clone());
    let is_used = !ledger.nodes.is_empty() || members.members.iter().any(|member| member.running);
    let in_force = match find(kept, ports, context, members).await? {
        // Nobody ever answered to it, and nobody runs who could have it.
        Some(before) if !is_used && writes(kubernetes, context) => match named.value() {
            Some(value) if *before != *value => replace(kept, kubernetes, context, value).await?,
            Some(_) | None => Some(before),
        },
        Some(password) => Some(password),
        None => match named.value() {
            Some(value) => {
                if let Some(doubt) = doubt(&*ports.redis, members, value).await {
                    members.credentials.password = password(value);
                    members.credentials_facts = CredentialsFacts { named: doubt, pending: true };
                    return Ok(());
                }
                make(kept, kubernetes, context, value).await?
            }
            None => None,
        },
    };
    (members.credentials.password, members.credentials_facts) =
        compare(in_force.as_deref(), named)?;
    Ok(())
}

/// Why a password must not be kept for these members: processes run, and none accepts it. What does not
/// run has none, and reads the one that is kept when it starts.
async fn doubt(redis: &dyn Redis, members: &InstanceMembers, value: &str) -> Option<NamedPassword> {
    if !members.members.iter().any(|member| member.running) {
        return None;
    }
    match said(&try_out(redis, members, value).await) {
        PasswordResponse::Accepted => None,
        PasswordResponse::Refused => Some(NamedPassword::Refused),
        PasswordResponse::Nothing => Some(NamedPassword::Unproven),
    }
}

async fn try_out(redis: &dyn Redis, members: &InstanceMembers, value: &str) -> Snapshot {
    let user = members.credentials.user.clone();
    let credentials = RedisCredentials { user, password: password(value) };
    redis.observe(&InstanceMembers { credentials, ..members.clone() }, &[]).await
}

fn said(snapshot: &Snapshot) -> PasswordResponse {
    if snapshot.members.iter().any(|member| member.facts().is_some()) {
        return PasswordResponse::Accepted;
    }
    let refuse = snapshot.members.iter().any(Member::refuses_password);
    if refuse { PasswordResponse::Refused } else { PasswordResponse::Nothing }
}

/// Takes the password that the object names in place of the one that is kept, if every member that answers
/// refuses that one and at least one accepts this: then somebody has set it on the servers, or the wrong
/// one was kept. Whether it did.
///
/// # Errors
///
/// Fails if the object names a Secret that it may not use, or if the API server does not answer.
pub(crate) async fn replace_refused(
    kept: &CredentialsStore,
    ports: &GatePorts,
    context: &ReconcileScope,
    instance: &Instance,
    members: &InstanceMembers,
    snapshot: &Snapshot,
) -> Result<bool, CallError> {
    let kubernetes = &*ports.kubernetes;
    let differs = members.credentials_facts.named == NamedPassword::Differs;
    if !differs || said(snapshot) != PasswordResponse::Refused || !writes(kubernetes, context) {
        return Ok(false);
    }
    let named = named_by(kubernetes, context, instance).await?;
    let Some(value) = named.value() else { return Ok(false) };
    if said(&try_out(&*ports.redis, members, value).await) != PasswordResponse::Accepted {
        return Ok(false);
    }
    info!("the servers accept the password that the object names, and none the one that is kept");
    let made = replace(kept, kubernetes, context, value).await?;
    Ok(made.as_deref() == Some(value))
}

/// Keeps this password in place of the one that is kept.
async fn replace(
    kept: &CredentialsStore,
    kubernetes: &dyn Kubernetes,
    context: &ReconcileScope,
    value: &str,
) -> Result<Option<Arc<str>>, CallError> {
    let name = reserved_name(context);
    // Another host may have been faster.
    if read(kubernetes, &name).await?.as_deref() != Some(value) {
        delete(kubernetes, name).await?;
    }
    make(kept, kubernetes, context, value).await
}

/// Deletes the reserved Secret as it is now: what another host writes meanwhile stays.
async fn delete(kubernetes: &dyn Kubernetes, name: ObjectRef) -> Result<(), CallError> {
    let found = match kubernetes.get(name.clone()).await {
        Ok(found) => found,
        Err(CallError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let request = DeleteRequest {
        object: name,
        uid: Some(text(&found, "/metadata/uid").to_owned()),
        resource_version: None,
        grace_seconds: None,
        dry_run: false,
    };
    match kubernetes.delete(request).await {
        Err(CallError::NotFound(_)) => Ok(()),
        deleted => deleted,
    }
}

/// What is in force, and what is to be said of what the object names. Nothing is in force of an object
/// that was never used, or of which nothing can be.
fn compare(
    in_force: Option<&str>,
    named: NamedSecret,
) -> Result<(Option<String>, CredentialsFacts), CallError> {
    let Some(in_force) = in_force else {
        let facts = |named, pending| CredentialsFacts { named, pending };
        return match named {
            NamedSecret::Nothing => Ok((None, facts(NamedPassword::InForce, false))),
            NamedSecret::Value(value) => {
                Ok((password(&value), facts(NamedPassword::InForce, false)))
            }
            NamedSecret::Unusable(why) => Ok((None, facts(why, true))),
            NamedSecret::Unread(error) => Err(error),
        };
    };
    let named = match named {
        NamedSecret::Nothing if in_force.is_empty() => NamedPassword::InForce,
        NamedSecret::Value(value) if value == in_force => NamedPassword::InForce,
        NamedSecret::Nothing | NamedSecret::Value(_) => NamedPassword::Differs,
        NamedSecret::Unusable(why) => why,
        // What is in force is known all the same.
        NamedSecret::Unread(_) => NamedPassword::Unread,
    };
    Ok((password(in_force), CredentialsFacts { named, pending: false }))
}

/// An empty text as the password that it stands for: none.
fn password(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

async fn named_by(
    kubernetes: &dyn Kubernetes,
    context: &ReconcileScope,
    instance: &Instance,
) -> Result<NamedSecret, CallError> {
    let Some(CredentialsRef { secret, key, user: _ }) = &instance.credentials else {
        return Ok(NamedSecret::Nothing);
    };
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
        Ok(Ok(value)) if value.is_empty() => NamedSecret::Unusable(NamedPassword::Empty),
        Ok(Ok(value)) if value.contains(char::is_control) => {
            NamedSecret::Unusable(NamedPassword::ControlCharacter)
        }
        Ok(Ok(value)) => NamedSecret::Value(value),
        Ok(Err(_)) => NamedSecret::Unusable(NamedPassword::NoText),
        Err(CallError::NotFound(_)) if kubernetes.view().get(&name).is_some() => {
            NamedSecret::Unusable(NamedPassword::KeyMissing)
        }
        Err(CallError::NotFound(_)) => NamedSecret::Unusable(NamedPassword::SecretMissing),
        Err(error) => NamedSecret::Unread(error),
    })
}

/// The password that was kept for the object, in memory or in the reserved Secret. One that was deleted is
/// made again.
async fn find(
    kept: &CredentialsStore,
    ports: &GatePorts,
    context: &ReconcileScope,
    members: &InstanceMembers,
) -> Result<Option<Arc<str>>, CallError> {
    let (name, kubernetes) = (reserved_name(context), &*ports.kubernetes);
    if let Some(password) = kept.get(context.uid()) {
        let view = kubernetes.view();
        let is_gone = view.covers(&name.kind) && view.get(&name).is_none();
        if is_gone && writes(kubernetes, context) {
            // The members that run are reached all the same.
            if let Err(error) = create(kubernetes, context, &password).await {
                warn!(%error, "{name} is gone and cannot be made again; the next pass tries again");
            }
        }
        // While the API server is away, what is in memory counts.
        let stored = read(kubernetes, &name).await.ok().flatten();
        return match stored.filter(|stored| *stored != password) {
            Some(stored) => {
                settle(kept, ports, context, members, (password, stored)).await.map(Some)
            }
            None => Ok(Some(password)),
        };
    }
    let found = read(kubernetes, &name).await?;
    if let Some(password) = &found {
        kept.put(context.uid(), password);
    }
    Ok(found)
}

/// Decides between the password in memory and another one that the reserved Secret has by now, by which of
/// them a process accepts: another host has replaced it, or somebody has falsified it, and what starts
/// anew would be lost to all others.
async fn settle(
    kept: &CredentialsStore,
    ports: &GatePorts,
    context: &ReconcileScope,
    members: &InstanceMembers,
    (ours, stored): (Arc<str>, Arc<str>),
) -> Result<Arc<str>, CallError> {
    let (redis, kubernetes) = (&*ports.redis, &*ports.kubernetes);
    if said(&try_out(redis, members, &ours).await) != PasswordResponse::Accepted {
        if said(&try_out(redis, members, &stored).await) == PasswordResponse::Accepted {
            kept.put(context.uid(), &stored);
            return Ok(stored);
        }
        return Ok(ours);
    }
    if writes(kubernetes, context) {
        warn!(
            "{} has another password than the servers; theirs is put back",
            reserved_name(context)
        );
        replace(kept, kubernetes, context, &ours).await?;
    }
    Ok(ours)
}

/// Keeps a password. A plan keeps nothing.
async fn make(
    kept: &CredentialsStore,
    kubernetes: &dyn Kubernetes,
    context: &ReconcileScope,
    value: &str,
) -> Result<Option<Arc<str>>, CallError> {
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
fn writes(kubernetes: &dyn Kubernetes, context: &ReconcileScope) -> bool {
    let meta = kubernetes.view().meta(&context.reference());
    context.mode == WriteMode::Live && !meta.is_some_and(|meta| meta.is_paused() || meta.deleting)
}

async fn create(
    kubernetes: &dyn Kubernetes,
    context: &ReconcileScope,
    password: &str,
) -> Result<(), CallError> {
    let object = secret(context, password);
    kubernetes.create(object, HOST_FIELD_MANAGER.to_owned()).await.map(|_| ())
}

/// Immutable, so that an edit by hand does not lock the host out.
fn secret(context: &ReconcileScope, password: &str) -> Value {
    let (name, owner) = (reserved_name(context), context.reference());
    let fields = json!({"immutable": true, "stringData": {CREDENTIALS_KEY: password}});
    kept_object(&name, &owner, context.uid(), None, fields)
}

fn reserved_name(context: &ReconcileScope) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "Secret".to_owned() },
        namespace: context.key.namespace.clone(),
        name: reserved::name(ReservedPurpose::Credentials, &context.key.kind.kind, context.uid()),
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

impl NamedSecret {
    /// The password, which is empty if the object names none; nothing if it cannot be used.
    fn value(&self) -> Option<&str> {
        match self {
            Self::Nothing => Some(""),
            Self::Value(value) => Some(value),
            Self::Unusable(_) | Self::Unread(_) => None,
        }
    }
}

impl CredentialsStore {
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
        let value = |text: &str| NamedSecret::Value(text.to_owned());
        let away = || NamedSecret::Unread(CallError::Transient("away".to_owned()));
        // in force, named, password, what is said, whether none is in force yet
        let rows = [
            (Some("old"), value("old"), Some("old"), InForce, false),
            (Some("old"), value("new"), Some("old"), Differs, false),
            (Some("old"), NamedSecret::Nothing, Some("old"), Differs, false),
            (Some("old"), NamedSecret::Unusable(SecretMissing), Some("old"), SecretMissing, false),
            (Some("old"), NamedSecret::Unusable(Empty), Some("old"), Empty, false),
            (Some("old"), away(), Some("old"), Unread, false),
            (Some(""), NamedSecret::Nothing, None, InForce, false),
            (Some(""), value("new"), None, Differs, false),
            (None, value("new"), Some("new"), InForce, false),
            (None, NamedSecret::Nothing, None, InForce, false),
            (None, NamedSecret::Unusable(Empty), None, Empty, true),
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
        let kept = CredentialsStore::default();
        for number in 0..KEPT_MAX + 1 {
            kept.put(&number.to_string(), &"x".into());
        }
        assert!(kept.get("0").is_none() && kept.get(&KEPT_MAX.to_string()).is_some());
    }
}
