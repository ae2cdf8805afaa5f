//! Writes the files of a volume atomically: a reader sees either all old files or all new ones.
//!
//! ```text
//! ..2026-11-21T04:09:25.1Z/KEY   the files
//! ..data -> ..2026-11-21T…       replaced by a rename, which is the moment of the change
//! KEY -> ..data/KEY              the path that the container opens
//! ```
//!
//! The layout is that of Kubernetes (`pkg/volume/util/atomic_writer.go`), because programs watch `..data`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{VolumeFile, VolumeFiles};

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Writes exactly `files` to `directory`. Returns true if anything had to change.
///
/// `stamp` is the name of the new generation. It must differ from all names before.
///
/// # Errors
///
/// Returns an I/O error. Until the rename of `..data` the old files stay complete.
pub(crate) fn write(directory: &Path, files: &VolumeFiles, stamp: &str) -> io::Result<bool> {
    fs::create_dir_all(directory)?;
    let data = directory.join(DATA);
    let previous = fs::read_link(&data).ok();
    if previous.is_some() && holds(&data, files)? {
        return Ok(false);
    }
    let generation = format!("..{stamp}");
    for (path, file) in files {
        write_file(&directory.join(&generation).join(path), file)?;
    }
    fs::create_dir_all(directory.join(&generation))?;
    let next = directory.join(DATA_NEXT);
    remove_if_exists(&next)?;
    symlink(&generation, &next)?;
    fs::rename(&next, &data)?;
    link_names(directory, files)?;
    if let Some(previous) = previous.filter(|previous| previous.as_os_str() != generation.as_str())
    {
        fs::remove_dir_all(directory.join(previous))?;
    }
    Ok(true)
}

fn write_file(path: &Path, file: &VolumeFile) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, &file.bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(file.mode))
}

/// Returns true if the generation in `data` has the same files with the same bytes and modes.
fn holds(data: &Path, files: &VolumeFiles) -> io::Result<bool> {
    if count_files(data)? != files.len() {
        return Ok(false);
    }
    for (path, file) in files {
        let path = data.join(path);
        let Ok(metadata) = fs::metadata(&path) else { return Ok(false) };
        let same_mode = metadata.permissions().mode() & 0o777 == file.mode;
        if !same_mode || fs::read(&path)? != file.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn count_files(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

/// Creates one link per first path component, and removes the links that are not needed any more.
fn link_names(directory: &Path, files: &VolumeFiles) -> io::Result<()> {
    let names: BTreeSet<OsString> = files
        .keys()
        .filter_map(|path| path.components().next())
        .map(|first| first.as_os_str().to_owned())
        .collect();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with("..") && !names.contains(&name) {
            remove_if_exists(&directory.join(&name))?;
        }
    }
    for name in names {
        let link = directory.join(&name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(PathBuf::from(DATA).join(&name), link)?;
        }
    }
    Ok(())
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> VolumeFiles {
        let file = |text: &str| VolumeFile { bytes: text.as_bytes().to_vec(), mode: 0o640 };
        files.iter().map(|(path, text)| (PathBuf::from(path), file(text))).collect()
    }

    #[test]
    fn an_update_replaces_all_files_atomically_and_removes_the_old_ones() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        assert!(write(directory.path(), &payload(&[("a", "1"), ("d/b", "2")]), "one").unwrap());
        assert_eq!(fs::read_to_string(at("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(at("d/b")).unwrap(), "2");
        assert_eq!(fs::read_link(at("..data")).unwrap(), Path::new("..one"));
        assert_eq!(fs::metadata(at("a")).unwrap().permissions().mode() & 0o777, 0o640);

        assert!(!write(directory.path(), &payload(&[("a", "1"), ("d/b", "2")]), "two").unwrap());
        assert!(write(directory.path(), &payload(&[("a", "9"), ("c", "3")]), "three").unwrap());
        assert_eq!(fs::read_to_string(at("a")).unwrap(), "9");
        assert_eq!(fs::read_to_string(at("c")).unwrap(), "3");
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["..data", "..three", "a", "c"]);
    }

    #[test]
    fn an_empty_volume_is_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        assert!(write(directory.path(), &VolumeFiles::new(), "one").unwrap());
        assert!(!write(directory.path(), &VolumeFiles::new(), "two").unwrap());
    }
}
