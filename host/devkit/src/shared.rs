//! Target directories that projects share: projects with the same SDK use one target directory in the user's cache,
//! so that only the first of them compiles the crates that every plugin uses.
//!
//! Cargo identifies a package in a target directory by its name, its version and its path *within its project*. Two
//! projects could therefore get each other's build results. These rules prevent it:
//!
//! - A target directory is shared only by projects whose folder [`SDK_DIRECTORY`] has the same content.
//! - A package name belongs to one project at a time. Another project of that name waits for the lock of the name,
//!   and then deletes cargo's fingerprints of the package, so that cargo builds it again.
//! - A project with several packages of its own, or whose library is named differently from its package, does not
//!   share. Neither does a project for which the user named a target directory.
//!
//! At most [`DIRECTORIES_MAX`] shared directories are kept; the least recently used one is removed first.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::{
    SDK_DIRECTORY,
    build_error::{BuildError, CARGO_DEADLINE},
    stderr::print_line,
};

/// How many shared target directories are kept: the one of this SDK, and those of older SDKs.
const DIRECTORIES_MAX: usize = 3;
/// The pause between two attempts to take a lock.
const PAUSE: Duration = Duration::from_millis(100);

/// A project that can share: it has one package and uses cargo's default target directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SharedTargetProject {
    /// The project's directory.
    root: PathBuf,
    /// The package's name.
    package: String,
}

/// The locks that allow a project to be built in a shared directory, held until this value is dropped.
#[derive(Debug)]
pub(crate) struct SharedBuildLock {
    /// The target directory.
    pub(crate) directory: PathBuf,
    // Held because closing a file releases its lock.
    _directory_lock: File,
    _package_lock: File,
}

impl SharedTargetProject {
    /// Reads the output of `cargo metadata --no-deps` for the package with this manifest. Returns `None` if the
    /// project cannot share.
    pub(crate) fn of(metadata: &Value, manifest: &Path) -> Option<Self> {
        let path = |value: &Value| value.as_str().map(PathBuf::from);
        let root = path(&metadata["workspace_root"])?;
        let default_target = root.join("target");
        // An older cargo does not report `build_directory`.
        let build = path(&metadata["build_directory"]).unwrap_or_else(|| default_target.clone());
        let target = path(&metadata["target_directory"])?;
        let is_default = target == default_target && build == default_target;
        let [package] = metadata["packages"].as_array()?.as_slice() else { return None };
        let is_single_package =
            manifest == root.join("Cargo.toml") && path(&package["manifest_path"])? == manifest;
        let name = package["name"].as_str()?;
        let mut targets = package["targets"].as_array()?.iter();
        let is_component = |target: &&Value| {
            target["crate_types"]
                .as_array()
                .is_some_and(|crate_types| crate_types.contains(&"cdylib".into()))
        };
        let library = targets.find(is_component)?["name"].as_str()?;
        let mut path_dependencies = package["dependencies"]
            .as_array()?
            .iter()
            .filter_map(|dependency| path(&dependency["path"]));
        // A path dependency outside the project is no problem: its path is part of cargo's package identity.
        let has_distinct_paths = path_dependencies
            .all(|path| !path.starts_with(&root) || path.starts_with(root.join(SDK_DIRECTORY)));
        let can_share =
            is_default && is_single_package && has_distinct_paths && library == crate_name(name);
        can_share.then(|| Self { package: name.to_owned(), root })
    }

    /// Waits until this project may build in its shared directory, and returns the locks.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be used, or if another build of the same package name does not end in time.
    pub(crate) async fn lock(&self, base: &Path) -> Result<SharedBuildLock, BuildError> {
        let failed = |source| BuildError::Shared { path: base.to_owned(), source };
        let key = digest(&self.root.join(SDK_DIRECTORY)).map_err(failed)?;
        let directory = base.join(&key);
        let projects = directory.join(".projects");
        fs::create_dir_all(base).map_err(failed)?;
        let directory_lock =
            self.wait_for_lock(&base.join(format!("{key}.lock")), File::try_lock_shared).await?;
        directory_lock.set_modified(SystemTime::now()).map_err(failed)?;
        fs::create_dir_all(&projects).map_err(failed)?;
        shrink(base, &key).map_err(failed)?;
        let package_file = projects.join(crate_name(&self.package));
        let mut package_lock = self.wait_for_lock(&package_file, File::try_lock).await?;
        let mut owner = String::new();
        package_lock.read_to_string(&mut owner).map_err(failed)?;
        let own_root = self.root.to_string_lossy();
        if owner != own_root {
            self.forget_build(&directory).await?;
            let written = package_lock.set_len(0).and_then(|()| package_lock.rewind());
            written.and_then(|()| package_lock.write_all(own_root.as_bytes())).map_err(failed)?;
        }
        Ok(SharedBuildLock {
            directory,
            _directory_lock: directory_lock,
            _package_lock: package_lock,
        })
    }

    /// Deletes cargo's fingerprints of this package, so that cargo builds it again.
    async fn forget_build(&self, directory: &Path) -> Result<(), BuildError> {
        let failed = |source| BuildError::Shared { path: directory.to_owned(), source };
        for profile in profiles(directory).map_err(failed)? {
            // Cargo's own lock: a cargo whose `tholepin` was killed may still build here.
            let _lock = self.wait_for_lock(&profile.join(".cargo-lock"), File::try_lock).await?;
            for entry in fs::read_dir(profile.join(".fingerprint")).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if is_fingerprint_of(&entry.file_name().to_string_lossy(), &self.package) {
                    fs::remove_dir_all(entry.path()).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// Opens a lock file and waits until `take` gets its lock.
    async fn wait_for_lock(
        &self,
        path: &Path,
        take: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<File, BuildError> {
        let failed = |source| BuildError::Shared { path: path.to_owned(), source };
        let file = open_lock_file(path).map_err(failed)?;
        let start = Instant::now();
        let mut is_printed = false;
        loop {
            match take(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if start.elapsed() < CARGO_DEADLINE => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(BuildError::Busy(self.package.clone()));
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            if !is_printed {
                print_line(&format!("waiting for another build of `{}` to end", self.package));
                is_printed = true;
            }
            sleep(PAUSE).await;
        }
    }
}

/// Returns the crate name of a package. Cargo names files by it, so two packages with one crate name collide.
fn crate_name(package: &str) -> String {
    package.replace('-', "_")
}

/// Opens a lock file without changing its content; creates it if it does not exist.
fn open_lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Returns true if the name of a fingerprint, `PACKAGE-HASH`, belongs to this package.
fn is_fingerprint_of(fingerprint: &str, package: &str) -> bool {
    fingerprint.rsplit_once('-').is_some_and(|(name, _)| crate_name(name) == crate_name(package))
}

/// Returns the folders of a target directory that contain fingerprints: one for each profile and target.
fn profiles(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders(directory)? {
        for folder in folders(&folder)?.into_iter().chain([folder.clone()]) {
            if folder.join(".fingerprint").is_dir() {
                found.push(folder);
            }
        }
    }
    Ok(found)
}

fn folders(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Returns a digest of the paths and contents of all files below a folder. A missing folder counts as empty.
fn digest(folder: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    if folder.is_dir() {
        collect(folder, &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let name = file.strip_prefix(folder).map_err(io::Error::other)?;
        let content = fs::read(&file)?;
        hasher.update(format!("{}\0{}\0", name.display(), content.len()));
        hasher.update(content);
    }
    let digest = hasher.finalize();
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // Skips the output of a build of the SDK alone, and dot files of editors.
        let name = path.file_name().unwrap_or_default();
        if name == "target" || name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Removes the least recently used shared directories, except `newest` and those that are in use.
fn shrink(base: &Path, newest: &str) -> io::Result<()> {
    let mut used = Vec::new();
    for folder in folders(base)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lock = open_lock_file(&base.join(format!("{name}.lock")))?;
        if name != newest {
            used.push((lock.metadata()?.modified()?, folder, lock));
        }
    }
    used.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
    for (_, folder, lock) in used.into_iter().skip(DIRECTORIES_MAX - 1) {
        if lock.try_lock().is_ok() {
            fs::remove_dir_all(folder)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
