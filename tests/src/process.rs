//! Processes of the product under test, ended with the value that holds them.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long a process may take to end after SIGTERM before it is killed.
pub(crate) const END_DEADLINE: Duration = Duration::from_secs(20);

/// How many lines of a log are shown of a test that failed.
const TAIL_LINES: usize = 25;

/// The `tholepin` binary of the same build: beside this program, or beside the folder of test programs.
///
/// # Errors
///
/// Fails with the command that builds it.
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
/// Fails if there is no such process.
pub fn signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status()?;
    anyhow::ensure!(status.success(), "cannot send {signal} to process {pid}");
    Ok(())
}

/// The last lines of a log; empty if there is none.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines.into_iter().skip(from).collect::<Vec<_>>().join("\n")
}

/// How `tholepin` is started.
#[derive(Clone, Copy, Debug)]
pub struct ProcessOptions<'a> {
    /// What it is called in messages.
    pub name: &'static str,
    /// The command line.
    pub arguments: &'a [&'a str],
    /// Variables that differ from the harness' own.
    pub environment: &'a [(&'a str, &'a Path)],
    /// Where its stderr goes.
    pub log: &'a Path,
    /// How the line on stdout begins that says that it is ready.
    pub until: &'static str,
    /// When it must have said that.
    pub deadline: Duration,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    /// Starts `tholepin` and waits for its line; gives the rest of that line.
    ///
    /// # Errors
    ///
    /// Fails if it ends or says nothing before the deadline, with the end of its stderr.
    pub fn start(launch: &ProcessOptions<'_>) -> Result<(Self, String)> {
        let ProcessOptions { name, arguments, environment, log, until, deadline } = *launch;
        let mut command = Command::new(tholepin()?);
        command.args(arguments).envs(environment.iter().copied());
        let mut process = Self::spawn(name, &command, log)?;
        let stdout = process.child.stdout.take().context("stdout is piped")?;
        let (sender, lines) = mpsc::channel();
        // Reads to the end, so that the process never blocks on a full pipe; ends with the process.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix(until) {
                    // Nobody listens any more once the line has come; then there is nothing to tell.
                    sender.send(rest.trim().to_owned()).ok();
                }
            }
        });
        match lines.recv_timeout(deadline) {
            Ok(rest) => Ok((process, rest)),
            Err(_) => {
                bail!("{name} did not say `{until}` within {deadline:?}:\n{}", tail(log))
            }
        }
    }

    /// Starts a program, its stderr in a file and its stdout as a pipe.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn spawn(name: &'static str, program: &Command, log: &Path) -> Result<Self> {
        // A harness that is killed cannot end anything: the kernel then does, when the thread goes that
        // starts this, which lasts as long as the test.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(program.get_program()).args(program.get_args());
        let environment = program.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.env("NO_COLOR", "1").envs(environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(log)?);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name })
    }

    /// The process' id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, without a chance to clean up.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as Ctrl-C would and waits.
    ///
    /// # Errors
    ///
    /// Fails if it had to be killed, or if it ended with another code than 0.
    pub fn end(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} had ended already: {status}", self.name);
        }
        self.terminate()?;
        let start = Instant::now();
        while start.elapsed() < END_DEADLINE {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(status.success(), "{} ended with {status}", self.name);
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.kill()?;
        bail!("{} did not end within {END_DEADLINE:?} after SIGTERM", self.name)
    }

    fn terminate(&self) -> Result<()> {
        signal(self.child.id(), "TERM").with_context(|| self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test that failed must not leave processes behind; there is nobody to tell of an error.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate().ok();
            let start = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < END_DEADLINE {
                thread::sleep(Duration::from_millis(10));
            }
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
