//! What the command line tells about a component's file, without loading it into the host.

use std::{fmt, io, path::Path, sync::Arc};

use serde_json::{Value, json};
use tholepin_core::{RevisionDigest, port::GuestError};
use tholepin_schema::manifest::{Grants, Manifest};
use tokio::task;

use crate::{
    CacheError, CompileCache, EngineError, GrantSetting, GuestEngine, InstanceAllocation,
    LoadError, LoadedComponent, PluginSettings, component::wasm_digest, grants, registry::revision,
};

/// What a component tells about itself.
#[derive(Clone, Debug)]
pub struct ComponentInspection {
    /// What it says of itself.
    pub manifest: Manifest,
    /// What it imports, by name and version.
    pub imports: Vec<String>,
    /// Its SHA-256 in hex.
    pub digest: String,
    /// Its size in bytes.
    pub bytes: usize,
}

impl fmt::Display for ComponentInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { manifest, imports, digest, bytes } = self;
        let Manifest { name, version, reconciles, finalizer, watches, grants, .. } = manifest;
        writeln!(f, "plugin      {name} {version}")?;
        writeln!(f, "digest      {digest}")?;
        writeln!(f, "size        {bytes} bytes")?;
        for kind in reconciles {
            let brings = if kind.crd.is_some() { " (brings its definition)" } else { "" };
            writeln!(f, "reconciles  {}{brings}", kind.name)?;
        }
        writeln!(f, "finalizer   {}", if *finalizer { "yes" } else { "no" })?;
        for watched in watches {
            writeln!(f, "watches     {}", watched.name)?;
        }
        for wish in requested_grants(grants) {
            writeln!(f, "asks for    {wish}")?;
        }
        imports.iter().try_for_each(|import| writeln!(f, "imports     {import}"))
    }
}

impl ComponentInspection {
    /// What the component asks for and settings do not grant, each as a line for people. `asRequested` grants
    /// all.
    #[must_use]
    pub fn not_granted(&self, settings: &PluginSettings) -> Vec<String> {
        match &settings.grants {
            GrantSetting::AsRequested => Vec::new(),
            GrantSetting::Granted(granted) => grants::missing(&self.manifest.grants, granted),
        }
    }

    /// What the component asks for, each as a line for people.
    #[must_use]
    pub fn requested_grants(&self) -> Vec<String> {
        requested_grants(&self.manifest.grants)
    }

    /// The revision that a host makes of the component with these settings.
    #[must_use]
    pub fn revision(&self, settings: &PluginSettings) -> RevisionDigest {
        revision(&self.digest, settings)
    }
}

fn requested_grants(wanted: &Grants) -> Vec<String> {
    let Grants { kubernetes, redis, probes } = wanted;
    let kubernetes = kubernetes.iter().map(|grant| {
        let force = if grant.force { ", with force" } else { "" };
        let (verbs, scope) = (grant.verbs.join(", "), grants::word(grant.scope));
        format!("{}: {verbs} (scope {scope}{force})", grant.name)
    });
    let redis = redis.commands.iter().chain(&redis.verbs).map(|word| format!("redis: {word}"));
    let probes = probes.iter().map(|port| format!("to probe port {port}"));
    kubernetes.chain(redis).chain(probes).collect()
}

/// Why a file tells nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// It cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// There is no engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It cannot be called.
    #[error("cannot use `{path}`")]
    Load {
        /// Which file.
        path: String,
        /// Why.
        source: LoadError,
    },
    /// It could not describe itself.
    #[error(transparent)]
    Describe(#[from] GuestError),
    /// What it tells cannot be written as YAML.
    #[error("cannot write the settings as YAML: {0}")]
    Write(String),
}

/// Asks a component's file what it is. Compiles it in the directory of compiled code.
///
/// # Errors
///
/// Fails if the file cannot be read, does not compile or link, or cannot describe itself.
pub async fn inspect(
    path: &Path,
    cache: &CompileCache,
) -> Result<ComponentInspection, InspectError> {
    let file = path.to_owned();
    let read = task::spawn_blocking(move || std::fs::read(file)).await;
    let wasm = read.unwrap_or_else(|error| Err(io::Error::other(error)));
    let wasm =
        wasm.map_err(|source| InspectError::Read { path: path.display().to_string(), source })?;
    let (digest, bytes) = (wasm_digest(&wasm), wasm.len());
    let engine = Arc::new(GuestEngine::with_allocation(InstanceAllocation::OnDemand, 1)?);
    let compiled = LoadedComponent::compile(&engine, cache, wasm.into(), digest.clone()).await;
    let cannot =
        |source: LoadError| InspectError::Load { path: path.display().to_string(), source };
    let (compiled, _) = compiled.map_err(|error: CacheError| cannot(error.into()))?;
    let loaded = LoadedComponent::link(&engine, compiled, digest.clone()).map_err(cannot)?;
    let manifest = loaded.describe(&path.display().to_string()).await?;
    Ok(ComponentInspection { manifest, imports: loaded.imports().to_vec(), digest, bytes })
}

/// The settings that grant a component all it asks for, as `NAME.yaml` holds them. Whoever puts the file
/// there grants.
///
/// # Errors
///
/// As [`inspect`].
pub async fn grant_yaml(path: &Path, cache: &CompileCache) -> Result<String, InspectError> {
    let ComponentInspection { manifest, imports: _, digest, bytes: _ } =
        inspect(path, cache).await?;
    let settings = json!({
        "apiVersion": "tholepin.dev/v1alpha1",
        "kind": "Plugin",
        "metadata": {"name": manifest.name},
        "spec": {
            "source": {"file": format!("{}.wasm", manifest.name)},
            "grants": manifest.grants,
        }
    });
    let text = to_yaml(&settings)?;
    Ok(format!(
        "# Grants the plugin `{}` {} all that it asks for; remove what it should not have.\n\
         # To accept this very file only, add to spec:  digest: {digest}\n\
         # It belongs into the directory of plugins as {}.yaml, beside the component as {}.wasm.\n{text}",
        manifest.name, manifest.version, manifest.name, manifest.name
    ))
}

fn to_yaml(value: &Value) -> Result<String, InspectError> {
    serde_saphyr::to_string(value).map_err(|error| InspectError::Write(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wish_is_told() {
        let wanted = json!({
            "kubernetes": [{"apiVersion": "v1", "kind": "ConfigMap", "verbs": ["get", "apply"], "force": true}],
            "redis": {"commands": ["+info"], "verbs": ["meet"]},
            "probes": [8080],
        });
        let expected = [
            "v1/ConfigMap: get, apply (scope owned, with force)",
            "redis: +info",
            "redis: meet",
            "to probe port 8080",
        ];
        assert_eq!(requested_grants(&serde_json::from_value(wanted).unwrap()), expected);
    }
}
