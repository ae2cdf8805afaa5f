//! The JSON documents that host and plugins exchange, and the types used in them.
//!
//! WIT records can never get another field, so every document that may grow is JSON. This crate defines its
//! shape once for both sides: [`manifest`] (the answer of `describe`), [`reconcile`] (argument and results),
//! [`instance`], [`snapshot`], [`action`], [`fact`] and [`probe`], plus the command table ([`command`]) and
//! the names that plugins cannot use ([`reserved`]), and what their Pods may use ([`pod_permission`]).
//!
//! Invariants:
//! - A document written by an older plugin stays readable: new fields have defaults.
//! - Manifests, outcomes and actions with an unknown field are refused. Otherwise the writer would believe
//!   that the field has an effect.
//!
//! The crate performs no I/O. It is `no_std`, because planners depend on it and must not be able to act.

#![no_std]
extern crate alloc;

mod open_enum;

pub mod action;
pub mod command;
pub mod fact;
pub mod guard_id;
pub mod instance;
pub mod manifest;
pub mod pod_permission;
pub mod primitives;
pub mod probe;
pub mod reconcile;
pub mod reserved;
pub mod snapshot;
