//! Finds the program of an image and reads its version, once per program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::{
    ImageError, ImageRule, ImageTable, expected_version, split_reference, version_fits, version_in,
};

/// How long a program may take to print its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(5);

/// An image that can be started on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunnableImage {
    /// `local://PROGRAM@VERSION`.
    pub id: String,
    /// Programs by their names on the container's `PATH`.
    pub commands: BTreeMap<String, PathBuf>,
    /// Directories that the programs need, which are mounted at the same path.
    pub trees: Vec<PathBuf>,
    /// The image's WORKDIR.
    pub working_dir: PathBuf,
    /// The image's ENV.
    pub env: BTreeMap<String, String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    options_go_to: Option<String>,
}

impl RunnableImage {
    #[cfg(test)]
    pub(crate) fn for_tests(program: &str) -> Self {
        let program = PathBuf::from(program);
        let name = program.file_name().unwrap().to_str().unwrap().to_owned();
        Self {
            id: format!("local://{}", program.display()),
            trees: vec![program.parent().unwrap().to_owned()],
            commands: BTreeMap::from([(name.clone(), program)]),
            working_dir: "/".into(),
            env: BTreeMap::new(),
            entrypoint: Vec::new(),
            cmd: vec![name],
            options_go_to: None,
        }
    }

    /// Returns the program and its arguments: `command` replaces ENTRYPOINT and CMD, `args` replaces CMD.
    pub(crate) fn argv(&self, command: &[String], args: &[String]) -> Vec<String> {
        if !command.is_empty() {
            return [command, args].concat();
        }
        let args = if args.is_empty() { &self.cmd } else { args };
        let is_option =
            |argument: &String| argument.starts_with('-') || argument.ends_with(".conf");
        let inserted = self.options_go_to.iter().filter(|_| args.first().is_some_and(is_option));
        self.entrypoint.iter().chain(inserted).chain(args).cloned().collect()
    }
}

impl ImageTable {
    /// Searches the program of each rule, as for a Pod. Returns each image pattern with its program, or with
    /// the error why there is none.
    pub async fn examine(&self) -> Vec<(String, Result<String, ImageError>)> {
        let images = ImageStore::new(self.clone());
        let mut found = Vec::new();
        for rule in &self.rules {
            let pattern = format!("{}:{}", rule.repository, rule.tag);
            // The numbers in the pattern are the version that is expected.
            let result = match images.find(&pattern, &rule.program) {
                Ok(program) => {
                    images.checked_version(&pattern, rule, &program).await.map(|version| {
                        match version {
                            Some(version) => format!("{} {version}", program.display()),
                            None => program.display().to_string(),
                        }
                    })
                }
                Err(error) => Err(error),
            };
            found.push((pattern, result));
        }
        found
    }
}

/// The images of one node: the table, and the versions that its programs reported.
#[derive(Debug)]
pub(crate) struct ImageStore {
    table: ImageTable,
    /// By program and modification time, so that the version of an upgraded program is read again. The map
    /// has one entry for each version of each program that the table names.
    versions: Mutex<BTreeMap<ProgramFile, Option<String>>>,
}

/// A program and its modification time.
type ProgramFile = (PathBuf, Option<SystemTime>);

impl ImageStore {
    pub(crate) const fn new(table: ImageTable) -> Self {
        Self { table, versions: Mutex::new(BTreeMap::new()) }
    }

    /// Finds the program for `image`.
    ///
    /// # Errors
    ///
    /// Returns an error if no rule matches, if the program is missing, or if its version does not match.
    pub(crate) async fn pull(&self, image: &str) -> Result<RunnableImage, ImageError> {
        let rule = self.table.rule(image)?;
        let program = self.find(image, &rule.program)?;
        let version = self.checked_version(image, rule, &program).await?;
        let mut commands = BTreeMap::new();
        if let Some(name) = program.file_name() {
            commands.insert(name.to_string_lossy().into_owned(), program.clone());
        }
        for (name, program) in &rule.commands {
            commands.insert(name.clone(), self.find(image, program)?);
        }
        let mut trees: Vec<PathBuf> =
            commands.values().filter_map(|program| program.parent()).map(Path::to_owned).collect();
        if let Some(tree) = &rule.tree {
            trees.push(self.find(image, tree)?);
        }
        trees.sort();
        trees.dedup();
        let id = match version {
            Some(version) => format!("local://{}@{version}", program.display()),
            None => format!("local://{}", program.display()),
        };
        Ok(RunnableImage {
            id,
            commands,
            trees,
            working_dir: rule.working_dir.clone(),
            env: rule.env.clone(),
            entrypoint: rule.entrypoint.clone(),
            cmd: rule.cmd.clone(),
            options_go_to: rule.options_go_to.clone(),
        })
    }

    /// Resolves one of the table's three notations to a file or directory, without symlinks: a symlink could
    /// lead elsewhere in the container, which has another root.
    fn find(&self, image: &str, program: &str) -> Result<PathBuf, ImageError> {
        let candidate = if program.contains('/') {
            // `join` with an absolute path replaces the directory.
            Some(self.table.programs.join(program))
        } else {
            std::env::var_os("PATH").and_then(|path| {
                std::env::split_paths(&path)
                    .map(|directory| directory.join(program))
                    .find(|candidate| candidate.is_file())
            })
        };
        let found = candidate.filter(|path| path.exists()).map(|path| resolve_directory(&path));
        found.ok_or_else(|| ImageError::NoProgram {
            image: image.to_owned(),
            program: program.to_owned(),
            place: self.table.place.clone(),
        })
    }

    async fn checked_version(
        &self,
        image: &str,
        rule: &ImageRule,
        program: &Path,
    ) -> Result<Option<String>, ImageError> {
        if rule.version_arguments.is_empty() {
            return Ok(None);
        }
        let found = self.version(program, &rule.version_arguments).await;
        let Some(expected) = expected_version(split_reference(image).1) else { return Ok(found) };
        if found.as_deref().is_some_and(|found| version_fits(expected, found)) {
            return Ok(found);
        }
        Err(ImageError::Version {
            image: image.to_owned(),
            expected: expected.to_owned(),
            program: program.to_owned(),
            found: found.unwrap_or_else(|| "unknown".into()),
        })
    }

    async fn version(&self, program: &Path, arguments: &[String]) -> Option<String> {
        let changed = std::fs::metadata(program).and_then(|file| file.modified()).ok();
        let key = (program.to_owned(), changed);
        let cached = || self.versions.lock().ok()?.get(&key).cloned();
        if let Some(version) = cached() {
            return version;
        }
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(VERSION_DEADLINE, command.output()).await.ok()?.ok()?;
        // nutcracker prints its version to stderr.
        let text = [output.stdout, output.stderr].concat();
        let version = version_in(&String::from_utf8_lossy(&text)).map(str::to_owned);
        if let Ok(mut versions) = self.versions.lock() {
            versions.insert(key, version.clone());
        }
        version
    }
}

/// Resolves the symlinks of the directory but keeps the file name: `redis-sentinel` is a link to
/// `redis-server`, which behaves according to the name by which it is called. If the link leads out of its
/// directory, its target is returned, because that is the file to mount.
fn resolve_directory(path: &Path) -> PathBuf {
    let Ok(target) = path.canonicalize() else { return path.to_owned() };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return target };
    match parent.canonicalize() {
        Ok(parent) if target.parent() == Some(&parent) => parent.join(name),
        _ => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image(options_go_to: Option<&str>, entrypoint: &str, cmd: &str) -> RunnableImage {
        RunnableImage {
            id: String::new(),
            commands: BTreeMap::new(),
            trees: Vec::new(),
            working_dir: "/".into(),
            env: BTreeMap::new(),
            entrypoint: split(entrypoint),
            cmd: split(cmd),
            options_go_to: options_go_to.map(str::to_owned),
        }
    }

    #[test]
    fn command_and_args_override_as_in_kubernetes() {
        let redis = image(Some("redis-server"), "", "redis-server");
        let tool = image(None, "tool run", "fast");
        let cases = [
            (&redis, "", "", "redis-server"),
            (&redis, "", "--port 7000", "redis-server --port 7000"),
            (&redis, "", "/c/redis.conf --port 7", "redis-server /c/redis.conf --port 7"),
            (&redis, "", "redis-server --port 7000", "redis-server --port 7000"),
            (&redis, "sh -c", "true", "sh -c true"),
            (&redis, "redis-cli", "", "redis-cli"),
            (&tool, "", "", "tool run fast"),
            (&tool, "", "slow", "tool run slow"),
            (&tool, "other", "", "other"),
        ];
        for (image, command, args, expected) in cases {
            let argv = image.argv(&split(command), &split(args));
            assert_eq!(argv, split(expected), "command `{command}`, args `{args}`");
        }
    }

    fn images(rule: &str) -> ImageStore {
        let text = format!("images: [{rule}]");
        ImageStore::new(
            ImageTable::parse(&text, Path::new("t.yaml"), Path::new("/programs")).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_program_of_another_version_is_refused_and_both_are_named() {
        let images = images(
            "{repository: tool, program: /bin/sh, versionArguments: ['-c', 'echo tool v=7.0.15']}",
        );
        let pulled = images.pull("tool:7.0").await.unwrap();
        assert!(pulled.id.ends_with("@7.0.15"), "{}", pulled.id);
        let error = images.pull("tool:7.2").await.unwrap_err().to_string();
        assert!(error.contains("tool:7.2") && error.contains("7.0.15"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let images = images("{repository: tool, program: nosuch/tool}");
        let error = images.pull("tool").await.unwrap_err().to_string();
        assert!(error.contains("nosuch/tool") && error.contains("t.yaml"), "{error}");
    }
}
