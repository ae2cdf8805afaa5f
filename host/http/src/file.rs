//! Files that only this user can read, in which tokens and keys are passed to the user's other programs.

use std::{
    fs::{DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Writes a file that only this user can read. It is written under a temporary name and renamed, so that readers
/// never see a partial file.
///
/// # Errors
///
/// Fails if the file cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("partial");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

/// Creates a directory that only this user can enter, or removes the permissions of others on an existing one.
///
/// # Errors
///
/// Fails if the directory cannot be created, or belongs to another user.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_complete_and_private_also_if_it_replaces_a_public_one() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, mode) = (folder.path().join("a/b"), |path: &Path| {
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777
        });
        private_directory(&inner).unwrap();
        let file = inner.join("secret.json");
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        write_private(&file, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!([mode(&inner), mode(&file)], [0o700, 0o600]);
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1, "nothing is left beside it");
    }
}
