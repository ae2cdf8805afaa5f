//! The exit codes of every subcommand, in one place; help texts and README cite these.

use std::process::ExitCode;

/// Done.
pub(crate) const DONE: u8 = 0;
/// It did not work; the last line on stderr says why and what to do.
pub(crate) const FAILED: u8 = 1;
/// `plan` found something to do.
pub(crate) const CHANGES: u8 = 2;
/// `demo --ci` did not reach Ready in time.
pub(crate) const NOT_READY: u8 = 3;
/// The command line was wrong: `EX_USAGE` of sysexits.h, because clap's own 2 is the answer of `plan`.
pub(crate) const USAGE: u8 = 64;

/// The process' exit code.
pub(crate) fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}

/// The code of a command line that is no command: wrong usage, or a help that was asked for.
pub(crate) fn of_usage(error: &clap::Error) -> u8 {
    if error.use_stderr() { USAGE } else { DONE }
}
