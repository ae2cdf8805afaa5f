//! Replays a terminal transcript: types its commands into real shells and compares their output.
//!
//! ```text
//! # a line about what comes
//! work$ kubectl get configmap home      typed into the terminal `work`, a bash of its own; waits for its end
//! > --output name                       more lines of the command
//! configmap/home                        what must be printed, line by line
//! host$ tholepin local --plugins DIR
//! ready
//! ⋮                                     the step ends when the lines above were printed; the command continues
//! host:
//! ready again                           what the running command must print next
//! host^C
//! ```
//!
//! In an expected line `…` stands for any text, and alone for any number of lines. Times, digests and sizes count as
//! equal, as does the width of columns. A command that ends with another code than 0 is followed by `[exit CODE]`.

mod page;
mod terminal;

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

pub use page::masked;
use page::{StepKind, TranscriptStep, is_match};
use terminal::Terminal;

/// The longest time for one step; the longest steps are builds.
const STEP_DEADLINE: Duration = Duration::from_secs(300);

/// Replays a transcript in a directory with these additional variables; all terminals end with the call.
///
/// # Errors
///
/// Fails at the first step whose output differs from the transcript; the error shows both.
pub fn play(text: &str, directory: &Path, variables: &[(&str, &str)]) -> Result<()> {
    let mut terminals: BTreeMap<String, Terminal> = BTreeMap::new();
    for step in page::steps(text)? {
        let name = &step.terminal;
        if !terminals.contains_key(name) {
            terminals.insert(name.clone(), Terminal::open(directory, variables)?);
        }
        let terminal = terminals.get_mut(name).context("the terminal was just opened")?;
        perform(terminal, &step)
            .with_context(|| format!("line {}: {name} {}", step.line, step.command))?;
    }
    Ok(())
}

fn perform(terminal: &mut Terminal, step: &TranscriptStep) -> Result<()> {
    match step.kind {
        StepKind::Type => terminal.run_command(&step.command)?,
        StepKind::Interrupt => terminal.interrupt()?,
        StepKind::Listen => {}
    }
    let expected = &step.expected;
    let mut printed = Vec::new();
    let deadline = std::time::Instant::now() + STEP_DEADLINE;
    loop {
        let Some(line) = terminal.line(deadline) else {
            bail!(
                "the output is not complete after {STEP_DEADLINE:?}{}",
                shown(expected, &printed)
            );
        };
        match line {
            terminal::TerminalLine::Text(text) => printed.push(text),
            terminal::TerminalLine::End(code) if step.continues => {
                bail!(
                    "the command exited with code {code} but should still run{}",
                    shown(expected, &printed)
                );
            }
            terminal::TerminalLine::End(code) => {
                if code != 0 {
                    printed.push(format!("[exit {code}]"));
                }
                if is_match(expected, &printed) {
                    return Ok(());
                }
                bail!("the output differs{}", shown(expected, &printed));
            }
        }
        if step.continues && is_match(expected, &printed) {
            return Ok(());
        }
    }
}

fn shown(expected: &[String], printed: &[String]) -> String {
    format!("\n--- expected\n{}\n--- printed\n{}\n---", expected.join("\n"), printed.join("\n"))
}
