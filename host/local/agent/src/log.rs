//! The logs of containers: written in the format of Kubernetes' container runtimes, with bounded size and
//! rotation.
//!
//! Each line is `TIME stdout|stderr F|P TEXT`, where `P` marks a part of a line that was too long. A full
//! file is renamed to `….1` and replaces the one before, so that the log of a container run takes at most
//! twice [`FILE_BYTES_MAX`].

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

mod read;

pub use read::{LogError, LogOptions, PodLogFiles};

/// The size at which a log file is rotated.
const FILE_BYTES_MAX: u64 = 5 * 1024 * 1024;

/// The maximum length of a line that is kept in one piece.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// The part of the end of a log that becomes the termination message, as for the kubelet.
const TAIL_BYTES_MAX: usize = 2048;
/// The same limit in lines.
const TAIL_LINES_MAX: usize = 80;

/// The output stream of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogStream {
    Stdout,
    Stderr,
}

/// The log of one run of a container.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    /// The end of the output, without times.
    tail: Vec<u8>,
}

impl LogFile {
    /// Opens the log at `path`, appending.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be created.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        let (path, tail) = (path.to_owned(), Vec::new());
        Ok(Self { path, file, bytes, bytes_max: FILE_BYTES_MAX, tail })
    }

    fn write(
        &mut self,
        now: Timestamp,
        stream: LogStream,
        whole: bool,
        text: &[u8],
    ) -> io::Result<()> {
        let stream = match stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
        };
        let tag = if whole { "F" } else { "P" };
        self.keep_tail(text, whole);
        let mut line = format!("{now:.9} {stream} {tag} ").into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.bytes.saturating_add(length) > self.bytes_max && self.bytes > 0 {
            std::fs::rename(&self.path, rotated(&self.path))?;
            self.file = open(&self.path)?;
            self.bytes = 0;
        }
        self.file.write_all(&line)?;
        self.bytes = self.bytes.saturating_add(length);
        Ok(())
    }

    fn keep_tail(&mut self, text: &[u8], whole: bool) {
        self.tail.extend_from_slice(text);
        self.tail.extend(whole.then_some(b'\n'));
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES_MAX);
        self.tail.drain(..surplus);
    }

    /// Returns the end of the output, which the API shows as the message of a container that wrote none itself.
    pub(crate) fn tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES_MAX)..).unwrap_or_default().concat()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Returns the name to which a full log file is renamed.
fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Splits a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    /// Processes the bytes that were read: writes each line that is complete, or too long to wait for its
    /// end.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        stream: LogStream,
        log: &mut LogFile,
    ) -> io::Result<()> {
        let now = Timestamp::now();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(piece);
            if let Some(line) = self.pending.strip_suffix(b"\n") {
                log.write(now, stream, true, line)?;
                self.pending.clear();
            } else if self.pending.len() >= LINE_BYTES_MAX {
                log.write(now, stream, false, &self.pending)?;
                self.pending.clear();
            }
        }
        Ok(())
    }

    /// Writes the rest when the stream ends without a line end.
    pub(crate) fn finish(&mut self, stream: LogStream, log: &mut LogFile) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        log.write(Timestamp::now(), stream, true, &pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_whole_with_time_and_stream() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        let mut lines = LineSplitter::default();
        lines.push(b"one\ntw", LogStream::Stdout, &mut log).unwrap();
        lines.push(b"o\n\nthree", LogStream::Stdout, &mut log).unwrap();
        lines.finish(LogStream::Stdout, &mut log).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let fields: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap()).collect();
        let texts: Vec<_> = fields.iter().map(|(_, text)| *text).collect();
        assert_eq!(texts, ["stdout F one", "stdout F two", "stdout F ", "stdout F three"]);
        for (time, _) in fields {
            assert!(time.parse::<Timestamp>().is_ok() && time.len() == 30, "{time}");
        }
    }

    #[test]
    fn the_tail_is_the_end_of_what_was_printed() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&directory.path().join("0.log")).unwrap();
        let mut lines = LineSplitter::default();
        assert_eq!(log.tail(), "");
        lines.push(b"one\ntwo", LogStream::Stderr, &mut log).unwrap();
        lines.finish(LogStream::Stderr, &mut log).unwrap();
        assert_eq!(log.tail(), "one\ntwo\n");
        for number in 0..1000 {
            lines.push(format!("{number}\n").as_bytes(), LogStream::Stdout, &mut log).unwrap();
        }
        assert_eq!(log.tail().lines().count(), TAIL_LINES_MAX);
        assert!(log.tail().ends_with("998\n999\n"));
        lines.push(&[b'x'; 3000], LogStream::Stdout, &mut log).unwrap();
        lines.finish(LogStream::Stdout, &mut log).unwrap();
        assert_eq!(log.tail().len(), TAIL_BYTES_MAX);
    }

    #[test]
    fn a_full_file_makes_room_and_long_lines_are_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.bytes_max = 40_000;
        let mut lines = LineSplitter::default();
        for _ in 0..10 {
            lines.push(&[b'x'; LINE_BYTES_MAX], LogStream::Stderr, &mut log).unwrap();
        }
        let sizes = [&path, &rotated(&path)].map(|path| std::fs::metadata(path).unwrap().len());
        assert!(sizes.iter().all(|size| (1..=40_000).contains(size)), "{sizes:?}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().all(|line| line.contains(" stderr P x")));
    }
}
