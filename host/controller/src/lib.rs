//! Decides when a plugin is called for an object, and acts on its answer.
//!
//! ```text
//! store changes ─► mapper ─► queue ─► reconcile_once (validate, reconcile) ─► conditions, requeue, strikes, report
//!                                        └─ the plan command runs it as well, and writes nothing
//! ```
//!
//! For people, it also makes dry runs (`tholepin plan`), keeps the reports of the last reconciles, collects the status
//! of objects and members, and writes the `Plugin` objects.
//!
//! It works through ports and knows no Kubernetes client, no Wasm runtime and no gate.
//!
//! Invariants:
//! - One reconcile per object at a time. Different objects are reconciled concurrently: a bounded number computes, and
//!   a larger bounded number has begun and may wait for the host.
//! - A reconcile uses one revision of its plugin from start to end, whatever is swapped meanwhile.
//! - A dry run changes nothing that the controller remembers.
//! - While a plugin refuses a new spec, the spec that it accepted before is reconciled.
//! - A fault of a plugin counts against that revision and that object only.
//! - Every task is joined.

mod clock;
mod conditions;
mod controller;
mod dry_run;
mod dry_runner;
mod ended_containers;
mod field;
mod gauges;
mod history;
pub mod host_name;
mod host_status;
mod kinds;
mod liveness;
mod mapper;
mod metrics;
mod object_state;
mod overdue;
mod permit;
mod phase;
mod plugin_objects;
mod plugins;
pub mod queue;
mod reconcile;
mod reconcile_once;
mod report_builder;
mod shared_state;
mod strikes;

#[cfg(test)]
mod testing;

pub use clock::SteadyClock;
pub use controller::{Controller, ObjectHealthCounts};
pub use dry_run::DryRunError;
pub use dry_runner::{
    DryRunObjectSource, DryRunReportPart, DryRunner, DryRunnerError, ObjectArgument,
    ObjectFileError, ReconcileReportSelection,
};
pub use host_status::{
    DEGRADED, HostStatusCollector, HostStatusMember, HostStatusReport, PluginStatus,
    ReconciledObjectStatus, RedisMemberReader,
};
pub use kinds::{ApiKinds, KindFromArgument, install_when_available};
pub use plugin_objects::{PluginObjectWriter, PluginRegistryFollower, PluginReports};
pub use plugins::{
    ActivePlugin, ActivePluginChange, ActivePlugins, ClosedContextResult, ContextFactory,
    ReconcileHostCalls, ReconcilePurpose, WakeRegistrar,
};
pub use shared_state::{ControllerPorts, ControllerSettings};
