//! `tholepin plugin`: creates and builds plugins, and inspects components and the plugins of a running host.

mod develop;
mod list;
mod revisions;
mod watch;

use anyhow::Result;
use tholepin_guest::{CompileCache, grant_yaml, inspect};

use super::print;
use crate::{cli::PluginCommand, exit, user_files::cache_directory};

pub(crate) async fn run(command: PluginCommand) -> Result<u8> {
    match command {
        PluginCommand::New(arguments) => develop::new(arguments)?,
        PluginCommand::Build(arguments) => develop::build(arguments).await?,
        PluginCommand::Test { project } => develop::test(&project).await?,
        PluginCommand::Watch(arguments) => watch::run(arguments).await?,
        PluginCommand::List { output, cluster, admin } => list::run(cluster, output, admin).await?,
        PluginCommand::History { name, output, admin } => {
            revisions::history(&name, output, admin).await?
        }
        PluginCommand::Rollback { name, revision, admin } => {
            revisions::roll_back(name, revision, admin).await?;
        }
        PluginCommand::Inspect { file, crds } => {
            let inspection = inspect(&file, &cache()?).await?;
            if crds {
                let brought = inspection.manifest.reconciles.iter();
                for definition in brought.filter_map(|kind| kind.crd.as_ref()) {
                    print(&format!("---\n{}", serde_saphyr::to_string(definition)?))?;
                }
            } else {
                print(&inspection.to_string())?;
            }
        }
        PluginCommand::Grant { file } => print(&grant_yaml(&file, &cache()?).await?)?,
    }
    Ok(exit::DONE)
}

/// Opens the cache of compiled code, which is private to the user.
///
/// # Errors
///
/// Fails if there is no home folder, or the cache cannot be used.
pub(crate) fn cache() -> Result<CompileCache> {
    Ok(CompileCache::open(cache_directory()?)?)
}
