//! Decides when a plugin is called for an object, and acts on its answer.
//!
//! ```text
//! store changes ─► mapper ─► queue ─► reconcile_once (validate, reconcile) ─► conditions, requeue, strikes, report
//!                                        └─ the plan command runs it as well, and writes nothing
//! ```
//!
//! It works through ports and knows no Kubernetes client, no Wasm runtime and no gate.
//!
//! Invariants:
//! - One reconcile per object at a time. Different objects are reconciled concurrently: a bounded number computes, and
//!   a larger bounded number has begun and may wait for the host.
//! - A reconcile uses one revision of its plugin from start to end, whatever is swapped meanwhile.
//! - A plan changes nothing that the controller remembers.
//! - While a plugin refuses a new spec, the spec that it accepted before is reconciled.
//! - A fault of a plugin counts against that revision and that object only.
//! - Every task is joined.

mod conditions;
mod controller;
mod ended;
mod field;
mod gauges;
mod history;
mod liveness;
mod mapper;
mod metrics;
mod object_state;
mod overdue;
mod permit;
mod phase;
mod plan;
mod plugins;
pub mod queue;
mod reconcile;
mod report_builder;
mod run;
mod shared_state;
mod strikes;

#[cfg(test)]
mod testing;

pub use controller::{Controller, PluginHealth};
pub use plan::PlanError;
pub use plugins::{
    ActivePlugin, ActivePlugins, ClosedContext, ContextFactory, OpenContext, PluginEvent,
    ReconcilePurpose, WakeSubscriber,
};
pub use shared_state::{ControllerPorts, ControllerSettings};
