//! What is special about single built-in kinds: defaults, checks, and what follows a write.
//!
//! A kind without an entry here has no defaults and no checks of its own.

mod admission;
pub(crate) mod crd;
mod namespace;
mod pod;
mod pod_template;
mod secret;
mod service;
mod stateful_set;
mod volume;

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::Value;
use tholepin_apimachinery::FieldError;

use crate::registry::Served;
use crate::server::Server;
use crate::status::Failure;
use crate::verbs::Context;
use crate::verbs::prepare::Part;

pub(crate) use namespace::create_initial as create_initial_namespaces;

/// Something reserved for an object that is not stored yet.
#[must_use = "a claim nobody releases keeps its addresses"]
#[derive(Default)]
pub(crate) struct Claim {
    address: Option<Ipv4Addr>,
}

impl Claim {
    /// Gives back what was reserved, because the object is not stored.
    pub(crate) fn release(self, server: &Server) {
        if let Some(address) = self.address {
            server.addresses.release(address);
        }
    }
}

/// Fills in a built-in kind's defaults.
pub(crate) fn defaults(served: &Served, object: &mut Value) {
    match (&*served.resource.group, &*served.resource.plural) {
        ("", "namespaces") => namespace::defaults(object),
        ("", "pods") => pod::defaults(object),
        ("", "secrets") => secret::defaults(object),
        ("", "services") => service::defaults(object),
        ("", "persistentvolumeclaims") => volume::claim_defaults(object),
        ("", "persistentvolumes") => volume::volume_defaults(object),
        ("storage.k8s.io", "storageclasses") => volume::class_defaults(object),
        ("apps", "statefulsets") => stateful_set::defaults(object),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::defaults(object),
        _ => {}
    }
}

/// Checks a built-in kind's object, and the step from `old` where there is one.
pub(crate) fn validate(served: &Served, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    match (&*served.resource.group, &*served.resource.plural) {
        ("", "pods") => pod::validate(new, old),
        ("", "resourcequotas") => admission::validate_quota(new),
        ("", "secrets") => secret::validate_secret(new, old),
        ("", "configmaps") => secret::validate_config_map(new, old),
        ("", "services") => service::validate(new, old),
        ("", "persistentvolumeclaims") => volume::validate_claim(new, old),
        ("apps", "statefulsets") => stateful_set::validate(new, old),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::validate(new, old),
        _ => Vec::new(),
    }
}

/// Prepares a new object after its defaults and before its checks.
pub(crate) fn before_create(cx: &Context, object: &mut Value) -> Result<Claim, Failure> {
    admission::within_quota(cx, object)?;
    match (&*cx.served.resource.group, &*cx.served.resource.plural) {
        ("", "services") => Ok(Claim { address: service::allocate(cx, object)? }),
        ("", "pods") => {
            admission::within_pod_security(cx, object)?;
            pod::before_create(object);
            Ok(Claim::default())
        }
        _ if cx.served.custom.is_some() => crd::before_create(cx).map(|()| Claim::default()),
        _ => Ok(Claim::default()),
    }
}

/// Prepares an edited object after its defaults and before its checks.
pub(crate) fn before_update(
    cx: &Context,
    old: &Value,
    new: &mut Value,
    part: Part,
) -> Result<(), Failure> {
    match (&*cx.served.resource.group, &*cx.served.resource.plural, part) {
        ("", "services", Part::Main) => service::carry_over(old, new),
        ("", "namespaces", Part::Main) => namespace::carry_over(old, new),
        _ => {}
    }
    Ok(())
}

/// Does what follows the creation of `stored`.
pub(crate) fn after_create(cx: &Context, stored: &Arc<Value>) {
    match (&*cx.served.resource.group, &*cx.served.resource.plural) {
        ("", "namespaces") => namespace::after_create(cx, stored),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::publish(cx, stored),
        _ => {}
    }
}

/// Does what follows a change to `stored`.
pub(crate) fn after_update(cx: &Context, stored: &Arc<Value>, part: Part) {
    if part == Part::Main && cx.served.is("apiextensions.k8s.io", "customresourcedefinitions") {
        crd::publish(cx, stored);
    }
}

/// Refuses deletions that would break the server.
pub(crate) fn before_delete(cx: &Context, object: &Value) -> Result<(), Failure> {
    if cx.served.is("", "namespaces") { namespace::before_delete(cx, object) } else { Ok(()) }
}

/// Does what follows the end of `last`.
pub(crate) fn after_delete(cx: &Context, last: &Arc<Value>) {
    match (&*cx.served.resource.group, &*cx.served.resource.plural) {
        ("", "services") => service::release(cx, last),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::withdraw(cx, last),
        _ => {}
    }
}

/// Seconds that an object is given before it goes; only Pods know grace.
pub(crate) fn grace_s(served: &Served, object: &Value, asked: Option<u64>) -> u64 {
    if served.is("", "pods") { pod::grace_s(object, asked) } else { 0 }
}

/// Whether the server itself has work to do before the object may go.
pub(crate) fn waits_for_server(served: &Served, object: &Value) -> bool {
    match (&*served.resource.group, &*served.resource.plural) {
        ("", "namespaces") => true,
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::is_established(object),
        _ => false,
    }
}

/// Whether only the collector ends objects of this kind, once nothing is left in them.
pub(crate) fn ends_by_collector(served: &Served) -> bool {
    served.is("", "namespaces")
}

/// Shows in the object that its deletion has begun.
pub(crate) fn begin_delete(served: &Served, object: &mut Value) {
    match (&*served.resource.group, &*served.resource.plural) {
        ("", "namespaces") => namespace::begin_delete(object),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::begin_delete(object),
        _ => {}
    }
}
