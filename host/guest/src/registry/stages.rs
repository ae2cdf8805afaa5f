//! The stages that turn the files of a plugin into a revision that may serve: fetch, verify, compile, check.
//! A stage that fails returns a [`PluginRevisionRejection`].

use std::{path::Path, sync::Arc, time::Instant};

use metrics::histogram;
use serde_json::{Value, json};
use tholepin_core::{ErrorChain, PluginName, RevisionDigest};
use tholepin_schema::manifest::{Grants, Manifest};
use tokio::task;

use super::{
    CompilationNotice, PluginRegistry, PluginRejectReason, RevisionLoadStage,
    directory::{FileFingerprint, FoundPlugin, PluginSettingsFile},
};
use crate::{
    CacheError, GrantSetting, LoadError, LoadedComponent, LoadedPlugin, PluginSettings,
    cache::{CompileCacheOutcome, CompiledComponent},
    component, grants, parameters,
};

/// The reason why a revision failed a stage.
#[derive(Debug)]
pub(super) struct PluginRevisionRejection {
    pub(super) reason: PluginRejectReason,
    pub(super) message: String,
}

impl PluginRevisionRejection {
    pub(super) fn new(reason: PluginRejectReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The progress of a revision through the stages, for reports.
#[derive(Debug)]
pub(super) struct PluginStageProgress {
    pub(super) stage: Option<RevisionLoadStage>,
    pub(super) candidate: Option<RevisionDigest>,
    /// When the last stage was reached, or the first one began.
    pub(super) since: Instant,
}

impl PluginStageProgress {
    /// Returns the progress of a revision that has reached no stage.
    pub(super) fn begin() -> Self {
        Self { stage: None, candidate: None, since: Instant::now() }
    }

    /// Records that a stage was reached, and how long it took.
    pub(super) fn reach(&mut self, name: &PluginName, stage: RevisionLoadStage) {
        self.stage = Some(stage);
        histogram!(
            "tholepin_plugin_stage_seconds",
            "controller" => name.to_string(), "stage" => stage.as_str()
        )
        .record(self.since.elapsed());
        self.since = Instant::now();
    }
}

/// Takes a revision, whose files are in `directory`, through all stages except `Active`. Calls
/// `report_progress` after each stage.
pub(super) async fn load(
    registry: &PluginRegistry,
    directory: &Path,
    name: &PluginName,
    found: &FoundPlugin,
    progress: &mut PluginStageProgress,
    mut report_progress: impl FnMut(&PluginStageProgress),
) -> Result<Arc<LoadedPlugin>, PluginRevisionRejection> {
    let PluginSettingsFile { plugin, object: _ } = found.settings.as_ref().map_err(|error| {
        PluginRevisionRejection::new(
            PluginRejectReason::SettingsInvalid,
            format!("cannot use {name}.yaml: {error}"),
        )
    })?;
    let settings = &plugin.spec;
    let limits = settings.limits.unwrap_or_default().limits();
    let limits = limits
        .map_err(|text| PluginRevisionRejection::new(PluginRejectReason::SettingsInvalid, text))?;

    let wasm = fetch(directory, name, settings).await?;
    let component_digest = component::wasm_digest(&wasm);
    let digest = revision(&component_digest, settings);
    progress.candidate = Some(digest.clone());
    let mut reach = |stage, progress: &mut PluginStageProgress| {
        progress.reach(name, stage);
        report_progress(progress);
    };
    reach(RevisionLoadStage::Fetched, progress);

    verify(settings, &component_digest)?;
    reach(RevisionLoadStage::Verified, progress);

    let compiled = compile(registry, name, wasm, &component_digest).await;
    let compiled = compiled.map_err(|error| compile_rejected(&settings.source.file, &error))?;
    reach(RevisionLoadStage::Compiled, progress);

    let loaded = LoadedComponent::link(&registry.engine, compiled, component_digest.clone())
        .map_err(|error| link_rejected(&settings.source.file, &error))?;
    let manifest = loaded.describe(name.as_str()).await.map_err(|error| {
        PluginRevisionRejection::new(
            PluginRejectReason::DescribeFailed,
            format!("the plugin `{name}`: {error}; in `describe` every import but `log` is denied"),
        )
    })?;
    let (grants, parameters) = check(registry, name, settings, &manifest)?;
    reach(RevisionLoadStage::Checked, progress);

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

/// Compiles a component unless the cache has it, and sends the notices of the compilation.
async fn compile(
    registry: &PluginRegistry,
    name: &PluginName,
    wasm: Arc<[u8]>,
    digest: &str,
) -> Result<CompiledComponent, CacheError> {
    let bytes = wasm.len();
    let notify = |took| {
        // Without subscribers this fails, which is fine.
        let _ = registry.compilations.send(CompilationNotice { plugin: name.clone(), bytes, took });
    };
    if !registry.cache.has(&registry.engine, digest) {
        notify(None);
    }
    let started = Instant::now();
    let compiled =
        LoadedComponent::compile(&registry.engine, &registry.cache, wasm, digest.to_owned()).await;
    let (compiled, origin) = compiled?;
    if origin == CompileCacheOutcome::Compiled {
        notify(Some(started.elapsed()));
    }
    Ok(compiled)
}

/// Returns the revision of a component with its settings.
pub(crate) fn revision(component_digest: &str, settings: &PluginSettings) -> RevisionDigest {
    // `Value` sorts its keys, so equal settings have equal texts.
    let text = json!({"component": component_digest, "settings": settings}).to_string();
    RevisionDigest(component::wasm_digest(text.as_bytes()))
}

/// Reads the component of a plugin.
async fn fetch(
    directory: &Path,
    name: &PluginName,
    settings: &PluginSettings,
) -> Result<Arc<[u8]>, PluginRevisionRejection> {
    let path = directory.join(&settings.source.file);
    let shown = path.display().to_string();
    let cannot = |error: String| {
        let text = format!(
            "cannot read the component `{shown}`; put it there, or correct spec.source.file in {name}.yaml: {error}"
        );
        PluginRevisionRejection::new(PluginRejectReason::ComponentMissing, text)
    };
    let read = task::spawn_blocking(move || {
        let before = FileFingerprint::of(&path);
        let bytes = std::fs::read(&path)?;
        if before != FileFingerprint::of(&path) {
            return Err(std::io::Error::other(
                "it is being written; write to another name and rename the complete file",
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

fn verify(
    settings: &PluginSettings,
    component_digest: &str,
) -> Result<(), PluginRevisionRejection> {
    let Some(pinned) = &settings.digest else { return Ok(()) };
    if pinned == component_digest {
        return Ok(());
    }
    Err(PluginRevisionRejection::new(
        PluginRejectReason::DigestMismatch,
        format!(
            "the component `{}` has the digest {component_digest}, but spec.digest is {pinned}; replace the \
             component, or set spec.digest to its digest to accept it",
            settings.source.file
        ),
    ))
}

fn compile_rejected(file: &str, error: &CacheError) -> PluginRevisionRejection {
    let reason = match error {
        CacheError::NotAComponent(_) | CacheError::TooLarge { .. } => {
            PluginRejectReason::NotAComponent
        }
        CacheError::Compiler(_)
        | CacheError::Compile(_)
        | CacheError::Aborted(_)
        | CacheError::Load(_)
        | CacheError::Directory { .. } => PluginRejectReason::CompileFailed,
    };
    PluginRevisionRejection::new(reason, format!("cannot use `{file}`: {}", ErrorChain(error)))
}

fn link_rejected(file: &str, error: &LoadError) -> PluginRevisionRejection {
    let reason = match error {
        LoadError::Compile(error) => return compile_rejected(file, error),
        LoadError::UnknownImport { .. } => PluginRejectReason::UnknownImport,
        LoadError::NotLinkable(_) => PluginRejectReason::NotLinkable,
    };
    PluginRevisionRejection::new(reason, format!("cannot use `{file}`: {}", ErrorChain(error)))
}

/// Checks the manifest against the file name, the grants, the parameters and the other plugins. Returns the
/// effective grants and the parameters.
fn check(
    registry: &PluginRegistry,
    name: &PluginName,
    settings: &PluginSettings,
    manifest: &Manifest,
) -> Result<(Grants, Value), PluginRevisionRejection> {
    check_manifest(name, manifest)?;
    check_grant_names(name, settings, manifest)?;
    check_kinds(registry, name, manifest)?;
    check_grants(registry, name, settings, manifest)?;
    let parameters = settings.parameters.clone().unwrap_or_else(|| json!({}));
    check_parameters(name, manifest, &parameters)?;
    Ok((manifest.grants.clone(), parameters))
}

fn check_manifest(name: &PluginName, manifest: &Manifest) -> Result<(), PluginRevisionRejection> {
    let invalid =
        |text: String| Err(PluginRevisionRejection::new(PluginRejectReason::ManifestInvalid, text));
    if manifest.name != name.as_str() {
        return invalid(format!(
            "the manifest names the plugin `{}`, but its settings are `{name}.yaml`; rename the files to \
             `{}.yaml` and `{}.wasm`",
            manifest.name, manifest.name, manifest.name
        ));
    }
    if manifest.reconciles.is_empty() {
        return invalid(format!(
            "the manifest of `{name}` has no kind in `reconciles`; add the kind that the plugin reconciles"
        ));
    }
    let faults = manifest.secret_field_faults();
    if !faults.is_empty() {
        return invalid(format!("the manifest of `{name}`: {}", faults.join("; ")));
    }
    for kind in &manifest.reconciles {
        let Some(crd) = &kind.crd else { continue };
        let text = |path: &str| crd.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let defined = (text("/spec/group"), text("/spec/names/kind"));
        if defined != (kind.name.group(), kind.name.kind.as_str()) {
            let (group, defined) = defined;
            return invalid(format!(
                "the manifest of `{name}` reconciles {}, but the CRD of that entry defines {group}/{defined}; \
                 make them equal",
                kind.name
            ));
        }
    }
    Ok(())
}

/// Refuses grants with a name that this host does not know, because they would never have an effect.
fn check_grant_names(
    name: &PluginName,
    settings: &PluginSettings,
    manifest: &Manifest,
) -> Result<(), PluginRevisionRejection> {
    let faults = manifest.grants.faults();
    if !faults.is_empty() {
        let text = format!(
            "the manifest of `{name}` requests grants that do not exist: {}; correct its `grants`",
            faults.join("; ")
        );
        return Err(PluginRevisionRejection::new(PluginRejectReason::ManifestInvalid, text));
    }
    let GrantSetting::Granted(granted) = &settings.grants else { return Ok(()) };
    let granted = granted.faults();
    if granted.is_empty() {
        return Ok(());
    }
    let text = format!("{name}.yaml, spec.grants: {}", granted.join("; "));
    Err(PluginRevisionRejection::new(PluginRejectReason::SettingsInvalid, text))
}

/// Refuses a plugin that reconciles the same kind as another, whatever the version of the kind, because both
/// would write the same objects.
fn check_kinds(
    registry: &PluginRegistry,
    name: &PluginName,
    manifest: &Manifest,
) -> Result<(), PluginRevisionRejection> {
    let plugins = registry.plugins();
    let others = plugins.values().filter(|other| other.name != *name);
    for other in others {
        for theirs in &other.manifest.reconciles {
            let is_same = |ours: &tholepin_schema::manifest::ReconciledKind| {
                (ours.name.group(), &ours.name.kind) == (theirs.name.group(), &theirs.name.kind)
            };
            if manifest.reconciles.iter().any(is_same) {
                let text = format!(
                    "the plugin `{}` already reconciles {}; remove `{}.yaml` or `{name}.yaml`",
                    other.name, theirs.name, other.name
                );
                return Err(PluginRevisionRejection::new(PluginRejectReason::KindClaimed, text));
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
) -> Result<(), PluginRevisionRejection> {
    let file = &settings.source.file;
    let granted = match &settings.grants {
        GrantSetting::AsRequested if registry.options.allow_as_requested => return Ok(()),
        GrantSetting::AsRequested => {
            let text = format!(
                "`grants: asRequested` in {name}.yaml is accepted only by the local host; list the grants, which \
                 `tholepin plugin grant {file}` prints"
            );
            return Err(PluginRevisionRejection::new(PluginRejectReason::GrantsMissing, text));
        }
        GrantSetting::Granted(granted) => granted,
    };
    let missing = grants::missing(&manifest.grants, granted);
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!(
        "the plugin requests what {name}.yaml does not grant: {}; add it to spec.grants, or print settings with \
         all of it by `tholepin plugin grant {file}`",
        missing.join(", ")
    );
    Err(PluginRevisionRejection::new(PluginRejectReason::GrantsMissing, text))
}

fn check_parameters(
    name: &PluginName,
    manifest: &Manifest,
    parameters: &Value,
) -> Result<(), PluginRevisionRejection> {
    let Some(schema) = &manifest.parameters else {
        if parameters.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(());
        }
        let text =
            format!("the plugin takes no parameters; remove spec.parameters from {name}.yaml");
        return Err(PluginRevisionRejection::new(PluginRejectReason::ParametersInvalid, text));
    };
    let wrong = parameters::check_schema(schema);
    if !wrong.is_empty() {
        let text = format!("the manifest of `{name}`: {}", wrong.join("; "));
        return Err(PluginRevisionRejection::new(PluginRejectReason::ManifestInvalid, text));
    }
    let wrong = parameters::check(schema, parameters);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(PluginRevisionRejection::new(
        PluginRejectReason::ParametersInvalid,
        format!("{name}.yaml, spec.parameters: {}", wrong.join("; ")),
    ))
}
