//! The one thread that starts every process.
//!
//! The kernel ties `PR_SET_PDEATHSIG` to the *thread* that started a process: a runtime's worker thread
//! may end at any time and would take the process with it. So all are started by one thread that lasts
//! as long as the agent; when the agent goes, however it goes, this thread goes, and the processes with
//! it. The thread also waits for them (the kernel wakes it, nothing is polled) and moves what they print.
//!
//! Invariants:
//! - The end of a process is told before its output is drained: a stray child that holds the pipe open
//!   delays nobody.
//! - A process is reaped exactly once, here.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::future::FusedFuture;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::log::{LineSplitter, LogFile, LogStream};
use crate::orphans;

/// Starts that may wait for the thread.
const REQUESTS_MAX: usize = 256;

/// What is kept of the output of a probe or hook.
const CAPTURED_BYTES_MAX: usize = 4 * 1024;

/// How long output may still come after the process has ended.
const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

/// How long the end of a process that ended by itself waits for what it printed last.
const LAST_WORDS_DEADLINE: Duration = Duration::from_millis(100);

const CHUNK_BYTES: usize = 16 * 1024;

/// Where a process' output goes.
#[derive(Debug)]
pub(crate) enum ProcessOutput {
    /// Into a container's log.
    Log(LogFile),
    /// Into [`ProcessExit::output`], the first few kilobytes.
    Capture,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct SpawnedProcess {
    /// Its number; it leads (or soon will) a session of that number.
    pub pid: u32,
    /// See [`orphans::start_ticks`]; 0 if it was gone before one could look.
    pub start_ticks: u64,
    /// When it was started.
    pub at: Timestamp,
    /// How it ends. An error means that the thread is gone, and so is the process.
    pub exit: oneshot::Receiver<ProcessExit>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessExit {
    /// The exit code; 128 + the signal's number if a signal ended it, as container runtimes say it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When.
    pub at: Timestamp,
    /// What it printed; the end of it, for [`ProcessOutput::Log`].
    pub output: String,
}

struct SpawnRequest {
    spec_file: PathBuf,
    output: ProcessOutput,
    answer: oneshot::Sender<io::Result<SpawnedProcess>>,
}

/// Asks the thread for processes. The thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct ProcessSpawner {
    requests: mpsc::Sender<SpawnRequest>,
}

impl ProcessSpawner {
    /// Starts the thread. `program` is this executable, which knows the hidden subcommand.
    ///
    /// # Errors
    ///
    /// Fails if the system has no room for a thread.
    pub(crate) fn start(program: PathBuf) -> io::Result<(Self, JoinHandle<()>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let thread = std::thread::Builder::new()
            .name("containers".into())
            .spawn(move || runtime.block_on(serve(&program, receiver)))?;
        Ok((Self { requests }, thread))
    }

    /// Starts `PROGRAM container SPEC_FILE`.
    ///
    /// # Errors
    ///
    /// Fails if the process cannot be started, or the thread has ended.
    pub(crate) async fn launch(
        &self,
        spec_file: PathBuf,
        output: ProcessOutput,
    ) -> io::Result<SpawnedProcess> {
        let (answer, launched) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        self.requests.send(SpawnRequest { spec_file, output, answer }).await.map_err(|_| gone())?;
        launched.await.map_err(|_| gone())?
    }
}

async fn serve(program: &std::path::Path, mut requests: mpsc::Receiver<SpawnRequest>) {
    let mut watched = JoinSet::new();
    loop {
        let request = tokio::select! {
            request = requests.recv() => request,
            Some(_) = watched.join_next() => continue,
        };
        let Some(SpawnRequest { spec_file, output, answer }) = request else { break };
        let mut command = Command::new(program);
        command.arg("container").arg(&spec_file).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let launched = command.spawn().map(|child| {
            let pid = child.id().unwrap_or_default();
            let (exited, exit) = oneshot::channel();
            let start_ticks = orphans::start_ticks(pid).unwrap_or_default();
            watched.spawn(watch(child, output, exited));
            SpawnedProcess { pid, start_ticks, at: Timestamp::now(), exit }
        });
        // Nobody waits for the answer any more: the process then runs unwatched until its asker is
        // cleaned up by its run's name; this happens only while the agent stops.
        let _ = answer.send(launched);
    }
}

async fn watch(mut child: Child, output: ProcessOutput, exited: oneshot::Sender<ProcessExit>) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    match output {
        ProcessOutput::Log(log) => {
            let log = tokio::sync::Mutex::new(log);
            let copy = async {
                let stdout = copy_lines(stdout, LogStream::Stdout, &log);
                tokio::join!(stdout, copy_lines(stderr, LogStream::Stderr, &log));
            };
            let copy = copy.fuse();
            tokio::pin!(copy);
            let ended = tokio::select! {
                ended = child.wait() => ended,
                () = &mut copy => child.wait().await,
            };
            let mut ended = exit(ended, String::new());
            // Who was killed is told at once: others act on it. Who ended by itself has said why, and
            // that is in the pipes already.
            if ended.signal.is_none() && ended.code != 0 && !copy.is_terminated() {
                let _ = tokio::time::timeout(LAST_WORDS_DEADLINE, &mut copy).await;
            }
            ended.output = log.lock().await.tail();
            let _ = exited.send(ended);
            if !copy.is_terminated() {
                let _ = tokio::time::timeout(DRAIN_DEADLINE, copy).await;
            }
        }
        ProcessOutput::Capture => {
            let mut captured = Vec::new();
            let mut errors = Vec::new();
            let ended = {
                let copy = async {
                    tokio::join!(capture(stdout, &mut captured), capture(stderr, &mut errors))
                };
                tokio::pin!(copy);
                tokio::select! {
                    ended = child.wait() => {
                        let _ = tokio::time::timeout(DRAIN_DEADLINE, copy).await;
                        ended
                    }
                    _ = &mut copy => child.wait().await,
                }
            };
            captured.append(&mut errors);
            let _ = exited.send(exit(ended, String::from_utf8_lossy(&captured).trim().to_owned()));
        }
    }
}

fn exit(ended: io::Result<ExitStatus>, output: String) -> ProcessExit {
    let (code, signal) = match ended {
        Ok(status) => (status.code(), status.signal()),
        // The kernel lost it; it is as gone as it can be.
        Err(_) => (None, None),
    };
    let code = code.unwrap_or_else(|| 128_i32.saturating_add(signal.unwrap_or_default()));
    ProcessExit { code, signal, at: Timestamp::now(), output }
}

async fn copy_lines(
    pipe: Option<impl AsyncRead + Unpin>,
    stream: LogStream,
    log: &tokio::sync::Mutex<LogFile>,
) {
    let Some(mut pipe) = pipe else { return };
    let mut lines = LineSplitter::default();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut complained = false;
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        let bytes = chunk.get(..length).unwrap_or_default();
        let written = lines.push(bytes, stream, &mut *log.lock().await);
        if let Err(error) = written
            && !std::mem::replace(&mut complained, true)
        {
            tracing::warn!(%error, "container output is lost");
        }
    }
    let _ = lines.finish(stream, &mut *log.lock().await);
}

async fn capture(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        let room = CAPTURED_BYTES_MAX.saturating_sub(into.len()).min(length);
        into.extend_from_slice(chunk.get(..room).unwrap_or_default());
    }
}
