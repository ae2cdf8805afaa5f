//! Tests of the guest runtime with real guests and scripted host calls.
#![cfg(test)]

mod build;
mod cache;
mod imports;
mod inspect;
mod limits;
mod perform;
mod registry;
mod replay;
mod setting;
mod wasi;
