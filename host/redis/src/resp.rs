//! Redis' protocol: commands to bytes, bytes to replies.
//!
//! Replies become the flat arena that crosses the plugin border, without a recursive value between.
//! Both RESP2 and RESP3 are read; pushes and attributes, which only a client that asked for them
//! gets, are errors.
//!
//! Invariants:
//! - However the bytes are cut into pieces, the replies are the same.
//! - A reply that is too large, too deep or malformed is an error and not a partial reply.

use tholepin_core::{RespNode, RespReply, port::ReplyRoom};

/// The largest reply in bytes.
pub const REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most values in a reply.
pub const REPLY_NODES_MAX: usize = 1024 * 1024;
/// The deepest nesting of a reply.
pub const REPLY_DEPTH_MAX: usize = 32;

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RespError {
    /// A type that Redis does not have, or that nobody asked for.
    #[error("unexpected type byte {0:#04x}")]
    Type(u8),
    /// A number, a length or a line that is not well formed.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// More than [`REPLY_BYTES_MAX`], [`REPLY_NODES_MAX`] or [`REPLY_DEPTH_MAX`].
    #[error("the reply is larger than {0}")]
    TooLarge(&'static str),
    /// More than the room of the call.
    #[error("the replies take more than {0} bytes")]
    NoRoom(usize),
}

/// Writes commands as arrays of bulk strings.
#[must_use]
pub fn encode(commands: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let line = |bytes: &mut Vec<u8>, mark: u8, number: usize| {
        bytes.push(mark);
        bytes.extend_from_slice(number.to_string().as_bytes());
        bytes.extend_from_slice(b"\r\n");
    };
    for command in commands {
        line(&mut bytes, b'*', command.len());
        for argument in command {
            line(&mut bytes, b'$', argument.len());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes
}

/// Reads replies from bytes that come in pieces.
#[derive(Debug, Default)]
pub struct RespDecoder {
    bytes: Vec<u8>,
    // Where the next token begins in `bytes`.
    at: usize,
    // Bytes of the reply under way that were consumed already.
    taken: usize,
    nodes: Vec<RespNode>,
    open: Vec<IncompleteRespAggregate>,
}

/// An array or map whose elements are still to come.
#[derive(Debug)]
struct IncompleteRespAggregate {
    node: usize,
    // Values still to come: two per pair of a map.
    left: usize,
    // The key of a map that waits for its value.
    key: Option<u32>,
}

/// One token: a whole scalar, or the head of an aggregate.
enum RespToken {
    Scalar(RespNode),
    Array(usize),
    Map(usize),
}

impl RespDecoder {
    /// Takes in bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether bytes are left that belong to no reply given yet.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.at == self.bytes.len() && self.open.is_empty()
    }

    /// The next reply, if its last byte is there.
    ///
    /// # Errors
    ///
    /// Fails if the bytes are no reply or the reply breaks a bound; the decoder is of no use then.
    pub fn next_reply(&mut self) -> Result<Option<RespReply>, RespError> {
        self.next_reply_within(&ReplyRoom::new(usize::MAX))
    }

    /// The next reply, if its last byte is there. Its values take their share of `room`; the caller takes that
    /// of the bytes that it pushes.
    ///
    /// # Errors
    ///
    /// Fails as [`next_reply`](Self::next_reply), or if there is no room.
    pub fn next_reply_within(&mut self, room: &ReplyRoom) -> Result<Option<RespReply>, RespError> {
        loop {
            let before = self.at;
            let token = self.token()?;
            self.taken += self.at - before;
            if REPLY_BYTES_MAX < self.taken + self.bytes.len() - self.at {
                return Err(RespError::TooLarge("32 MiB"));
            }
            let Some(token) = token else { return Ok(None) };
            if !room.take(ReplyRoom::NODE_BYTES) {
                return Err(RespError::NoRoom(room.bytes_max()));
            }
            if REPLY_NODES_MAX <= self.nodes.len() {
                return Err(RespError::TooLarge("a million values"));
            }
            let index = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
            let left = match token {
                RespToken::Scalar(node) => {
                    self.nodes.push(node);
                    0
                }
                RespToken::Array(length) => {
                    self.nodes.push(RespNode::Array(Vec::new()));
                    length
                }
                RespToken::Map(length) => {
                    self.nodes.push(RespNode::Map(Vec::new()));
                    length.saturating_mul(2)
                }
            };
            self.attach(index);
            if 0 < left {
                if REPLY_DEPTH_MAX <= self.open.len() {
                    return Err(RespError::TooLarge("32 levels"));
                }
                self.open.push(IncompleteRespAggregate { node: index as usize, left, key: None });
            }
            // A parent whose last child is an aggregate stays until that one is complete.
            while self.open.last().is_some_and(|open| open.left == 0) {
                self.open.pop();
            }
            if self.open.is_empty() {
                self.taken = 0;
                return Ok(Some(RespReply { nodes: std::mem::take(&mut self.nodes) }));
            }
        }
    }

    /// Hands a value to the aggregate that waits for it.
    fn attach(&mut self, value: u32) {
        let Some(open) = self.open.last_mut() else { return };
        open.left -= 1;
        match (self.nodes.get_mut(open.node), open.key.take()) {
            (Some(RespNode::Array(children)), _) => children.push(value),
            (Some(RespNode::Map(pairs)), Some(key)) => pairs.push((key, value)),
            (_, _) => open.key = Some(value),
        }
    }

    fn token(&mut self) -> Result<Option<RespToken>, RespError> {
        let Some(&mark) = self.bytes.get(self.at) else { return Ok(None) };
        let rest = self.bytes.get(self.at + 1..).unwrap_or_default();
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            // Only the kinds that carry no length can have long lines, and those are short texts.
            let is_endless = 64 * 1024 < rest.len();
            return if is_endless { Err(RespError::Malformed("line")) } else { Ok(None) };
        };
        let line = rest.get(..end).unwrap_or_default();
        let after = self.at + 1 + end + 2;
        let text = || String::from_utf8_lossy(line).into_owned();
        let token = match mark {
            b'+' => RespToken::Scalar(RespNode::Status(text())),
            b'-' => RespToken::Scalar(RespNode::Error(text())),
            b':' => RespToken::Scalar(RespNode::Int(parsed(line, "integer")?)),
            b',' => RespToken::Scalar(RespNode::Double(parsed(line, "double")?)),
            b'(' => RespToken::Scalar(RespNode::Bulk(line.to_vec())),
            b'_' => RespToken::Scalar(RespNode::Nil),
            b'#' => match line {
                b"t" => RespToken::Scalar(RespNode::Boolean(true)),
                b"f" => RespToken::Scalar(RespNode::Boolean(false)),
                _ => return Err(RespError::Malformed("boolean")),
            },
            b'*' | b'~' | b'%' | b'$' | b'!' | b'=' => match length(line)? {
                None => RespToken::Scalar(RespNode::Nil),
                Some(length) if mark == b'*' || mark == b'~' => RespToken::Array(length),
                Some(length) if mark == b'%' => RespToken::Map(length),
                Some(length) => {
                    let Some(node) = self.payload(mark, after, length)? else { return Ok(None) };
                    self.at = after + length + 2;
                    return Ok(Some(RespToken::Scalar(node)));
                }
            },
            other => return Err(RespError::Type(other)),
        };
        self.at = after;
        Ok(Some(token))
    }

    fn payload(&self, mark: u8, at: usize, length: usize) -> Result<Option<RespNode>, RespError> {
        let Some(bytes) = self.bytes.get(at..at + length + 2) else { return Ok(None) };
        let (bytes, end) = bytes.split_at(length);
        if end != b"\r\n" {
            return Err(RespError::Malformed("bulk string"));
        }
        Ok(Some(match mark {
            b'!' => RespNode::Error(String::from_utf8_lossy(bytes).into_owned()),
            // A verbatim string begins with its format: `txt:`.
            b'=' => RespNode::Bulk(bytes.get(4..).unwrap_or_default().to_vec()),
            _ => RespNode::Bulk(bytes.to_vec()),
        }))
    }
}

fn parsed<T: std::str::FromStr>(line: &[u8], what: &'static str) -> Result<T, RespError> {
    let text = str::from_utf8(line).map_err(|_| RespError::Malformed(what))?;
    text.parse().map_err(|_| RespError::Malformed(what))
}

/// A length, or `None` for the null of RESP2 (`-1`).
fn length(line: &[u8]) -> Result<Option<usize>, RespError> {
    match parsed::<i64>(line, "length")? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= REPLY_BYTES_MAX => Ok(Some(length)),
            Ok(_) => Err(RespError::TooLarge("32 MiB")),
            Err(_) => Err(RespError::Malformed("length")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redis::Value;

    fn decode(bytes: &[u8]) -> Result<Vec<RespReply>, RespError> {
        let mut decoder = RespDecoder::default();
        decoder.push(bytes);
        let mut replies = Vec::new();
        while let Some(reply) = decoder.next_reply()? {
            replies.push(reply);
        }
        Ok(replies)
    }

    /// The arena as the client library's recursive value.
    fn value(nodes: &[RespNode], at: u32) -> Value {
        match &nodes[at as usize] {
            RespNode::Nil => Value::Nil,
            RespNode::Int(number) => Value::Int(*number),
            RespNode::Bulk(bytes) => Value::BulkString(bytes.clone()),
            RespNode::Status(text) if text == "OK" => Value::Okay,
            RespNode::Status(text) => Value::SimpleString(text.clone()),
            RespNode::Error(text) => {
                redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap()
            }
            RespNode::Double(number) => Value::Double(*number),
            RespNode::Boolean(truth) => Value::Boolean(*truth),
            RespNode::Array(all) => Value::Array(all.iter().map(|&at| value(nodes, at)).collect()),
            RespNode::Map(all) => {
                let pair = |&(key, at): &(u32, u32)| (value(nodes, key), value(nodes, at));
                Value::Map(all.iter().map(pair).collect())
            }
        }
    }

    #[test]
    fn the_client_library_reads_the_same() {
        let cases = [
            "+OK\r\n",
            "+PONG\r\n",
            "-ERR no\r\n",
            ":-42\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$5\r\na\r\nbc\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*2\r\n*1\r\n:1\r\n*2\r\n*0\r\n$1\r\nx\r\n",
            "*3\r\n:1\r\n-MOVED 1 a:1\r\n*1\r\n*1\r\n_\r\n",
            "%2\r\n+a\r\n*1\r\n:1\r\n+b\r\n%1\r\n:1\r\n#t\r\n",
            ",1.5\r\n",
            "%0\r\n",
        ];
        for text in cases {
            let replies = decode(text.as_bytes()).unwrap();
            assert_eq!(replies.len(), 1, "{text}");
            let expected = redis::parse_redis_value(text.as_bytes()).unwrap();
            assert_eq!(value(&replies[0].nodes, 0), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let cases = [
            ("HTTP/1.1 400\r\n", RespError::Type(b'H')),
            (":x\r\n", RespError::Malformed("integer")),
            ("$-2\r\n", RespError::Malformed("length")),
            ("$1\r\nabcd", RespError::Malformed("bulk string")),
            ("$99999999999\r\n", RespError::TooLarge("32 MiB")),
            (">1\r\n+x\r\n", RespError::Type(b'>')),
        ];
        for (text, error) in cases {
            assert_eq!(decode(text.as_bytes()), Err(error), "{text}");
        }
        let deep = "*1\r\n".repeat(REPLY_DEPTH_MAX + 1);
        assert_eq!(decode(deep.as_bytes()), Err(RespError::TooLarge("32 levels")));
    }

    #[test]
    fn the_values_of_all_replies_share_the_room() {
        let mut decoder = RespDecoder::default();
        decoder.push(b":1\r\n*2\r\n:2\r\n:3\r\n:4\r\n");
        let room = ReplyRoom::new(4 * ReplyRoom::NODE_BYTES);
        assert!(decoder.next_reply_within(&room).unwrap().is_some());
        assert!(decoder.next_reply_within(&room).unwrap().is_some());
        let bytes_max = room.bytes_max();
        assert_eq!(decoder.next_reply_within(&room), Err(RespError::NoRoom(bytes_max)));
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let bytes = encode(&[vec![b"SET".to_vec(), b"a\r\n".to_vec()], vec![b"PING".to_vec()]]);
        assert_eq!(bytes, b"*2\r\n$3\r\nSET\r\n$3\r\na\r\n\r\n*1\r\n$4\r\nPING\r\n");
    }

    fn reply() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("$-1\r\n".to_owned()),
            any::<i64>().prop_map(|number| format!(":{number}\r\n")),
            "[a-z\r\n]{0,6}".prop_map(|text| format!("${}\r\n{text}\r\n", text.len())),
            "[a-z]{1,6}".prop_map(|text| format!("-{text}\r\n")),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            proptest::collection::vec(inner, 0..4)
                .prop_map(|all| format!("*{}\r\n{}", all.len(), all.concat()))
        })
    }

    proptest! {
        #[test]
        fn cutting_the_bytes_changes_nothing(text in reply(), sizes in proptest::collection::vec(1_usize..7, 1..9)) {
            let whole = decode(text.as_bytes()).unwrap();
            let mut decoder = RespDecoder::default();
            let (mut rest, mut pieces) = (text.as_bytes(), Vec::new());
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, tail) = rest.split_at((*size).min(rest.len()));
                decoder.push(piece);
                pieces.extend(decoder.next_reply().unwrap());
                rest = tail;
            }
            prop_assert!(decoder.is_clean());
            prop_assert_eq!(&whole, &pieces);
            let expected = redis::parse_redis_value(text.as_bytes()).unwrap();
            prop_assert_eq!(value(&whole[0].nodes, 0), expected);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }
}
