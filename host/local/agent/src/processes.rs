//! The thread that starts and watches every container process.
//!
//! The kernel ties `PR_SET_PDEATHSIG` to the *thread* that started a process. A worker thread of an async
//! runtime may end at any time, and the process would be killed with it. So one thread, which lasts as long
//! as the agent, starts all processes. When the agent ends, however it ends, this thread ends and its
//! processes are killed. The thread also waits for the processes (the kernel wakes it; nothing is polled) and
//! copies their output.
//!
//! Invariants:
//! - The end of a process is reported before its output is drained completely: a stray child that holds the
//!   pipe open delays no report.
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

/// How many requests to start a process may wait for the thread.
const REQUESTS_MAX: usize = 256;

/// The maximum number of bytes kept of each output stream of a probe or hook.
const CAPTURED_BYTES_MAX: usize = 4 * 1024;

/// How long output is still read after the process has ended.
const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

/// How long the report of a process that failed by itself waits for its last output.
const LAST_OUTPUT_DEADLINE: Duration = Duration::from_millis(100);

const CHUNK_BYTES: usize = 16 * 1024;

/// The destination of the output of a process.
#[derive(Debug)]
pub(crate) enum ProcessOutput {
    /// The log of a container.
    Log(LogFile),
    /// [`ProcessExit::output`]; only the first few kilobytes are kept.
    Capture,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct SpawnedProcess {
    /// The pid. The process leads a session of this number, or will do so soon.
    pub pid: u32,
    /// See [`orphans::start_ticks`]; 0 if the process had ended before it could be read.
    pub start_ticks: u64,
    /// When it was started.
    pub at: Timestamp,
    /// Receives how the process ends. An error means that the thread has ended, and the process with it.
    pub exit: oneshot::Receiver<ProcessExit>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessExit {
    /// The exit code; 128 plus the number of the signal if a signal ended the process, as container runtimes
    /// report it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When the process ended.
    pub at: Timestamp,
    /// The output of the process; only the end of it for [`ProcessOutput::Log`].
    pub output: String,
}

struct SpawnRequest {
    spec_file: PathBuf,
    output: ProcessOutput,
    reply: oneshot::Sender<io::Result<SpawnedProcess>>,
}

/// A handle for requests to the thread. The thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct ProcessSpawner {
    requests: mpsc::Sender<SpawnRequest>,
}

impl ProcessSpawner {
    /// Starts the thread. `program` is the executable whose subcommand `container` calls
    /// [`container_main`](crate::container_main).
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system cannot create another thread.
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
    /// Returns an error if the process cannot be started, or if the thread has ended.
    pub(crate) async fn launch(
        &self,
        spec_file: PathBuf,
        output: ProcessOutput,
    ) -> io::Result<SpawnedProcess> {
        let (reply, launched) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        self.requests.send(SpawnRequest { spec_file, output, reply }).await.map_err(|_| gone())?;
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
        let Some(SpawnRequest { spec_file, output, reply }) = request else { break };
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
        // The receiver is dropped only while the agent stops. The process then runs unwatched until the
        // clean-up finds it by the name of its run.
        let _ = reply.send(launched);
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
            // The end of a killed process is reported immediately, because others act on it. A process that
            // failed by itself has written the reason, and the text is already in the pipes.
            if ended.signal.is_none() && ended.code != 0 && !copy.is_terminated() {
                let _ = tokio::time::timeout(LAST_OUTPUT_DEADLINE, &mut copy).await;
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
        // The kernel no longer knows the process, so it has ended.
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
    let mut is_reported = false;
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        let bytes = chunk.get(..length).unwrap_or_default();
        let written = lines.push(bytes, stream, &mut *log.lock().await);
        if let Err(error) = written
            && !std::mem::replace(&mut is_reported, true)
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
