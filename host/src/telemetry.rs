//! Writes log lines to stderr, as text or JSON. Results go to stdout and do not pass through here.

use std::io::{IsTerminal, stderr};

use anyhow::Context;
use tracing_subscriber::{EnvFilter, fmt, prelude::*, registry};

use crate::cli::LogFormat;

/// Starts logging for the rest of the process.
///
/// # Errors
///
/// Fails if the filter cannot be parsed.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter: EnvFilter = filter.parse().with_context(|| {
        format!("`{filter}` is no log filter; give --log or THOLEPIN_LOG a value such as `info`")
    })?;
    let layer = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Text => registry().with(layer.compact().with_filter(filter)).init(),
        LogFormat::Json => registry().with(layer.json().with_filter(filter)).init(),
    }
    Ok(())
}
