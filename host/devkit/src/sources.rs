//! Watches the source files of a plugin's project and reports when files were saved.
//!
//! The debounce is written by hand. `notify-debouncer-full` reports each file once its own events are old enough,
//! so that one save of several files could start several builds.

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

/// How long no file may be written before a save is reported: editors write several files at one save.
const QUIET: Duration = Duration::from_millis(40);
/// The longest time after the first write at which a save is reported although files are still written.
const UNQUIET_MAX: Duration = Duration::from_secs(1);
/// The capacity of the queue of written files. Further files are dropped: the queued ones cause the report.
const NOTICES_MAX: usize = 64;
/// The folders of a project that hold sources.
const FOLDERS: &[&str] = &["src", "tests", "tholepin"];

/// A directory of sources cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch `{}`; if the limit is reached, raise fs.inotify.max_user_watches", path.display())]
pub struct SourceWatchError {
    /// The directory.
    path: PathBuf,
    /// The error of the system.
    source: notify::Error,
}

/// A save: files that were written shortly after each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedSourceFiles {
    /// When the first of its files was written.
    pub at: Instant,
    /// The files, by their paths in the project, each once.
    pub files: Vec<PathBuf>,
}

/// A watch on a project's sources. Dropping it ends the watch.
pub struct SourceWatcher {
    directory: PathBuf,
    notices: mpsc::Receiver<(Instant, PathBuf)>,
    // Held because dropping it ends the watch.
    _watcher: RecommendedWatcher,
}

impl SourceWatcher {
    /// Starts to watch the directory itself and its folders of sources, but not cargo's output.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses a watch.
    pub fn watch(directory: &Path) -> Result<Self, SourceWatchError> {
        let failed = |path: &Path, source| SourceWatchError { path: path.to_owned(), source };
        let (sender, notices) = mpsc::channel(NOTICES_MAX);
        let on_event = move |event: notify::Result<Event>| {
            for path in event.iter().filter(|event| is_write(event)).flat_map(|event| &event.paths)
            {
                if is_source(path) {
                    // If the queue is full, the queued files cause the report.
                    sender.try_send((Instant::now(), path.clone())).ok();
                }
            }
        };
        let mut watcher =
            notify::recommended_watcher(on_event).map_err(|error| failed(directory, error))?;
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

    /// Waits for a save: until a file is written and no other for 40 ms, or for one second. Returns `None` if the
    /// watch has ended.
    pub async fn saved(&mut self) -> Option<SavedSourceFiles> {
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
        Some(SavedSourceFiles { at, files })
    }
}

/// Returns true if an event can have changed the content of a file.
const fn is_write(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_) => true,
        EventKind::Access(_) | EventKind::Any | EventKind::Other => false,
    }
}

/// Returns true if cargo or the host reads the file. `Cargo.lock` is left out, because cargo writes it.
fn is_source(path: &Path) -> bool {
    let is_scratch = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(OsStr::to_str);
    !is_scratch && matches!(extension, Some("rs" | "toml" | "yaml" | "json" | "wit"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::interval;

    use super::*;

    /// Longer than a slow machine needs.
    const DEADLINE: Duration = Duration::from_secs(20);

    async fn saved(sources: &mut SourceWatcher) -> Vec<PathBuf> {
        timeout(DEADLINE, sources.saved()).await.unwrap().unwrap().files
    }

    #[tokio::test]
    async fn saves_of_sources_are_reported_and_no_others() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("src/deep")).unwrap();
        fs::create_dir(home.path().join("target")).unwrap();
        let mut sources = SourceWatcher::watch(home.path()).unwrap();
        let write = |file: &str| fs::write(home.path().join(file), "text").unwrap();
        // Only the last of these is a source, so that the report holds it alone.
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

    #[tokio::test]
    async fn a_save_is_reported_although_files_are_written_without_pause() {
        let home = tempfile::tempdir().unwrap();
        let mut sources = SourceWatcher::watch(home.path()).unwrap();
        let file = home.path().join("a.rs");
        let write_without_pause = async {
            let mut ticks = interval(QUIET / 4);
            loop {
                ticks.tick().await;
                fs::write(&file, "text").unwrap();
            }
        };
        let files = tokio::select! {
            files = saved(&mut sources) => files,
            () = write_without_pause => unreachable!(),
        };
        assert_eq!(files, [Path::new("a.rs")]);
    }
}
