//! Parses a transcript and compares lines; no I/O.

use anyhow::{Context, Result, bail};

/// What a step does at its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepKind {
    /// Types a command.
    Type,
    /// Presses Ctrl-C.
    Interrupt,
    /// Only waits for output of the running command.
    Listen,
}

/// One step of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TranscriptStep {
    /// The number of its first line in the file.
    pub(super) line: usize,
    pub(super) terminal: String,
    pub(super) kind: StepKind,
    pub(super) command: String,
    pub(super) expected: Vec<String>,
    /// The step ends before the command does.
    pub(super) continues: bool,
}

/// Parses the steps of a transcript.
///
/// # Errors
///
/// Fails with the first line that belongs to no step, or if there is no step.
pub(super) fn steps(text: &str) -> Result<Vec<TranscriptStep>> {
    let mut steps: Vec<TranscriptStep> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("# ") {
            continue;
        }
        if let Some(step) = begin(index + 1, line) {
            steps.push(step);
            continue;
        }
        let Some(step) = steps.last_mut() else {
            if line.is_empty() {
                continue;
            }
            bail!("line {}: no terminal is named yet", index + 1);
        };
        match line.strip_prefix("> ") {
            Some(more) if step.expected.is_empty() => {
                step.command.push('\n');
                step.command.push_str(more);
            }
            _ if line == "⋮" => step.continues = true,
            _ => step.expected.push(line.to_owned()),
        }
    }
    for step in &mut steps {
        // Blank lines between steps are only formatting.
        while step.expected.last().is_some_and(String::is_empty) {
            step.expected.pop();
        }
        step.continues |= step.kind == StepKind::Listen;
    }
    steps.first().context("the transcript has no step")?;
    Ok(steps)
}

/// Parses `work$ command`, `work^C` or `work:`.
fn begin(line: usize, text: &str) -> Option<TranscriptStep> {
    let end = text.find(|letter: char| !letter.is_ascii_lowercase()).filter(|end| 0 < *end)?;
    let (terminal, rest) = text.split_at(end);
    let (kind, command) = match rest {
        "^C" => (StepKind::Interrupt, ""),
        ":" => (StepKind::Listen, ""),
        _ => (StepKind::Type, rest.strip_prefix("$ ")?),
    };
    let (terminal, command) = (terminal.to_owned(), command.to_owned());
    Some(TranscriptStep { line, terminal, kind, command, expected: Vec::new(), continues: false })
}

/// Returns true if the printed lines match the expected ones, up to the last line.
pub(super) fn is_match(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.iter().all(String::is_empty),
        Some((any, rest)) if any == "…" => {
            let tails = (0..=printed.len()).filter_map(|skipped| printed.get(skipped..));
            tails.into_iter().any(|tail| is_match(rest, tail))
        }
        Some((first, rest)) => match printed.split_first() {
            Some((line, more)) => line_matches(first, line) && is_match(rest, more),
            None => false,
        },
    }
}

fn line_matches(expected: &str, printed: &str) -> bool {
    fits(&masked(expected), &masked(printed))
}

/// Returns true if `text` matches `pattern`, in which each `…` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('…') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().filter_map(|at| rest.get(at..)).any(|rest| fits(after, rest))
        }),
    }
}

/// Returns a line without what differs from run to run: times, digests, sizes, the width of columns.
#[must_use]
pub fn masked(line: &str) -> String {
    let tokens: Vec<&str> = line.split_whitespace().collect();
    let mut result = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let bare = token.trim_matches(|letter: char| "().,;:'\"".contains(letter));
        let has_unit = tokens.get(index + 1).is_some_and(|next| {
            let next = next.trim_matches(|letter: char| "().,;:".contains(letter));
            ["s", "ms", "bytes"].contains(&next)
        });
        let is_number =
            !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let is_digest = 12 <= bare.len() && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mask = match () {
            () if is_digest => "<digest>",
            () if is_number && has_unit => "<number>",
            () if is_duration(bare) || is_date(bare) => "<time>",
            () => bare,
        };
        result.push(if bare.is_empty() {
            (*token).to_owned()
        } else {
            token.replacen(bare, mask, 1)
        });
    }
    result.join(" ")
}

/// `5s`, `0.31s`, `2m3s`.
fn is_duration(token: &str) -> bool {
    let starts = token.starts_with(|letter: char| letter.is_ascii_digit());
    let units = token.trim_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let letters: String = token.chars().filter(char::is_ascii_alphabetic).collect();
    starts
        && !units.is_empty()
        && ["s", "ms", "m", "h", "d", "ms", "hm"].contains(&letters.as_str())
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
}

/// `2026-01-01T00:00:00Z`.
fn is_date(token: &str) -> bool {
    let form: String =
        token.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    form == "0000-00-00T00:00:00Z"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_transcript_is_read() {
        let text = "# about it\n\nwork$ cat <<E\n> a\n> E\na\n\nhost$ run\nready\n⋮\nhost:\nmore\nhost^C\n";
        let steps = steps(text).unwrap();
        let parsed: Vec<_> = steps
            .iter()
            .map(|step| (step.terminal.as_str(), step.kind, step.expected.len(), step.continues))
            .collect();
        assert_eq!(
            parsed,
            [
                ("work", StepKind::Type, 1, false),
                ("host", StepKind::Type, 1, true),
                ("host", StepKind::Listen, 1, true),
                ("host", StepKind::Interrupt, 0, false),
            ]
        );
        assert_eq!(steps[0].command, "cat <<E\na\nE");
        assert!(super::steps("lost\nwork$ a").is_err());
    }

    #[test]
    fn only_stable_parts_of_lines_are_compared() {
        let rows = [
            ("a\nb", "a\nb", true),
            ("a", "a\nb", false),
            ("a\nb", "a", false),
            ("a\n…", "a\nb\nc", true),
            ("…\nc", "a\nb\nc", true),
            ("a\n…\nc", "a\nc", true),
            ("…\nx\n…", "a\nb", false),
            ("in /…/plugins", "in /tmp/x/plugins", true),
            ("in /…/plugins", "in /tmp/x/plugin", false),
            ("NAME  AGE\nhome  5s", "NAME   AGE\nhome   2m3s", true),
            ("built in 0.5 s", "built in 11.25 s", true),
            ("built in 0.5 s", "built in time", false),
            ("revision 0123456789ab ok", "revision fedcba987654 ok", true),
            ("home True 1 5s", "home True 2 5s", false),
            ("123456 bytes, in", "98 bytes, in", true),
            ("port 8080", "port 8081", false),
        ];
        for (expected, printed, equal) in rows {
            assert_eq!(
                is_match(&lines(expected), &lines(printed)),
                equal,
                "{expected} / {printed}"
            );
        }
    }
}
