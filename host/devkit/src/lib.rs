//! The developer's kit behind `tholepin plugin …` and `tholepin doctor`.
//!
//! ```text
//! PluginProject ─► project ─► ProjectBuilder ─► component ─► install ─► directory of a host
//!                    └─► SourceWatcher: the next build
//! doctor: facts about a machine ─► findings
//! ```
//!
//! This crate works on files and starts `cargo`. It depends on neither Wasm nor Kubernetes: its callers check
//! whether a component is valid, and collect the facts about a machine.
//!
//! Invariants:
//! - The files of [`PluginProjectNames`] are in this binary and contain neither a path of a machine nor an address.
//!   They are the sample of this tree under other names, so that they are compiled and tested with the tree.
//! - A project never gets a component that was built for another one, although projects share a target directory.
//! - No file of a user is overwritten: a directory that is not empty is refused.
//! - The files of a plugin appear in the directory of a host complete, by a rename.

mod build;
mod build_error;
pub mod doctor;
mod install;
mod lock;
mod project;
mod shared;
mod sources;
mod stderr;
mod substitution;

pub use build::{BuildOutput, ProjectBuilder};
pub use build_error::BuildError;
pub use install::{InstallError, install};
pub use project::{DEFAULT_GROUP, NewProjectError, PluginProjectNames};
pub use sources::{SavedSourceFiles, SourceWatchError, SourceWatcher};

/// The folder of a project that holds the SDK and the WIT contract from this binary.
const SDK_DIRECTORY: &str = "tholepin";
