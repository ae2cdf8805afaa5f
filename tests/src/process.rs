//! Processes of the product under test. A process ends when the value that holds it is dropped.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait::{Poll, until_blocking};

/// How long a process may take to exit after SIGTERM before it is killed.
pub(crate) const END_DEADLINE: Duration = Duration::from_secs(20);

/// The pause between two checks whether a process has exited.
const EXIT_PAUSE: Duration = Duration::from_millis(10);

/// How many lines of a log are printed when a test fails.
const TAIL_LINES: usize = 25;

/// Returns the path of the `tholepin` binary of the same build: it is beside this program or one folder up.
///
/// # Errors
///
/// Fails with the command that builds the binary.
pub fn tholepin() -> Result<PathBuf> {
    let this = env::current_exe()?;
    let folders = this.ancestors().skip(1).take(2);
    let built = folders.map(|folder| folder.join("tholepin")).find(|path| path.is_file());
    built.context("the binary is not built; run `cargo build --workspace`, as `make test` does")
}

/// Sends a signal, such as `KILL` or `STOP`, to a process that the cluster under test started.
///
/// # Errors
///
/// Fails if the process does not exist.
pub fn signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status()?;
    anyhow::ensure!(status.success(), "cannot send {signal} to process {pid}");
    Ok(())
}

/// Waits until a process exits; `None` if it does not within [`END_DEADLINE`].
pub(crate) fn until_exit(child: &mut Child) -> Option<ExitStatus> {
    let poll = || {
        let status = child.try_wait()?;
        Ok(status.map_or_else(|| Poll::NotYet("it runs".to_owned()), Poll::Done))
    };
    let exited = until_blocking(EXIT_PAUSE, "the process to exit", END_DEADLINE, poll);
    exited.ok().map(|(status, _)| status)
}

/// Returns the last lines of a log; empty if the log does not exist.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines.into_iter().skip(from).collect::<Vec<_>>().join("\n")
}

/// The options of [`Process::start`].
#[derive(Clone, Copy, Debug)]
pub struct ProcessOptions<'a> {
    /// The name of the process in messages.
    pub name: &'static str,
    /// The command line arguments.
    pub arguments: &'a [&'a str],
    /// Environment variables to set besides those of the harness.
    pub environment: &'a [(&'a str, &'a Path)],
    /// The file for its stderr.
    pub log: &'a Path,
    /// The beginning of the stdout line that reports that the process is ready.
    pub ready_prefix: &'static str,
    /// How long that line may take.
    pub deadline: Duration,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    /// Starts `tholepin` and waits for the line that reports that it is ready; returns the rest of that line.
    ///
    /// # Errors
    ///
    /// Fails with the end of its stderr if it exits, or does not print the line before the deadline.
    pub fn start(options: &ProcessOptions<'_>) -> Result<(Self, String)> {
        let ProcessOptions { name, arguments, environment, log, ready_prefix, deadline } = *options;
        let mut command = Command::new(tholepin()?);
        command.args(arguments).envs(environment.iter().copied());
        let mut process = Self::spawn(name, &command, log)?;
        let stdout = process.child.stdout.take().context("stdout is piped")?;
        let (sender, lines) = mpsc::channel();
        // Reads until the process exits, so that it never blocks on a full pipe.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix(ready_prefix) {
                    // The receiver is dropped after the first line, so an error here means nothing.
                    sender.send(rest.trim().to_owned()).ok();
                }
            }
        });
        match lines.recv_timeout(deadline) {
            Ok(rest) => Ok((process, rest)),
            Err(_) => {
                bail!("{name} did not print `{ready_prefix}` within {deadline:?}:\n{}", tail(log))
            }
        }
    }

    /// Starts a program with its stderr in a file and its stdout as a pipe.
    ///
    /// # Errors
    ///
    /// Fails if the program cannot be started.
    pub fn spawn(name: &'static str, program: &Command, log: &Path) -> Result<Self> {
        // If the harness is killed, the kernel sends SIGTERM to the program: when the thread that started it
        // ends, which is the thread of the test.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(program.get_program()).args(program.get_args());
        let environment = program.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.env("NO_COLOR", "1").envs(environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(log)?);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name })
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process with SIGKILL, so that it cannot clean up, and waits for its end.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be killed or waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits until the process exits.
    ///
    /// # Errors
    ///
    /// Fails if it had exited before, had to be killed, or exits with a code other than 0.
    pub fn end(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} had exited before: {status}", self.name);
        }
        self.terminate()?;
        let Some(status) = until_exit(&mut self.child) else {
            self.kill()?;
            bail!("{} did not exit within {END_DEADLINE:?} after SIGTERM", self.name)
        };
        anyhow::ensure!(status.success(), "{} exited with {status}", self.name);
        Ok(())
    }

    fn terminate(&self) -> Result<()> {
        signal(self.child.id(), "TERM").with_context(|| self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors are ignored: a failed test must not leave processes behind, and a drop cannot report them.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate().ok();
            until_exit(&mut self.child);
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
