//! What the plugin is and asks for: each grant is used, and each use has its grant.

use serde_json::Value;
use tholepin_redis_types::{API_VERSION, redis_cluster::KIND};
use tholepin_schema::{action::Verb, manifest::SafetyPaths};
use tholepin_sdk::{
    GrantScope, Grants, KindName, KubernetesGrant, Manifest, ReconciledKind, RedisGrants,
    WatchMapping, WatchedKind,
};

/// The definition, made from the types when the plugin is built.
const DEFINITION: &str = include_str!(concat!(env!("OUT_DIR"), "/rediscluster.json"));

/// What is applied for each object, and watched.
const APPLIED: &[(&str, &str)] = &[
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("apps/v1", "StatefulSet"),
    ("policy/v1", "PodDisruptionBudget"),
];

pub(crate) fn manifest() -> Manifest {
    let name = kind(API_VERSION, KIND);
    // A text that our own build wrote.
    let crd: Option<Value> = serde_json::from_str(DEFINITION).ok();
    Manifest {
        name: env!("CARGO_PKG_NAME").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        reconciles: vec![ReconciledKind { name, crd }],
        finalizer: true,
        watches: watches(),
        grants: Grants {
            kubernetes: kubernetes_grants(),
            redis: redis_grants(),
            ..Grants::default()
        },
        parameters: None,
        safety: SafetyPaths {
            data_loss: Some(".spec.dataLoss".into()),
            tail_loss: Some(".spec.failover.onPodDeath".into()),
        },
    }
}

fn kind(api_version: &str, kind: &str) -> KindName {
    KindName { api_version: api_version.into(), kind: kind.into() }
}

fn watches() -> Vec<WatchedKind> {
    let owned = APPLIED.iter().chain(&[("v1", "Pod")]);
    let owned = owned.map(|(version, name)| (kind(version, name), WatchMapping::Owner));
    let secret = (kind("v1", "Secret"), WatchMapping::ReferredBy(".spec.auth.secretName".into()));
    owned.chain([secret]).map(|(name, leads)| WatchedKind { name, leads }).collect()
}

fn kubernetes_grants() -> Vec<KubernetesGrant> {
    let grant = |name: KindName, verbs: &[&str], scope: GrantScope| KubernetesGrant {
        name,
        verbs: verbs.iter().map(|&verb| verb.into()).collect(),
        scope,
        force: false,
    };
    let own = grant(kind(API_VERSION, KIND), &["apply-status", "publish"], GrantScope::Owned);
    // With force: a field that somebody edited by hand would else be a conflict at every pass, and the
    // cluster would no longer be healed because of it.
    let applied = APPLIED.iter().map(|(version, name)| KubernetesGrant {
        force: true,
        ..grant(kind(version, name), &["apply"], GrantScope::Owned)
    });
    // To know which revisions of the configuration exist and are named, and to delete the others. A Pod
    // whose owner or labels somebody changed names one, too.
    let read = [
        grant(kind("v1", "ConfigMap"), &["get", "list", "delete"], GrantScope::Owned),
        grant(kind("apps/v1", "StatefulSet"), &["list"], GrantScope::Owned),
        grant(kind("v1", "Pod"), &["list"], GrantScope::Namespace),
        // To replace a Pod in which nothing ever ran; the host refuses any other.
        grant(kind("v1", "Pod"), &["delete"], GrantScope::Owned),
        // To say why a Pod is not made. Its claims belong to nobody.
        grant(kind("v1", "Event"), &["list"], GrantScope::Namespace),
    ];
    std::iter::once(own).chain(applied).chain(read).collect()
}

fn redis_grants() -> RedisGrants {
    let verbs = std::iter::once("observe").chain(Verb::NAMES.iter().copied());
    RedisGrants { commands: Vec::new(), verbs: verbs.map(Into::into).collect() }
}
