//! Reads the manifest and imports of a component file for the command line, without loading it into a registry.

use std::{fmt, io, path::Path, sync::Arc};

use serde_json::{Value, json};
use tholepin_core::{RevisionDigest, port::GuestError};
use tholepin_schema::manifest::{Grants, Manifest};
use tokio::task;

use crate::{
    CacheError, CompileCache, GrantSetting, GuestEngine, InstanceAllocation, LoadError,
    LoadedComponent, PluginSettings, WasmEngineSetupError, component::wasm_digest, grants,
    registry::revision,
};

/// The description of a component file.
#[derive(Clone, Debug)]
pub struct ComponentInspection {
    /// The component's manifest.
    pub manifest: Manifest,
    /// The interfaces that it imports, by name and version.
    pub imports: Vec<String>,
    /// Its SHA-256 in hex.
    pub digest: String,
    /// Its size in bytes.
    pub bytes: usize,
}

impl fmt::Display for ComponentInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { manifest, imports, digest, bytes } = self;
        let Manifest {
            name, version, reconciles, finalizer, watches, grants, secret_fields, ..
        } = manifest;
        writeln!(f, "plugin      {name} {version}")?;
        writeln!(f, "digest      {digest}")?;
        writeln!(f, "size        {bytes} bytes")?;
        for kind in reconciles {
            let with_crd = if kind.crd.is_some() { " (brings its definition)" } else { "" };
            writeln!(f, "reconciles  {}{with_crd}", kind.name)?;
        }
        writeln!(f, "finalizer   {}", if *finalizer { "yes" } else { "no" })?;
        for watched in watches {
            writeln!(f, "watches     {}", watched.name)?;
        }
        for request in requested_grants(grants) {
            writeln!(f, "asks for    {request}")?;
        }
        for path in secret_fields {
            writeln!(f, "asks for    the Secrets that {path} names")?;
        }
        imports.iter().try_for_each(|import| writeln!(f, "imports     {import}"))
    }
}

impl ComponentInspection {
    /// Returns the requests of the component that the settings do not grant, each as readable text.
    /// `asRequested` grants all.
    #[must_use]
    pub fn not_granted(&self, settings: &PluginSettings) -> Vec<String> {
        match &settings.grants {
            GrantSetting::AsRequested => Vec::new(),
            GrantSetting::Granted(granted) => grants::missing(&self.manifest.grants, granted),
        }
    }

    /// Returns the grants that the component requests, each as readable text.
    #[must_use]
    pub fn requested_grants(&self) -> Vec<String> {
        requested_grants(&self.manifest.grants)
    }

    /// Returns the revision of the component with these settings, as a host computes it.
    #[must_use]
    pub fn revision(&self, settings: &PluginSettings) -> RevisionDigest {
        revision(&self.digest, settings)
    }
}

fn requested_grants(grants: &Grants) -> Vec<String> {
    let Grants { kubernetes, redis, probes, safety, pod_security, secrets } = grants;
    let kubernetes = kubernetes.iter().map(|grant| {
        let force = if grant.force { ", with force" } else { "" };
        let (verbs, scope) = (grant.verbs.join(", "), grants::scope_name(grant.scope));
        format!("{}: {verbs} (scope {scope}{force})", grant.name)
    });
    let redis = redis.commands.iter().chain(&redis.verbs).map(|name| format!("redis: {name}"));
    let probes = probes.iter().map(|port| format!("to probe port {port}"));
    let safety = safety.named().map(|(field, path)| {
        let loss = match field {
            "dataLoss" => "the loss of all data, where it is `acceptable`",
            _ => "the loss of writes that are not replicated, where it is `force`",
        };
        format!("safety: {field} is {path}, which allows {loss}")
    });
    let pods = pod_security.iter().map(|word| format!("Pods with {word}"));
    let secrets = secrets.iter().map(|secret| format!("the Secret {secret}"));
    kubernetes.chain(redis).chain(probes).chain(pods).chain(secrets).chain(safety).collect()
}

/// The reason why a component file cannot be inspected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The path of the file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The engine cannot be set up.
    #[error(transparent)]
    Engine(#[from] WasmEngineSetupError),
    /// The component cannot be compiled or linked.
    #[error("cannot use `{path}`")]
    Load {
        /// The path of the file.
        path: String,
        /// The cause.
        source: LoadError,
    },
    /// The call of `describe` failed.
    #[error(transparent)]
    Describe(#[from] GuestError),
    /// The settings cannot be written as YAML.
    #[error("cannot write the settings as YAML")]
    Write(#[source] serde_saphyr::SerializeError),
}

/// Reads, compiles and links a component file, and calls its `describe`. The compiled code is kept in `cache`.
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

/// Returns the text of a `NAME.yaml` that grants a component everything it requests. The grants take effect
/// when the file is put into the plugin directory.
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
        "# Grants the plugin `{}` {} everything that it requests; remove what it should not have.\n\
         # To accept only this component file, add to spec:  digest: {digest}\n\
         # Put this file into the plugin directory as {}.yaml, beside the component as {}.wasm.\n{text}",
        manifest.name, manifest.version, manifest.name, manifest.name
    ))
}

fn to_yaml(value: &Value) -> Result<String, InspectError> {
    serde_saphyr::to_string(value).map_err(InspectError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requested_grant_is_listed() {
        let grants = json!({
            "kubernetes": [{"apiVersion": "v1", "kind": "ConfigMap", "verbs": ["get", "apply"], "force": true}],
            "redis": {"commands": ["+info"], "verbs": ["meet"]},
            "probes": [8080],
            "safety": {"dataLoss": ".spec.loss", "tailLoss": ".spec.onDeath"},
            "podSecurity": ["hostPath"],
            "secrets": ["ca"],
        });
        let expected = [
            "v1/ConfigMap: get, apply (scope owned, with force)",
            "redis: +info",
            "redis: meet",
            "to probe port 8080",
            "Pods with hostPath",
            "the Secret ca",
            "safety: dataLoss is .spec.loss, which allows the loss of all data, where it is `acceptable`",
            "safety: tailLoss is .spec.onDeath, which allows the loss of writes that are not replicated, where it \
             is `force`",
        ];
        assert_eq!(requested_grants(&serde_json::from_value(grants).unwrap()), expected);
    }
}
