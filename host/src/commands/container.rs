//! `tholepin container`: becomes the first process of a container.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use tholepin_agent::{START_FAILED_EXIT_CODE, container_main};
use tholepin_core::ErrorChain;

/// Returns only if that fails.
pub(crate) fn run(spec: &Path) -> ExitCode {
    let Err(error) = container_main(spec);
    // The agent reads the reason from a file; this is for a person who runs the command by hand.
    writeln!(io::stderr(), "tholepin container: {}", ErrorChain(&error)).ok();
    ExitCode::from(u8::try_from(START_FAILED_EXIT_CODE).unwrap_or(u8::MAX))
}
