//! A Redis reply as a flat list of nodes, because WIT types cannot be recursive.

use serde::{Deserialize, Serialize};

/// One node of a reply. Children are indexes into [`RespReply::nodes`].
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RespNode {
    /// Null.
    Nil,
    /// An integer.
    Int(i64),
    /// A bulk string: any bytes.
    Bulk(Vec<u8>),
    /// A simple string such as `OK`.
    Status(String),
    /// An error reply; its first word is the code.
    Error(String),
    /// A double.
    Double(f64),
    /// A boolean.
    Boolean(bool),
    /// An array or a set.
    Array(Vec<u32>),
    /// A map, as pairs of key and value.
    Map(Vec<(u32, u32)>),
}

/// One reply. Node 0 is the root; a node's children come after it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct RespReply {
    /// The nodes.
    pub nodes: Vec<RespNode>,
}
