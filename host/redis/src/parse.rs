//! Reads what Redis says about itself. Pure functions: text in, facts or an error out.
//!
//! What cannot be read is an error, never skipped: half a topology is worse than none.

mod cluster_info;
mod cluster_nodes;
mod info;

pub use cluster_info::cluster_info;
pub use cluster_nodes::{ClusterNodes, cluster_nodes};
pub use info::{InfoFields, info};

/// Why a reply could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A field is not there.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// A field holds something else than it should.
    #[error("the field `{field}` cannot be `{value}`")]
    Value {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: String,
    },
    /// A line of `CLUSTER NODES` is not well formed.
    #[error("the line `{line}` is no node: {why}")]
    Node {
        /// The line.
        line: String,
        /// What is wrong with it.
        why: String,
    },
    /// No line of `CLUSTER NODES` is marked `myself`, or several are.
    #[error("{0} nodes say to be `myself`")]
    Myself(usize),
}
