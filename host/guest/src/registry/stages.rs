//! The steps from files to a revision that may serve. Each either goes through or says why not.

use std::{path::Path, sync::Arc, time::Instant};

use metrics::histogram;
use serde_json::{Value, json};
use tholepin_core::{PluginName, RevisionDigest};
use tholepin_schema::manifest::{Grants, Manifest};
use tokio::task;

use super::{
    CompilationNotice, PluginRegistry, RejectReason, RevisionStage,
    directory::{FileFingerprint, FoundPlugin, PluginSettingsFile},
};
use crate::{
    CacheError, GrantSetting, LoadError, LoadedComponent, LoadedPlugin, PluginSettings,
    cache::{CompiledComponent, ComponentOrigin},
    component, grants, parameters,
};

/// Why a revision goes no further.
#[derive(Debug)]
pub(super) struct RejectedRevision {
    pub(super) reason: RejectReason,
    pub(super) message: String,
}

impl RejectedRevision {
    pub(super) fn new(reason: RejectReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What the steps have found out so far: told in reports, whether they go through or not.
#[derive(Debug)]
pub(super) struct StageProgress {
    pub(super) stage: Option<RevisionStage>,
    pub(super) candidate: Option<RevisionDigest>,
    /// When the last stage was reached, or the first begun.
    pub(super) since: Instant,
}

impl StageProgress {
    /// A revision of which nothing is known.
    pub(super) fn begin() -> Self {
        Self { stage: None, candidate: None, since: Instant::now() }
    }

    /// Reaches a stage, and measures how long that took.
    pub(super) fn reach(&mut self, name: &PluginName, stage: RevisionStage) {
        self.stage = Some(stage);
        histogram!(
            "tholepin_plugin_stage_seconds",
            "controller" => name.to_string(), "stage" => stage.as_str()
        )
        .record(self.since.elapsed());
        self.since = Instant::now();
    }
}

/// Takes a revision, whose files are in a directory, through all steps but the last. `tell` is called after
/// each.
pub(super) async fn load(
    registry: &PluginRegistry,
    directory: &Path,
    name: &PluginName,
    found: &FoundPlugin,
    progress: &mut StageProgress,
    mut tell: impl FnMut(&StageProgress),
) -> Result<Arc<LoadedPlugin>, RejectedRevision> {
    let PluginSettingsFile { plugin, object: _ } = found.settings.as_ref().map_err(|error| {
        RejectedRevision::new(
            RejectReason::SettingsInvalid,
            format!("cannot use {name}.yaml: {error}"),
        )
    })?;
    let settings = &plugin.spec;
    let limits = settings.limits.unwrap_or_default().limits();
    let limits =
        limits.map_err(|text| RejectedRevision::new(RejectReason::SettingsInvalid, text))?;

    let wasm = fetch(directory, settings).await?;
    let component_digest = component::wasm_digest(&wasm);
    let digest = revision(&component_digest, settings);
    progress.candidate = Some(digest.clone());
    let mut reach = |stage, progress: &mut StageProgress| {
        progress.reach(name, stage);
        tell(progress);
    };
    reach(RevisionStage::Fetched, progress);

    verify(settings, &component_digest)?;
    reach(RevisionStage::Verified, progress);

    let compiled = compile(registry, name, wasm, &component_digest).await;
    let compiled = compiled.map_err(|error| compile_rejected(&error))?;
    reach(RevisionStage::Compiled, progress);

    let loaded = LoadedComponent::link(&registry.engine, compiled, component_digest.clone())
        .map_err(|error| link_rejected(&error))?;
    let manifest = loaded.describe(name.as_str()).await.map_err(|error| {
        RejectedRevision::new(
            RejectReason::DescribeFailed,
            format!("{error}; every import but log is denied there"),
        )
    })?;
    let (grants, parameters) = check(registry, name, settings, &manifest)?;
    reach(RevisionStage::Checked, progress);

    Ok(Arc::new(LoadedPlugin {
        name: name.clone(),
        digest,
        component_digest,
        manifest: Arc::new(manifest),
        grants: Arc::new(grants),
        parameters: Arc::new(parameters),
        limits,
        loaded,
    }))
}

/// Compiles a component unless the cache has it, and says so to whoever listens.
async fn compile(
    registry: &PluginRegistry,
    name: &PluginName,
    wasm: Arc<[u8]>,
    digest: &str,
) -> Result<CompiledComponent, CacheError> {
    let bytes = wasm.len();
    let tell = |took| {
        // Nobody listening is no fault.
        let _ = registry.compilations.send(CompilationNotice { plugin: name.clone(), bytes, took });
    };
    if !registry.cache.has(&registry.engine, digest) {
        tell(None);
    }
    let begun = Instant::now();
    let compiled =
        LoadedComponent::compile(&registry.engine, &registry.cache, wasm, digest.to_owned()).await;
    let (compiled, origin) = compiled?;
    if origin == ComponentOrigin::Compiled {
        tell(Some(begun.elapsed()));
    }
    Ok(compiled)
}

/// Names a revision: another component or other settings are another one.
pub(crate) fn revision(component_digest: &str, settings: &PluginSettings) -> RevisionDigest {
    // `Value` sorts its keys, so equal settings give equal texts.
    let text = json!({"component": component_digest, "settings": settings}).to_string();
    RevisionDigest(component::wasm_digest(text.as_bytes()))
}

async fn fetch(directory: &Path, settings: &PluginSettings) -> Result<Arc<[u8]>, RejectedRevision> {
    let file = &settings.source.file;
    let path = directory.join(file);
    let cannot = |error: String| {
        let text = format!("cannot read `{file}` in the plugin directory: {error}");
        RejectedRevision::new(RejectReason::ComponentMissing, text)
    };
    let read = task::spawn_blocking(move || {
        let before = FileFingerprint::of(&path);
        let bytes = std::fs::read(&path)?;
        if before != FileFingerprint::of(&path) {
            return Err(std::io::Error::other(
                "it is being written; rename a whole file into place",
            ));
        }
        Ok(bytes)
    });
    match read.await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(error)) => Err(cannot(error.to_string())),
        Err(error) => Err(cannot(error.to_string())),
    }
}

fn verify(settings: &PluginSettings, component_digest: &str) -> Result<(), RejectedRevision> {
    let Some(pinned) = &settings.digest else { return Ok(()) };
    if pinned == component_digest {
        return Ok(());
    }
    Err(RejectedRevision::new(
        RejectReason::DigestMismatch,
        format!(
            "`{}` has digest {component_digest}, but spec.digest is {pinned}: put the right file \
             there, or accept this one by writing its digest",
            settings.source.file
        ),
    ))
}

fn compile_rejected(error: &CacheError) -> RejectedRevision {
    let reason = match error {
        CacheError::NotAComponent(_) | CacheError::TooLarge { .. } => RejectReason::NotAComponent,
        CacheError::Compile(_) | CacheError::Load(_) | CacheError::Directory { .. } => {
            RejectReason::CompileFailed
        }
    };
    RejectedRevision::new(reason, tholepin_core::ErrorChain(error).to_string())
}

fn link_rejected(error: &LoadError) -> RejectedRevision {
    match error {
        LoadError::Compile(error) => compile_rejected(error),
        LoadError::UnknownImport { .. } => {
            RejectedRevision::new(RejectReason::UnknownImport, error.to_string())
        }
        LoadError::NotLinkable(_) => {
            RejectedRevision::new(RejectReason::NotLinkable, error.to_string())
        }
    }
}

/// Whether the manifest fits its file, its grants, its parameters and the other plugins. Gives the
/// effective grants and the parameters.
fn check(
    registry: &PluginRegistry,
    name: &PluginName,
    settings: &PluginSettings,
    manifest: &Manifest,
) -> Result<(Grants, Value), RejectedRevision> {
    check_manifest(name, manifest)?;
    check_words(name, settings, manifest)?;
    check_kinds(registry, name, manifest)?;
    check_grants(registry, name, settings, manifest)?;
    let parameters = settings.parameters.clone().unwrap_or_else(|| json!({}));
    check_parameters(manifest, &parameters)?;
    Ok((manifest.grants.clone(), parameters))
}

fn check_manifest(name: &PluginName, manifest: &Manifest) -> Result<(), RejectedRevision> {
    let invalid = |text: String| Err(RejectedRevision::new(RejectReason::ManifestInvalid, text));
    if manifest.name != name.as_str() {
        return invalid(format!(
            "the plugin calls itself `{}`, but its settings are `{name}.yaml`: rename the files to \
             `{}.yaml` and `{}.wasm`",
            manifest.name, manifest.name, manifest.name
        ));
    }
    if manifest.reconciles.is_empty() {
        return invalid("its manifest names no kind that it reconciles".to_owned());
    }
    for kind in &manifest.reconciles {
        let Some(crd) = &kind.crd else { continue };
        let text = |path: &str| crd.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let defined = (text("/spec/group"), text("/spec/names/kind"));
        if defined != (kind.name.group(), kind.name.kind.as_str()) {
            let (group, defined) = defined;
            return invalid(format!(
                "its manifest reconciles {}, but the definition beside it is of {group}/{defined}",
                kind.name
            ));
        }
    }
    Ok(())
}

/// A word that this host does not know would be granted, and never be of use.
fn check_words(
    name: &PluginName,
    settings: &PluginSettings,
    manifest: &Manifest,
) -> Result<(), RejectedRevision> {
    let asked = manifest.grants.faults();
    if !asked.is_empty() {
        let text = format!("its manifest asks for what cannot be granted: {}", asked.join("; "));
        return Err(RejectedRevision::new(RejectReason::ManifestInvalid, text));
    }
    let GrantSetting::Granted(granted) = &settings.grants else { return Ok(()) };
    let granted = granted.faults();
    if granted.is_empty() {
        return Ok(());
    }
    let text = format!("{name}.yaml, spec.grants: {}", granted.join("; "));
    Err(RejectedRevision::new(RejectReason::SettingsInvalid, text))
}

/// Two plugins must not fight over one object, whatever version of its kind they speak.
fn check_kinds(
    registry: &PluginRegistry,
    name: &PluginName,
    manifest: &Manifest,
) -> Result<(), RejectedRevision> {
    let plugins = registry.plugins();
    let others = plugins.values().filter(|other| other.name != *name);
    for other in others {
        for theirs in &other.manifest.reconciles {
            let is_same = |ours: &tholepin_schema::manifest::ReconciledKind| {
                (ours.name.group(), &ours.name.kind) == (theirs.name.group(), &theirs.name.kind)
            };
            if manifest.reconciles.iter().any(is_same) {
                let text = format!(
                    "the plugin `{}` reconciles {} already: remove one of the two",
                    other.name, theirs.name
                );
                return Err(RejectedRevision::new(RejectReason::KindClaimed, text));
            }
        }
    }
    Ok(())
}

fn check_grants(
    registry: &PluginRegistry,
    name: &PluginName,
    settings: &PluginSettings,
    manifest: &Manifest,
) -> Result<(), RejectedRevision> {
    let file = &settings.source.file;
    let granted = match &settings.grants {
        GrantSetting::AsRequested if registry.options.allow_as_requested => return Ok(()),
        GrantSetting::AsRequested => {
            let text = format!(
                "`grants: asRequested` is for the local host only; write the grants out with \
                 `tholepin plugin grant {file}`"
            );
            return Err(RejectedRevision::new(RejectReason::GrantsMissing, text));
        }
        GrantSetting::Granted(granted) => granted,
    };
    let missing = grants::missing(&manifest.grants, granted);
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!(
        "it asks for what {name}.yaml does not grant: {}; `tholepin plugin grant {file}` writes all of it",
        missing.join(", ")
    );
    Err(RejectedRevision::new(RejectReason::GrantsMissing, text))
}

fn check_parameters(manifest: &Manifest, parameters: &Value) -> Result<(), RejectedRevision> {
    let Some(schema) = &manifest.parameters else {
        if parameters.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(());
        }
        let text = "it takes no parameters: remove spec.parameters";
        return Err(RejectedRevision::new(RejectReason::ParametersInvalid, text));
    };
    let wrong = parameters::check_schema(schema);
    if !wrong.is_empty() {
        return Err(RejectedRevision::new(RejectReason::ManifestInvalid, wrong.join("; ")));
    }
    let wrong = parameters::check(schema, parameters);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(RejectedRevision::new(
        RejectReason::ParametersInvalid,
        format!("spec.parameters: {}", wrong.join("; ")),
    ))
}
