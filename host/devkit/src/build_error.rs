//! The errors of a build of a plugin's project.

use std::{io, path::PathBuf, time::Duration};

/// How long one run of cargo may take: the first build fetches and compiles all dependencies of the plugin.
pub(crate) const CARGO_DEADLINE: Duration = Duration::from_secs(1800);

/// Why a build or a test failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The directory contains no project.
    #[error("`{}` has no Cargo.toml: name the directory of a plugin's project, or make one with `tholepin plugin new`", .0.display())]
    NoProject(PathBuf),
    /// Cargo cannot be started.
    #[error("cannot start cargo: install Rust with rustup, or set CARGO")]
    Start(#[source] io::Error),
    /// Cargo's output cannot be read.
    #[error("cannot read cargo's output")]
    Read(#[source] io::Error),
    /// Cargo failed, and has printed the reason to stderr.
    #[error("`cargo {0}` failed; its output above gives the reason")]
    Failed(&'static str),
    /// Cargo did not end in time and was killed.
    #[error("`cargo {0}` did not end within {seconds} s", seconds = CARGO_DEADLINE.as_secs())]
    Late(&'static str),
    /// The directory that projects share cannot be used.
    #[error("cannot use `{}` for builds; free disk space or set CARGO_TARGET_DIR to another directory", path.display())]
    Shared {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Another build of a package of this name did not end in time.
    #[error("another build of `{0}` did not end within {seconds} s: end it, or set CARGO_TARGET_DIR to another directory", seconds = CARGO_DEADLINE.as_secs())]
    Busy(String),
    /// The build succeeded and produced no component.
    #[error(
        "the project produces no component: put `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]` in its Cargo.toml"
    )]
    NoComponent,
}
