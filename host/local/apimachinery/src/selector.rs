//! Label selectors and field selectors: parsing and matching, without an index.
//!
//! Both are conjunctions: an object matches if every term does. Source of the grammar: k8s.io/apimachinery
//! `pkg/labels/selector.go`, `pkg/fields/selector.go`.
//!
//! `kube::core::Selector` is not used: it matches label selectors but has no parser for their text (`kube` 5), and no
//! operators `>` and `<`. `kube` has no field selectors.

mod field;
mod label;

pub use field::FieldSelector;
pub use label::LabelSelector;

/// The error for a selector that cannot be parsed; the server answers 400 with its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
