//! A terminal: a bash process of its own. Its commands have no input and print into one stream.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result};

use crate::process;

/// Begins the line in which the shell reports an exit code; no program prints this character.
const EXIT_MARK: char = '\u{1}';

/// One line of a terminal's output.
pub(super) enum TerminalLine {
    /// A line that the command printed.
    Text(String),
    /// The command exited with this code.
    End(i32),
}

/// A bash in a directory. It and its commands end when this value is dropped.
pub(super) struct Terminal {
    shell: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Terminal {
    pub(super) fn open(directory: &Path, variables: &[(&str, &str)]) -> Result<Self> {
        // If the harness is killed, the kernel sends SIGTERM to the shell; see `process`.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "bash", "--noprofile", "--norc"]);
        command.current_dir(directory).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().context("cannot start bash")?;
        let mut input = shell.stdin.take().context("stdin is piped")?;
        let stdout = shell.stdout.take().context("stdout is piped")?;
        writeln!(input, "exec 2>&1")?;
        let (sender, lines) = mpsc::channel();
        // Ends with the shell. A send error means that the terminal was dropped.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sender.send(line).ok();
            }
        });
        Ok(Self { shell, input, lines })
    }

    /// Types a command and has the shell report its exit code. The command's stdin is `/dev/null`.
    pub(super) fn run_command(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{{ {command}\n}} </dev/null\nprintf '{EXIT_MARK}%s\\n' $?")?;
        Ok(self.input.flush()?)
    }

    /// Presses Ctrl-C: the running command gets SIGINT.
    pub(super) fn interrupt(&self) -> Result<()> {
        for pid in self.running()? {
            process::signal(pid, "INT")?;
        }
        Ok(())
    }

    /// Returns the next line, or nothing at the deadline.
    pub(super) fn line(&self, deadline: Instant) -> Option<TerminalLine> {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = self.lines.recv_timeout(left).ok()?;
        Some(match line.strip_prefix(EXIT_MARK) {
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
        // Errors are ignored: a failed test must not leave processes behind, and a drop cannot report them.
        for pid in self.running().unwrap_or_default() {
            process::signal(pid, "TERM").ok();
        }
        writeln!(self.input, "exit").ok();
        process::until_exit(&mut self.shell);
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}
