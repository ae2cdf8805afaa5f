//! Parsers of the replies to `INFO`, `CLUSTER INFO` and `CLUSTER NODES`. Pure.
//!
//! A malformed line or field is an error and is never skipped, because decisions on an incomplete topology would
//! be wrong.

mod cluster_info;
mod cluster_nodes;
mod info;

pub use cluster_info::cluster_info;
pub use cluster_nodes::{ClusterNodesReply, cluster_nodes};
pub use info::{InfoFields, info};

/// The reason why a reply cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisReplyParseError {
    /// A field is missing.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// A field has an invalid value.
    #[error("the field `{field}` cannot be `{value}`")]
    Value {
        /// The field.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// A line of `CLUSTER NODES` is not well formed.
    #[error("the line `{line}` is malformed: {why}")]
    Node {
        /// The line.
        line: String,
        /// What is wrong with it.
        why: String,
    },
    /// No line of `CLUSTER NODES` is marked `myself`, or several are.
    #[error("{0} lines are marked `myself` instead of one")]
    Myself(usize),
}
