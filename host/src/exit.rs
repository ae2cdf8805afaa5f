//! The exit codes of all subcommands. The help text in `cli.rs` lists the same.

use std::process::ExitCode;

/// Done.
pub(crate) const DONE: u8 = 0;
/// Failed; the last line on stderr says why and how to fix it.
pub(crate) const FAILED: u8 = 1;
/// `plan` found something to do.
pub(crate) const CHANGES: u8 = 2;
/// `demo --ci` did not reach Ready in time.
pub(crate) const NOT_READY: u8 = 3;
/// Wrong usage: `EX_USAGE` of sysexits.h, because `plan` uses 2, which is clap's own code.
pub(crate) const USAGE: u8 = 64;

/// Converts a code into the exit code of the process.
pub(crate) fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}

/// Returns the code for a clap error: wrong usage, or a requested help.
pub(crate) fn of_usage(error: &clap::Error) -> u8 {
    if error.use_stderr() { USAGE } else { DONE }
}
