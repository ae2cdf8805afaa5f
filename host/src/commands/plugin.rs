//! `tholepin plugin`: writes plugins, and looks at components and at the plugins of a running host.

mod develop;
mod revisions;
mod watch;

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use tholepin_core::{ObjectRef, port::Kubernetes};
use tholepin_guest::{CompileCache, grant_yaml, inspect};
use tholepin_schema::manifest::KindName;

use super::{own_cache, print};
use crate::{cli::PluginCommand, engine, exit};

pub(crate) async fn run(command: PluginCommand) -> Result<u8> {
    match command {
        PluginCommand::New(arguments) => develop::new(arguments)?,
        PluginCommand::Build(arguments) => develop::build(arguments).await?,
        PluginCommand::Test { project } => develop::test(&project).await?,
        PluginCommand::Watch(arguments) => watch::run(arguments).await?,
        PluginCommand::List { json, cluster } => list(cluster.kubeconfig, json).await?,
        PluginCommand::History { name, json, admin } => {
            revisions::history(&name, json, admin).await?
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

/// Where compiled code is kept, private to the user.
///
/// # Errors
///
/// Fails if there is no home folder, or the cache cannot be used.
pub(crate) fn cache() -> Result<CompileCache> {
    Ok(CompileCache::open(cache_directory()?)?)
}

/// The directory of compiled code.
///
/// # Errors
///
/// Fails if there is no home folder.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    Ok(own_cache()?.join("compiled"))
}

/// Names a `Plugin` object.
pub(crate) fn plugin_reference(name: &str) -> ObjectRef {
    let kind = KindName {
        api_version: format!("{}/{}", tholepin_crd::GROUP, tholepin_crd::VERSION),
        kind: "Plugin".to_owned(),
    };
    ObjectRef { kind, namespace: String::new(), name: name.to_owned() }
}

async fn list(kubeconfig: Option<PathBuf>, as_json: bool) -> Result<()> {
    let kubernetes = engine::connect(kubeconfig).await?;
    let kind = plugin_reference("").kind;
    let plugins = kubernetes.list(kind, String::new(), String::new()).await?;
    if as_json {
        print(&format!("{:#}\n", json!({"plugins": plugins})))?;
        return Ok(());
    }
    let head =
        ["NAME", "SERVING", "VERSION", "SINCE", "CANDIDATE", "OBJECTS", "UNHEALTHY", "REASON"];
    let mut rows = vec![head.map(str::to_owned)];
    for plugin in plugins {
        let text = |pointer: &str| match plugin.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => "-".to_owned(),
        };
        let reason = match text("/status/message") {
            message if message == "-" => text("/status/reason"),
            message => format!("{}: {message}", text("/status/reason")),
        };
        rows.push([
            text("/metadata/name"),
            text("/status/revision"),
            text("/status/version"),
            text("/status/activatedAt"),
            text("/status/candidateRevision"),
            text("/status/objects"),
            text("/status/unhealthyObjects"),
            reason,
        ]);
    }
    print(&table(&rows))?;
    Ok(())
}

/// Columns as wide as their widest cell; the last one is as it is.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).filter(|_| column + 1 < N).unwrap_or_default();
            text.push_str(&format!("{cell:width$}"));
            text.push_str(if column + 1 < N { "  " } else { "\n" });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_aligned_columns() {
        let rows = [["NAME", "X"], ["a", "long"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "NAME  X\na     long\n");
    }
}
