//! The JSON documents that cross the border between host and plugins, and the words they use.
//!
//! WIT records can never grow, so whatever may grow is JSON whose shape is defined here, once, for
//! both sides. The crate is `no_std`: planners use it too, and they must not be able to act.
//!
//! Invariants:
//! - A document that an older plugin wrote stays readable: new fields have defaults.
//! - A document with a field that its version does not know is refused where the writer would
//!   otherwise believe it had been heard (manifest, outcome, actions).

#![no_std]
extern crate alloc;

pub mod action;
pub mod command;
pub mod fact;
pub mod guard_id;
pub mod instance;
pub mod manifest;
pub mod primitives;
pub mod probe;
pub mod reconcile;
pub mod reserved;
pub mod snapshot;
