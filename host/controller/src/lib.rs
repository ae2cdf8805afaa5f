//! Decides when which plugin is called for which object, and what follows from its answer.
//!
//! ```text
//! changes ─► mapper ─► queue ─► pass (validate, reconcile) ─► conditions, requeue, strikes
//! ```
//!
//! It knows ports only: no Kubernetes client, no Wasm runtime, no gate.
//!
//! Invariants:
//! - One pass per object at a time; different objects in parallel: so many compute, and more wait for
//!   the host, up to a second bound.
//! - A pass uses one revision of its plugin from its start to its end, whatever is swapped meanwhile.
//! - A plan changes nothing that is remembered here.
//! - A spec that its plugin refuses never stops the reconciling of the one that was accepted before.
//! - A fault of a plugin counts against that revision and that object alone.
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
