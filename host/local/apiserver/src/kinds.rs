//! The rules of single built-in kinds: defaults, validation, and actions before and after a write.
//!
//! A kind that no function here names has no defaults and no validation of its own.

mod admission;
pub(crate) mod crd;
mod follow_up;
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

use crate::registry::ServedKind;
use crate::server_state::ServerState;
use crate::status::ApiError;
use crate::write_context::{MainOrStatusPart, ObjectWriteContext};

pub(crate) use follow_up::{ApiServerFollowUpStatus, FollowUpCreate, FollowUpWrite};
pub(crate) use namespace::initial as initial_namespaces;

/// The Service address that is reserved for an object before it is stored.
#[must_use = "a reservation that is not released keeps its address"]
#[derive(Default)]
pub(crate) struct ServiceAddressReservation {
    address: Option<Ipv4Addr>,
}

impl ServiceAddressReservation {
    /// Releases the address, because the object was not stored.
    pub(crate) fn release(self, server: &ServerState) {
        if let Some(address) = self.address {
            server.addresses.release(address);
        }
    }
}

/// Sets the defaults of a built-in kind.
pub(crate) fn defaults(served: &ServedKind, object: &mut Value) {
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

/// Validates an object of a built-in kind, and the transition from `old` in an update.
pub(crate) fn validate(served: &ServedKind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
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

/// Prepares a new object after defaulting and before validation.
pub(crate) fn before_create(
    cx: &ObjectWriteContext,
    object: &mut Value,
) -> Result<ServiceAddressReservation, ApiError> {
    admission::within_quota(cx, object)?;
    match (&*cx.served.resource.group, &*cx.served.resource.plural) {
        ("", "services") => {
            Ok(ServiceAddressReservation { address: service::allocate(cx, object)? })
        }
        ("", "pods") => {
            admission::within_pod_security(cx, object)?;
            pod::before_create(object);
            Ok(ServiceAddressReservation::default())
        }
        _ if cx.served.custom.is_some() => {
            crd::before_create(cx).map(|()| ServiceAddressReservation::default())
        }
        _ => Ok(ServiceAddressReservation::default()),
    }
}

/// Prepares a changed object after defaulting and before validation.
pub(crate) fn before_update(
    cx: &ObjectWriteContext,
    old: &Value,
    new: &mut Value,
    part: MainOrStatusPart,
) -> Result<(), ApiError> {
    match (&*cx.served.resource.group, &*cx.served.resource.plural, part) {
        ("", "services", MainOrStatusPart::Main) => service::carry_over(old, new),
        ("", "namespaces", MainOrStatusPart::Main) => namespace::carry_over(old, new),
        _ => {}
    }
    Ok(())
}

/// Acts on the creation of `stored`; returns the write that the caller must make.
pub(crate) fn after_create(cx: &ObjectWriteContext, stored: &Arc<Value>) -> Option<FollowUpWrite> {
    match (&*cx.served.resource.group, &*cx.served.resource.plural) {
        ("", "namespaces") => namespace::service_account(cx, stored).map(FollowUpWrite::Create),
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            crd::register(cx, stored).map(FollowUpWrite::Status)
        }
        _ => None,
    }
}

/// Acts on a change of `stored`; returns the status write that the caller must make.
pub(crate) fn after_update(
    cx: &ObjectWriteContext,
    stored: &Arc<Value>,
    part: MainOrStatusPart,
) -> Option<ApiServerFollowUpStatus> {
    let is_crd = cx.served.is("apiextensions.k8s.io", "customresourcedefinitions");
    if part == MainOrStatusPart::Main && is_crd { crd::register(cx, stored) } else { None }
}

/// Refuses the deletion of objects that the server needs.
pub(crate) fn before_delete(cx: &ObjectWriteContext, object: &Value) -> Result<(), ApiError> {
    if cx.served.is("", "namespaces") { namespace::before_delete(cx, object) } else { Ok(()) }
}

/// Acts on the removal of an object, whose final state is `last`.
pub(crate) fn after_delete(cx: &ObjectWriteContext, last: &Arc<Value>) {
    match (&*cx.served.resource.group, &*cx.served.resource.plural) {
        ("", "services") => service::release(cx, last),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::unregister(cx, last),
        _ => {}
    }
}

/// Returns the grace period of a deletion in seconds; 0 for every kind but Pods.
pub(crate) fn grace_s(served: &ServedKind, object: &Value, requested_s: Option<u64>) -> u64 {
    if served.is("", "pods") { pod::grace_s(object, requested_s) } else { 0 }
}

/// Returns true if the server must delete other objects before this one may be removed.
pub(crate) fn waits_for_server(served: &ServedKind, object: &Value) -> bool {
    match (&*served.resource.group, &*served.resource.plural) {
        ("", "namespaces") => true,
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::is_established(object),
        _ => false,
    }
}

/// Returns true if only the collector removes objects of this kind, once they are empty.
pub(crate) fn is_removed_by_collector(served: &ServedKind) -> bool {
    served.is("", "namespaces")
}

/// Changes the object to show that its deletion has begun.
pub(crate) fn begin_delete(served: &ServedKind, object: &mut Value) {
    match (&*served.resource.group, &*served.resource.plural) {
        ("", "namespaces") => namespace::begin_delete(object),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::begin_delete(object),
        _ => {}
    }
}
