//! The columns of volumes, claims and storage classes.

use serde_json::{Value, json};

use super::{TableColumn, items, member_text, text};

/// Returns the columns of PersistentVolumeClaims.
pub(super) fn claim_columns() -> Vec<TableColumn> {
    vec![
        TableColumn::name(),
        TableColumn::computed("Status", "string", |claim, _| json!(phase(claim))),
        TableColumn::computed("Volume", "string", |claim, _| {
            member_text(claim, "/spec/volumeName")
        }),
        TableColumn::computed("Capacity", "string", |claim, _| {
            let is_bound = !text(claim, "/spec/volumeName").is_empty();
            json!(if is_bound { text(claim, "/status/capacity/storage") } else { "" })
        }),
        TableColumn::computed("Access Modes", "string", |claim, _| {
            let is_bound = !text(claim, "/spec/volumeName").is_empty();
            json!(if is_bound { modes(claim, "/status/accessModes") } else { String::new() })
        }),
        TableColumn::computed("StorageClass", "string", |claim, _| {
            member_text(claim, "/spec/storageClassName")
        }),
        TableColumn::computed("VolumeAttributesClass", "string", |claim, _| {
            json!(attributes(claim))
        }),
        TableColumn::age(),
        TableColumn::computed("VolumeMode", "string", |claim, _| {
            member_text(claim, "/spec/volumeMode")
        })
        .wide(),
    ]
}

/// Returns the columns of PersistentVolumes.
pub(super) fn volume_columns() -> Vec<TableColumn> {
    vec![
        TableColumn::name(),
        TableColumn::computed("Capacity", "string", |volume, _| {
            member_text(volume, "/spec/capacity/storage")
        }),
        TableColumn::computed("Access Modes", "string", |volume, _| {
            json!(modes(volume, "/spec/accessModes"))
        }),
        TableColumn::computed("Reclaim Policy", "string", |volume, _| {
            member_text(volume, "/spec/persistentVolumeReclaimPolicy")
        }),
        TableColumn::computed("Status", "string", |volume, _| json!(phase(volume))),
        TableColumn::computed("Claim", "string", |volume, _| {
            let name = text(volume, "/spec/claimRef/name");
            let namespace = text(volume, "/spec/claimRef/namespace");
            json!(if name.is_empty() { String::new() } else { format!("{namespace}/{name}") })
        }),
        TableColumn::computed("StorageClass", "string", |volume, _| {
            member_text(volume, "/spec/storageClassName")
        }),
        TableColumn::computed("VolumeAttributesClass", "string", |volume, _| {
            json!(attributes(volume))
        }),
        TableColumn::computed("Reason", "string", |volume, _| {
            member_text(volume, "/status/reason")
        }),
        TableColumn::age(),
        TableColumn::computed("VolumeMode", "string", |volume, _| {
            member_text(volume, "/spec/volumeMode")
        })
        .wide(),
    ]
}

/// Returns the columns of StorageClasses.
pub(super) fn class_columns() -> Vec<TableColumn> {
    vec![
        TableColumn {
            cell: super::TableCellSource::Computed(|class, _| {
                let annotation =
                    "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";
                let name = text(class, "/metadata/name");
                let is_default = text(class, annotation) == "true";
                json!(if is_default { format!("{name} (default)") } else { name.to_owned() })
            }),
            ..TableColumn::name()
        },
        TableColumn::computed("Provisioner", "string", |class, _| {
            member_text(class, "/provisioner")
        }),
        TableColumn::computed("ReclaimPolicy", "string", |class, _| {
            let policy = text(class, "/reclaimPolicy");
            json!(if policy.is_empty() { "Delete" } else { policy })
        }),
        TableColumn::computed("VolumeBindingMode", "string", |class, _| {
            let mode = text(class, "/volumeBindingMode");
            json!(if mode.is_empty() { "Immediate" } else { mode })
        }),
        TableColumn::computed("AllowVolumeExpansion", "boolean", |class, _| {
            json!(class.pointer("/allowVolumeExpansion").and_then(Value::as_bool).unwrap_or(false))
        }),
        TableColumn::age(),
    ]
}

fn phase(object: &Value) -> &str {
    let is_deleting = object.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string);
    if is_deleting { "Terminating" } else { text(object, "/status/phase") }
}

fn attributes(object: &Value) -> &str {
    let class = text(object, "/spec/volumeAttributesClassName");
    if class.is_empty() { "<unset>" } else { class }
}

/// Formats access modes as abbreviations, in the order of the real server.
fn modes(object: &Value, pointer: &str) -> String {
    const MODES: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let given: Vec<&str> = items(object, pointer).iter().filter_map(Value::as_str).collect();
    let shown = MODES.iter().filter(|(mode, _)| given.contains(mode)).map(|(_, short)| *short);
    shown.collect::<Vec<_>>().join(",")
}
