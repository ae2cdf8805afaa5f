//! Notices that somebody saved a source file of a plugin's project.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{sync::mpsc, time::timeout};

/// How long the files must be quiet after a save: editors write several at once.
const QUIET: Duration = Duration::from_millis(40);
/// How long to wait for quiet at most.
const UNQUIET_MAX: Duration = Duration::from_secs(1);
/// Notices that wait to be taken; when more come, the oldest say enough.
const NOTICES_MAX: usize = 64;
/// The folders of a project that hold sources.
const FOLDERS: &[&str] = &["src", "tests", "tholepin"];

/// Why sources cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch `{}`; if the limit is reached, raise fs.inotify.max_user_watches", path.display())]
pub struct SourceWatchError {
    /// Which directory.
    path: PathBuf,
    /// Why.
    source: notify::Error,
}

/// A save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceChange {
    /// When the first of its files was written.
    pub at: Instant,
    /// The files, by their paths in the project, each once.
    pub files: Vec<PathBuf>,
}

/// A watch on a project's sources. It ends with this value.
pub struct SourceWatcher {
    directory: PathBuf,
    notices: mpsc::Receiver<(Instant, PathBuf)>,
    // Held for its watch.
    _watcher: RecommendedWatcher,
}

impl SourceWatcher {
    /// Starts to watch: the directory itself and its folders of sources, not what cargo writes.
    ///
    /// # Errors
    ///
    /// Fails if the system gives no watch.
    pub fn watch(directory: &Path) -> Result<Self, SourceWatchError> {
        let failed = |path: &Path, source| SourceWatchError { path: path.to_owned(), source };
        let (sender, notices) = mpsc::channel(NOTICES_MAX);
        let notice = move |event: notify::Result<Event>| {
            for path in event.iter().filter(|event| is_write(event)).flat_map(|event| &event.paths)
            {
                if is_source(path) {
                    // A full queue is a notice already.
                    sender.try_send((Instant::now(), path.clone())).ok();
                }
            }
        };
        let mut watcher =
            notify::recommended_watcher(notice).map_err(|error| failed(directory, error))?;
        let mut add =
            |path: &Path, mode| watcher.watch(path, mode).map_err(|error| failed(path, error));
        add(directory, RecursiveMode::NonRecursive)?;
        for folder in
            FOLDERS.iter().map(|folder| directory.join(folder)).filter(|path| path.is_dir())
        {
            add(&folder, RecursiveMode::Recursive)?;
        }
        Ok(Self { directory: directory.to_owned(), notices, _watcher: watcher })
    }

    /// Waits for a save, and until the files are quiet. Absent if nothing will come any more.
    pub async fn saved(&mut self) -> Option<SourceChange> {
        let (at, first) = self.notices.recv().await?;
        let mut files = vec![first];
        while let Ok(Some((_, next))) = timeout(QUIET, self.notices.recv()).await {
            files.push(next);
            if UNQUIET_MAX < at.elapsed() {
                break;
            }
        }
        let name = |path: &PathBuf| path.strip_prefix(&self.directory).unwrap_or(path).to_owned();
        let mut files: Vec<PathBuf> = files.iter().map(name).collect();
        files.sort();
        files.dedup();
        Some(SourceChange { at, files })
    }
}

/// Whether an event can have changed what a file holds.
const fn is_write(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_) => true,
        EventKind::Access(_) | EventKind::Any | EventKind::Other => false,
    }
}

/// Whether cargo or the host reads the file. The lock file is cargo's own to write.
fn is_source(path: &Path) -> bool {
    let is_scratch = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(OsStr::to_str);
    !is_scratch && matches!(extension, Some("rs" | "toml" | "yaml" | "json" | "wit"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Longer than any machine needs.
    const DEADLINE: Duration = Duration::from_secs(20);

    async fn saved(sources: &mut SourceWatcher) -> Vec<PathBuf> {
        timeout(DEADLINE, sources.saved()).await.unwrap().unwrap().files
    }

    #[tokio::test]
    async fn saves_are_noticed_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("src/deep")).unwrap();
        fs::create_dir(home.path().join("target")).unwrap();
        let mut sources = SourceWatcher::watch(home.path()).unwrap();
        let write = |file: &str| fs::write(home.path().join(file), "text").unwrap();
        // None of these is a source; the last one is, and so ends the wait.
        for file in ["Cargo.lock", "target/a.rs", "src/.a.rs.swp", "src/a.rs~", "src/deep/b.rs"] {
            write(file);
        }
        assert_eq!(saved(&mut sources).await, [Path::new("src/deep/b.rs")]);
        write("src/.new");
        fs::rename(home.path().join("src/.new"), home.path().join("src/c.rs")).unwrap();
        assert_eq!(saved(&mut sources).await, [Path::new("src/c.rs")], "as careful editors save");
        write("Cargo.toml");
        assert_eq!(saved(&mut sources).await, [Path::new("Cargo.toml")]);
        fs::remove_file(home.path().join("src/c.rs")).unwrap();
        assert_eq!(saved(&mut sources).await, [Path::new("src/c.rs")]);
    }
}
