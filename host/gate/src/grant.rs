//! Decides whether a plugin's grants cover a call. Pure.

use std::fmt::Display;

use tholepin_core::{CallError, ObjectRef};
use tholepin_schema::{
    guard_id::GuardId,
    manifest::{GrantScope, Grants, KindName, KubernetesGrant},
    reserved,
};

use crate::guard::GuardRefusal;

/// The verb whose grant is needed to give up data, in addition to the object's own policy or a person's approval.
const LOSE_DATA: &str = "lose-data";

/// API groups whose objects control permissions or other plugins: never granted.
const NEVER_GRANTED: &[&str] = &[
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "rbac.authorization.k8s.io",
    "tholepin.dev",
];

/// Kinds of the core group that the Pods and volumes of all objects depend on: they may be read, never
/// written.
const NEVER_WRITTEN: &[&str] = &["Namespace", "Node", "PersistentVolume"];

/// Verbs that change nothing.
const READS: &[&str] = &["get", "list"];

/// Returns the grant that covers a verb on a kind.
///
/// # Errors
///
/// Fails with the grant that is missing, in the form in which the `Plugin` object needs it.
pub(crate) fn kubernetes<'a>(
    grants: &'a Grants,
    kind: &KindName,
    verb: &str,
) -> Result<&'a KubernetesGrant, CallError> {
    if NEVER_GRANTED.contains(&kind.group()) {
        let group = kind.group();
        return Err(CallError::Denied(format!("objects of group {group} are never granted")));
    }
    let is_basis = kind.group().is_empty() && NEVER_WRITTEN.contains(&kind.kind.as_str());
    if is_basis && !READS.contains(&verb) {
        let text = format!(
            "`{verb}` on {kind} is never granted: it could stop the Pods or drop the volumes of every \
             object"
        );
        return Err(CallError::Denied(text));
    }
    let covers = |grant: &&KubernetesGrant| {
        grant.name == *kind && grant.verbs.iter().any(|granted| granted == verb)
    };
    grants.kubernetes.iter().find(covers).ok_or_else(|| {
        CallError::Denied(format!(
            "no grant for `{verb}` on {kind}; the Plugin's spec.grants.kubernetes needs \
             {{apiVersion: {}, kind: {}, verbs: [{verb}]}}",
            kind.api_version, kind.kind
        ))
    })
}

/// Checks that a plugin may name this object: no grant covers objects that the host keeps for itself.
///
/// # Errors
///
/// Fails with the name.
pub(crate) fn not_reserved(object: &ObjectRef) -> Result<(), CallError> {
    if reserved::is_reserved(&object.kind, &object.name) {
        let text = format!("the name of {object} is reserved for the host; choose another");
        return Err(CallError::Denied(text));
    }
    Ok(())
}

/// Checks that a verb of `redis/topology` is granted.
///
/// # Errors
///
/// Fails with the grant that is missing.
pub(crate) fn redis_verb(grants: &Grants, verb: &str) -> Result<(), CallError> {
    if grants.redis.verbs.iter().any(|granted| granted == verb) {
        return Ok(());
    }
    Err(CallError::Denied(format!(
        "no grant for the verb `{verb}`; the Plugin's spec.grants.redis.verbs needs it"
    )))
}

/// Checks that giving up data is granted, in addition to the object's own policy or a person's approval.
///
/// # Errors
///
/// Fails with the grant that is missing.
pub(crate) fn lose_data(grants: &Grants) -> Result<(), GuardRefusal> {
    if grants.redis.verbs.iter().any(|granted| granted == LOSE_DATA) {
        return Ok(());
    }
    let text = format!(
        "it gives up data, and there is no grant for the verb `{LOSE_DATA}`; the Plugin's \
         spec.grants.redis.verbs needs `{LOSE_DATA}`"
    );
    Err(GuardRefusal::new(GuardId::LoseData, text))
}

/// Adds to a denial what it is about.
pub(crate) fn about(what: impl Display, denied: CallError) -> CallError {
    let CallError::Denied(text) = denied else { return denied };
    CallError::Denied(format!("{what}: {text}"))
}

/// Checks that the grant's scope covers an object, given whether the reconciled object controls it and shares
/// its namespace.
///
/// # Errors
///
/// Fails with the scope that would be needed.
pub(crate) const fn scope(
    grant: &KubernetesGrant,
    is_owned: bool,
    is_in_namespace: bool,
) -> Result<(), &'static str> {
    let (reaches, wider) = match grant.scope {
        GrantScope::Owned => (is_owned, "`namespace`"),
        GrantScope::Namespace => (is_owned || is_in_namespace, "`cluster`"),
        GrantScope::Cluster => (true, ""),
        _ => (false, "that this host knows"),
    };
    if reaches { Ok(()) } else { Err(wider) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(api_version: &str, kind: &str) -> KindName {
        KindName { api_version: api_version.to_owned(), kind: kind.to_owned() }
    }

    fn grants(verbs: &[&str], scope: GrantScope) -> Grants {
        let verbs = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        let grant = KubernetesGrant { name: kind("v1", "Secret"), verbs, scope, force: false };
        Grants { kubernetes: vec![grant], ..Grants::default() }
    }

    #[test]
    fn a_verb_must_be_granted_for_the_kind() {
        let grants = grants(&["get"], GrantScope::Owned);
        assert!(kubernetes(&grants, &kind("v1", "Secret"), "get").is_ok());
        for (asked, verb) in [("Secret", "delete"), ("ConfigMap", "get")] {
            let denied = kubernetes(&grants, &kind("v1", asked), verb).unwrap_err();
            let CallError::Denied(text) = denied else { panic!("{denied}") };
            assert!(text.contains(&format!("kind: {asked}, verbs: [{verb}]")), "{text}");
        }
    }

    #[test]
    fn permissions_themselves_are_never_granted() {
        let role = kind("rbac.authorization.k8s.io/v1", "Role");
        let grant = KubernetesGrant {
            name: role.clone(),
            verbs: vec!["apply".to_owned()],
            scope: GrantScope::Cluster,
            force: true,
        };
        let grants = Grants { kubernetes: vec![grant], ..Grants::default() };
        assert!(matches!(kubernetes(&grants, &role, "apply"), Err(CallError::Denied(_))));
    }

    #[test]
    fn each_scope_covers_its_objects() {
        // scope, controlled by the object, in the object's namespace, covered
        let rows = [
            (GrantScope::Owned, true, true, true),
            (GrantScope::Owned, false, true, false),
            (GrantScope::Namespace, false, true, true),
            (GrantScope::Namespace, false, false, false),
            (GrantScope::Cluster, false, false, true),
        ];
        for (reach, is_owned, is_in_namespace, reaches) in rows {
            let grants = grants(&["get"], reach);
            let grant = kubernetes(&grants, &kind("v1", "Secret"), "get").unwrap();
            let result = scope(grant, is_owned, is_in_namespace);
            assert_eq!(result.is_ok(), reaches, "{reach:?} {is_owned} {is_in_namespace}");
        }
    }
}
