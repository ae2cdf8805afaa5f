//! A wall clock that jumps, for one process: the library `libfaketime` stands between it and the kernel.
//! What counts durations (the monotonic clock) goes on as it is, and so do the times of files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Where Debian puts libraries by architecture, and where among them this one is.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketime.so.1";
/// How many seconds the library may go by what it read last.
const READ_EVERY_S: &str = "1";

/// The clock of one process: [`HostOptions`](crate::cluster::HostOptions) hands it over.
#[derive(Clone, Debug)]
pub struct FakedClock {
    library: PathBuf,
    offset: PathBuf,
    _directory: Arc<TempDir>,
}

impl FakedClock {
    /// A clock that is right.
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

    /// Jumps to so many seconds ahead of the machine's clock, or behind it; noticed within a second.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be written.
    pub fn jump(&self, ahead_s: i64) -> Result<()> {
        let fresh = self.offset.with_extension("new");
        fs::write(&fresh, format!("{ahead_s:+}"))?;
        Ok(fs::rename(fresh, &self.offset)?)
    }

    /// The variables of a process that goes by this clock.
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
