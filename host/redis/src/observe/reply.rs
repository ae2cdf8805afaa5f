//! The commands that read one member, and the parsing of its replies. Pure.

use std::collections::BTreeMap;

use tholepin_core::{RespNode, RespReply};
use tholepin_schema::{
    primitives::NodeId,
    snapshot::{ClusterNodesRow, MemberFacts, UnreachableReason},
};

use super::{MemberQueryResult, command};
use crate::{
    error::{RedisErrorClass, classify, error_text, text},
    parse::{cluster_info, cluster_nodes, info},
};

/// The reply of a member: facts about itself, and its view of all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ParsedMemberReply {
    pub(crate) facts: MemberFacts,
    pub(crate) rows: BTreeMap<NodeId, ClusterNodesRow>,
}

/// Returns the commands, in the order in which [`member_reply`] expects the replies.
pub(super) fn commands(settings: &[&str]) -> Vec<Vec<Vec<u8>>> {
    let fixed: [&[&str]; 4] = [&["INFO"], &["CLUSTER", "INFO"], &["CLUSTER", "NODES"], &["DBSIZE"]];
    fixed.into_iter().map(command).chain(setting_commands(settings)).collect()
}

/// Returns a command for each setting, because servers before version 7 accept only one name per command.
pub(crate) fn setting_commands(settings: &[&str]) -> impl Iterator<Item = Vec<Vec<u8>>> {
    settings.iter().map(|name| command(&["CONFIG", "GET", name]))
}

/// Parses the replies to [`commands`]. The errors of single replies are recorded in [`MemberFacts::errors`].
pub(super) fn member_reply<S: AsRef<str>>(
    answered_at_ms: u64,
    replies: &[RespReply],
    settings: &[S],
) -> MemberQueryResult {
    let [general, cluster, nodes, keys, rest @ ..] = replies else {
        return Err((
            UnreachableReason::Protocol,
            "it sent fewer replies than commands".to_owned(),
        ));
    };
    if let Some(error) = error_text(general).filter(|text| classify(text) == RedisErrorClass::Auth)
    {
        return Err((UnreachableReason::Auth, error.to_owned()));
    }
    let mut reply = ParsedMemberReply::default();
    reply.facts.answered_at_ms = answered_at_ms;
    let read = [
        ("INFO", text(general).and_then(|text| reply.read_info(text))),
        ("CLUSTER INFO", text(cluster).and_then(|text| reply.read_cluster(text))),
        ("CLUSTER NODES", text(nodes).and_then(|text| reply.read_nodes(text))),
        ("DBSIZE", reply.read_keys(keys)),
    ];
    for (what, result) in read {
        reply.record_error(what, result);
    }
    for (name, setting_reply) in settings.iter().map(AsRef::as_ref).zip(rest) {
        match error_text(setting_reply) {
            Some(error) => reply.record_error(&format!("CONFIG GET {name}"), Err(error.to_owned())),
            None => reply.facts.settings.extend(setting(setting_reply)),
        }
    }
    Ok(reply)
}

impl ParsedMemberReply {
    fn record_error(&mut self, what: &str, result: Result<(), String>) {
        if let Err(error) = result {
            self.facts.errors.insert(what.to_owned(), error);
        }
    }

    fn read_info(&mut self, text: &str) -> Result<(), String> {
        let (facts, fields) = (&mut self.facts, info(text));
        // Each field is read by itself, because a server may lack some of them.
        facts.run_id = fields.number("run_id").ok();
        facts.version = fields.text("redis_version").ok().map(str::to_owned);
        facts.uptime_s = fields.number("uptime_in_seconds").ok();
        facts.loading = fields.flag("loading").ok();
        facts.used_memory_bytes = fields.number("used_memory").ok();
        facts.role = Some(fields.role().map_err(|error| error.to_string())?);
        facts.replication = Some(fields.replication().map_err(|error| error.to_string())?);
        Ok(())
    }

    fn read_cluster(&mut self, text: &str) -> Result<(), String> {
        self.facts.cluster = Some(cluster_info(text).map_err(|error| error.to_string())?);
        Ok(())
    }

    fn read_nodes(&mut self, text: &str) -> Result<(), String> {
        let nodes = cluster_nodes(text).map_err(|error| error.to_string())?;
        self.facts.node = Some(nodes.myself);
        self.facts.open_slots = nodes.open_slots;
        self.rows = nodes.rows;
        Ok(())
    }

    fn read_keys(&mut self, reply: &RespReply) -> Result<(), String> {
        let Some(RespNode::Int(count)) = reply.nodes.first() else {
            return text(reply).and(Err("the reply is not a number".to_owned()));
        };
        self.facts.keys = u64::try_from(*count).ok();
        Ok(())
    }
}

/// Parses a reply to `CONFIG GET`, `["name", "value"]`; absent if the server does not have the setting.
pub(crate) fn setting(reply: &RespReply) -> Option<(String, String)> {
    let text_of = |node: &RespNode| match node {
        RespNode::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        RespNode::Status(text) => Some(text.clone()),
        RespNode::Array(_) | RespNode::Map(_) | RespNode::Nil => None,
        RespNode::Int(_) | RespNode::Error(_) | RespNode::Double(_) | RespNode::Boolean(_) => None,
    };
    let texts: Vec<String> = reply.nodes.iter().filter_map(text_of).collect();
    match <[String; 2]>::try_from(texts) {
        Ok([name, value]) => Some((name, value)),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(node: RespNode) -> RespReply {
        RespReply { nodes: vec![node] }
    }

    fn error(text: &str) -> RespReply {
        single(RespNode::Error(text.to_owned()))
    }

    #[test]
    fn a_loading_member_reports_some_facts() {
        let loading = || error("LOADING Redis is loading the dataset in memory");
        let info = single(RespNode::Bulk(b"run_id:00\r\nloading:1\r\nrole:master\r\n".to_vec()));
        let replies = [info, loading(), loading(), loading(), loading()];
        let reply = member_reply(7, &replies, &["save"]).unwrap();
        assert_eq!(reply.facts.loading, Some(true));
        assert_eq!((reply.facts.run_id, reply.facts.keys, reply.facts.node), (None, None, None));
        let missing: Vec<_> = reply.facts.errors.keys().map(String::as_str).collect();
        let expected = ["CLUSTER INFO", "CLUSTER NODES", "CONFIG GET save", "DBSIZE", "INFO"];
        assert_eq!(missing, expected);
    }

    #[test]
    fn missing_credentials_have_their_own_reason() {
        let replies = vec![error("NOAUTH Authentication required."); 4];
        assert_eq!(member_reply::<&str>(7, &replies, &[]).unwrap_err().0, UnreachableReason::Auth);
        assert_eq!(member_reply::<&str>(7, &[], &[]).unwrap_err().0, UnreachableReason::Protocol);
    }
}
