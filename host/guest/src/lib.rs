//! Runs plugins: compiles, links and calls Wasm components, and keeps the registry of the plugins that serve.
//!
//! The crate turns the files of a plugin into a [`LoadedPlugin`] and calls it. Every import of a guest goes
//! to [`HostCalls`](tholepin_core::HostCalls); the crate itself never talks to Kubernetes or Redis and does
//! not know what a call does.
//!
//! ```text
//! NAME.yaml + NAME.wasm ─► fetch ─► verify ─► compile (cached) ─► check (link, describe, grants) ─► publish
//!                                        a failure at any step leaves the previous revision serving
//! call ─► code ─► fresh instance ─► export ─► import ─► Call ─► Perform ─► Answer ─► … ─► outcome or GuestError
//!         code is released while idle and loaded again by the next call
//! ```
//!
//! Guarantees:
//! - Each call runs in a fresh instance, so a trap in one call cannot affect another.
//! - A guest has no authority of its own: an import becomes a recorded [`Call`](tholepin_core::Call), returns
//!   an empty answer (such as WASI's environment), or traps.
//! - Every call ends: with its result, at its compute or memory limit, or at its wall-clock limit.
//! - Compiled code comes only from this process' own compiler or from the cache directory, which only this
//!   user can read and write.

mod bindings;
mod cache;
mod code;
mod component;
mod engine;
mod function_cache;
mod grants;
mod heap;
mod imports;
mod inspect;
mod limits;
mod meter;
mod parameters;
mod plugin;
mod registry;
mod settings;
mod state;
mod wasi;

pub use cache::{CacheError, CompileCache};
pub use component::{LoadError, LoadedComponent};
pub use engine::{GuestEngine, InstanceAllocation, WasmEngineSetupError};
pub use inspect::{ComponentInspection, InspectError, grant_yaml, inspect};
pub use limits::GuestLimits;
pub use plugin::LoadedPlugin;
pub use registry::{
    CompilationNotice, DirectoryWatch, PluginHistory, PluginRegistry, PluginRegistryOptions,
    PluginRejectReason, PluginRevisionRecord, PluginStageReport, RegistryError, RevisionLoadStage,
    RollbackError, RollbackRecord, ServingRevision,
};
pub use settings::{
    ComponentSource, GrantSetting, LimitSettings, PluginSettings, PluginYamlObject,
};
