//! Redis replies: a flat list of nodes, with methods to read it as a tree.

use serde::{Deserialize, Serialize};

/// One node of a reply. Children are indexes into [`RedisReply::nodes`].
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyNode {
    /// Null.
    Nil,
    /// An integer.
    Int(i64),
    /// A bulk string of arbitrary bytes.
    Bulk(Vec<u8>),
    /// A simple string such as `OK`.
    Status(String),
    /// An error reply; its first word is the error code.
    Error(String),
    /// A double.
    Double(f64),
    /// A boolean.
    Boolean(bool),
    /// An array or a set.
    Array(Vec<u32>),
    /// A map, as pairs of key and value.
    Map(Vec<(u32, u32)>),
    /// A value of a type that this version does not name, as text.
    Other(String),
}

/// One reply. Node 0 is the root; the children of a node come after it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct RedisReply {
    /// The nodes.
    pub nodes: Vec<ReplyNode>,
}

impl RedisReply {
    /// Returns the root; null if the reply is empty, which the contract excludes.
    #[must_use]
    pub fn root(&self) -> &ReplyNode {
        self.node(0)
    }

    /// Returns a node by its index; null if the index is out of range.
    #[must_use]
    pub fn node(&self, index: u32) -> &ReplyNode {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.nodes.get(index))
            .unwrap_or(&ReplyNode::Nil)
    }

    /// Returns the root as text, if it is a bulk or simple string in UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.root().text()
    }

    /// Iterates over the children of the root; empty if the root is not an array.
    pub fn items(&self) -> impl Iterator<Item = &ReplyNode> {
        let children = match self.root() {
            ReplyNode::Array(children) => children.as_slice(),
            ReplyNode::Nil
            | ReplyNode::Int(_)
            | ReplyNode::Bulk(_)
            | ReplyNode::Status(_)
            | ReplyNode::Error(_)
            | ReplyNode::Double(_)
            | ReplyNode::Boolean(_)
            | ReplyNode::Map(_)
            | ReplyNode::Other(_) => &[],
        };
        children.iter().map(|child| self.node(*child))
    }
}

impl ReplyNode {
    /// Returns the node as text, if it is a bulk or simple string in UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Bulk(bytes) => str::from_utf8(bytes).ok(),
            Self::Status(text) => Some(text),
            Self::Nil
            | Self::Int(_)
            | Self::Error(_)
            | Self::Double(_)
            | Self::Boolean(_)
            | Self::Array(_)
            | Self::Map(_)
            | Self::Other(_) => None,
        }
    }
}
