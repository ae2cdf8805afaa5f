//! Chooses where cargo puts what it builds: projects that bring the same SDK share one target directory among the
//! user's caches, so that only the first of them compiles what every plugin uses.
//!
//! Cargo tells packages in one target directory apart by their names, versions and places *in their project*. So
//! two projects could take each other's results for their own, and this module prevents it:
//!
//! - A target directory is shared by projects whose folder [`BROUGHT`] has the same content, and by no others.
//! - A package name belongs to one project at a time. Another project of that name waits for its turn, and has cargo
//!   forget what the first one built.
//! - A project with other packages of its own, or whose library has another name than its package, does not share.
//!   Neither does one for which the user named a target directory.
//!
//! At most [`DIRECTORIES_MAX`] shared directories are kept; the least recently used goes first.

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
    BROUGHT,
    build_error::{BuildError, CARGO_DEADLINE},
    stderr::note,
};

/// How many shared target directories are kept: that of this SDK, and those of older ones.
const DIRECTORIES_MAX: usize = 3;
/// The pause between two tries to take a lock.
const PAUSE: Duration = Duration::from_millis(100);

/// A project that can share: it is one package, and cargo's defaults say where it is built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SharedBuild {
    /// The project's directory.
    root: PathBuf,
    /// The package's name.
    package: String,
}

/// The right to build a project in a shared directory, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct SharedBuildLock {
    /// The target directory.
    pub(crate) directory: PathBuf,
    // Held for their locks.
    _directory_lock: File,
    _package_lock: File,
}

impl SharedBuild {
    /// Reads what `cargo metadata --no-deps` says of the package with this manifest.
    pub(crate) fn of(metadata: &Value, manifest: &Path) -> Option<Self> {
        let path = |value: &Value| value.as_str().map(PathBuf::from);
        let root = path(&metadata["workspace_root"])?;
        let usual = root.join("target");
        // An older cargo has no `build_directory`.
        let build = path(&metadata["build_directory"]).unwrap_or_else(|| usual.clone());
        let is_usual = path(&metadata["target_directory"])? == usual && build == usual;
        let [package] = metadata["packages"].as_array()?.as_slice() else { return None };
        let is_alone =
            manifest == root.join("Cargo.toml") && path(&package["manifest_path"])? == manifest;
        let name = package["name"].as_str()?;
        let mut targets = package["targets"].as_array()?.iter();
        let is_component = |target: &&Value| {
            target["crate_types"].as_array().is_some_and(|it| it.contains(&"cdylib".into()))
        };
        let library = targets.find(is_component)?["name"].as_str()?;
        let mut brought =
            package["dependencies"].as_array()?.iter().filter_map(|it| path(&it["path"]));
        // A path outside the project is part of what cargo tells packages apart by.
        let is_brought =
            brought.all(|path| !path.starts_with(&root) || path.starts_with(root.join(BROUGHT)));
        let is_sharer = is_usual && is_alone && is_brought && library == crate_name(name);
        is_sharer.then(|| Self { package: name.to_owned(), root })
    }

    /// Waits until this project may build in the directory that it shares.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be used, or if others do not end their builds in time.
    pub(crate) async fn turn(&self, base: &Path) -> Result<SharedBuildLock, BuildError> {
        let failed = |source| BuildError::Shared { path: base.to_owned(), source };
        let key = digest(&self.root.join(BROUGHT)).map_err(failed)?;
        let directory = base.join(&key);
        let projects = directory.join(".projects");
        fs::create_dir_all(base).map_err(failed)?;
        let directory_lock = open(&base.join(format!("{key}.lock"))).map_err(failed)?;
        self.wait(&directory_lock, File::try_lock_shared).await?;
        directory_lock.set_modified(SystemTime::now()).map_err(failed)?;
        fs::create_dir_all(&projects).map_err(failed)?;
        shrink(base, &key).map_err(failed)?;
        let mut package_lock = open(&projects.join(crate_name(&self.package))).map_err(failed)?;
        self.wait(&package_lock, File::try_lock).await?;
        let mut owner = String::new();
        package_lock.read_to_string(&mut owner).map_err(failed)?;
        let own = self.root.to_string_lossy();
        if owner != own {
            self.forget(&directory).await?;
            let written = package_lock.set_len(0).and_then(|()| package_lock.rewind());
            written.and_then(|()| package_lock.write_all(own.as_bytes())).map_err(failed)?;
        }
        Ok(SharedBuildLock {
            directory,
            _directory_lock: directory_lock,
            _package_lock: package_lock,
        })
    }

    /// Has cargo forget what it built of this package, so that it builds it anew.
    async fn forget(&self, directory: &Path) -> Result<(), BuildError> {
        let failed = |source| BuildError::Shared { path: directory.to_owned(), source };
        for profile in profiles(directory).map_err(failed)? {
            // Cargo's own lock: one whose `tholepin` was killed may still be at work here.
            let lock = open(&profile.join(".cargo-lock")).map_err(failed)?;
            self.wait(&lock, File::try_lock).await?;
            for entry in fs::read_dir(profile.join(".fingerprint")).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if is_of(&entry.file_name().to_string_lossy(), &self.package) {
                    fs::remove_dir_all(entry.path()).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    async fn wait(
        &self,
        lock: &File,
        take: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<(), BuildError> {
        let start = Instant::now();
        let mut is_told = false;
        loop {
            match take(lock) {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if start.elapsed() < CARGO_DEADLINE => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(BuildError::Busy(self.package.clone()));
                }
                Err(TryLockError::Error(source)) => {
                    return Err(BuildError::Shared { path: self.root.clone(), source });
                }
            }
            if !is_told {
                note(&format!("waiting for another build of `{}` to end", self.package));
                is_told = true;
            }
            sleep(PAUSE).await;
        }
    }
}

/// Names of packages that make files of the same name are equal.
fn crate_name(package: &str) -> String {
    package.replace('-', "_")
}

/// Opens a file that others may hold a lock of; makes it if it is missing.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Whether a fingerprint, `PACKAGE-HASH`, is of this package.
fn is_of(fingerprint: &str, package: &str) -> bool {
    fingerprint.rsplit_once('-').is_some_and(|(name, _)| crate_name(name) == crate_name(package))
}

/// The folders of a target directory in which cargo keeps fingerprints: one for each profile and target.
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

/// A digest of the files below a folder, by their paths in it; a missing folder has none.
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
        // Somebody may have built the SDK alone, or have an editor's files there.
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

/// Removes the shared directories that were not used for longest, but neither `newest` nor one that is in use.
fn shrink(base: &Path, newest: &str) -> io::Result<()> {
    let mut used = Vec::new();
    for folder in folders(base)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lock = open(&base.join(format!("{name}.lock")))?;
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
