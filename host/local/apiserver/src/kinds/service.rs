//! Services: defaults, cluster addresses and validation. Node ports are not allocated.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tholepin_apimachinery::FieldError;

use crate::object::{as_map_mut, child_mut, default, items, items_mut, text};
use crate::service_addresses::ServiceAddressError;
use crate::status::ApiError;
use crate::write_context::ObjectWriteContext;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// Sets the defaults of a Service.
pub(super) fn defaults(object: &mut Value) {
    let spec = child_mut(object, "spec");
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    default(spec, "internalTrafficPolicy", json!("Cluster"));
    if spec.get("type") != Some(&json!("ExternalName")) {
        default(spec, "ipFamilies", json!(["IPv4"]));
        default(spec, "ipFamilyPolicy", json!("SingleStack"));
    }
    for port in items_mut(object, "/spec/ports") {
        let port = as_map_mut(port);
        default(port, "protocol", json!("TCP"));
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        default(port, "targetPort", number);
    }
}

/// Reserves the Service's cluster address: the one that it requests, or a free one.
pub(super) fn allocate(
    cx: &ObjectWriteContext,
    object: &mut Value,
) -> Result<Option<Ipv4Addr>, ApiError> {
    if text(object, "/spec/type") == Some("ExternalName") {
        return Ok(None);
    }
    let requested = text(object, "/spec/clusterIP").unwrap_or("").to_owned();
    let address = match requested.as_str() {
        "None" => {
            child_mut(object, "spec").insert("clusterIPs".into(), json!(["None"]));
            return Ok(None);
        }
        "" => cx.server.addresses.take(),
        given => match given.parse() {
            Ok(address) => cx.server.addresses.claim(address).map(|()| address),
            Err(_) => Err(ServiceAddressError::Outside),
        },
    };
    let address = address.map_err(|why| {
        let detail = match why {
            ServiceAddressError::Outside => "the provided IP is not in the valid range",
            ServiceAddressError::Taken => "provided IP is already allocated",
            ServiceAddressError::Exhausted => {
                "all addresses are taken; delete a Service to free one"
            }
        };
        let error = FieldError::invalid("spec.clusterIPs", &json!([requested]), detail);
        ApiError::invalid(cx.served.kind_subject(crate::object::name(object)), vec![error])
    })?;
    let spec = child_mut(object, "spec");
    spec.insert("clusterIP".into(), json!(address.to_string()));
    spec.insert("clusterIPs".into(), json!([address.to_string()]));
    Ok(Some(address))
}

/// Keeps the address if an update leaves it out.
pub(super) fn carry_over(old: &Value, new: &mut Value) {
    let spec = child_mut(new, "spec");
    for field in ["clusterIP", "clusterIPs"] {
        let is_left_out = match spec.get(field) {
            None | Some(Value::Null) => true,
            Some(given) => *given == json!("") || *given == json!([]),
        };
        let old_value = old.get("spec").and_then(|spec| spec.get(field));
        if let (true, Some(value)) = (is_left_out, old_value) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
}

/// Releases the address.
pub(super) fn release(cx: &ObjectWriteContext, last: &Value) {
    let address = text(last, "/spec/clusterIP").and_then(|text| text.parse().ok());
    if let Some(address) = address {
        cx.server.addresses.release(address);
    }
}

/// Validates a Service, and checks that an update does not change its address.
pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(new, "/spec/type").unwrap_or("");
    if !TYPES.contains(&kind) {
        let allowed = TYPES.map(|name| json!(name));
        errors.push(FieldError::not_supported("spec.type", &json!(kind), &allowed));
    }
    let ports = items(new, "/spec/ports");
    let headless = text(new, "/spec/clusterIP") == Some("None");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let mut names = std::collections::BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let number = port.get("port").unwrap_or(&Value::Null);
        let field = format!("spec.ports[{index}]");
        if !number.as_u64().is_some_and(|number| (1..=65_535).contains(&number)) {
            let detail = "must be between 1 and 65535, inclusive";
            errors.push(FieldError::invalid(format!("{field}.port"), number, detail));
        }
        let name = text(port, "/name").unwrap_or("");
        if name.is_empty() && 1 < ports.len() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        } else if !name.is_empty() && !names.insert(name) {
            errors.push(FieldError::duplicate(format!("{field}.name"), &json!(name)));
        }
    }
    let Some(old) = old else { return errors };
    let address = |object: &Value| text(object, "/spec/clusterIP").unwrap_or("").to_owned();
    let (before, after) = (address(old), address(new));
    if !before.is_empty() && before != after {
        let detail = "may not change once set";
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!([after]), detail));
    }
    errors
}
