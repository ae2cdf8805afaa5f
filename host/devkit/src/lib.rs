//! The developer's kit: writes the project that a plugin starts from, builds it, puts it where a host sees it,
//! notices when its sources change, and judges whether a machine has what all this needs.
//!
//! It works on files and starts `cargo`. It knows neither Wasm nor Kubernetes: whether a component is any good is
//! asked by whoever calls this.
//!
//! Invariants:
//! - What [`PluginProject`] writes comes out of this program and names no place: neither a path of a machine nor an
//!   address. It is the sample of this tree under other names, so it is compiled and tested with the tree.
//! - Nothing that was built for one project is taken for another's, though projects share a target directory.
//! - Nothing is written over: a directory that holds anything is refused.
//! - A plugin's files appear in a host's directory whole, by a rename.

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
pub use project::{DEFAULT_GROUP, NewProjectError, PluginProject};
pub use sources::{SourceChange, SourceWatchError, SourceWatcher};

/// The folder of a project that holds the SDK and the contract, as this program brought them.
const BROUGHT: &str = "tholepin";
