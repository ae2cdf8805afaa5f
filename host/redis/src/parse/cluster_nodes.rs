//! Parses `CLUSTER NODES`: one node's view of all nodes.
//!
//! Source of the format: <https://redis.io/docs/latest/commands/cluster-nodes/>.

use std::collections::{BTreeMap, BTreeSet};

use tholepin_schema::{
    primitives::{ConfigEpoch, NodeId, Role, Slot, SlotRange, SlotSet},
    snapshot::{ClusterNodesRow, NodeFlag, OpenSlot, SlotDirection},
};

use super::RedisReplyParseError;

/// A node's view of all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNodesReply {
    /// The node that replied.
    pub myself: NodeId,
    /// All nodes that it knows, including itself.
    pub rows: BTreeMap<NodeId, ClusterNodesRow>,
    /// Its own slots that are being moved. A node reports only its own.
    pub open_slots: Vec<OpenSlot>,
}

impl ClusterNodesReply {
    /// Returns the row of the node that replied.
    #[must_use]
    pub fn own(&self) -> Option<&ClusterNodesRow> {
        self.rows.get(&self.myself)
    }
}

/// Parses a reply to `CLUSTER NODES`.
///
/// # Errors
///
/// Fails with the first malformed line, or unless exactly one line is `myself`.
pub fn cluster_nodes(text: &str) -> Result<ClusterNodesReply, RedisReplyParseError> {
    let mut rows = BTreeMap::new();
    let mut open_slots = Vec::new();
    let mut myself = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let node = |why: String| RedisReplyParseError::Node { line: line.to_owned(), why };
        let parsed = parse_line(line).map_err(node)?;
        if parsed.is_myself {
            myself.insert(parsed.id);
        }
        open_slots.extend(parsed.open_slots);
        if rows.insert(parsed.id, parsed.row).is_some() {
            return Err(node("its id occurs twice".to_owned()));
        }
    }
    match (myself.first(), myself.len()) {
        (Some(&myself), 1) => Ok(ClusterNodesReply { myself, rows, open_slots }),
        (_, count) => Err(RedisReplyParseError::Myself(count)),
    }
}

struct ClusterNodesLine {
    id: NodeId,
    is_myself: bool,
    row: ClusterNodesRow,
    open_slots: Vec<OpenSlot>,
}

/// `<id> <ip:port@busport[,hostname…]> <flags> <primary> <ping> <pong> <epoch> <link> <slot>…`
fn parse_line(line: &str) -> Result<ClusterNodesLine, String> {
    let mut fields = line.split_ascii_whitespace();
    let mut next_field = |what: &str| fields.next().ok_or_else(|| format!("the {what} is missing"));
    let id = parse(next_field("id")?)?;
    let address = address(next_field("address")?)?;
    let flags = flags(next_field("flags")?)?;
    let primary = match next_field("primary")? {
        "-" => None,
        id => Some(parse(id)?),
    };
    // The times of the last ping and pong are ignored: they differ in every reply and add nothing to the
    // link state.
    next_field("ping time")?;
    next_field("pong time")?;
    let epoch = ConfigEpoch(parse(next_field("epoch")?)?);
    let connected = match next_field("link state")? {
        "connected" => true,
        "disconnected" => false,
        other => return Err(format!("the link state `{other}` is unknown")),
    };
    let (mut slots, mut open_slots) = (SlotSet::EMPTY, Vec::new());
    for text in fields {
        match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            Some(text) => open_slots.push(open_slot(text)?),
            None => slots.insert(parse::<SlotRange>(text)?),
        }
    }
    let ClusterNodesFlags { role, is_myself, rest } = flags;
    let row = ClusterNodesRow { role, address, primary, epoch, slots, flags: rest, connected };
    Ok(ClusterNodesLine { id, is_myself, row, open_slots })
}

/// Returns `ip:port` of `ip:port@busport[,hostname[,…]]`; absent if the IP or the port is unknown.
fn address(text: &str) -> Result<Option<String>, String> {
    let client = text.split(['@', ',']).next().unwrap_or_default();
    let (ip, port) = client.rsplit_once(':').ok_or("the address has no port")?;
    let port: u16 = parse(port)?;
    Ok((!ip.is_empty() && port != 0).then(|| format!("{ip}:{port}")))
}

struct ClusterNodesFlags {
    role: Role,
    is_myself: bool,
    rest: BTreeSet<NodeFlag>,
}

fn flags(text: &str) -> Result<ClusterNodesFlags, String> {
    // A node in handshake is neither `master` nor `slave` yet. It counts as a primary without slots.
    let mut flags =
        ClusterNodesFlags { role: Role::Primary, is_myself: false, rest: BTreeSet::new() };
    for flag in text.split(',') {
        let flag = match flag {
            "myself" => {
                flags.is_myself = true;
                continue;
            }
            "master" | "noflags" => continue,
            "slave" => {
                flags.role = Role::Replica;
                continue;
            }
            "fail" => NodeFlag::Fail,
            "fail?" => NodeFlag::MaybeFail,
            "handshake" => NodeFlag::Handshake,
            "noaddr" => NodeFlag::NoAddress,
            "nofailover" => NodeFlag::NoFailover,
            other => return Err(format!("the flag `{other}` is unknown")),
        };
        flags.rest.insert(flag);
    }
    Ok(flags)
}

/// Parses `slot->-id`, a slot that this node migrates to `id`, or `slot-<-id`, one that it imports from `id`.
fn open_slot(text: &str) -> Result<OpenSlot, String> {
    let (slot, direction, peer) = if let Some((slot, peer)) = text.split_once("->-") {
        (slot, SlotDirection::Migrating, peer)
    } else if let Some((slot, peer)) = text.split_once("-<-") {
        (slot, SlotDirection::Importing, peer)
    } else {
        return Err(format!("`[{text}]` is not an open slot"));
    };
    Ok(OpenSlot { slot: parse::<Slot>(slot)?, direction, peer: parse(peer)? })
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("`{text}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "07c37dfeb235213a872192d90877d0cd55635b91";
    const B: &str = "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1";

    fn row_of(rest: &str) -> Result<ClusterNodesRow, RedisReplyParseError> {
        let own = format!("{B} 127.26.0.9:7000@17000 myself,master - 0 0 9 connected");
        let text = format!("{A} {rest}\n{own}\n");
        cluster_nodes(&text).map(|nodes| nodes.rows[&A.parse().unwrap()].clone())
    }

    #[test]
    fn rows_are_parsed_as_redis_prints_them() {
        let row = row_of("127.26.0.1:7000@17000 master - 0 1426238316232 2 connected 0-5460 9000")
            .unwrap();
        assert_eq!(row.role, Role::Primary);
        assert_eq!(row.address.as_deref(), Some("127.26.0.1:7000"));
        assert_eq!((row.epoch, row.connected), (ConfigEpoch(2), true));
        assert_eq!(row.slots.to_string(), "0-5460 9000");

        let row =
            row_of(&format!("10.0.0.1:7000@17000,host.example slave,fail? {B} 0 0 3 disconnected"));
        let row = row.unwrap();
        assert_eq!((row.role, row.primary), (Role::Replica, Some(B.parse().unwrap())));
        assert_eq!(row.flags, [NodeFlag::MaybeFail].into());
        assert!(!row.connected && row.slots.is_empty());

        let row = row_of(":0@0 master,fail,noaddr - 0 0 1 disconnected 5").unwrap();
        assert_eq!(row.address, None);
        assert_eq!(row.flags, [NodeFlag::Fail, NodeFlag::NoAddress].into());

        let row = row_of("10.0.0.1:7000@17000 handshake - 0 0 0 connected").unwrap();
        assert_eq!(row.flags, [NodeFlag::Handshake].into());

        let row = row_of("fd00::1:7000@17000 master - 0 0 0 connected").unwrap();
        assert_eq!(row.address.as_deref(), Some("fd00::1:7000"));
    }

    #[test]
    fn open_slots_are_parsed() {
        let own =
            format!("{A} :7000@17000 myself,master - 0 0 1 connected 0-9 [3->-{B}] [77-<-{B}]");
        let nodes = cluster_nodes(&own).unwrap();
        let open = |number, direction| OpenSlot {
            slot: Slot::new(number).unwrap(),
            direction,
            peer: B.parse().unwrap(),
        };
        let expected = [open(3, SlotDirection::Migrating), open(77, SlotDirection::Importing)];
        assert_eq!(nodes.open_slots, expected);
        assert_eq!(nodes.own().unwrap().address, None, "a node does not know its address at first");
    }

    #[test]
    fn a_malformed_reply_is_an_error() {
        let cases = [
            "127.26.0.1:7000@17000 master - 0 0 2 connected 0-99999",
            "127.26.0.1:7000@17000 master - 0 0 2 connected 9-0",
            "127.26.0.1:7000@17000 primary - 0 0 2 connected",
            "127.26.0.1 master - 0 0 2 connected",
            "127.26.0.1:7000@17000 slave xyz 0 0 2 connected",
            "127.26.0.1:7000@17000 master - 0 0 x connected",
            "127.26.0.1:7000@17000 master - 0 0 2 perhaps",
            "127.26.0.1:7000@17000 master - 0 0 2",
            "127.26.0.1:7000@17000 master - 0 0 2 connected [3->-zz]",
            "127.26.0.1:7000@17000 master - 0 0 2 connected [3]",
        ];
        for rest in cases {
            assert!(matches!(row_of(rest), Err(RedisReplyParseError::Node { .. })), "{rest}");
        }
        assert_eq!(cluster_nodes(""), Err(RedisReplyParseError::Myself(0)));
        let twice = format!("{A} :1@1 myself,master - 0 0 0 connected\n").repeat(2);
        assert!(matches!(cluster_nodes(&twice), Err(RedisReplyParseError::Node { .. })));
        let both = format!(
            "{A} :1@1 myself,master - 0 0 0 connected\n{B} :1@1 myself,master - 0 0 0 connected\n"
        );
        assert_eq!(cluster_nodes(&both), Err(RedisReplyParseError::Myself(2)));
    }
}
