//! Runs plugins: everything that is about Wasm, and the registry that swaps plugins while they run.
//!
//! Knows how to turn files into a [`LoadedPlugin`] and how to call one. It reaches the world through
//! [`HostCalls`](tholepin_core::HostCalls) alone, and never talks to Kubernetes or Redis.
//!
//! ```text
//! NAME.yaml + NAME.wasm ─► fetch ─► verify ─► compile (cached) ─► check (link, describe, grants) ─► publish
//!                                        a failure at any step leaves the previous revision serving
//! call ─► code ─► fresh instance ─► export ─► import ─► Call ─► Perform ─► Answer ─► … ─► outcome or GuestError
//!         given back while nobody calls it, loaded again by the next call
//! ```
//!
//! Invariants:
//! - Each call has an instance of its own: a trap in one leaves nothing behind for another.
//! - A guest has no authority: an import is a recorded [`Call`](tholepin_core::Call), an answer without
//!   any content (WASI's environment), or a trap.
//! - Every call ends: by its result, its limits of computing and memory, or its wall clock.
//! - Compiled code comes from this process' own compiler, through a directory that is private to the
//!   user, and from nowhere else.

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
pub use engine::{EngineError, GuestEngine, InstanceAllocation};
pub use inspect::{ComponentInspection, InspectError, grant_yaml, inspect};
pub use limits::GuestLimits;
pub use plugin::LoadedPlugin;
pub use registry::{
    CompilationNotice, DirectoryWatch, PluginHistory, PluginRegistry, PluginReport, RegistryError,
    RegistryOptions, RejectReason, RevisionRecord, RevisionStage, RollbackError, RollbackRecord,
    ServingRevision,
};
pub use settings::{ComponentSource, GrantSetting, LimitSettings, PluginObject, PluginSettings};
