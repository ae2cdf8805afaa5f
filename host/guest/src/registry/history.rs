//! Keeps the last revisions of each plugin on disk, so that an earlier one can serve again, also after the
//! host was started anew.
//!
//! ```text
//! BASE/HASH/directory              the directory of plugins that this is about
//! BASE/HASH/NAME/history.json      the order, and which revision was taken back
//! BASE/HASH/NAME/REVISION/         settings and component, under the names that they had
//! ```
//!
//! The directory is closed to others. What is read back goes through the same checks as a new file.

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

/// How many revisions of a plugin are kept.
pub(crate) const REVISIONS_MAX: usize = 5;
/// Of how many plugins; the one that changed longest ago goes first.
const PLUGINS_MAX: usize = 128;
/// The order of a plugin's revisions.
const INDEX: &str = "history.json";
/// Names the directory of plugins.
const OF: &str = "directory";
/// What is kept for a directory of plugins that is gone is removed after this.
const GONE_AGE_MAX: Duration = Duration::from_secs(86_400);

/// The revisions of a plugin that served last, the newest last.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PluginHistory {
    /// Each revision once, where it was activated last.
    pub revisions: Vec<RevisionRecord>,
    /// Set while an earlier revision serves in place of the file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackRecord>,
    /// A revision that a person wanted all the same after it was taken back: it is not taken back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insisted: Option<RevisionDigest>,
}

/// A revision that serves or has served.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RevisionRecord {
    /// Which revision.
    pub revision: RevisionDigest,
    /// The SHA-256 of its component, in hex.
    pub component: String,
    /// The version that its manifest tells.
    pub version: String,
    /// When it began to serve, in milliseconds since 1970.
    pub activated_at_ms: u64,
    /// Why another one was put in its place; absent if none was. Such a revision is not gone back to by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<String>,
}

/// An earlier revision serves in place of the file's. A file with another revision ends it: another component,
/// or another `spec` of the settings.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RollbackRecord {
    /// The revision that is refused until the file has another.
    pub refused: RevisionDigest,
    /// The revision that serves in its place.
    pub serving: RevisionDigest,
    /// Why, in words.
    pub why: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether a person asked for it, and not the host by itself.
    #[serde(default)]
    pub is_by_hand: bool,
}

impl PluginHistory {
    /// The revision whose digest begins with this text.
    ///
    /// # Errors
    ///
    /// Fails with the number of revisions that fit, if that is not one.
    pub(crate) fn find(&self, prefix: &str) -> Result<&RevisionRecord, usize> {
        let fitting = || self.revisions.iter().filter(|it| it.revision.0.starts_with(prefix));
        match (fitting().next(), fitting().count()) {
            (Some(record), 1) if !prefix.is_empty() => Ok(record),
            (_, count) => Err(count),
        }
    }

    /// Since when a revision serves, in milliseconds since 1970: from now on, if another one served last.
    pub(crate) fn since_ms(&self, revision: &RevisionDigest) -> u64 {
        let last = self.revisions.last().filter(|last| last.revision == *revision);
        last.map_or_else(now_ms, |last| last.activated_at_ms)
    }

    /// The revision that served before this one and was not taken back.
    pub(crate) fn last_good_before(&self, revision: &RevisionDigest) -> Option<&RevisionRecord> {
        let mut others = self.revisions.iter().rev().filter(|it| it.revision != *revision);
        others.find(|it| it.taken_back.is_none())
    }

    /// Notes that a revision begins to serve; gives those that are no longer kept.
    fn activated(&mut self, record: RevisionRecord) -> Vec<RevisionDigest> {
        self.revisions.retain(|it| it.revision != record.revision);
        self.revisions.push(record);
        let excess = self.revisions.len().saturating_sub(REVISIONS_MAX);
        self.revisions.drain(..excess).map(|it| it.revision).collect()
    }
}

/// How a revision came to serve.
#[derive(Clone, Debug)]
pub(crate) struct RevisionOrigin {
    /// Since when it serves, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// In place of which one, if it is not the file's.
    pub(crate) rollback: Option<RollbackRecord>,
    /// Whether a person insists on it.
    pub(crate) is_insisted: bool,
}

/// Where all histories of a directory of plugins are; nothing is kept if that is nowhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct HistoryStore {
    directory: Option<PathBuf>,
}

impl HistoryStore {
    /// Uses what a base, which is made if it is missing and closed to others, has for a directory of plugins.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be made, is a link, or belongs to another user.
    pub(crate) fn open(base: &Path, of: &Path) -> io::Result<Self> {
        cache::secure(base)?;
        drop_gone(base)?;
        let of = fs::canonicalize(of)?;
        let directory = base.join(component::wasm_digest(of.as_os_str().as_bytes()));
        cache::secure(&directory)?;
        fs::write(directory.join(OF), of.as_os_str().as_bytes())?;
        Ok(Self { directory: Some(directory) })
    }

    /// The history of a plugin; empty if there is none, or none that can be read.
    pub(crate) fn read(&self, name: &PluginName) -> PluginHistory {
        let Some(path) = self.of(name).map(|of| of.join(INDEX)) else {
            return PluginHistory::default();
        };
        let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
        read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                let path = path.display();
                tracing::warn!(%path, %error, "the history of a plugin cannot be read; it begins anew");
            }
            PluginHistory::default()
        })
    }

    /// Where the files of a revision are.
    pub(crate) fn files(&self, name: &PluginName, revision: &RevisionDigest) -> Option<PathBuf> {
        self.of(name).map(|of| of.join(&revision.0))
    }

    /// Notes that a revision serves since this time, and keeps its files: `settings` is its `Plugin` object,
    /// and `component` the path of its component.
    ///
    /// # Errors
    ///
    /// Fails if the files cannot be kept, such as on a full disk, or if the component changed meanwhile.
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
            let beside = files.with_file_name(format!(".{}.new", plugin.digest));
            fs::create_dir_all(&beside)?;
            fs::write(beside.join(file), bytes)?;
            fs::write(beside.join(format!("{name}.yaml")), settings.to_string())?;
            fs::rename(&beside, &files)?;
        }
        self.note(plugin, RevisionOrigin { since_ms, rollback: None, is_insisted: false })
    }

    /// Notes that a revision begins to serve whose files are kept already.
    ///
    /// # Errors
    ///
    /// Fails if that cannot be written.
    pub(crate) fn note(
        &self,
        plugin: &LoadedPlugin,
        RevisionOrigin { since_ms, rollback, is_insisted }: RevisionOrigin,
    ) -> io::Result<()> {
        let name = &plugin.name;
        let mut history = self.read(name);
        let gone = history.activated(RevisionRecord {
            revision: plugin.digest.clone(),
            component: plugin.component_digest.clone(),
            version: plugin.manifest.version.clone(),
            activated_at_ms: since_ms,
            taken_back: None,
        });
        if let Some(rollback) = &rollback {
            let refused = history.revisions.iter_mut().find(|it| it.revision == rollback.refused);
            // The first reason counts: why it was bad, and not who went back and forth later.
            refused.into_iter().for_each(|it| {
                it.taken_back.get_or_insert_with(|| rollback.why.clone());
            });
        }
        history.rollback = rollback;
        history.insisted = is_insisted.then(|| plugin.digest.clone());
        self.write(name, &history)?;
        for files in gone.iter().filter_map(|revision| self.files(name, revision)) {
            // What is left takes room and does no harm.
            let _ = fs::remove_dir_all(files);
        }
        self.drop_oldest()
    }

    /// Writes beside, then renames.
    fn write(&self, name: &PluginName, history: &PluginHistory) -> io::Result<()> {
        let Some(directory) = self.of(name) else { return Ok(()) };
        fs::create_dir_all(&directory)?;
        let beside = directory.join(format!(".{INDEX}.new"));
        fs::write(&beside, serde_json::to_vec_pretty(history)?)?;
        fs::rename(beside, directory.join(INDEX))
    }

    /// Removes the histories that changed longest ago, until there are few enough.
    fn drop_oldest(&self) -> io::Result<()> {
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

    fn of(&self, name: &PluginName) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| directory.join(name.as_str()))
    }
}

/// Removes what is kept for directories of plugins that are gone for long.
fn drop_gone(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        let Ok(of) = fs::read(path.join(OF)) else { continue };
        let is_there = Path::new(OsStr::from_bytes(&of)).exists();
        let age = fs::metadata(path.join(OF)).and_then(|of| of.modified()).map(|at| at.elapsed());
        if !is_there && matches!(age, Ok(Ok(age)) if GONE_AGE_MAX < age) {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// The machine's time in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let elapsed: Duration = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: &str, taken_back: bool) -> RevisionRecord {
        RevisionRecord {
            revision: RevisionDigest(revision.to_owned()),
            component: String::new(),
            version: "1".to_owned(),
            activated_at_ms: 1,
            taken_back: taken_back.then(|| "it trapped".to_owned()),
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
        assert!(kept.activated(record("a", false)).is_empty(), "it is there already");
        assert_eq!(kept.activated(record("f", false)), [RevisionDigest("b".to_owned())]);
        let names: Vec<&str> = kept.revisions.iter().map(|it| it.revision.0.as_str()).collect();
        assert_eq!(names, ["c", "d", "e", "a", "f"]);
    }

    #[test]
    fn a_revision_that_was_taken_back_is_not_gone_back_to() {
        let kept = history(&[("a", false), ("b", true), ("c", false)]);
        let before = |revision: &str| {
            kept.last_good_before(&RevisionDigest(revision.to_owned())).map(|it| &it.revision.0)
        };
        assert_eq!(before("c").map(String::as_str), Some("a"));
        assert_eq!(before("a").map(String::as_str), Some("c"));
        assert_eq!(history(&[("a", false)]).last_good_before(&RevisionDigest("a".into())), None);
    }

    #[test]
    fn a_revision_is_named_by_the_beginning_of_its_digest() {
        let kept = history(&[("abc", false), ("abd", false)]);
        assert_eq!(kept.find("abd").unwrap().revision.0, "abd");
        assert_eq!(kept.find("ab").unwrap_err(), 2);
        assert_eq!(kept.find("").unwrap_err(), 2);
        assert_eq!(kept.find("x").unwrap_err(), 0);
    }

    #[test]
    fn a_damaged_history_begins_anew_and_the_oldest_go() {
        let home = tempfile::tempdir().unwrap();
        let store = HistoryStore::open(&home.path().join("base"), home.path()).unwrap();
        let name: PluginName = "p".parse().unwrap();
        assert_eq!(store.read(&name), PluginHistory::default());
        let kept = history(&[("a", false)]);
        store.write(&name, &kept).unwrap();
        assert_eq!(store.read(&name), kept);
        fs::write(store.of(&name).unwrap().join(INDEX), "{").unwrap();
        assert_eq!(store.read(&name), PluginHistory::default());
        for number in 0..PLUGINS_MAX {
            store.write(&format!("p{number}").parse().unwrap(), &kept).unwrap();
        }
        let oldest: PluginName = "p7".parse().unwrap();
        let index = fs::File::open(store.of(&oldest).unwrap().join(INDEX)).unwrap();
        index.set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        store.drop_oldest().unwrap();
        assert_eq!(store.read(&oldest), PluginHistory::default());
        assert_eq!(store.read(&"p8".parse().unwrap()), kept);
    }

    #[test]
    fn what_is_kept_for_a_directory_that_is_gone_for_long_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let (base, of) = (home.path().join("base"), home.path().join("plugins"));
        fs::create_dir(&of).unwrap();
        let store = HistoryStore::open(&base, &of).unwrap();
        let count = || fs::read_dir(&base).unwrap().count();
        HistoryStore::open(&base, home.path()).unwrap();
        assert_eq!(count(), 2);
        fs::remove_dir(&of).unwrap();
        HistoryStore::open(&base, home.path()).unwrap();
        assert_eq!(count(), 2, "it may come back");
        let long_ago = SystemTime::now() - GONE_AGE_MAX * 2;
        fs::File::open(store.directory.unwrap().join(OF)).unwrap().set_modified(long_ago).unwrap();
        HistoryStore::open(&base, home.path()).unwrap();
        assert_eq!(count(), 1);
    }
}
