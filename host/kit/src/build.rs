//! Has cargo build a plugin's project, and finds the component that came out.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// How long one cargo may take: the first build fetches and compiles what the plugin uses.
const CARGO_DEADLINE: Duration = Duration::from_secs(1800);

/// What came out of a build.
#[derive(Clone, Debug)]
pub struct Built {
    /// The component's file in cargo's own directory.
    pub component: PathBuf,
    /// How long cargo took.
    pub took: Duration,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The directory holds no project.
    #[error("`{}` has no Cargo.toml: name the directory of a plugin's project, or make one with `tholepin plugin new`", .0.display())]
    NoProject(PathBuf),
    /// Cargo cannot be started.
    #[error("cannot start cargo: install Rust with rustup, or set CARGO")]
    Start(#[source] io::Error),
    /// Cargo's output cannot be read.
    #[error("cannot read what cargo says")]
    Read(#[source] io::Error),
    /// Cargo did not succeed; it has said why on stderr.
    #[error("`cargo {0}` failed; it says why above")]
    Failed(&'static str),
    /// Cargo did not end.
    #[error("`cargo {0}` did not end within {seconds} s", seconds = CARGO_DEADLINE.as_secs())]
    Late(&'static str),
    /// The package is none that makes a component.
    #[error(
        "the project makes no component: put `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]` in its Cargo.toml"
    )]
    NoComponent,
}

/// Builds the component of the project in a directory. Cargo's own words go to stderr.
///
/// # Errors
///
/// Fails if the directory holds no project, or if cargo does not make a component of it.
pub async fn build(directory: &Path) -> Result<Built, BuildError> {
    let manifest = manifest(directory)?;
    let start = Instant::now();
    let mut command = cargo(directory);
    command.args(["build", "--profile", "plugin", "--target", "wasm32-wasip2"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(BuildError::Start)?;
    let run = async {
        let component = component(&mut child, &manifest).await.map_err(BuildError::Read)?;
        let status = child.wait().await.map_err(BuildError::Read)?;
        Ok((component, status))
    };
    let (component, status) =
        timeout(CARGO_DEADLINE, run).await.unwrap_or(Err(BuildError::Late("build")))?;
    succeeded("build", status)?;
    let component = component.ok_or(BuildError::NoComponent)?;
    Ok(Built { component, took: start.elapsed() })
}

/// Runs the native tests of the project in a directory. Cargo's own words go to stdout and stderr.
///
/// # Errors
///
/// Fails if the directory holds no project, or if a test fails.
pub async fn test(directory: &Path) -> Result<(), BuildError> {
    manifest(directory)?;
    let mut child = cargo(directory).arg("test").spawn().map_err(BuildError::Start)?;
    let waited = timeout(CARGO_DEADLINE, child.wait()).await;
    let status = waited.map_err(|_| BuildError::Late("test"))?.map_err(BuildError::Read)?;
    succeeded("test", status)
}

/// Cargo in a directory. It ends with the value that holds it.
fn cargo(directory: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn manifest(directory: &Path) -> Result<PathBuf, BuildError> {
    let manifest = directory.join("Cargo.toml").canonicalize();
    manifest.map_err(|_| BuildError::NoProject(directory.to_owned()))
}

fn succeeded(what: &'static str, status: ExitStatus) -> Result<(), BuildError> {
    if status.success() { Ok(()) } else { Err(BuildError::Failed(what)) }
}

/// Reads cargo's messages to the end, and gives the component of the package with this manifest.
async fn component(child: &mut Child, manifest: &Path) -> io::Result<Option<PathBuf>> {
    let Some(stdout) = child.stdout.take() else { return Ok(None) };
    let mut lines = BufReader::new(stdout).lines();
    let mut component = None;
    while let Some(line) = lines.next_line().await? {
        component = artifact(&line, manifest).or(component);
    }
    Ok(component)
}

/// The component that a message of cargo's tells of, if it is of this package.
fn artifact(message: &str, manifest: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let text = |field: &str| message.get(field).and_then(Value::as_str);
    let is_ours = text("reason") == Some("compiler-artifact")
        && text("manifest_path").map(Path::new) == Some(manifest);
    let files = message.get("filenames")?.as_array().filter(|_| is_ours)?;
    let mut files = files.iter().filter_map(Value::as_str).map(PathBuf::from);
    files.find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_of_the_package_is_found_and_no_other() {
        let message = |reason: &str, manifest: &str, file: &str| {
            serde_json::json!({"reason": reason, "manifest_path": manifest, "filenames": [file]})
                .to_string()
        };
        let rows = [
            (message("compiler-artifact", "/p/Cargo.toml", "/t/p.wasm"), Some("/t/p.wasm")),
            (message("compiler-artifact", "/q/Cargo.toml", "/t/q.wasm"), None),
            (message("compiler-artifact", "/p/Cargo.toml", "/t/p.rlib"), None),
            (message("build-script-executed", "/p/Cargo.toml", "/t/p.wasm"), None),
            ("no json".to_owned(), None),
        ];
        for (message, expected) in rows {
            let found = artifact(&message, Path::new("/p/Cargo.toml"));
            assert_eq!(found, expected.map(PathBuf::from), "{message}");
        }
    }

    #[tokio::test]
    async fn a_directory_without_a_project_is_told_with_the_way_out() {
        let empty = tempfile::tempdir().unwrap();
        let error = build(empty.path()).await.unwrap_err().to_string();
        assert!(error.contains("tholepin plugin new"), "{error}");
        assert!(matches!(test(empty.path()).await.unwrap_err(), BuildError::NoProject(_)));
    }
}
