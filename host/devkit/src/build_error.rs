//! Why a build of a plugin's project gives no component.

use std::{io, path::PathBuf, time::Duration};

/// How long one cargo may take: the first build fetches and compiles what the plugin uses.
pub(crate) const CARGO_DEADLINE: Duration = Duration::from_secs(1800);

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The directory holds no project.
    #[error("`{}` has no Cargo.toml: name the directory of a plugin's project, or make one with `tholepin plugin new`", .0.display())]
    NoProject(PathBuf),
    /// Cargo cannot be started.
    #[error("cannot start cargo: install Rust with rustup, or set CARGO")]
    Start(#[source] io::Error),
    /// Cargo's output cannot be read.
    #[error("cannot read what cargo says")]
    Read(#[source] io::Error),
    /// Cargo did not succeed; it has said why on stderr.
    #[error("`cargo {0}` failed; it says why above")]
    Failed(&'static str),
    /// Cargo did not end.
    #[error("`cargo {0}` did not end within {seconds} s", seconds = CARGO_DEADLINE.as_secs())]
    Late(&'static str),
    /// The directory that projects share cannot be used.
    #[error("cannot use `{}` for builds; make room or set CARGO_TARGET_DIR to another directory", path.display())]
    Shared {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another build did not end.
    #[error("another build of `{0}` did not end within {seconds} s: end it, or set CARGO_TARGET_DIR to another directory", seconds = CARGO_DEADLINE.as_secs())]
    Busy(String),
    /// The package is none that makes a component.
    #[error(
        "the project makes no component: put `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]` in its Cargo.toml"
    )]
    NoComponent,
}
