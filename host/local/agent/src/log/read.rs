//! Reads the logs of containers, for the API server's `log` endpoint.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::Stream;
use jiff::Timestamp;

use super::rotated;
use crate::directory::PodDirectory;

/// The interval at which a followed log is read.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The container has not been started on this machine, or only once if `previous` is requested.
    #[error("container `{container}` of this pod has no {which} log here")]
    NoLog {
        /// The container asked for.
        container: String,
        /// `current` or `previous`.
        which: &'static str,
    },
    /// The file could not be read.
    #[error("read the log of container `{container}`")]
    Read {
        /// The container asked for.
        container: String,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The parts of a log to return, as in the query of the `log` endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Continue until the container ends.
    pub follow: bool,
    /// Only this number of lines from the end.
    pub tail_lines: Option<usize>,
    /// The log of the run before the current one.
    pub previous: bool,
    /// Start each line with its time.
    pub timestamps: bool,
    /// Only lines that are not older than this.
    pub since: Option<Timestamp>,
}

/// The logs in the directories of one or more agents.
#[derive(Clone, Debug)]
pub struct PodLogFiles {
    directories: Vec<PathBuf>,
}

impl PodLogFiles {
    /// Creates a reader for the agents that use these directories.
    #[must_use]
    pub const fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories }
    }

    /// Opens a log. The stream yields whole lines, each with its line end. It ends at the end of the log, or
    /// at the end of the container if the log is followed.
    ///
    /// The files are read on the caller's task: at most two files of some megabytes.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such log. The stream yields an error if a file cannot be read.
    pub fn open(
        &self,
        pod_uid: &str,
        container: &str,
        options: LogOptions,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, LogError>> + Send + use<>, LogError> {
        let which = if options.previous { "previous" } else { "current" };
        let no_log = || LogError::NoLog { container: container.to_owned(), which };
        let pods = self.directories.iter().map(|directory| PodDirectory::new(directory, pod_uid));
        let mut found = pods.filter_map(|pod| {
            let mut logs = pod.log_files(container);
            let last = logs.pop_last()?.1;
            let path = if options.previous { logs.pop_last()?.1 } else { last };
            Some((pod, path))
        });
        let (pod, path) = found.next().ok_or_else(no_log)?;
        let fail = {
            let container = container.to_owned();
            move |source| LogError::Read { container: container.clone(), source }
        };
        let mut reader = LogReader { path, offset: 0, inode: 0, options };
        let start = reader.start().map_err(&fail)?;
        let following = options.follow && !options.previous;
        let state = LogFollower { reader, pod, container: container.to_owned(), following };
        // The stream must not start with an empty piece: a reader may take it for the end.
        let first = futures::stream::iter((!start.is_empty()).then_some(Ok(start)));
        let rest = futures::stream::unfold(state, move |mut state| {
            let fail = fail.clone();
            async move { Some((state.next_piece().await?.map_err(fail), state)) }
        });
        Ok(futures::StreamExt::chain(first, rest))
    }
}

struct LogFollower {
    reader: LogReader,
    pod: PodDirectory,
    container: String,
    following: bool,
}

impl LogFollower {
    /// Waits for more lines. Returns `None` when the container has ended and everything is read.
    async fn next_piece(&mut self) -> Option<io::Result<Vec<u8>>> {
        while self.following {
            // The end is checked before reading, so that everything written before it is read. Output that is
            // drained after the end was recorded is not returned.
            let ended = !self.pod.is_running(&self.container, &self.reader.path);
            let next_piece = self.reader.read_new();
            if !matches!(&next_piece, Ok(bytes) if bytes.is_empty()) {
                return Some(next_piece);
            }
            self.following = !ended;
            if self.following {
                tokio::time::sleep(FOLLOW_INTERVAL).await;
            }
        }
        None
    }
}

struct LogReader {
    path: PathBuf,
    offset: u64,
    inode: u64,
    options: LogOptions,
}

impl LogReader {
    /// Returns the lines that exist now.
    fn start(&mut self) -> io::Result<Vec<u8>> {
        let mut lines = VecDeque::new();
        let older = rotated(&self.path);
        if older.exists() {
            self.read_from(&older, 0, &mut lines)?;
        }
        (self.inode, self.offset) = self.read_from(&self.path, 0, &mut lines)?;
        if let Some(tail) = self.options.tail_lines {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        Ok(lines.into_iter().flatten().collect())
    }

    /// Returns the lines written since. If the file was rotated, reads the rest of the old file, then the new
    /// one.
    fn read_new(&mut self) -> io::Result<Vec<u8>> {
        let mut lines = VecDeque::new();
        if std::fs::metadata(&self.path)?.ino() != self.inode {
            self.read_from(&rotated(&self.path), self.offset, &mut lines)?;
            self.offset = 0;
        }
        (self.inode, self.offset) = self.read_from(&self.path, self.offset, &mut lines)?;
        Ok(lines.into_iter().flatten().collect())
    }

    /// Reads whole lines from `offset` on. Returns the file's inode and the offset up to which it was read.
    fn read_from(
        &self,
        path: &Path,
        offset: u64,
        lines: &mut VecDeque<Vec<u8>>,
    ) -> io::Result<(u64, u64)> {
        let mut file = File::open(path)?;
        let inode = file.metadata()?.ino();
        file.seek(SeekFrom::Start(offset))?;
        let mut reader = BufReader::new(file);
        let mut offset = offset;
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            offset = offset.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
            lines.extend(format_line(&line, self.options));
            line.clear();
        }
        Ok((inode, offset))
    }
}

/// Formats a stored line as the options request. Returns `None` if it is too old or incomplete.
fn format_line(line: &[u8], options: LogOptions) -> Option<Vec<u8>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = fields.next()?;
    let _stream = fields.next()?;
    let whole = fields.next()? == b"F";
    let text = fields.next()?;
    if let Some(since) = options.since {
        let time: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
        if time < since {
            return None;
        }
    }
    let mut formatted = Vec::with_capacity(line.len());
    if options.timestamps {
        formatted.extend_from_slice(time);
        formatted.push(b' ');
    }
    formatted.extend_from_slice(text);
    if !whole {
        formatted.pop();
    }
    Some(formatted)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::directory::PodDirectory;

    const LINES: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
        2026-01-01T00:00:02.000000000Z stderr P tw\n\
        2026-01-01T00:00:02.000000001Z stderr F o\n\
        2026-01-01T00:00:03.000000000Z stdout F three\n";

    #[track_caller]
    fn check(options: LogOptions, expected: &str) {
        let directory = tempfile::tempdir().unwrap();
        let pod = PodDirectory::new(directory.path(), "u1");
        std::fs::create_dir_all(pod.container("c")).unwrap();
        std::fs::write(pod.log("c", 0), "2026-01-01T00:00:00.000000000Z stdout F old\n").unwrap();
        std::fs::write(pod.log("c", 1), LINES).unwrap();
        let logs = PodLogFiles::new(vec![directory.path().to_owned()]);
        let stream = logs.open("u1", "c", options).unwrap();
        let pieces = futures::executor::block_on(stream.collect::<Vec<_>>());
        let text: Vec<u8> = pieces.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn a_log_is_read_as_the_options_request() {
        let all = LogOptions::default();
        check(all, "one\ntwo\nthree\n");
        check(LogOptions { previous: true, ..all }, "old\n");
        check(LogOptions { tail_lines: Some(1), ..all }, "three\n");
        check(LogOptions { tail_lines: Some(0), ..all }, "");
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        check(
            LogOptions { since, timestamps: true, ..all },
            "2026-01-01T00:00:03.000000000Z three\n",
        );
        check(LogOptions { follow: true, ..all }, "one\ntwo\nthree\n");
    }

    #[test]
    fn a_missing_log_is_named() {
        let logs = PodLogFiles::new(vec!["/nonexistent".into()]);
        let error = logs.open("u1", "c", LogOptions::default()).err().unwrap();
        assert!(error.to_string().contains("`c`"), "{error}");
    }
}
