//! The contents of a Pod's volumes.
//!
//! This module is pure: it computes the desired [`VolumeContent`] of a volume; [`payload`] writes it.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Volume, VolumeProjection,
};

use crate::config_source::{self, ConfigSourceError, ConfigSourceRef, ConfigSourceStates};
use crate::downward::{self, DownwardApiError, DownwardApiPlacement};

pub(crate) mod payload;

/// The mode of files for which the spec sets none.
const DEFAULT_MODE: i32 = 0o644;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeFile {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// The files of a volume by their path within it.
pub(crate) type VolumeFiles = BTreeMap<PathBuf, VolumeFile>;

/// The content of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumeContent {
    /// An empty directory that lasts as long as the Pod.
    Empty,
    /// Files that follow their source; containers cannot write them.
    Files(VolumeFiles),
    /// The directory behind a PersistentVolumeClaim.
    Claim(String),
    /// A directory of the machine.
    HostPath(PathBuf),
}

/// Why the content of a volume cannot be computed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VolumeContentError {
    #[error("volume `{volume}`")]
    Reference { volume: String, source: ConfigSourceError },
    #[error("volume `{volume}`")]
    Field { volume: String, source: DownwardApiError },
    #[error("volume `{volume}` has the path `{path}`, which leads out of the volume")]
    Path { volume: String, path: String },
    #[error(
        "volume `{0}` is of a kind that the local node agent does not support: use emptyDir, configMap, \
         secret, projected (of these), downwardAPI or persistentVolumeClaim"
    )]
    Kind(String),
}

/// Returns the content of `volume` of `pod`.
pub(crate) fn content(
    pod: &Pod,
    placement: &DownwardApiPlacement,
    references: &ConfigSourceStates,
    volume: &Volume,
) -> Result<VolumeContent, VolumeContentError> {
    let mut builder = VolumeBuilder {
        pod,
        placement,
        references,
        volume: &volume.name,
        files: VolumeFiles::new(),
    };
    if volume.empty_dir.is_some() {
        return Ok(VolumeContent::Empty);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return Ok(VolumeContent::Claim(claim.claim_name.clone()));
    }
    if let Some(host) = &volume.host_path {
        return Ok(VolumeContent::HostPath(host.path.clone().into()));
    }
    if let Some(from) = &volume.config_map {
        let (items, optional) = (from.items.as_deref(), from.optional == Some(true));
        let selection = VolumeKeySelection { items, optional, mode: from.default_mode };
        builder.add_keys(&ConfigSourceRef::config_map(&from.name), selection)?;
    } else if let Some(from) = &volume.secret {
        let (items, optional) = (from.items.as_deref(), from.optional == Some(true));
        let selection = VolumeKeySelection { items, optional, mode: from.default_mode };
        builder.add_keys(
            &ConfigSourceRef::secret(from.secret_name.as_deref().unwrap_or_default()),
            selection,
        )?;
    } else if let Some(from) = &volume.downward_api {
        builder.add_fields(from.items.as_deref().unwrap_or_default(), from.default_mode)?;
    } else if let Some(from) = &volume.projected {
        builder.add_projected(from)?;
    } else {
        return Err(VolumeContentError::Kind(volume.name.clone()));
    }
    Ok(VolumeContent::Files(builder.files))
}

struct VolumeBuilder<'a> {
    pod: &'a Pod,
    placement: &'a DownwardApiPlacement,
    references: &'a ConfigSourceStates,
    volume: &'a str,
    files: VolumeFiles,
}

/// The keys of a source to use, and how to use them.
struct VolumeKeySelection<'a> {
    items: Option<&'a [KeyToPath]>,
    optional: bool,
    mode: Option<i32>,
}

impl VolumeBuilder<'_> {
    fn add_projected(&mut self, from: &ProjectedVolumeSource) -> Result<(), VolumeContentError> {
        for source in from.sources.iter().flatten() {
            self.add_source(source, from.default_mode)?;
        }
        Ok(())
    }

    fn add_source(
        &mut self,
        source: &VolumeProjection,
        mode: Option<i32>,
    ) -> Result<(), VolumeContentError> {
        if let Some(from) = &source.config_map {
            let (items, optional) = (from.items.as_deref(), from.optional == Some(true));
            self.add_keys(
                &ConfigSourceRef::config_map(&from.name),
                VolumeKeySelection { items, optional, mode },
            )
        } else if let Some(from) = &source.secret {
            let (items, optional) = (from.items.as_deref(), from.optional == Some(true));
            self.add_keys(
                &ConfigSourceRef::secret(&from.name),
                VolumeKeySelection { items, optional, mode },
            )
        } else if let Some(from) = &source.downward_api {
            self.add_fields(from.items.as_deref().unwrap_or_default(), mode)
        } else {
            Err(VolumeContentError::Kind(self.volume.to_owned()))
        }
    }

    fn add_keys(
        &mut self,
        key: &ConfigSourceRef,
        selection: VolumeKeySelection<'_>,
    ) -> Result<(), VolumeContentError> {
        let fail =
            |source| VolumeContentError::Reference { volume: self.volume.to_owned(), source };
        let Some(data) =
            config_source::data(self.references, key, selection.optional).map_err(fail)?
        else {
            return Ok(());
        };
        let Some(items) = selection.items.filter(|items| !items.is_empty()) else {
            for (name, bytes) in data {
                self.add(name, bytes.clone(), selection.mode)?;
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(bytes) => self.add(&item.path, bytes.clone(), item.mode.or(selection.mode))?,
                None if selection.optional => {}
                None => {
                    let (reference, key) = (key.clone(), item.key.clone());
                    return Err(fail(ConfigSourceError::NoKey { reference, key }));
                }
            }
        }
        Ok(())
    }

    fn add_fields(
        &mut self,
        items: &[DownwardAPIVolumeFile],
        mode: Option<i32>,
    ) -> Result<(), VolumeContentError> {
        for item in items {
            let value = if let Some(from) = &item.field_ref {
                downward::field(self.pod, self.placement, &from.field_path)
            } else if let Some(from) = &item.resource_field_ref {
                downward::resource(self.pod, self.placement, None, from)
            } else {
                Err(DownwardApiError::UnknownField(item.path.clone()))
            };
            let fail =
                |source| VolumeContentError::Field { volume: self.volume.to_owned(), source };
            self.add(&item.path, value.map_err(fail)?.into_bytes(), item.mode.or(mode))?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        path: &str,
        bytes: Vec<u8>,
        mode: Option<i32>,
    ) -> Result<(), VolumeContentError> {
        let inside = is_inside(Path::new(path)) && !path.starts_with("..");
        if !inside {
            return Err(VolumeContentError::Path {
                volume: self.volume.to_owned(),
                path: path.to_owned(),
            });
        }
        let mode = u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777;
        self.files.insert(path.into(), VolumeFile { bytes, mode });
        Ok(())
    }
}

/// Returns true if a relative path does not lead out of its start.
pub(crate) fn is_inside(path: &Path) -> bool {
    let normal = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    path.components().all(normal) && path.components().next().is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::config_source::ConfigSourceState;

    #[track_caller]
    fn check(volume: Value, expected: Result<&[(&str, &str, u32)], &str>) {
        let mut volume = volume;
        volume["name"] = "v".into();
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a-0"}})).unwrap();
        let data = [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())];
        let data = ConfigSourceState::Present(Arc::new(BTreeMap::from(data)));
        let references = BTreeMap::from([
            (ConfigSourceRef::config_map("c"), data.clone()),
            (ConfigSourceRef::secret("s"), data),
            (ConfigSourceRef::config_map("absent"), ConfigSourceState::Missing),
        ]);
        let found = content(&pod, &downward::tests::placement(), &references, &volume);
        let found = found.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            cause.unwrap_or_else(|| error.to_string())
        });
        let file = |(path, text, mode): &(&str, &str, u32)| {
            (PathBuf::from(path), VolumeFile { bytes: text.as_bytes().to_vec(), mode: *mode })
        };
        let expected = expected.map(|files| VolumeContent::Files(files.iter().map(file).collect()));
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn keys_become_files() {
        check(json!({"configMap": {"name": "c"}}), Ok(&[("a", "1", 0o644), ("b", "2", 0o644)]));
        check(
            json!({"secret": {"secretName": "s", "defaultMode": 256,
                "items": [{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 493}]}}),
            Ok(&[("x/y", "1", 0o400), ("z", "2", 0o755)]),
        );
    }

    #[test]
    fn projected_sources_are_put_together() {
        let volume = json!({"projected": {"sources": [
            {"configMap": {"name": "c", "items": [{"key": "a", "path": "a"}]}},
            {"configMap": {"name": "absent", "optional": true}},
            {"secret": {"name": "s", "items": [{"key": "b", "path": "b"}]}},
            {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}});
        check(volume, Ok(&[("a", "1", 0o644), ("b", "2", 0o644), ("n", "a-0", 0o644)]));
    }

    #[test]
    fn the_missing_source_is_named() {
        check(json!({"configMap": {"name": "absent"}}), Err("configmap \"absent\" not found"));
        check(
            json!({"configMap": {"name": "c", "items": [{"key": "k", "path": "k"}]}}),
            Err("couldn't find key k in configmap \"c\""),
        );
        check(
            json!({"configMap": {"name": "c", "items": [{"key": "a", "path": "../a"}]}}),
            Err("volume `v` has the path `../a`, which leads out of the volume"),
        );
    }
}
