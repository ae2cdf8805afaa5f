//! Completes the command line for a shell. The script that `tholepin completions` prints calls this program again for
//! every argument, so that the names of plugins and objects are those of the running host.
//!
//! A shell waits for this at every key press, so the host has [`DEADLINE`] to answer; after an error nothing is
//! completed and nothing is printed.

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

/// The environment variable with which a shell requests completions; its value is the shell's name.
pub(crate) const VARIABLE: &str = "THOLEPIN_COMPLETE";
/// How long a running host may take to answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// Answers a shell that requests completions for this command line. Returns true if one did. Must run before
/// anything is printed and before any thread starts.
pub(crate) fn answered(command_line: fn() -> clap::Command) -> bool {
    let completion = CompleteEnv::with_factory(command_line).var(VARIABLE);
    let directory = env::current_dir().ok();
    // An unknown shell gets no completions.
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

/// Returns the names of the running host, or none if it does not answer.
fn names() -> CompletionNames {
    let arguments: Vec<String> = env::args().collect();
    ask(&arguments).unwrap_or_default()
}

fn ask(arguments: &[String]) -> Option<CompletionNames> {
    let named = option(arguments, &["--admin-file"]).map(PathBuf::from);
    let named = named.or_else(|| env::var_os("THOLEPIN_ADMIN_FILE").map(PathBuf::from));
    let client = AdminClient::of_file(&admin_file(named).ok()?).ok()?;
    let namespace = option(arguments, &["-n", "--namespace"]);
    let parameters: Vec<_> =
        namespace.map(|namespace| ("namespace", namespace)).into_iter().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(client.get(NAMES_ROUTE, &parameters, DEADLINE)).ok()?;
    serde_json::from_value(answer).ok()
}

/// Returns the value of an option on an unfinished command line, as `--NAME VALUE` or `--NAME=VALUE`.
fn option<'a>(arguments: &'a [String], names: &[&str]) -> Option<&'a str> {
    let mut values = arguments.iter().enumerate().filter_map(|(index, argument)| {
        if names.contains(&argument.as_str()) {
            return arguments.get(index + 1).map(String::as_str);
        }
        let (name, value) = argument.split_once('=')?;
        names.contains(&name).then_some(value)
    });
    values.rfind(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_found_on_an_unfinished_command_line() {
        let rows = [
            (&["plan", "-n", "blue", ""][..], Some("blue")),
            (&["plan", "--namespace=blue", "r"], Some("blue")),
            (&["plan", "-n", "blue", "-n", "green"], Some("green")),
            (&["plan", "-n"], None),
            (&["plan", "-n", ""], None),
            (&["plan", "thing"], None),
        ];
        for (arguments, expected) in rows {
            let arguments: Vec<_> = arguments.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(option(&arguments, &["-n", "--namespace"]), expected, "{arguments:?}");
        }
    }

    #[test]
    fn names_are_completed_by_prefix() {
        let names = || ["thing/a", "thing/b", "other/a"].map(str::to_owned).to_vec();
        let found = |current: &str| beginning(OsStr::new(current), names()).len();
        assert_eq!((found(""), found("thing/"), found("thing/b"), found("x")), (3, 2, 1, 0));
    }
}
