//! Decides which objects a list or watch shows: label selectors and field selectors.
//!
//! It parses and matches; it keeps no index. Both selectors are conjunctions: every term must hold.
//! Source of the grammar: k8s.io/apimachinery `pkg/labels/selector.go`, `pkg/fields/selector.go`.

mod field;
mod label;

pub use field::FieldSelector;
pub use label::LabelSelector;

/// Why a selector is refused; the server answers 400 with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
