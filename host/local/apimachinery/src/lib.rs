//! Decides what a Kubernetes API server answers: the pure half of the embedded one.
//!
//! Every object is a [`serde_json::Value`]. Nothing here opens a socket, keeps an object, reads a
//! clock or draws a random number: the time is an argument, and `tholepin-apiserver` owns storage,
//! HTTP and resource versions.
//!
//! ```text
//! request ─► patch | managed_fields::apply ─► schema (prune, defaults, validate) ─► validation
//!                                                            │
//! answer  ◄─ table | openapi ◄─ kinds, selector ◄─ (storage, elsewhere)
//! ```
//!
//! Invariants:
//! - Equal arguments give equal results, byte for byte, on any machine.
//! - A function that fails leaves its `&mut` arguments as they were.
//! - Nothing panics on what a client sent; depth and counts are bounded.

pub mod field_error;
pub mod jsonpath;
pub mod kinds;
pub mod managed_fields;
pub mod merge_schema;
pub mod openapi;
pub mod patch;
pub mod pod_security;
pub mod schema;
pub mod selector;
pub mod table;
pub mod validation;

pub use field_error::{FieldError, FieldErrorReason};
pub use kinds::Kind;
pub use merge_schema::MergeSchema;
pub use schema::StructuralSchema;
