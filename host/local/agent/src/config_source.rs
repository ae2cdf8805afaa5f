//! The ConfigMaps and Secrets that a Pod references, and their current state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Volume};

/// A ConfigMap or a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConfigSourceKind {
    ConfigMap,
    Secret,
}

/// One ConfigMap or Secret of the Pod's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConfigSourceRef {
    pub kind: ConfigSourceKind,
    pub name: String,
}

impl ConfigSourceRef {
    pub(crate) fn config_map(name: &str) -> Self {
        Self { kind: ConfigSourceKind::ConfigMap, name: name.to_owned() }
    }

    pub(crate) fn secret(name: &str) -> Self {
        Self { kind: ConfigSourceKind::Secret, name: name.to_owned() }
    }
}

impl fmt::Display for ConfigSourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ConfigSourceKind::ConfigMap => "configmap",
            ConfigSourceKind::Secret => "secret",
        };
        write!(f, "{kind} \"{}\"", self.name)
    }
}

/// The keys of a ConfigMap or Secret with their bytes.
pub(crate) type ConfigSourceData = BTreeMap<String, Vec<u8>>;

/// The state of a ConfigMap or Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ConfigSourceState {
    /// Not read yet.
    #[default]
    Unknown,
    /// Read, and it does not exist.
    Missing,
    /// Read, and it exists.
    Present(Arc<ConfigSourceData>),
}

/// The states of all ConfigMaps and Secrets that a Pod references.
pub(crate) type ConfigSourceStates = BTreeMap<ConfigSourceRef, ConfigSourceState>;

/// Why a ConfigMap or Secret that a Pod references cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigSourceError {
    #[error("{0} not found")]
    Missing(ConfigSourceRef),
    #[error("{0} has not been read yet")]
    Unknown(ConfigSourceRef),
    #[error("couldn't find key {key} in {reference}")]
    NoKey { reference: ConfigSourceRef, key: String },
}

/// Returns the data of `key`, or `None` if it does not exist and is `optional`.
pub(crate) fn data<'a>(
    references: &'a ConfigSourceStates,
    key: &ConfigSourceRef,
    optional: bool,
) -> Result<Option<&'a ConfigSourceData>, ConfigSourceError> {
    match references.get(key) {
        Some(ConfigSourceState::Present(data)) => Ok(Some(data)),
        Some(ConfigSourceState::Missing) if optional => Ok(None),
        Some(ConfigSourceState::Missing) => Err(ConfigSourceError::Missing(key.clone())),
        Some(ConfigSourceState::Unknown) | None => Err(ConfigSourceError::Unknown(key.clone())),
    }
}

/// Returns every ConfigMap and Secret that the Pod references in environment variables or volumes.
pub(crate) fn referenced_by(pod: &Pod) -> BTreeSet<ConfigSourceRef> {
    let mut keys = BTreeSet::new();
    let Some(spec) = &pod.spec else { return keys };
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        keys.extend(referenced_by_env(container));
    }
    for volume in spec.volumes.iter().flatten() {
        keys.extend(referenced_by_volume(volume));
    }
    keys
}

fn referenced_by_env(container: &Container) -> Vec<ConfigSourceRef> {
    let mut keys = Vec::new();
    for source in container.env_from.iter().flatten() {
        keys.extend(
            source.config_map_ref.iter().map(|from| ConfigSourceRef::config_map(&from.name)),
        );
        keys.extend(source.secret_ref.iter().map(|from| ConfigSourceRef::secret(&from.name)));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        keys.extend(
            source.config_map_key_ref.iter().map(|from| ConfigSourceRef::config_map(&from.name)),
        );
        keys.extend(source.secret_key_ref.iter().map(|from| ConfigSourceRef::secret(&from.name)));
    }
    keys
}

fn referenced_by_volume(volume: &Volume) -> Vec<ConfigSourceRef> {
    let mut keys = Vec::new();
    keys.extend(volume.config_map.iter().map(|from| ConfigSourceRef::config_map(&from.name)));
    let secret = volume.secret.as_ref().and_then(|from| from.secret_name.as_deref());
    keys.extend(secret.map(ConfigSourceRef::secret));
    let projected =
        volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    for source in projected {
        keys.extend(source.config_map.iter().map(|from| ConfigSourceRef::config_map(&from.name)));
        keys.extend(source.secret.iter().map(|from| ConfigSourceRef::secret(&from.name)));
    }
    keys
}

/// Returns the data of a ConfigMap, both text and binary.
pub(crate) fn config_map_data(object: ConfigMap) -> ConfigSourceData {
    let text =
        object.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
    let binary =
        object.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
    text.chain(binary).collect()
}

/// Returns the data of a Secret.
pub(crate) fn secret_data(object: Secret) -> ConfigSourceData {
    object.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_to_a_source_is_found() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s1"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
                "volumes": [
                    {"name": "a", "configMap": {"name": "c2"}},
                    {"name": "b", "secret": {"secretName": "s3"}},
                    {"name": "p", "projected": {"sources": [
                        {"configMap": {"name": "c3"}}, {"secret": {"name": "s4"}}]}}]
            }
        }))
        .unwrap();
        let names: Vec<_> = referenced_by(&pod).into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["c1", "c2", "c3", "s1", "s2", "s3", "s4"]);
    }
}
