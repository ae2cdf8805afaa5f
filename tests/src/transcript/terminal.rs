//! A terminal: a bash of its own, whose commands read nothing and print into one stream.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::process;

/// Begins the line in which the shell tells how a command ended; no program prints it.
const MARK: char = '\u{1}';

/// What came out of a terminal.
pub(super) enum TerminalLine {
    /// A line of the command's.
    Text(String),
    /// The command ended with this code.
    End(i32),
}

/// A bash in a directory. It and what it runs end with this value.
pub(super) struct Terminal {
    shell: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Terminal {
    pub(super) fn open(directory: &Path, variables: &[(&str, &str)]) -> Result<Self> {
        // The kernel ends what a killed harness cannot; see `process`.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "bash", "--noprofile", "--norc"]);
        command.current_dir(directory).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().context("cannot start bash")?;
        let mut input = shell.stdin.take().context("stdin is piped")?;
        let stdout = shell.stdout.take().context("stdout is piped")?;
        writeln!(input, "exec 2>&1")?;
        let (sender, lines) = mpsc::channel();
        // Ends with the shell; then nobody listens, which is no fault.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sender.send(line).ok();
            }
        });
        Ok(Self { shell, input, lines })
    }

    /// Types a command and has the shell tell its end. The command itself reads nothing.
    pub(super) fn type_line(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{{ {command}\n}} </dev/null\nprintf '{MARK}%s\\n' $?")?;
        Ok(self.input.flush()?)
    }

    /// Presses Ctrl-C: the running command gets SIGINT.
    pub(super) fn interrupt(&self) -> Result<()> {
        for pid in self.running()? {
            process::signal(pid, "INT")?;
        }
        Ok(())
    }

    /// The next line, or nothing at the deadline.
    pub(super) fn line(&self, deadline: Instant) -> Option<TerminalLine> {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = self.lines.recv_timeout(left).ok()?;
        Some(match line.strip_prefix(MARK) {
            Some(code) => TerminalLine::End(code.parse().unwrap_or(i32::MAX)),
            None => TerminalLine::Text(line),
        })
    }

    fn running(&self) -> Result<Vec<u32>> {
        let pid = self.shell.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed must not leave processes behind; there is nobody to tell of an error.
        for pid in self.running().unwrap_or_default() {
            process::signal(pid, "TERM").ok();
        }
        writeln!(self.input, "exit").ok();
        let start = Instant::now();
        while matches!(self.shell.try_wait(), Ok(None)) && start.elapsed() < process::END_DEADLINE {
            thread::sleep(Duration::from_millis(10));
        }
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}
