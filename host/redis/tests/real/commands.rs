//! Compares the command table with the commands of a real server.

use std::collections::{BTreeMap, BTreeSet};

use tholepin_core::{RespNode, RespReply};
use tholepin_schema::command::{self, CommandAccess, access_of, is_granted};

use crate::server::TestServers;

/// Returns the flags and the categories of each command and subcommand in the reply to `COMMAND`.
fn commands(reply: &RespReply) -> BTreeMap<String, (Vec<String>, Vec<String>)> {
    fn children(reply: &RespReply, at: u32) -> &[u32] {
        let RespNode::Array(children) = &reply.nodes[at as usize] else { panic!("no array") };
        children
    }
    fn text(reply: &RespReply, at: u32) -> String {
        let node = &reply.nodes[at as usize];
        let RespNode::Status(text) = node else {
            let RespNode::Bulk(bytes) = node else { panic!("no text: {node:?}") };
            return String::from_utf8(bytes.clone()).unwrap();
        };
        text.clone()
    }
    fn add(reply: &RespReply, at: u32, all: &mut BTreeMap<String, (Vec<String>, Vec<String>)>) {
        let fields = children(reply, at);
        let texts = |at| children(reply, at).iter().map(|&at| text(reply, at)).collect();
        all.insert(text(reply, fields[0]), (texts(fields[2]), texts(fields[6])));
        for &subcommand in children(reply, fields[9]) {
            add(reply, subcommand, all);
        }
    }
    let mut all = BTreeMap::new();
    for &command in children(reply, 0) {
        add(reply, command, &mut all);
    }
    all
}

/// Returns the bulk strings of a reply, in order.
fn bulks(reply: &RespReply) -> Vec<&[u8]> {
    let nodes = reply.nodes.iter();
    nodes
        .filter_map(
            |node| if let RespNode::Bulk(bytes) = node { Some(bytes.as_slice()) } else { None },
        )
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_a_real_server_is_in_the_table() {
    let fleet = TestServers::start(1, true, None);
    let replies = fleet.pipeline(0, &["COMMAND"]).await.unwrap();
    let all = commands(&replies[0]);
    assert!(300 < all.len(), "{}", all.len());
    for (name, (flags, categories)) in &all {
        let access = access_of(name).unwrap_or_else(|| panic!("`{name}` is not in the table"));
        let has = |flag: &str| flags.iter().any(|name| name == flag);
        if let Ok(access) = access {
            assert!(!(has("write") && access == CommandAccess::Read), "`{name}` writes");
            assert!(!has("blocking") || name == "wait", "`{name}` blocks");
        }
        for category in categories {
            let grants = [format!("+{category}")];
            assert!(is_granted(&grants, name), "`{name}` is in {category}");
        }
        assert!(!is_granted(&["+@nosuch".to_owned()], name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_known_dangerous_commands_are_allowed() {
    let fleet = TestServers::start(1, true, None);
    let replies = fleet.pipeline(0, &["COMMAND"]).await.unwrap();
    // The commands that the table allows although Redis calls them dangerous or administrative. All of
    // them read, or reset a statistic. A command added to the table must be considered and added here.
    let mut allowed: Vec<String> = commands(&replies[0])
        .into_iter()
        .filter(|(_, (_, categories))| {
            categories.iter().any(|name| name == "@dangerous" || name == "@admin")
        })
        .map(|(name, _)| name)
        .filter(|name| access_of(name).is_some_and(|access| access.is_ok()))
        .collect();
    allowed.sort();
    let expected = [
        "client|list",
        "cluster|count-failure-reports",
        "cluster|replicas",
        "cluster|slaves",
        "config|get",
        "config|resetstat",
        "info",
        "lastsave",
        "latency|doctor",
        "latency|graph",
        "latency|histogram",
        "latency|history",
        "latency|latest",
        "latency|reset",
        "module|list",
        "role",
        "slowlog|get",
        "slowlog|len",
        "slowlog|reset",
        "sort",
        "sort_ro",
    ];
    assert_eq!(allowed, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_of_a_real_server_can_be_read_or_is_kept_back_on_purpose() {
    // All that may hold a credential or a secret, and what says nothing about the data. A setting that is new must
    // be considered: put it into the table of readable settings, or here.
    const KEPT_BACK: &[&str] = &[
        "aclfile",
        "aof_rewrite_cpulist",
        "bgsave_cpulist",
        "bio_cpulist",
        "masterauth",
        "masteruser",
        "pidfile",
        "proc-title-template",
        "requirepass",
        "server_cpulist",
        "syslog-ident",
        "tls-ca-cert-dir",
        "tls-ca-cert-file",
        "tls-cert-file",
        "tls-ciphers",
        "tls-ciphersuites",
        "tls-client-cert-file",
        "tls-client-key-file",
        "tls-client-key-file-pass",
        "tls-dh-params-file",
        "tls-key-file",
        "tls-key-file-pass",
        "unixsocket",
        "unixsocketperm",
    ];
    let fleet = TestServers::start(1, true, None);
    let replies = fleet.pipeline(0, &["CONFIG GET *"]).await.unwrap();
    let texts =
        bulks(&replies[0]).into_iter().map(|text| String::from_utf8(text.to_vec()).unwrap());
    let names: Vec<String> = texts.step_by(2).collect();
    assert!(180 < names.len(), "{}", names.len());
    let mut kept_back: Vec<String> = names
        .into_iter()
        .filter(|name| {
            let command = ["CONFIG", "GET", name].map(|word| word.as_bytes().to_vec());
            command::check(&command).is_err()
        })
        .collect();
    kept_back.sort();
    assert_eq!(kept_back, KEPT_BACK);
}

/// A call of each command that the table lets write, in the order of the table.
const WRITES: &[&str] = &[
    "append k v",
    "bitfield k get u8 0",
    "bitop and d a b",
    "config resetstat",
    "copy a b",
    "decr k",
    "decrby k 1",
    "del a b",
    "expire k 1",
    "expireat k 1",
    "geoadd k 1 1 m",
    "georadius k 1 1 1 m",
    "georadius k 1 1 1 m STORE d",
    "georadiusbymember k m 1 m storedist d",
    "geosearchstore d a frommember m byradius 1 m",
    "getdel k",
    "getex k",
    "getset k v",
    "hdel k f",
    "hincrby k f 1",
    "hincrbyfloat k f 1",
    "hmset k f v",
    "hset k f v",
    "hsetnx k f v",
    "incr k",
    "incrby k 1",
    "incrbyfloat k 1",
    "latency reset",
    "linsert k before a b",
    "lmove a b left left",
    "lmpop 2 a b left",
    "lpop k",
    "lpush k v",
    "lpushx k v",
    "lrem k 0 v",
    "lset k 0 v",
    "ltrim k 0 1",
    "memory purge",
    "mset a 1 b 2",
    "msetnx a 1 b 2",
    "persist k",
    "pexpire k 1",
    "pexpireat k 1",
    "pfadd k v",
    "pfmerge d a b",
    "psetex k 1 v",
    "publish c v",
    "rename a b",
    "renamenx a b",
    "rpop k",
    "rpoplpush a b",
    "rpush k v",
    "rpushx k v",
    "sadd k v",
    "sdiffstore d a b",
    "set k v",
    "setbit k 0 1",
    "setex k 1 v",
    "setnx k v",
    "setrange k 0 v",
    "sinterstore d a b",
    "slowlog reset",
    "smove a b v",
    "sort k",
    "sort k by p get q store d",
    "spop k",
    "spublish c v",
    "srem k v",
    "sunionstore d a b",
    "unlink a b",
    "xack k g 1-1",
    "xadd k * f v",
    "xautoclaim k g c 0 0",
    "xclaim k g c 0 1-1",
    "xdel k 1-1",
    "xgroup create k g $",
    "xgroup createconsumer k g c",
    "xgroup delconsumer k g c",
    "xgroup destroy k g",
    "xgroup setid k g $",
    "xsetid k 1-1",
    "xtrim k maxlen 1",
    "zadd k 1 m",
    "zdiffstore d 2 a b",
    "zincrby k 1 m",
    "zinterstore d 2 a b weights 1 2",
    "zmpop 2 a b min",
    "zpopmax k",
    "zpopmin k",
    "zrangestore d a 0 1",
    "zrem k m",
    "zremrangebylex k - +",
    "zremrangebyrank k 0 1",
    "zremrangebyscore k 0 1",
    "zunionstore d 2 a b aggregate sum",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_each_write_are_those_of_a_real_server() {
    let fleet = TestServers::start(1, true, None);
    let replies = fleet.pipeline(0, &["COMMAND"]).await.unwrap();
    let mut writes: BTreeSet<String> = commands(&replies[0]).into_keys().collect();
    writes.retain(|name| access_of(name) == Some(Ok(CommandAccess::Write)));
    let lines: Vec<Vec<Vec<u8>>> = WRITES
        .iter()
        .map(|line| line.split(' ').map(|word| word.as_bytes().to_vec()).collect())
        .collect();
    let tried: BTreeSet<String> =
        lines.iter().map(|line| command::name_of(line).unwrap()).collect();
    assert_eq!(tried, writes);
    let asked: Vec<String> = WRITES.iter().map(|line| format!("COMMAND GETKEYS {line}")).collect();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let replies = fleet.pipeline(0, &asked).await.unwrap();
    for ((line, command), reply) in WRITES.iter().zip(&lines).zip(&replies) {
        // The reply is an error if there is no key. A shard's channel has a slot like a key and is none.
        let found = if line.starts_with("spublish") { Vec::new() } else { bulks(reply) };
        assert_eq!(command::written_keys(command).unwrap(), found, "{line}: {reply:?}");
    }
}
