//! The exit codes of every subcommand, in one place; help texts and README cite these.

use std::process::ExitCode;

/// Done.
pub(crate) const DONE: u8 = 0;
/// It did not work; the last line on stderr says why and what to do.
pub(crate) const FAILED: u8 = 1;
/// The command line was wrong (clap's own code).
#[cfg_attr(not(test), expect(dead_code, reason = "documents the code that clap returns itself"))]
pub(crate) const USAGE: u8 = 2;
/// `demo --ci` did not reach Ready in time.
pub(crate) const NOT_READY: u8 = 3;

/// The process' exit code.
pub(crate) fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}
