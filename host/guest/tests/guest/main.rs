//! Tests of the guest runtime with real guests and scripted host calls.
#![cfg(test)]

mod build;
mod cache;
mod fixture;
mod host_calls;
mod imports;
mod inspect;
mod limits;
mod registry;
mod replay;
mod wasi;
