//! Messages for the person who runs a build.

use std::io::{self, Write};

/// Says something on stderr, where cargo speaks.
pub(crate) fn note(text: &str) {
    // Nobody can be told if stderr is closed.
    writeln!(io::stderr(), "tholepin: {text}").ok();
}
