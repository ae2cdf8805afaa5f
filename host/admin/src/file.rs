//! The admin file, in which a host writes its address and token for the command line of the same user.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tholepin_http::write_private;

/// The largest admin file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The content of the admin file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminFile {
    /// The address of the admin API.
    pub address: SocketAddr,
    /// The bearer token that a request must have.
    pub token: String,
    /// The id of the host's process.
    pub pid: u32,
    /// The address of `/metrics`, `/healthz` and `/readyz`.
    pub metrics_address: SocketAddr,
}

/// Why an admin file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdminFileError {
    /// The file does not exist or cannot be read.
    #[error("cannot read `{}`", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Other users could have written or read it.
    #[error("`{}` is accessible to other users (mode {mode:o}): remove it and start the host again", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is not an admin file.
    #[error("`{}` is not an admin file of a host", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        source: serde_json::Error,
    },
}

impl AdminFile {
    /// Reads the file that a host wrote.
    ///
    /// # Errors
    ///
    /// Fails if the file does not exist, is accessible to other users, or is not an admin file.
    pub fn read(path: &Path) -> Result<Self, AdminFileError> {
        let unreadable = |source| AdminFileError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AdminFileError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        serde_json::from_str(&text)
            .map_err(|source| AdminFileError::Malformed { path: path.to_owned(), source })
    }
}

/// A written admin file. Dropping the guard removes the file, unless another host has replaced it by its own.
pub(crate) struct AdminFileGuard {
    path: PathBuf,
    content: AdminFile,
}

impl AdminFileGuard {
    /// Writes the file. A directory that does not exist is created for this user only; an existing one keeps its
    /// mode, because other programs may use it too.
    pub(crate) fn write(path: PathBuf, content: AdminFile) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
        {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        write_private(&path, format!("{:#}\n", serde_json::to_value(&content)?).as_bytes())?;
        Ok(Self { path, content })
    }
}

impl Drop for AdminFileGuard {
    fn drop(&mut self) {
        if AdminFile::read(&self.path).is_ok_and(|found| found == self.content) {
            // If it cannot be removed, a client that reads it gets the error that no host listens there.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn content(pid: u32) -> AdminFile {
        let (address, metrics_address) = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
        AdminFile { address, token: "t".to_owned(), pid, metrics_address }
    }

    #[test]
    fn a_file_is_private_and_removed_by_its_own_host_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/admin.json");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let first_guard = AdminFileGuard::write(path.clone(), content(1)).unwrap();
        assert_eq!([mode(&path), mode(path.parent().unwrap())], [0o600, 0o700]);
        let second_guard = AdminFileGuard::write(path.clone(), content(2)).unwrap();
        drop(first_guard);
        assert_eq!(AdminFile::read(&path).unwrap().pid, 2);
        drop(second_guard);
        assert!(matches!(AdminFile::read(&path), Err(AdminFileError::Unreadable { .. })));
    }

    #[test]
    fn an_accessible_or_malformed_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.json");
        let guard = AdminFileGuard::write(path.clone(), content(1)).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(AdminFile::read(&path), Err(AdminFileError::Exposed { mode: 0o640, .. })));
        write_private(&path, b"{}").unwrap();
        assert!(matches!(AdminFile::read(&path), Err(AdminFileError::Malformed { .. })));
        drop(guard);
        assert!(path.exists());
    }

    #[test]
    fn a_shared_directory_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let _guard = AdminFileGuard::write(folder.path().join("admin.json"), content(1)).unwrap();
        let mode = std::fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o755);
    }
}
