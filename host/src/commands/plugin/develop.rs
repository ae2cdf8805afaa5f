//! `tholepin plugin new`, `build` and `test`: from an empty directory to a component that a host accepts.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tholepin_core::RevisionDigest;
use tholepin_devkit::{PluginProjectNames, ProjectBuilder};
use tholepin_guest::{ComponentInspection, PluginYamlObject, inspect};

use super::{super::print, cache};
use crate::{
    cli::{BuildArgs, PluginNewArgs},
    user_files::own_cache,
};

pub(super) fn new(arguments: PluginNewArgs) -> Result<()> {
    let PluginNewArgs { name, kind, group, directory } = arguments;
    let project = PluginProjectNames::new(&name, kind.as_deref(), &group)?;
    let directory = directory.unwrap_or_else(|| PathBuf::from(project.name()));
    project.write(&directory)?;
    let (name, kind, shown) = (project.name(), project.kind(), directory.display());
    print(&format!(
        "The plugin `{name}` for the kind {kind} is in {shown}. It builds as it stands:\n\n  \
         cd {shown}\n  \
         tholepin plugin test                  # native tests, then the component describes itself\n  \
         tholepin plugin watch --plugins DIR   # DIR: what a running host was started with\n  \
         kubectl apply -f example.yaml\n\n\
         README.md there describes the files; begin with src/kind.rs.\n"
    ))?;
    Ok(())
}

pub(super) async fn build(arguments: BuildArgs) -> Result<()> {
    let BuildArgs { project, plugins } = arguments;
    let checked = BuiltAndCheckedPlugin::build(&project).await?;
    print(&checked.described())?;
    match plugins {
        Some(plugins) => {
            checked.install(&plugins)?;
            print(&format!("put into   {}\n", plugins.display()))?;
        }
        None => print(&format!("component  {}\n", checked.component.display()))?,
    }
    Ok(())
}

pub(super) async fn test(project: &Path) -> Result<()> {
    builder()?.test(project).await?;
    print(&BuiltAndCheckedPlugin::build(project).await?.described())?;
    Ok(())
}

/// Returns a builder with the shared target directory, or with that of `CARGO_TARGET_DIR`.
fn builder() -> Result<ProjectBuilder> {
    Ok(ProjectBuilder::new(&own_cache()?, env::var_os("CARGO_TARGET_DIR")))
}

/// A built component that describes itself, with settings that grant what it asks for.
pub(super) struct BuiltAndCheckedPlugin {
    inspection: ComponentInspection,
    component: PathBuf,
    settings_text: String,
    settings: PluginYamlObject,
    took: Duration,
}

impl BuiltAndCheckedPlugin {
    /// Builds a project and checks the component as a host does.
    ///
    /// # Errors
    ///
    /// Fails if it does not build, does not describe itself, or is not granted what it asks for.
    pub(super) async fn build(project: &Path) -> Result<Self> {
        let built = builder()?.build(project).await?;
        let inspection = inspect(&built.component, &cache()?).await?;
        let name = &inspection.manifest.name;
        let path = project.join(format!("{name}.yaml"));
        let settings_text = fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read `{}`, the settings with the grants; `tholepin plugin grant {}` prints them",
                path.display(),
                built.component.display()
            )
        })?;
        let settings: PluginYamlObject = serde_saphyr::from_str(&settings_text)
            .with_context(|| format!("`{}` is no Plugin object", path.display()))?;
        let file = format!("{name}.wasm");
        if (&settings.metadata.name, &settings.spec.source.file) != (name, &file) {
            bail!("`{}` must be the Plugin `{name}` with the file `{file}`", path.display());
        }
        let missing = inspection.not_granted(&settings.spec);
        if !missing.is_empty() {
            bail!(
                "the plugin asks for what `{}` does not grant: {}",
                path.display(),
                missing.join(", ")
            );
        }
        Ok(Self {
            inspection,
            component: built.component,
            settings_text,
            settings,
            took: built.took,
        })
    }

    /// Returns the plugin's name.
    pub(super) fn name(&self) -> &str {
        &self.inspection.manifest.name
    }

    /// Returns the kinds that it reconciles.
    pub(super) fn kinds(&self) -> Vec<tholepin_schema::manifest::KindName> {
        self.inspection.manifest.reconciles.iter().map(|kind| kind.name.clone()).collect()
    }

    /// Returns how long cargo took.
    pub(super) const fn took(&self) -> Duration {
        self.took
    }

    /// Returns the revision that a host makes of it.
    pub(super) fn revision(&self) -> RevisionDigest {
        self.inspection.revision(&self.settings.spec)
    }

    /// Copies it into the plugin directory of a host.
    ///
    /// # Errors
    ///
    /// Fails if the directory is missing or cannot be written.
    pub(super) fn install(&self, plugins: &Path) -> Result<()> {
        let component = fs::read(&self.component)
            .with_context(|| format!("cannot read `{}`", self.component.display()))?;
        Ok(tholepin_devkit::install(
            plugins,
            self.name(),
            &component,
            self.settings_text.as_bytes(),
        )?)
    }

    fn described(&self) -> String {
        let ComponentInspection { manifest, imports: _, digest, bytes } = &self.inspection;
        let mut text = format!(
            "built      {} {}, {bytes} bytes, in {:.1} s\ndigest     {digest}\n",
            manifest.name,
            manifest.version,
            self.took.as_secs_f32(),
        );
        for kind in &manifest.reconciles {
            text.push_str(&format!("reconciles {}\n", kind.name));
        }
        for grant in self.inspection.requested_grants() {
            text.push_str(&format!("granted    {grant}\n"));
        }
        text
    }
}
