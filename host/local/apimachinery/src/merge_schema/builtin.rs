//! The table of merge rules for the lists and maps of the built-in kinds.
//!
//! The table lists only exceptions from the default: a list is atomic, a map is merged by field. Paths are written
//! with dots, items as `[]`. Source: `x-kubernetes-list-type`, `-list-map-keys` and `-map-type` in the OpenAPI
//! documents of Kubernetes 1.33.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    ListMapKey, MergeSchema, MergeShape, MergeStep, is_atomic_metadata, metadata_list_shape,
};
use crate::Kind;

/// The merge rules of a built-in kind.
#[derive(Clone, Debug)]
pub struct BuiltinMergeSchema {
    lists: BTreeMap<String, MergeShape>,
    atomic_maps: BTreeSet<String>,
}

impl BuiltinMergeSchema {
    /// Returns the merge rules of this kind; a kind without rows in the table has those of `metadata` only.
    pub fn for_kind(kind: &Kind) -> Self {
        let mut schema = Self { lists: BTreeMap::new(), atomic_maps: BTreeSet::new() };
        let of_kind = |row: &&BuiltinMergeRow| row.group == kind.group && row.kind == kind.kind;
        for row in ROWS.iter().filter(of_kind) {
            schema.add("", row);
        }
        match (kind.group.as_str(), kind.kind.as_str()) {
            ("", "Pod") => schema.add_pod_spec("spec."),
            ("apps", "StatefulSet") => {
                let template = BuiltinMergeRow { lists: METADATA_LISTS, ..NO_ROW };
                schema.add("spec.template.", &template);
                schema.add_pod_spec("spec.template.spec.");
            }
            _ => {}
        }
        schema
    }

    fn add_pod_spec(&mut self, prefix: &str) {
        self.add(prefix, &POD_SPEC);
        for containers in ["containers", "initContainers", "ephemeralContainers"] {
            self.add(&format!("{prefix}{containers}[]."), &CONTAINER);
        }
    }

    fn add(&mut self, prefix: &str, row: &BuiltinMergeRow) {
        for (path, keys) in row.lists {
            let shape =
                if keys.is_empty() { MergeShape::Set } else { MergeShape::Map(map_keys(keys)) };
            self.lists.insert(format!("{prefix}{path}"), shape);
        }
        self.atomic_maps.extend(row.atomic_maps.iter().map(|path| format!("{prefix}{path}")));
    }
}

impl MergeSchema for BuiltinMergeSchema {
    fn list_shape(&self, path: &[MergeStep<'_>]) -> MergeShape {
        metadata_list_shape(path)
            .or_else(|| self.lists.get(&dotted(path)).cloned())
            .unwrap_or(MergeShape::Atomic)
    }

    fn map_shape(&self, path: &[MergeStep<'_>]) -> MergeShape {
        let is_atomic = is_atomic_metadata(path) || self.atomic_maps.contains(&dotted(path));
        if is_atomic { MergeShape::Atomic } else { MergeShape::Granular }
    }
}

/// Parses keys that are separated by spaces; `protocol` has the default `TCP`, as in every list of ports.
fn map_keys(keys: &str) -> Vec<ListMapKey> {
    let key = |name: &str| ListMapKey {
        name: name.to_owned(),
        default: (name == "protocol").then(|| json!("TCP")),
    };
    keys.split_whitespace().map(key).collect()
}

fn dotted(path: &[MergeStep<'_>]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            MergeStep::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            MergeStep::Item => text.push_str("[]"),
        }
    }
    text
}

/// The exceptions of one kind, or of one part of an object such as a container.
struct BuiltinMergeRow {
    group: &'static str,
    kind: &'static str,
    /// Path and keys of each list of type map; an empty string means a set.
    lists: &'static [(&'static str, &'static str)],
    atomic_maps: &'static [&'static str],
}

const NO_ROW: BuiltinMergeRow =
    BuiltinMergeRow { group: "", kind: "", lists: &[], atomic_maps: &[] };

const METADATA_LISTS: &[(&str, &str)] =
    &[("metadata.finalizers", ""), ("metadata.ownerReferences", "uid")];

const POD_SPEC: BuiltinMergeRow = BuiltinMergeRow {
    lists: &[
        ("containers", "name"),
        ("initContainers", "name"),
        ("ephemeralContainers", "name"),
        ("volumes", "name"),
        ("imagePullSecrets", "name"),
        ("hostAliases", "ip"),
        ("topologySpreadConstraints", "topologyKey whenUnsatisfiable"),
        ("schedulingGates", "name"),
        ("resourceClaims", "name"),
        ("resources.claims", "name"),
    ],
    atomic_maps: &[
        "nodeSelector",
        "imagePullSecrets[]",
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
        "topologySpreadConstraints[].labelSelector",
        "volumes[].csi.nodePublishSecretRef",
        "volumes[].ephemeral.volumeClaimTemplate.spec.selector",
        "volumes[].ephemeral.volumeClaimTemplate.spec.dataSource",
    ],
    ..NO_ROW
};

const CONTAINER: BuiltinMergeRow = BuiltinMergeRow {
    lists: &[
        ("ports", "containerPort protocol"),
        ("env", "name"),
        ("volumeMounts", "mountPath"),
        ("volumeDevices", "devicePath"),
        ("resources.claims", "name"),
    ],
    atomic_maps: &[
        "env[].valueFrom.configMapKeyRef",
        "env[].valueFrom.secretKeyRef",
        "env[].valueFrom.fieldRef",
        "env[].valueFrom.resourceFieldRef",
    ],
    ..NO_ROW
};

const CONDITIONS: (&str, &str) = ("status.conditions", "type");

const ROWS: &[BuiltinMergeRow] = &[
    BuiltinMergeRow {
        kind: "Pod",
        lists: &[CONDITIONS, ("status.podIPs", "ip"), ("status.resourceClaimStatuses", "name")],
        ..NO_ROW
    },
    BuiltinMergeRow {
        kind: "Service",
        lists: &[CONDITIONS, ("spec.ports", "port protocol")],
        atomic_maps: &["spec.selector"],
        ..NO_ROW
    },
    BuiltinMergeRow { kind: "Namespace", lists: &[CONDITIONS], ..NO_ROW },
    BuiltinMergeRow {
        kind: "Node",
        lists: &[CONDITIONS, ("status.addresses", "type"), ("spec.podCIDRs", "")],
        ..NO_ROW
    },
    BuiltinMergeRow {
        kind: "PersistentVolumeClaim",
        lists: &[CONDITIONS],
        atomic_maps: &["spec.selector", "spec.dataSource"],
        ..NO_ROW
    },
    BuiltinMergeRow {
        kind: "PersistentVolume",
        atomic_maps: &["spec.nodeAffinity.required"],
        ..NO_ROW
    },
    BuiltinMergeRow {
        kind: "ServiceAccount",
        lists: &[("secrets", "name")],
        atomic_maps: &["secrets[]"],
        ..NO_ROW
    },
    BuiltinMergeRow { kind: "Event", atomic_maps: &["involvedObject", "related"], ..NO_ROW },
    BuiltinMergeRow {
        group: "events.k8s.io",
        kind: "Event",
        atomic_maps: &["regarding", "related"],
        ..NO_ROW
    },
    BuiltinMergeRow {
        group: "apps",
        kind: "StatefulSet",
        lists: &[CONDITIONS],
        atomic_maps: &["spec.selector"],
    },
    BuiltinMergeRow {
        group: "policy",
        kind: "PodDisruptionBudget",
        lists: &[CONDITIONS],
        atomic_maps: &["spec.selector"],
    },
    BuiltinMergeRow {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        lists: &[CONDITIONS],
        ..NO_ROW
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    fn steps(path: &str) -> Vec<MergeStep<'_>> {
        let names = path.split('.');
        names
            .flat_map(|name| match name.strip_suffix("[]") {
                Some(list) => vec![MergeStep::Field(list), MergeStep::Item],
                None => vec![MergeStep::Field(name)],
            })
            .collect()
    }

    #[track_caller]
    fn list(group: &str, plural: &str, path: &str) -> MergeShape {
        let kind = kinds::find(group, "v1", plural).unwrap();
        BuiltinMergeSchema::for_kind(kind).list_shape(&steps(path))
    }

    #[test]
    fn lists_merge_as_the_servers_do() {
        let cases = [
            ("", "pods", "spec.containers", "name"),
            ("", "pods", "spec.initContainers[].ports", "containerPort protocol"),
            ("", "pods", "status.conditions", "type"),
            ("", "services", "spec.ports", "port protocol"),
            ("", "pods", "metadata.ownerReferences", "uid"),
            ("apps", "statefulsets", "spec.template.spec.containers[].env", "name"),
            ("apps", "statefulsets", "spec.template.spec.containers[].volumeMounts", "mountPath"),
            (
                "apps",
                "statefulsets",
                "spec.template.spec.topologySpreadConstraints",
                "topologyKey whenUnsatisfiable",
            ),
        ];
        for (group, plural, path, keys) in cases {
            assert_eq!(
                list(group, plural, path),
                MergeShape::Map(map_keys(keys)),
                "{plural} {path}"
            );
        }
        let sets = [("", "configmaps", "metadata.finalizers"), ("", "nodes", "spec.podCIDRs")];
        for (group, plural, path) in sets {
            assert_eq!(list(group, plural, path), MergeShape::Set, "{plural} {path}");
        }
        let atomic = [
            ("", "pods", "spec.tolerations"),
            ("", "pods", "status.containerStatuses"),
            ("", "pods", "spec.containers[].args"),
            ("apps", "statefulsets", "spec.volumeClaimTemplates"),
            ("discovery.k8s.io", "endpointslices", "endpoints"),
        ];
        for (group, plural, path) in atomic {
            assert_eq!(list(group, plural, path), MergeShape::Atomic, "{plural} {path}");
        }
    }

    #[test]
    fn selectors_and_references_are_atomic() {
        let atomic = |group: &str, plural: &str, path: &str| {
            let kind = kinds::find(group, "v1", plural).unwrap();
            BuiltinMergeSchema::for_kind(kind).map_shape(&steps(path)) == MergeShape::Atomic
        };
        assert!(atomic("apps", "statefulsets", "spec.selector"));
        assert!(atomic("", "services", "spec.selector"));
        assert!(atomic("", "pods", "spec.containers[].env[].valueFrom.fieldRef"));
        assert!(atomic("", "configmaps", "metadata.ownerReferences[]"));
        assert!(!atomic("", "configmaps", "data"));
        assert!(!atomic("", "configmaps", "metadata.labels"));
    }
}
