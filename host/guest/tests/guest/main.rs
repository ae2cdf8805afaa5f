//! Real guests in the real runtime, with the world behind it scripted.
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
