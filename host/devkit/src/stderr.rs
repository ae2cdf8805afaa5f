//! Progress messages for the user who runs a build.

use std::io::{self, Write};

/// Prints a line to stderr, where cargo prints its own.
pub(crate) fn print_line(text: &str) {
    // An error means that stderr is closed, so that it cannot be reported either.
    writeln!(io::stderr(), "tholepin: {text}").ok();
}
