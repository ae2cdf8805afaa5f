//! The audit log: one JSON line per write, in a file of limited size.
//!
//! If the buffer is full, a request waits until its line has room; no line is dropped. The file is flushed whenever
//! the buffer is empty.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;
use tracing::warn;

/// The most lines that wait to be written.
const LINES_WAITING_MAX: usize = 1_024;

/// One write, accepted or refused.
#[derive(Debug, Serialize)]
pub(crate) struct ApiAuditEvent {
    /// The time at which the server began to process the write, RFC 3339 with microseconds.
    pub(crate) time: String,
    /// The user of the token.
    pub(crate) user: String,
    /// The field manager of the request, or the one derived from the user agent.
    pub(crate) field_manager: String,
    /// `create`, `update`, `patch`, `apply`, `delete` or `deletecollection`.
    pub(crate) verb: &'static str,
    /// The API group.
    pub(crate) group: String,
    /// The plural resource name.
    pub(crate) resource: String,
    /// The subresource; may be empty.
    pub(crate) subresource: String,
    /// The namespace; empty for cluster scope.
    pub(crate) namespace: String,
    /// The object's name; may be empty.
    pub(crate) name: String,
    /// Whether the write was a dry run.
    pub(crate) dry_run: bool,
    /// The HTTP status.
    pub(crate) code: u16,
}

/// The sender of audit lines; [`AuditWriter`] writes them.
#[derive(Clone)]
pub(crate) struct ApiAuditLog {
    lines: mpsc::Sender<ApiAuditEvent>,
}

impl ApiAuditLog {
    /// Queues a line; waits while the buffer is full.
    pub(crate) async fn write(&self, line: ApiAuditEvent) {
        if self.lines.send(line).await.is_err() {
            warn!("a write is missing from the audit log: its writer has ended");
        }
    }
}

/// The task that writes audit lines to the file.
pub(crate) struct AuditWriter {
    lines: mpsc::Receiver<ApiAuditEvent>,
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    bytes_max: u64,
}

/// Opens the log at `path`. The writer rotates it before it exceeds `bytes_max` bytes.
///
/// # Errors
///
/// Fails if the file cannot be opened.
pub(crate) async fn open(path: PathBuf, bytes_max: u64) -> io::Result<(ApiAuditLog, AuditWriter)> {
    let (sender, lines) = mpsc::channel(LINES_WAITING_MAX);
    let file = append(&path).await?;
    let bytes = file.metadata().await?.len();
    let writer = AuditWriter { lines, path, file: BufWriter::new(file), bytes, bytes_max };
    Ok((ApiAuditLog { lines: sender }, writer))
}

async fn append(path: &Path) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    OpenOptions::from(options).open(path).await
}

impl AuditWriter {
    /// Writes lines until all senders are dropped; the last line is flushed to the file when this returns.
    pub(crate) async fn run(mut self) {
        while let Some(line) = self.lines.recv().await {
            if let Err(error) = self.write(&line).await {
                warn!(%error, path = %self.path.display(), "cannot write the audit log");
            }
        }
    }

    async fn write(&mut self, line: &ApiAuditEvent) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.bytes_max < self.bytes.saturating_add(text.len() as u64) {
            self.rotate().await?;
        }
        self.file.write_all(&text).await?;
        self.bytes += text.len() as u64;
        if self.lines.is_empty() {
            self.file.flush().await?;
        }
        Ok(())
    }

    async fn rotate(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        tokio::fs::rename(&self.path, older).await?;
        self.file = BufWriter::new(append(&self.path).await?);
        self.bytes = 0;
        Ok(())
    }
}
