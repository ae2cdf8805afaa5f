//! Creates and removes the directories of volumes.
//!
//! ```text
//! DIRECTORY/pvc-UID/volume.json   the marker: which volume and claim the directory belongs to
//! DIRECTORY/pvc-UID/data/         the files that Pods see
//! ```
//!
//! Invariant: only a directory directly below the volume directory is removed, never a symbolic link, and
//! only if its marker names the same volume.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file name of the marker.
const MARKER: &str = "volume.json";
/// The prefix of the names of volumes that are created on demand.
const PREFIX: &str = "pvc-";

/// The content of the marker.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VolumeMarker {
    volume: String,
    claim: String,
}

/// Returns the directory with the data of a volume.
pub fn data_directory(directory: &Path, volume: &str) -> PathBuf {
    directory.join(volume).join("data")
}

/// Creates the directory of a volume for `claim` (namespace/name). Existing data is kept.
///
/// # Errors
///
/// Returns an error if the directory cannot be created.
pub(super) fn make(directory: &Path, volume: &str, claim: &str) -> io::Result<()> {
    let data = data_directory(directory, volume);
    DirBuilder::new().recursive(true).mode(0o700).create(&data)?;
    let marker = VolumeMarker { volume: volume.to_owned(), claim: claim.to_owned() };
    fs::write(directory.join(volume).join(MARKER), serde_json::to_vec(&marker)?)
}

/// Removes the directory of a volume with all data. It is not an error if the directory does not exist.
///
/// # Errors
///
/// Returns an error if the directory is not one of this module's, or cannot be removed.
pub(super) fn remove(directory: &Path, volume: &str) -> io::Result<()> {
    let path = directory.join(volume);
    let is_plain = volume.starts_with(PREFIX) && !volume.contains('/') && volume != PREFIX;
    if !is_plain {
        return Err(refused(&path, "its name is not that of a volume of a local host"));
    }
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.is_dir() => return Err(refused(&path, "it is not a directory")),
        Ok(_) => {}
    }
    let marker = fs::read(path.join(MARKER)).ok();
    let marker = marker.and_then(|marker| serde_json::from_slice::<VolumeMarker>(&marker).ok());
    if marker.is_none_or(|marker| marker.volume != volume) {
        return Err(refused(&path, "it has no marker of this volume"));
    }
    fs::remove_dir_all(path)
}

/// Renames the directory with the volumes of an earlier run to the first free name `volumes-N`. Returns the
/// new path, or `None` if there are no volumes.
///
/// # Errors
///
/// Returns an error if the directory cannot be renamed.
pub fn move_aside(directory: &Path) -> io::Result<Option<PathBuf>> {
    if fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none()) {
        return Ok(None);
    }
    let names = (1..=u32::MAX).map(|number| directory.with_file_name(format!("volumes-{number}")));
    let free = names.into_iter().find(|path| !path.exists());
    let free = free.ok_or_else(|| {
        io::Error::other("no name `volumes-N` is free for the volumes of an earlier run")
    })?;
    fs::rename(directory, &free)?;
    Ok(Some(free))
}

/// Removes all volumes of an earlier run, to which no object of the API server refers any more. Returns their
/// names. Directories that this module did not create stay.
pub fn remove_all(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut removed: Vec<String> = names.filter(|name| remove(directory, name).is_ok()).collect();
    removed.sort();
    removed
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("`{}` is not removed: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_made_kept_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), "pvc-1", "a/c").unwrap();
        let file = data_directory(folder.path(), "pvc-1").join("dump.rdb");
        fs::write(&file, "data").unwrap();
        make(folder.path(), "pvc-1", "a/c").unwrap();
        assert!(file.exists(), "making it again keeps the data");
        remove(folder.path(), "pvc-1").unwrap();
        assert!(!folder.path().join("pvc-1").exists());
        remove(folder.path(), "pvc-1").unwrap();
    }

    #[test]
    fn volumes_of_an_earlier_run_are_moved_aside_and_none_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = folder.path().join("volumes");
        assert_eq!(move_aside(&volumes).unwrap(), None);
        for number in 1..=2 {
            make(&volumes, "pvc-1", "a/c").unwrap();
            fs::write(data_directory(&volumes, "pvc-1").join("dump.rdb"), "data").unwrap();
            let aside = move_aside(&volumes).unwrap().unwrap();
            assert_eq!(aside, folder.path().join(format!("volumes-{number}")));
            assert!(data_directory(&aside, "pvc-1").join("dump.rdb").exists());
        }
    }

    #[test]
    fn directories_of_others_are_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        make(elsewhere.path(), "pvc-link", "a/c").unwrap();
        fs::create_dir(folder.path().join("pvc-unmarked")).unwrap();
        make(folder.path(), "pvc-1", "a/c").unwrap();
        fs::rename(folder.path().join("pvc-1"), folder.path().join("pvc-other")).unwrap();
        let link = folder.path().join("pvc-link");
        std::os::unix::fs::symlink(elsewhere.path().join("pvc-link"), link).unwrap();
        fs::create_dir(folder.path().join("precious")).unwrap();
        for name in
            ["pvc-unmarked", "pvc-other", "pvc-link", "precious", "pvc-", "pvc-/../precious", ".."]
        {
            assert!(remove(folder.path(), name).is_err(), "{name}");
        }
        make(folder.path(), "pvc-2", "a/c").unwrap();
        assert_eq!(remove_all(folder.path()), ["pvc-2"]);
        assert!(folder.path().join("precious").exists());
        assert!(elsewhere.path().join("pvc-link").exists());
    }
}
