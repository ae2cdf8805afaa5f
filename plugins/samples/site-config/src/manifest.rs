//! The manifest: the kind that the plugin reconciles, the kinds that it watches, and the grants that it
//! needs.

use tholepin_sdk::{
    GrantScope, Grants, KindName, KubernetesGrant, Manifest, ReconciledKind, WatchMapping,
    WatchedKind,
};

use crate::kind::{API_VERSION, KIND, definition};

/// Returns the manifest; must return the same value each time.
pub(crate) fn manifest() -> Manifest {
    Manifest {
        name: "site-config".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        reconciles: vec![ReconciledKind { name: kind(API_VERSION, KIND), crd: Some(definition()) }],
        // A change of an object that belongs to a `SiteConfig` triggers a reconcile of it immediately.
        watches: ["ConfigMap", "Service"]
            .map(|name| WatchedKind { name: kind("v1", name), leads: WatchMapping::Owner })
            .into(),
        // The same list as in `site-config.yaml`. Ask for no more than you use.
        grants: Grants {
            kubernetes: vec![
                grant(kind(API_VERSION, KIND), &["apply-status", "publish"]),
                KubernetesGrant {
                    force: true,
                    ..grant(kind("v1", "ConfigMap"), &["get", "apply"])
                },
                KubernetesGrant { force: true, ..grant(kind("v1", "Service"), &["get", "apply"]) },
            ],
            ..Grants::default()
        },
        ..tholepin_sdk::manifest()
    }
}

fn kind(api_version: &str, name: &str) -> KindName {
    KindName { api_version: api_version.to_owned(), kind: name.to_owned() }
}

fn grant(name: KindName, verbs: &[&str]) -> KubernetesGrant {
    KubernetesGrant {
        name,
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        scope: GrantScope::Owned,
        force: false,
    }
}
