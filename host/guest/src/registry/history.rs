//! The history of revisions: keeps the last revisions of each plugin on disk, so that an earlier one can serve
//! again, also after a restart of the host.
//!
//! ```text
//! BASE/HASH/directory              the path of the plugin directory
//! BASE/HASH/NAME/history.json      the order of the revisions, and which were rolled back
//! BASE/HASH/NAME/REVISION/         settings and component, under their original file names
//! ```
//!
//! Only this user can read the directory. A revision that is loaded from it goes through the same checks as a
//! new file.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tholepin_core::{PluginName, RevisionDigest};

use crate::{cache, component, plugin::LoadedPlugin};

/// The number of revisions kept for each plugin.
pub(crate) const REVISIONS_MAX: usize = 5;
/// The number of plugins with a history; the one that changed longest ago is removed first.
const PLUGINS_MAX: usize = 128;
/// The file with the [`PluginHistory`] of a plugin.
const INDEX: &str = "history.json";
/// The file with the path of the plugin directory.
const DIRECTORY_FILE: &str = "directory";
/// The age after which the history of a plugin directory that no longer exists is removed.
const STALE_AGE_MAX: Duration = Duration::from_secs(86_400);

/// The last revisions of a plugin that served, the newest last.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PluginHistory {
    /// The revisions in the order of their last activation, each once.
    pub revisions: Vec<PluginRevisionRecord>,
    /// Set while an earlier revision serves instead of the file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackRecord>,
    /// A revision that a person chose although it had been rolled back. The host does not roll it back again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insisted: Option<RevisionDigest>,
}

/// A revision that serves or has served.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PluginRevisionRecord {
    /// The revision.
    pub revision: RevisionDigest,
    /// The SHA-256 of its component, in hex.
    pub component: String,
    /// The version in its manifest.
    pub version: String,
    /// When it began to serve, in milliseconds since 1970.
    pub activated_at_ms: u64,
    /// Why the revision was rolled back; absent if it was not. The host never chooses such a revision by itself.
    #[serde(default, rename = "takenBack", skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<String>,
}

/// A rollback: an earlier revision serves instead of the file's. The rollback ends when the file has another
/// revision, that is, another component or another `spec` in its settings.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RollbackRecord {
    /// The file's revision, which is refused.
    pub refused: RevisionDigest,
    /// The revision that serves instead.
    pub serving: RevisionDigest,
    /// The reason for people.
    pub why: String,
    /// The time of the rollback, in milliseconds since 1970.
    pub at_ms: u64,
    /// True if a person requested the rollback, false if the host decided it.
    #[serde(default)]
    pub is_by_hand: bool,
}

impl PluginHistory {
    /// Returns the revision whose digest begins with `prefix`.
    ///
    /// # Errors
    ///
    /// Fails with the number of matching revisions if that is not 1, or if `prefix` is empty.
    pub(crate) fn find(&self, prefix: &str) -> Result<&PluginRevisionRecord, usize> {
        let fitting = || self.revisions.iter().filter(|kept| kept.revision.0.starts_with(prefix));
        match (fitting().next(), fitting().count()) {
            (Some(record), 1) if !prefix.is_empty() => Ok(record),
            (_, count) => Err(count),
        }
    }

    /// Returns when a revision began to serve, in milliseconds since 1970; the current time if another revision
    /// served last.
    pub(crate) fn since_ms(&self, revision: &RevisionDigest) -> u64 {
        let last = self.revisions.last().filter(|last| last.revision == *revision);
        last.map_or_else(now_ms, |last| last.activated_at_ms)
    }

    /// Returns the latest revision other than this one that was not rolled back.
    pub(crate) fn last_good_before(
        &self,
        revision: &RevisionDigest,
    ) -> Option<&PluginRevisionRecord> {
        let mut others = self.revisions.iter().rev().filter(|kept| kept.revision != *revision);
        others.find(|kept| kept.rolled_back.is_none())
    }

    /// Records that a revision begins to serve, and returns the revisions that are no longer kept.
    fn activated(&mut self, record: PluginRevisionRecord) -> Vec<RevisionDigest> {
        self.revisions.retain(|kept| kept.revision != record.revision);
        self.revisions.push(record);
        let excess = self.revisions.len().saturating_sub(REVISIONS_MAX);
        self.revisions.drain(..excess).map(|kept| kept.revision).collect()
    }
}

/// Why and since when a revision serves.
#[derive(Clone, Debug)]
pub(crate) struct RevisionServingStart {
    /// When it began to serve, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// The rollback, if it is not the file's revision.
    pub(crate) rollback: Option<RollbackRecord>,
    /// True if a person chose it although it had been rolled back.
    pub(crate) is_insisted: bool,
}

/// The stored histories of all plugins of one plugin directory. Without a directory, nothing is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct PluginRevisionHistoryStore {
    directory: Option<PathBuf>,
}

impl PluginRevisionHistoryStore {
    /// Opens the store of the plugin directory `plugins` below `base`. Creates `base` if it is missing, and sets its
    /// mode to 0700.
    ///
    /// # Errors
    ///
    /// Fails if a directory cannot be created, is a link, or belongs to another user.
    pub(crate) fn open(base: &Path, plugins: &Path) -> io::Result<Self> {
        cache::create_private_directory(base)?;
        remove_stale(base)?;
        let plugins = fs::canonicalize(plugins)?;
        let directory = base.join(component::wasm_digest(plugins.as_os_str().as_bytes()));
        cache::create_private_directory(&directory)?;
        fs::write(directory.join(DIRECTORY_FILE), plugins.as_os_str().as_bytes())?;
        Ok(Self { directory: Some(directory) })
    }

    /// Returns the history of a plugin; empty if there is none or it cannot be read.
    pub(crate) fn read(&self, name: &PluginName) -> PluginHistory {
        let Some(path) = self.plugin_directory(name).map(|directory| directory.join(INDEX)) else {
            return PluginHistory::default();
        };
        let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
        read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                let path = path.display();
                tracing::warn!(%path, %error, "cannot read the history of a plugin; starting a new one");
            }
            PluginHistory::default()
        })
    }

    /// Returns the directory of a revision's files.
    pub(crate) fn files(&self, name: &PluginName, revision: &RevisionDigest) -> Option<PathBuf> {
        self.plugin_directory(name).map(|directory| directory.join(&revision.0))
    }

    /// Records that a revision serves since `since_ms`, and stores its files: `settings` is its `Plugin` object,
    /// and `component` the path of its component.
    ///
    /// # Errors
    ///
    /// Fails if the files cannot be stored, for example on a full disk, or if the component changed meanwhile.
    pub(crate) fn keep(
        &self,
        plugin: &LoadedPlugin,
        settings: &Value,
        component: &Path,
        since_ms: u64,
    ) -> io::Result<()> {
        let name = &plugin.name;
        let Some(files) = self.files(name, &plugin.digest) else { return Ok(()) };
        if !files.is_dir() {
            let bytes = fs::read(component)?;
            if component::wasm_digest(&bytes) != plugin.component_digest {
                return Err(io::Error::other("the component was replaced meanwhile"));
            }
            let file = component.file_name().unwrap_or_default();
            let temporary = files.with_file_name(format!(".{}.new", plugin.digest));
            fs::create_dir_all(&temporary)?;
            fs::write(temporary.join(file), bytes)?;
            fs::write(temporary.join(format!("{name}.yaml")), settings.to_string())?;
            fs::rename(&temporary, &files)?;
        }
        self.record_activation(
            plugin,
            RevisionServingStart { since_ms, rollback: None, is_insisted: false },
        )
    }

    /// Records that a revision begins to serve whose files are already stored.
    ///
    /// # Errors
    ///
    /// Fails if the history cannot be written.
    pub(crate) fn record_activation(
        &self,
        plugin: &LoadedPlugin,
        RevisionServingStart { since_ms, rollback, is_insisted }: RevisionServingStart,
    ) -> io::Result<()> {
        let name = &plugin.name;
        let mut history = self.read(name);
        let removed = history.activated(PluginRevisionRecord {
            revision: plugin.digest.clone(),
            component: plugin.component_digest.clone(),
            version: plugin.manifest.version.clone(),
            activated_at_ms: since_ms,
            rolled_back: None,
        });
        if let Some(rollback) = &rollback {
            let refused =
                history.revisions.iter_mut().find(|kept| kept.revision == rollback.refused);
            // The first reason is kept, because later rollbacks of the same revision do not say what
            // was wrong with it.
            refused.into_iter().for_each(|kept| {
                kept.rolled_back.get_or_insert_with(|| rollback.why.clone());
            });
        }
        history.rollback = rollback;
        history.insisted = is_insisted.then(|| plugin.digest.clone());
        self.write(name, &history)?;
        for files in removed.iter().filter_map(|revision| self.files(name, revision)) {
            // Files that cannot be removed only take disk space.
            let _ = fs::remove_dir_all(files);
        }
        self.remove_oldest()
    }

    /// Writes to a temporary file, then renames it.
    fn write(&self, name: &PluginName, history: &PluginHistory) -> io::Result<()> {
        let Some(directory) = self.plugin_directory(name) else { return Ok(()) };
        fs::create_dir_all(&directory)?;
        let temporary = directory.join(format!(".{INDEX}.new"));
        fs::write(&temporary, serde_json::to_vec_pretty(history)?)?;
        fs::rename(temporary, directory.join(INDEX))
    }

    /// Removes the histories that changed longest ago, until [`PLUGINS_MAX`] are left.
    fn remove_oldest(&self) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let mut histories = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            let changed = fs::metadata(path.join(INDEX)).and_then(|index| index.modified());
            histories.push((changed.unwrap_or(UNIX_EPOCH), path));
        }
        histories.sort();
        let excess = histories.len().saturating_sub(PLUGINS_MAX);
        for (_, path) in histories.into_iter().take(excess) {
            fs::remove_dir_all(path)?;
        }
        Ok(())
    }

    fn plugin_directory(&self, name: &PluginName) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| directory.join(name.as_str()))
    }
}

/// Removes the histories of plugin directories that do not exist and whose history was not opened for
/// [`STALE_AGE_MAX`].
fn remove_stale(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        let Ok(plugins) = fs::read(path.join(DIRECTORY_FILE)) else { continue };
        let exists = Path::new(OsStr::from_bytes(&plugins)).exists();
        let age = fs::metadata(path.join(DIRECTORY_FILE))
            .and_then(|file| file.modified())
            .map(|at| at.elapsed());
        if !exists && matches!(age, Ok(Ok(age)) if STALE_AGE_MAX < age) {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Returns the system time in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let elapsed: Duration = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: &str, rolled_back: bool) -> PluginRevisionRecord {
        PluginRevisionRecord {
            revision: RevisionDigest(revision.to_owned()),
            component: String::new(),
            version: "1".to_owned(),
            activated_at_ms: 1,
            rolled_back: rolled_back.then(|| "it trapped".to_owned()),
        }
    }

    fn history(revisions: &[(&str, bool)]) -> PluginHistory {
        let revisions = revisions.iter().map(|(name, bad)| record(name, *bad)).collect();
        PluginHistory { revisions, ..PluginHistory::default() }
    }

    #[test]
    fn the_last_five_are_kept_each_once() {
        let mut kept = history(&[("a", false), ("b", false), ("c", false), ("d", false)]);
        assert!(kept.activated(record("e", false)).is_empty());
        assert!(kept.activated(record("a", false)).is_empty(), "it is kept already");
        assert_eq!(kept.activated(record("f", false)), [RevisionDigest("b".to_owned())]);
        let names: Vec<&str> = kept.revisions.iter().map(|kept| kept.revision.0.as_str()).collect();
        assert_eq!(names, ["c", "d", "e", "a", "f"]);
    }

    #[test]
    fn a_revision_that_was_rolled_back_is_not_chosen_again() {
        let kept = history(&[("a", false), ("b", true), ("c", false)]);
        let before = |revision: &str| {
            kept.last_good_before(&RevisionDigest(revision.to_owned())).map(|kept| &kept.revision.0)
        };
        assert_eq!(before("c").map(String::as_str), Some("a"));
        assert_eq!(before("a").map(String::as_str), Some("c"));
        assert_eq!(history(&[("a", false)]).last_good_before(&RevisionDigest("a".into())), None);
    }

    #[test]
    fn a_revision_is_found_by_the_beginning_of_its_digest() {
        let kept = history(&[("abc", false), ("abd", false)]);
        assert_eq!(kept.find("abd").unwrap().revision.0, "abd");
        assert_eq!(kept.find("ab").unwrap_err(), 2);
        assert_eq!(kept.find("").unwrap_err(), 2);
        assert_eq!(kept.find("x").unwrap_err(), 0);
    }

    #[test]
    fn a_damaged_history_starts_anew_and_the_oldest_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let store =
            PluginRevisionHistoryStore::open(&home.path().join("base"), home.path()).unwrap();
        let name: PluginName = "p".parse().unwrap();
        assert_eq!(store.read(&name), PluginHistory::default());
        let kept = history(&[("a", false)]);
        store.write(&name, &kept).unwrap();
        assert_eq!(store.read(&name), kept);
        fs::write(store.plugin_directory(&name).unwrap().join(INDEX), "{").unwrap();
        assert_eq!(store.read(&name), PluginHistory::default());
        for number in 0..PLUGINS_MAX {
            store.write(&format!("p{number}").parse().unwrap(), &kept).unwrap();
        }
        let oldest: PluginName = "p7".parse().unwrap();
        let index = fs::File::open(store.plugin_directory(&oldest).unwrap().join(INDEX)).unwrap();
        index.set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        store.remove_oldest().unwrap();
        assert_eq!(store.read(&oldest), PluginHistory::default());
        assert_eq!(store.read(&"p8".parse().unwrap()), kept);
    }

    #[test]
    fn the_history_of_a_directory_that_was_deleted_long_ago_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let (base, plugins) = (home.path().join("base"), home.path().join("plugins"));
        fs::create_dir(&plugins).unwrap();
        let store = PluginRevisionHistoryStore::open(&base, &plugins).unwrap();
        let count = || fs::read_dir(&base).unwrap().count();
        PluginRevisionHistoryStore::open(&base, home.path()).unwrap();
        assert_eq!(count(), 2);
        fs::remove_dir(&plugins).unwrap();
        PluginRevisionHistoryStore::open(&base, home.path()).unwrap();
        assert_eq!(count(), 2, "the directory may be created again");
        let long_ago = SystemTime::now() - STALE_AGE_MAX * 2;
        fs::File::open(store.directory.unwrap().join(DIRECTORY_FILE))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        PluginRevisionHistoryStore::open(&base, home.path()).unwrap();
        assert_eq!(count(), 1);
    }
}
