//! The command line of test programs with a `main` of their own: which cases it selects.
//!
//! A name that matches no case, an unknown option and an empty selection are errors, so that a misspelt name
//! cannot pass as a successful run.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// Options of cargo's own harness that are accepted and ignored, with their numbers of values.
const HARNESS_OPTIONS: &[(&str, usize)] = &[
    ("--color", 1),
    ("--exact", 0),
    ("--format", 1),
    ("--ignored", 0),
    ("--include-ignored", 0),
    ("--no-capture", 0),
    ("--nocapture", 0),
    ("--quiet", 0),
    ("--show-output", 0),
    ("--test-threads", 1),
    ("-q", 0),
];

/// Returns the exit code of a test program: success only if all cases passed. Prints an error that kept it from
/// running them.
#[must_use]
pub fn exit_code(passed: Result<bool>) -> ExitCode {
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_line(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line to stdout.
pub fn print_line(line: &str) {
    // An error means that the reader closed the pipe.
    writeln!(io::stdout(), "{line}").ok();
}

/// The parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Print the names of the selected cases instead of running them.
    pub is_list: bool,
    /// The names of `--only A,B` and of arguments without an option.
    pub names: Vec<String>,
    /// The texts of `--skip`: cases whose names contain one are left out.
    pub skipped: Vec<String>,
    /// The program's own selecting option with its values.
    pub option: Option<(&'static str, Vec<String>)>,
}

impl Arguments {
    /// Parses a command line. `own` are the program's selecting options with their numbers of values; at most one
    /// of them may be given, and not together with names.
    ///
    /// # Errors
    ///
    /// Fails for an unknown option, a missing value, or two selections.
    pub fn parse(given: &[String], own: &[(&'static str, usize)]) -> Result<Self> {
        let mut parsed = Self::default();
        let mut given = given.iter();
        while let Some(argument) = given.next() {
            let (option, inline) = match argument.split_once('=') {
                Some((option, value)) if option.starts_with('-') => {
                    (option, Some(value.to_owned()))
                }
                _ => (argument.as_str(), None),
            };
            let mut values = |count: usize| -> Result<Vec<String>> {
                let rest = given.by_ref().cloned();
                let values: Vec<_> = inline.clone().into_iter().chain(rest).take(count).collect();
                ensure!(values.len() == count, "{option} needs {count} value(s)");
                Ok(values)
            };
            if option == "--list" {
                parsed.is_list = true;
            } else if option == "--only" {
                let names = values(1)?.concat();
                parsed.names.extend(names.split(',').map(str::to_owned));
            } else if option == "--skip" {
                parsed.skipped.extend(values(1)?);
            } else if let Some((own, count)) = own.iter().find(|(own, _)| *own == option) {
                let values = values(*count)?;
                if let Some((other, _)) = parsed.option.replace((own, values)) {
                    bail!("{other} and {own} exclude each other");
                }
            } else if let Some((_, count)) =
                HARNESS_OPTIONS.iter().find(|(known, _)| *known == option)
            {
                values(*count)?;
            } else if option.starts_with('-') {
                let own: Vec<_> = own.iter().map(|(own, _)| *own).collect();
                bail!(
                    "unknown option {option}; there are --only, --skip, --list, {}",
                    own.join(", ")
                );
            } else {
                parsed.names.push(argument.clone());
            }
        }
        if let (Some((option, _)), false) = (&parsed.option, parsed.names.is_empty()) {
            bail!("{option} and names exclude each other");
        }
        Ok(parsed)
    }

    /// Returns the cases that the names select. `matching` returns the cases of one name, and `known` are the names
    /// of all cases, for the error.
    ///
    /// # Errors
    ///
    /// Fails for a name without a case.
    pub fn named<T>(&self, matching: impl Fn(&str) -> Vec<T>, known: &[String]) -> Result<Vec<T>> {
        let mut selected = Vec::new();
        for name in &self.names {
            let found = matching(name);
            ensure!(!found.is_empty(), "no case is named `{name}`; there are {}", known.join(", "));
            selected.extend(found);
        }
        Ok(selected)
    }

    /// Leaves out the skipped cases.
    ///
    /// # Errors
    ///
    /// Fails if no case is left.
    pub fn without_skipped<T>(
        &self,
        mut selected: Vec<T>,
        name_of: impl Fn(&T) -> String,
        known: &[String],
    ) -> Result<Vec<T>> {
        let is_skipped = |name: &str| self.skipped.iter().any(|text| name.contains(text.as_str()));
        selected.retain(|case| !is_skipped(&name_of(case)));
        ensure!(!selected.is_empty(), "no case is selected; there are {}", known.join(", "));
        Ok(selected)
    }
}

/// Returns the group of cases for a commit. The cases are divided into groups that take `budget` at most (a longer
/// case is a group of its own), and the commit's hash chooses one: so each case runs for some commit.
///
/// # Errors
///
/// Fails if there are no cases.
pub fn sample<T: Clone>(
    cases: &[T],
    commit: &str,
    budget: Duration,
    expected: impl Fn(&T) -> Duration,
) -> Result<Vec<T>> {
    let groups = groups(cases, budget, expected);
    let count = u64::try_from(groups.len())?;
    let index = hash(commit).checked_rem(count).context("there are no cases to sample")?;
    groups.into_iter().nth(usize::try_from(index)?).context("the index is below the count")
}

/// Divides cases into groups, the longest cases first, each into the first group with enough time left.
fn groups<T: Clone>(
    cases: &[T],
    budget: Duration,
    expected: impl Fn(&T) -> Duration,
) -> Vec<Vec<T>> {
    let mut longest_first = cases.to_vec();
    longest_first.sort_by_key(|case| std::cmp::Reverse(expected(case)));
    let mut groups: Vec<(Duration, Vec<T>)> = Vec::new();
    for case in longest_first {
        let time = expected(&case);
        match groups.iter_mut().find(|(used, _)| *used + time <= budget) {
            Some((used, group)) => {
                *used += time;
                group.push(case);
            }
            None => groups.push((time, vec![case])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// FNV-1a, which is the same on every machine and with every toolchain.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const OWN: &[(&str, usize)] = &[("--all", 0), ("--sample", 2)];

    fn parse(line: &str) -> Result<Arguments> {
        let given: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        Arguments::parse(&given, OWN)
    }

    #[test]
    fn names_and_options_are_parsed() {
        let parsed =
            parse("--only A1,F1 W --skip F1b --nocapture --test-threads 1 --list").unwrap();
        assert_eq!(parsed.names, ["A1", "F1", "W"]);
        assert_eq!((parsed.skipped, parsed.is_list), (vec!["F1b".to_owned()], true));
        let parsed = parse("--sample abc 5 --test-threads=1").unwrap();
        assert_eq!(parsed.option, Some(("--sample", vec!["abc".to_owned(), "5".to_owned()])));
    }

    #[test]
    fn an_unknown_option_a_missing_value_and_two_selections_are_errors() {
        let rows = [
            ("--olny A1", "unknown option --olny; there are --only"),
            ("--sample abc", "--sample needs 2 value(s)"),
            ("--only", "--only needs 1 value(s)"),
            ("--all --sample a 1", "--all and --sample exclude each other"),
            ("--all A1", "--all and names exclude each other"),
        ];
        for (line, expected) in rows {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{line}: {error}");
        }
    }

    #[test]
    fn a_name_without_a_case_and_an_empty_selection_are_errors_that_list_the_names() {
        let known = ["A1".to_owned(), "A2".to_owned()];
        let matching =
            |name: &str| known.iter().filter(|known| *known == name).cloned().collect::<Vec<_>>();
        let named = |line: &str| parse(line).unwrap().named(matching, &known);
        assert_eq!(named("A2 A1").unwrap(), ["A2", "A1"]);
        let error = named("A1 B7").unwrap_err().to_string();
        assert_eq!(error, "no case is named `B7`; there are A1, A2");

        let skipping = parse("--all --skip A").unwrap();
        let error = skipping.without_skipped(known.to_vec(), String::clone, &known).unwrap_err();
        assert_eq!(error.to_string(), "no case is selected; there are A1, A2");
    }

    #[test]
    fn every_case_is_in_one_group_and_every_group_is_reached_by_some_commit() {
        let cases = [("long", 500), ("a", 100), ("b", 90), ("c", 60), ("d", 20)];
        let budget = Duration::from_secs(120);
        let expected = |case: &(&str, u64)| Duration::from_secs(case.1);
        let groups = groups(&cases, budget, expected);
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), cases.len(), "{groups:?}");
        for group in groups.iter().filter(|group| 1 < group.len()) {
            assert!(group.iter().map(expected).sum::<Duration>() <= budget, "{group:?}");
        }
        let sample = |commit: &str| sample(&cases, commit, budget, expected).unwrap();
        let commits = (0..40).map(|number| format!("{number:040x}"));
        let sampled: BTreeSet<_> = commits.flat_map(|commit| sample(&commit)).collect();
        assert_eq!(sampled.len(), cases.len());
        assert_eq!(sample("abc"), sample("abc"));
    }
}
