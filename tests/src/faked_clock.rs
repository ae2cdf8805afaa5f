//! A wall clock for one process that can jump, made with the library `libfaketime`. The monotonic clock and
//! the times of files stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Debian's folder of libraries by architecture, and the path of this library in one of those.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketime.so.1";
/// For how many seconds the library may use the offset that it read last.
const READ_EVERY_S: &str = "1";

/// The clock of one process; [`HostOptions`](crate::cluster::HostOptions) takes it.
#[derive(Clone, Debug)]
pub struct FakedClock {
    library: PathBuf,
    offset: PathBuf,
    _directory: Arc<TempDir>,
}

impl FakedClock {
    /// Creates a clock that shows the machine's time.
    ///
    /// # Errors
    ///
    /// Fails if the library is not installed.
    pub fn new() -> Result<Self> {
        let folders = fs::read_dir(LIBRARIES)?.filter_map(Result::ok);
        let library = folders.map(|folder| folder.path().join(LIBRARY)).find(|path| path.is_file());
        let library = library.context("libfaketime is not installed; run `./setup --tests`")?;
        let directory = tempfile::Builder::new().prefix("tholepin-clock-").tempdir()?;
        let offset = directory.path().join("offset");
        let clock = Self { library, offset, _directory: Arc::new(directory) };
        clock.jump(0)?;
        Ok(clock)
    }

    /// Sets the clock so many seconds ahead of the machine's, or behind it if negative. The process notices
    /// within a second.
    ///
    /// # Errors
    ///
    /// Fails if the offset file cannot be written.
    pub fn jump(&self, ahead_s: i64) -> Result<()> {
        let fresh = self.offset.with_extension("new");
        fs::write(&fresh, format!("{ahead_s:+}"))?;
        Ok(fs::rename(fresh, &self.offset)?)
    }

    /// Returns the environment variables for a process that uses this clock.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 5] {
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", &self.offset),
            ("FAKETIME_CACHE_DURATION", Path::new(READ_EVERY_S)),
            ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
            ("NO_FAKE_STAT", Path::new("1")),
        ]
    }
}
