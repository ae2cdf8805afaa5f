//! Completes the command line for a shell: the script that `tholepin completions` prints calls this program again
//! for every word, so that names of plugins and objects are those of the running host.
//!
//! A shell waits for this at every press of a key: the host has [`DEADLINE`] to answer, and whatever goes wrong
//! leaves the word as it is, without a message.

use std::{env, ffi::OsStr, path::PathBuf, time::Duration};

use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCompleter, CompletionCandidate},
};
use tholepin_admin::AdminClient;

use crate::{
    admin_routes::{CompletionNames, NAMES_ROUTE},
    user_files::admin_file,
};

/// The variable by which a shell asks for completions; its value is the shell's name.
pub(crate) const VARIABLE: &str = "THOLEPIN_COMPLETE";
/// How long a running host may take to answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// Answers a shell that asks about this command line, and says whether one did. Nothing may be printed before, and
/// no thread started.
pub(crate) fn answered(command_line: fn() -> clap::Command) -> bool {
    let completion = CompleteEnv::with_factory(command_line).var(VARIABLE);
    let directory = env::current_dir().ok();
    // A shell of which nothing is known gets no completions.
    completion.try_complete(env::args_os(), directory.as_deref()).unwrap_or(true)
}

/// Completes the name of a plugin.
pub(crate) fn plugins() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| beginning(current, names().plugins))
}

/// Completes an object as `KIND/NAME`.
pub(crate) fn objects() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| beginning(current, names().objects))
}

fn beginning(current: &OsStr, names: Vec<String>) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let fitting = names.into_iter().filter(|name| name.starts_with(current));
    fitting.map(CompletionCandidate::new).collect()
}

/// What the running host knows; nothing if it cannot be asked.
fn names() -> CompletionNames {
    let words: Vec<String> = env::args().collect();
    ask(&words).unwrap_or_default()
}

fn ask(words: &[String]) -> Option<CompletionNames> {
    let named = option(words, &["--admin-file"]).map(PathBuf::from);
    let named = named.or_else(|| env::var_os("THOLEPIN_ADMIN_FILE").map(PathBuf::from));
    let client = AdminClient::of_file(&admin_file(named).ok()?).ok()?;
    let namespace = option(words, &["-n", "--namespace"]);
    let parameters: Vec<_> =
        namespace.map(|namespace| ("namespace", namespace)).into_iter().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(client.get(NAMES_ROUTE, &parameters, DEADLINE)).ok()?;
    serde_json::from_value(answer).ok()
}

/// The value of an option on a command line that is still being typed, as `--NAME VALUE` or `--NAME=VALUE`.
fn option<'a>(words: &'a [String], names: &[&str]) -> Option<&'a str> {
    let mut values = words.iter().enumerate().filter_map(|(index, word)| {
        if names.contains(&word.as_str()) {
            return words.get(index + 1).map(String::as_str);
        }
        let (name, value) = word.split_once('=')?;
        names.contains(&name).then_some(value)
    });
    values.rfind(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_found_while_the_line_is_typed() {
        let rows = [
            (&["plan", "-n", "blue", ""][..], Some("blue")),
            (&["plan", "--namespace=blue", "r"], Some("blue")),
            (&["plan", "-n", "blue", "-n", "green"], Some("green")),
            (&["plan", "-n"], None),
            (&["plan", "-n", ""], None),
            (&["plan", "thing"], None),
        ];
        for (words, expected) in rows {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(option(&words, &["-n", "--namespace"]), expected, "{words:?}");
        }
    }

    #[test]
    fn names_are_those_that_begin_as_was_typed() {
        let names = || ["thing/a", "thing/b", "other/a"].map(str::to_owned).to_vec();
        let found = |current: &str| beginning(OsStr::new(current), names()).len();
        assert_eq!((found(""), found("thing/"), found("thing/b"), found("x")), (3, 2, 1, 0));
    }
}
