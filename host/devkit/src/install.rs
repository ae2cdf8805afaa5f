//! Copies a plugin into the directory of a host. Each file is written under a temporary name and renamed, so that the
//! host never reads a partial file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Why a plugin could not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The directory does not exist.
    #[error("`{}` is not a directory: start the host with it, or name the one that the host watches with --plugins", .0.display())]
    NoDirectory(PathBuf),
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// Writes the component and the settings of a plugin into the directory of a host. A file whose content is equal
/// already is not written. The settings are written last, because a host that finds a component without settings
/// waits for them.
///
/// # Errors
///
/// Fails if the directory does not exist or cannot be written.
pub fn install(
    directory: &Path,
    name: &str,
    component: &[u8],
    settings: &[u8],
) -> Result<(), InstallError> {
    if !directory.is_dir() {
        return Err(InstallError::NoDirectory(directory.to_owned()));
    }
    for (file, bytes) in [(format!("{name}.wasm"), component), (format!("{name}.yaml"), settings)] {
        write_if_changed(directory, &file, bytes)?;
    }
    Ok(())
}

fn write_if_changed(directory: &Path, file: &str, bytes: &[u8]) -> Result<(), InstallError> {
    let path = directory.join(file);
    if fs::read(&path).is_ok_and(|content| content == bytes) {
        return Ok(());
    }
    let temporary = directory.join(format!(".{file}.new"));
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path));
    written.map_err(|source| {
        // The temporary file is useless; an error of its removal would hide the first one.
        fs::remove_file(&temporary).ok();
        InstallError::Write { path, source }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_replaced_by_a_rename_and_only_if_they_differ() {
        let home = tempfile::tempdir().unwrap();
        let inode = |file: &str| fs::metadata(home.path().join(file)).unwrap().ino();
        install(home.path(), "a", b"one", b"yaml").unwrap();
        let (component, settings) = (inode("a.wasm"), inode("a.yaml"));
        // Held open, so that the file system cannot reuse its inode for the new file.
        let _held = fs::File::open(home.path().join("a.wasm")).unwrap();
        install(home.path(), "a", b"two", b"yaml").unwrap();
        assert_eq!(fs::read(home.path().join("a.wasm")).unwrap(), b"two");
        assert_ne!(inode("a.wasm"), component, "a rename, not a write in place");
        assert_eq!(inode("a.yaml"), settings, "the same settings are no news");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "nothing is left aside");
    }

    #[test]
    fn a_missing_directory_is_refused_with_a_fix() {
        let home = tempfile::tempdir().unwrap();
        let error = install(&home.path().join("absent"), "a", b"", b"").unwrap_err();
        assert!(error.to_string().contains("--plugins"), "{error}");
    }
}
