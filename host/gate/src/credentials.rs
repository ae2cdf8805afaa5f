//! Determines which password the Redis processes of an object have, and keeps it in the Secret that their
//! Pods read.
//!
//! Pods read a reserved Secret, which the host creates once from the Secret that the object names. Later
//! changes of the named Secret reach no Pod: otherwise a process that restarts would have another password
//! than those that run, and the host could not reach one or the other.
//!
//! Invariants:
//! - While processes run, a password is kept only if one of them accepts it.
//! - The kept password is replaced only if no process accepts it and one accepts the new one, or if no
//!   process ever had it.
//! - "No password" is a value too, and is kept as an empty password.
//! - The clear text goes from the port to a connection or into the reserved Secret, and nowhere else.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tholepin_core::{
    CallError, ObjectRef, WriteMode,
    condition::HOST_FIELD_MANAGER,
    port::{DeleteRequest, InstanceMembers, Kubernetes, Redis, RedisCredentials},
    reserved_object,
};
use tholepin_schema::{
    instance::{CredentialsRef, Instance},
    manifest::KindName,
    reserved::{self, CREDENTIALS_KEY, ReservedObjectPurpose},
    snapshot::{CredentialsState, Member, NamedPasswordState, Snapshot},
};
use tracing::{info, warn};

use crate::{GatePorts, ReconcileScope, ledger_document::Ledger, ownership::text, secret_use};

/// The number of objects whose password is cached. Beyond that the cache is cleared, and passwords are read
/// again when needed.
const KEPT_MAX: usize = 4096;

/// The passwords in force, by the uid of their object.
#[derive(Default)]
pub(crate) struct CredentialsStore(Mutex<BTreeMap<String, Arc<str>>>);

/// The content of the Secret that the object names.
enum PasswordSecretContent {
    /// The object names none.
    Nothing,
    Value(String),
    /// It cannot be used, for this reason.
    Unusable(NamedPasswordState),
    /// It could not be read this time.
    Unread(CallError),
}

/// The response of the running processes to a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PasswordAcceptance {
    /// At least one accepts it.
    Accepted,
    /// At least one refuses it, and none accepts it.
    Refused,
    /// No process answers.
    Nothing,
}

/// Sets the credentials of these members, and the facts about the password that the object names. Creates the
/// reserved Secret at the first use.
///
/// While no password is in force, the host uses the one that the object names; if that one is unusable, it
/// uses none.
///
/// # Errors
///
/// Fails if the object names a Secret that it may not use, or if the API server does not answer.
pub(crate) async fn put_in_force(
    store: &CredentialsStore,
    ports: &GatePorts,
    scope: &ReconcileScope,
    ledger: &Ledger,
    instance: &Instance,
    members: &mut InstanceMembers,
) -> Result<(), CallError> {
    let kubernetes = &*ports.kubernetes;
    let named = named_by(kubernetes, scope, instance).await?;
    members.credentials.user =
        instance.credentials.as_ref().and_then(|reference| reference.user.clone());
    let is_used = !ledger.nodes.is_empty() || members.members.iter().any(|member| member.running);
    let in_force = match kept_password(store, ports, scope, members).await? {
        // No process ever answered with this password, and none runs that could have it.
        Some(before) if !is_used && may_write(kubernetes, scope) => match named.value() {
            Some(value) if *before != *value => replace(store, kubernetes, scope, value).await?,
            Some(_) | None => Some(before),
        },
        Some(password) => Some(password),
        None => match named.value() {
            Some(value) => {
                if let Some(reason) = why_unproven(&*ports.redis, members, value).await {
                    members.credentials.password = password(value);
                    members.credentials_facts = CredentialsState { named: reason, pending: true };
                    return Ok(());
                }
                keep(store, kubernetes, scope, value).await?
            }
            None => None,
        },
    };
    (members.credentials.password, members.credentials_facts) =
        compare(in_force.as_deref(), named)?;
    Ok(())
}

/// Returns why a password must not be kept for these members: processes run and none accepts it. A process
/// that does not run yet has no password, and reads the kept one when it starts.
async fn why_unproven(
    redis: &dyn Redis,
    members: &InstanceMembers,
    value: &str,
) -> Option<NamedPasswordState> {
    if !members.members.iter().any(|member| member.running) {
        return None;
    }
    match response(&try_out(redis, members, value).await) {
        PasswordAcceptance::Accepted => None,
        PasswordAcceptance::Refused => Some(NamedPasswordState::Refused),
        PasswordAcceptance::Nothing => Some(NamedPasswordState::Unproven),
    }
}

async fn try_out(redis: &dyn Redis, members: &InstanceMembers, value: &str) -> Snapshot {
    let user = members.credentials.user.clone();
    let credentials = RedisCredentials { user, password: password(value) };
    redis.observe(&InstanceMembers { credentials, ..members.clone() }, &[]).await
}

fn response(snapshot: &Snapshot) -> PasswordAcceptance {
    if snapshot.members.iter().any(|member| member.facts().is_some()) {
        return PasswordAcceptance::Accepted;
    }
    let refused = snapshot.members.iter().any(Member::refuses_password);
    if refused { PasswordAcceptance::Refused } else { PasswordAcceptance::Nothing }
}

/// Replaces the kept password by the one that the object names, if every member that answers refuses the kept
/// one and at least one accepts the other: somebody has set it on the servers, or the wrong one was kept.
/// Returns true if it replaced the password.
///
/// # Errors
///
/// Fails if the object names a Secret that it may not use, or if the API server does not answer.
pub(crate) async fn replace_refused(
    store: &CredentialsStore,
    ports: &GatePorts,
    scope: &ReconcileScope,
    instance: &Instance,
    members: &InstanceMembers,
    snapshot: &Snapshot,
) -> Result<bool, CallError> {
    let kubernetes = &*ports.kubernetes;
    let differs = members.credentials_facts.named == NamedPasswordState::Differs;
    if !differs
        || response(snapshot) != PasswordAcceptance::Refused
        || !may_write(kubernetes, scope)
    {
        return Ok(false);
    }
    let named = named_by(kubernetes, scope, instance).await?;
    let Some(value) = named.value() else { return Ok(false) };
    if response(&try_out(&*ports.redis, members, value).await) != PasswordAcceptance::Accepted {
        return Ok(false);
    }
    info!(
        "the servers accept the password that the object names, and no server accepts the kept one"
    );
    let made = replace(store, kubernetes, scope, value).await?;
    Ok(made.as_deref() == Some(value))
}

/// Keeps this password instead of the present one.
async fn replace(
    store: &CredentialsStore,
    kubernetes: &dyn Kubernetes,
    scope: &ReconcileScope,
    value: &str,
) -> Result<Option<Arc<str>>, CallError> {
    let name = reserved_name(scope);
    // Another host may have replaced it already.
    if read(kubernetes, &name).await?.as_deref() != Some(value) {
        delete(kubernetes, name).await?;
    }
    keep(store, kubernetes, scope, value).await
}

/// Deletes the reserved Secret with its present uid as precondition, so that one that another host creates
/// meanwhile stays.
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

/// Returns the password in force and the facts about the one that the object names. No password is in force
/// for an object that was never used, or whose password cannot be used.
fn compare(
    in_force: Option<&str>,
    named: PasswordSecretContent,
) -> Result<(Option<String>, CredentialsState), CallError> {
    let Some(in_force) = in_force else {
        let facts = |named, pending| CredentialsState { named, pending };
        return match named {
            PasswordSecretContent::Nothing => Ok((None, facts(NamedPasswordState::InForce, false))),
            PasswordSecretContent::Value(value) => {
                Ok((password(&value), facts(NamedPasswordState::InForce, false)))
            }
            PasswordSecretContent::Unusable(why) => Ok((None, facts(why, true))),
            PasswordSecretContent::Unread(error) => Err(error),
        };
    };
    let named = match named {
        PasswordSecretContent::Nothing if in_force.is_empty() => NamedPasswordState::InForce,
        PasswordSecretContent::Value(value) if value == in_force => NamedPasswordState::InForce,
        PasswordSecretContent::Nothing | PasswordSecretContent::Value(_) => {
            NamedPasswordState::Differs
        }
        PasswordSecretContent::Unusable(why) => why,
        // The password in force is known although the named one is not.
        PasswordSecretContent::Unread(_) => NamedPasswordState::Unread,
    };
    Ok((password(in_force), CredentialsState { named, pending: false }))
}

/// Returns `None` for an empty text, which stands for "no password".
fn password(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

async fn named_by(
    kubernetes: &dyn Kubernetes,
    scope: &ReconcileScope,
    instance: &Instance,
) -> Result<PasswordSecretContent, CallError> {
    let Some(CredentialsRef { secret, key, user: _ }) = &instance.credentials else {
        return Ok(PasswordSecretContent::Nothing);
    };
    let name = ObjectRef { name: secret.clone(), ..reserved_name(scope) };
    secret_use::check(scope, &name.namespace, secret)?;
    let value = kubernetes.secret_value(name.namespace.clone(), secret.clone(), key.clone()).await;
    Ok(match value.map(String::from_utf8) {
        Ok(Ok(value)) if value.is_empty() => {
            PasswordSecretContent::Unusable(NamedPasswordState::Empty)
        }
        Ok(Ok(value)) if value.contains(char::is_control) => {
            PasswordSecretContent::Unusable(NamedPasswordState::ControlCharacter)
        }
        Ok(Ok(value)) => PasswordSecretContent::Value(value),
        Ok(Err(_)) => PasswordSecretContent::Unusable(NamedPasswordState::NoText),
        Err(CallError::NotFound(_)) if kubernetes.view().get(&name).is_some() => {
            PasswordSecretContent::Unusable(NamedPasswordState::KeyMissing)
        }
        Err(CallError::NotFound(_)) => {
            PasswordSecretContent::Unusable(NamedPasswordState::SecretMissing)
        }
        Err(error) => PasswordSecretContent::Unread(error),
    })
}

/// Returns the kept password, from memory or from the reserved Secret. Creates the Secret again if it was
/// deleted.
async fn kept_password(
    store: &CredentialsStore,
    ports: &GatePorts,
    scope: &ReconcileScope,
    members: &InstanceMembers,
) -> Result<Option<Arc<str>>, CallError> {
    let (name, kubernetes) = (reserved_name(scope), &*ports.kubernetes);
    if let Some(password) = store.get(scope.uid()) {
        let view = kubernetes.view();
        let is_gone = view.covers(&name.kind) && view.get(&name).is_none();
        if is_gone && may_write(kubernetes, scope) {
            // The running members accept the password in memory all the same.
            if let Err(error) = create(kubernetes, scope, &password).await {
                warn!(%error, "{name} was deleted and cannot be created again; the next reconcile tries again");
            }
        }
        // While the API server is away, the password in memory counts.
        let stored = read(kubernetes, &name).await.ok().flatten();
        return match stored.filter(|stored| *stored != password) {
            Some(stored) => {
                choose(store, ports, scope, members, (password, stored)).await.map(Some)
            }
            None => Ok(Some(password)),
        };
    }
    let found = read(kubernetes, &name).await?;
    if let Some(password) = &found {
        store.put(scope.uid(), password);
    }
    Ok(found)
}

/// Chooses between the password in memory and a different one that the reserved Secret has by now, by which
/// of them a process accepts. Another host may have replaced it. If instead somebody changed it by mistake, a
/// process that restarts with it could not join the others.
async fn choose(
    store: &CredentialsStore,
    ports: &GatePorts,
    scope: &ReconcileScope,
    members: &InstanceMembers,
    (ours, stored): (Arc<str>, Arc<str>),
) -> Result<Arc<str>, CallError> {
    let (redis, kubernetes) = (&*ports.redis, &*ports.kubernetes);
    if response(&try_out(redis, members, &ours).await) != PasswordAcceptance::Accepted {
        if response(&try_out(redis, members, &stored).await) == PasswordAcceptance::Accepted {
            store.put(scope.uid(), &stored);
            return Ok(stored);
        }
        return Ok(ours);
    }
    if may_write(kubernetes, scope) {
        warn!(
            "{} has another password than the servers; the servers' password is restored",
            reserved_name(scope)
        );
        replace(store, kubernetes, scope, &ours).await?;
    }
    Ok(ours)
}

/// Keeps a password. In plan mode it keeps nothing.
async fn keep(
    store: &CredentialsStore,
    kubernetes: &dyn Kubernetes,
    scope: &ReconcileScope,
    value: &str,
) -> Result<Option<Arc<str>>, CallError> {
    if !may_write(kubernetes, scope) {
        return Ok(None);
    }
    let password = match create(kubernetes, scope, value).await {
        Ok(()) => Some(value.into()),
        // Another host was faster: its value counts.
        Err(CallError::Conflict(_)) => read(kubernetes, &reserved_name(scope)).await?,
        Err(error) => return Err(error),
    };
    if let Some(password) = &password {
        store.put(scope.uid(), password);
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
                "the Secret `{name}`, which the host keeps, is not UTF-8; delete it, and the host creates it \
                 again from the Secret that the object names"
            ))),
        },
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns true if the host may write for this object now: not in plan mode, and not while the object is
/// paused or being deleted.
fn may_write(kubernetes: &dyn Kubernetes, scope: &ReconcileScope) -> bool {
    let meta = kubernetes.view().meta(&scope.reference());
    scope.mode == WriteMode::Live && !meta.is_some_and(|meta| meta.is_paused() || meta.deleting)
}

async fn create(
    kubernetes: &dyn Kubernetes,
    scope: &ReconcileScope,
    password: &str,
) -> Result<(), CallError> {
    let object = secret(scope, password);
    kubernetes.create(object, HOST_FIELD_MANAGER.to_owned()).await.map(|_| ())
}

/// The Secret is immutable, so that an edit by hand does not lock the host out.
fn secret(scope: &ReconcileScope, password: &str) -> Value {
    let (name, owner) = (reserved_name(scope), scope.reference());
    let fields = json!({"immutable": true, "stringData": {CREDENTIALS_KEY: password}});
    reserved_object(&name, &owner, scope.uid(), None, fields)
}

fn reserved_name(scope: &ReconcileScope) -> ObjectRef {
    ObjectRef {
        kind: KindName { api_version: "v1".to_owned(), kind: "Secret".to_owned() },
        namespace: scope.key.namespace.clone(),
        name: reserved::name(ReservedObjectPurpose::Credentials, &scope.key.kind.kind, scope.uid()),
    }
}

impl PasswordSecretContent {
    /// Returns the password, empty if the object names none; `None` if it cannot be used.
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
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if KEPT_MAX <= store.len() {
            store.clear();
        }
        store.insert(uid.to_owned(), password.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_in_force_stays_whatever_the_object_names() {
        use NamedPasswordState::{Differs, Empty, InForce, SecretMissing, Unread};
        let value = |text: &str| PasswordSecretContent::Value(text.to_owned());
        let away = || PasswordSecretContent::Unread(CallError::Transient("away".to_owned()));
        // in force, named, expected password, expected facts: named, pending
        let rows = [
            (Some("old"), value("old"), Some("old"), InForce, false),
            (Some("old"), value("new"), Some("old"), Differs, false),
            (Some("old"), PasswordSecretContent::Nothing, Some("old"), Differs, false),
            (
                Some("old"),
                PasswordSecretContent::Unusable(SecretMissing),
                Some("old"),
                SecretMissing,
                false,
            ),
            (Some("old"), PasswordSecretContent::Unusable(Empty), Some("old"), Empty, false),
            (Some("old"), away(), Some("old"), Unread, false),
            (Some(""), PasswordSecretContent::Nothing, None, InForce, false),
            (Some(""), value("new"), None, Differs, false),
            (None, value("new"), Some("new"), InForce, false),
            (None, PasswordSecretContent::Nothing, None, InForce, false),
            (None, PasswordSecretContent::Unusable(Empty), None, Empty, true),
        ];
        for (in_force, named, password, expected, pending) in rows {
            let (found, facts) = compare(in_force, named).unwrap();
            assert_eq!(found.as_deref(), password, "{in_force:?} {expected:?}");
            assert_eq!((facts.named, facts.pending), (expected, pending), "{in_force:?}");
        }
        assert!(compare(None, away()).is_err());
    }

    #[test]
    fn the_number_of_cached_passwords_is_bounded() {
        let store = CredentialsStore::default();
        for number in 0..KEPT_MAX + 1 {
            store.put(&number.to_string(), &"x".into());
        }
        assert!(store.get("0").is_none() && store.get(&KEPT_MAX.to_string()).is_some());
    }
}
