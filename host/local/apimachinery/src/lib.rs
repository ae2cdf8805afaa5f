//! Implements the object semantics of a Kubernetes API server as pure functions, for the embedded API server.
//!
//! Every object is a [`serde_json::Value`]. The crate opens no socket, stores no object, reads no clock and draws
//! no random number: the time is an argument, and `tholepin-apiserver` owns storage, HTTP and resource versions.
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
//! - No function panics on a client's input; the depth of recursion and the sizes of results are bounded.
//!
//! The crate does not enforce rules of single kinds (a Service's ports, a CRD's names): `tholepin-apiserver` does.

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
