//! Label selectors and field selectors: parsing and matching, without an index.
//!
//! Both are conjunctions: an object matches if every term does. Source of the grammar: k8s.io/apimachinery
//! `pkg/labels/selector.go`, `pkg/fields/selector.go`.
//!
//! `kube::core::Selector` is not used: it has no operators `>` and `<` and no field selectors, and only
//! `tholepin-kube` depends on `kube` (invariant 2 in ARCHITECTURE.md).

mod field;
mod label;

pub use field::FieldSelector;
pub use label::LabelSelector;

/// The error for a selector that cannot be parsed; the server answers 400 with its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
