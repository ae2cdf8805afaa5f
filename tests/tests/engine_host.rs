//! The engine as users run it: `tholepin local --api-only` and `tholepin run` as two processes, plugins as files
//! in a directory, objects through the real kubectl.
//!
//! No test here needs Redis: the guests of `tests/guests` reconcile kinds of their own. Every test has its own
//! cluster and host, which start in a tenth of a second and end with the test.
#![cfg(test)]

#[path = "engine_host/admin.rs"]
mod admin;
#[path = "engine_host/advice.rs"]
mod advice;
#[path = "engine_host/bad_plugins.rs"]
mod bad_plugins;
#[path = "engine_host/cli.rs"]
mod cli;
#[path = "engine_host/denied.rs"]
mod denied;
#[path = "engine_host/environment.rs"]
mod environment;
#[path = "engine_host/health.rs"]
mod health;
#[path = "engine_host/plan.rs"]
mod plan;
#[path = "engine_host/reconcile.rs"]
mod reconcile;
#[path = "engine_host/sample.rs"]
mod sample;
#[path = "engine_host/stopped.rs"]
mod stopped;
#[path = "engine_host/swap.rs"]
mod swap;
#[path = "engine_host/taken_back.rs"]
mod taken_back;
