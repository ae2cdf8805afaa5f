//! Builds a plugin's project with cargo, and finds the component among cargo's artifacts.

use std::{
    env,
    ffi::OsString,
    fs, io,
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

use crate::{
    build_error::{BuildError, CARGO_DEADLINE},
    shared::{SharedBuildLock, SharedTargetProject},
    stderr::print_line,
};

/// How long `cargo metadata` may take.
const METADATA_DEADLINE: Duration = Duration::from_secs(30);
/// The compilation target of plugins.
const TARGET: &str = "wasm32-wasip2";
/// The environment variable that names cargo's target directory.
const TARGET_DIRECTORY_VARIABLE: &str = "CARGO_TARGET_DIR";

/// The result of a build.
#[derive(Clone, Debug)]
pub struct BuildOutput {
    /// The component's file.
    pub component: PathBuf,
    /// How long the build took, including the wait for other builds.
    pub took: Duration,
}

/// Builds and tests projects with cargo.
#[derive(Clone, Debug)]
pub struct ProjectBuilder {
    /// The directory of the target directories that projects share.
    shared: PathBuf,
    /// The target directory that the user named with `CARGO_TARGET_DIR`.
    named: Option<OsString>,
}

impl ProjectBuilder {
    /// Lets projects share target directories below the user's cache directory, unless the user has `named` a target
    /// directory.
    #[must_use]
    pub fn new(cache: &Path, named: Option<OsString>) -> Self {
        let named = named.filter(|named| !named.is_empty());
        Self { shared: cache.join("plugin-builds"), named }
    }

    /// Builds the component of the project in a directory. Cargo's messages go to stderr.
    ///
    /// # Errors
    ///
    /// Fails if the directory contains no project, or if cargo builds no component from it.
    pub async fn build(&self, directory: &Path) -> Result<BuildOutput, BuildError> {
        let manifest = manifest(directory)?;
        let start = Instant::now();
        let build_directory = self.build_directory(directory, &manifest).await?;
        build_directory.print_if_first(
            TARGET,
            "the first build compiles the crates that every plugin uses: about two minutes",
        );
        let mut command = self.cargo(directory, &build_directory);
        command.args(["build", "--profile", "plugin", "--target", TARGET]);
        command.args(["--message-format", "json-render-diagnostics"]);
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(BuildError::Start)?;
        let run = async {
            let component = component(&mut child, &manifest).await.map_err(BuildError::Read)?;
            let status = child.wait().await.map_err(BuildError::Read)?;
            Ok((component, status))
        };
        let (component, status) =
            timeout(CARGO_DEADLINE, run).await.unwrap_or(Err(BuildError::Late("build")))?;
        check_status("build", status)?;
        let component = component.ok_or(BuildError::NoComponent)?;
        let component = match build_directory.build_lock {
            Some(_) => copy_to_project(&component, directory)?,
            None => component,
        };
        Ok(BuildOutput { component, took: start.elapsed() })
    }

    /// Runs the native tests of the project in a directory. Cargo's output goes to stdout and stderr.
    ///
    /// # Errors
    ///
    /// Fails if the directory contains no project, or if a test fails.
    pub async fn test(&self, directory: &Path) -> Result<(), BuildError> {
        let manifest = manifest(directory)?;
        let build_directory = self.build_directory(directory, &manifest).await?;
        build_directory.print_if_first(
            "debug",
            "the first test compiles the crates that every plugin uses: about a minute",
        );
        let mut command = self.cargo(directory, &build_directory);
        let mut child = command.arg("test").spawn().map_err(BuildError::Start)?;
        let waited = timeout(CARGO_DEADLINE, child.wait()).await;
        let status = waited.map_err(|_| BuildError::Late("test"))?.map_err(BuildError::Read)?;
        check_status("test", status)
    }

    /// Decides where cargo builds a project. Takes the lock of the shared directory if the project shares one.
    async fn build_directory(
        &self,
        directory: &Path,
        manifest: &Path,
    ) -> Result<BuildDirectory, BuildError> {
        let Some(metadata) = self.metadata(directory).await else {
            // The build will fail, and cargo then reports what is wrong.
            return Ok(BuildDirectory::default());
        };
        let shared_build =
            SharedTargetProject::of(&metadata, manifest).filter(|_| self.named.is_none());
        let build_lock = match shared_build {
            Some(shared_build) => Some(shared_build.lock(&self.shared).await?),
            None => None,
        };
        let own = metadata.get("target_directory").and_then(Value::as_str).map(PathBuf::from);
        let target = build_lock.as_ref().map(|build_lock| build_lock.directory.clone()).or(own);
        Ok(BuildDirectory { build_lock, target })
    }

    /// Reads cargo's metadata of a project without its dependencies; `None` if cargo fails.
    async fn metadata(&self, directory: &Path) -> Option<Value> {
        let mut command = self.cargo(directory, &BuildDirectory::default());
        command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
        let output = timeout(METADATA_DEADLINE, command.output()).await.ok()?.ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Returns a cargo command for a directory. Its process is killed when the child is dropped.
    fn cargo(&self, directory: &Path, build_directory: &BuildDirectory) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
        let shared =
            build_directory.build_lock.as_ref().map(|build_lock| build_lock.directory.as_os_str());
        match self.named.as_deref().or(shared) {
            Some(target) => command.env(TARGET_DIRECTORY_VARIABLE, target),
            None => command.env_remove(TARGET_DIRECTORY_VARIABLE),
        };
        command
    }
}

/// Where a project is built: in a shared directory, or in cargo's default one.
#[derive(Debug, Default)]
struct BuildDirectory {
    build_lock: Option<SharedBuildLock>,
    /// The target directory, if it is known.
    target: Option<PathBuf>,
}

impl BuildDirectory {
    /// Prints why the build will take long, if this folder of the target directory does not exist yet.
    fn print_if_first(&self, folder: &str, text: &str) {
        if self.target.as_ref().is_some_and(|target| !target.join(folder).exists()) {
            print_line(&format!("{text}; later ones take seconds"));
        }
    }
}

/// Copies a component from the shared directory into its project. The caller holds the lock, so that no other
/// project of the same name replaces the component meanwhile.
fn copy_to_project(component: &Path, directory: &Path) -> Result<PathBuf, BuildError> {
    let folder = directory.join("target");
    let copy = folder.join(component.file_name().unwrap_or_default());
    let copied = fs::create_dir_all(&folder).and_then(|()| fs::copy(component, &copy));
    match copied {
        Ok(_) => Ok(copy),
        Err(source) => Err(BuildError::Shared { path: copy, source }),
    }
}

fn manifest(directory: &Path) -> Result<PathBuf, BuildError> {
    let manifest = directory.join("Cargo.toml").canonicalize();
    manifest.map_err(|_| BuildError::NoProject(directory.to_owned()))
}

fn check_status(what: &'static str, status: ExitStatus) -> Result<(), BuildError> {
    if status.success() { Ok(()) } else { Err(BuildError::Failed(what)) }
}

/// Reads all of cargo's messages, and returns the component of the package with this manifest.
async fn component(child: &mut Child, manifest: &Path) -> io::Result<Option<PathBuf>> {
    let Some(stdout) = child.stdout.take() else { return Ok(None) };
    let mut lines = BufReader::new(stdout).lines();
    let mut component = None;
    while let Some(line) = lines.next_line().await? {
        component = artifact(&line, manifest).or(component);
    }
    Ok(component)
}

/// Returns the component that a message of cargo reports, if it belongs to the package with this manifest.
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
    fn only_the_component_of_the_package_is_found() {
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
    async fn a_directory_without_a_project_is_refused_with_a_fix() {
        let empty = tempfile::tempdir().unwrap();
        let builder = ProjectBuilder::new(empty.path(), None);
        let error = builder.build(empty.path()).await.unwrap_err().to_string();
        assert!(error.contains("tholepin plugin new"), "{error}");
        assert!(matches!(builder.test(empty.path()).await.unwrap_err(), BuildError::NoProject(_)));
    }
}
