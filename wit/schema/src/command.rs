//! The commands that a plugin may send through `redis/commands`, and the settings that `configure` may
//! change.
//!
//! The table is closed: a command or subcommand that it does not contain is refused, whatever the grant. It
//! allows reads, and writes of single keys. It allows nothing that changes the topology, all data at once,
//! credentials, the server or the connection. Some of these have verbs (`redis/topology`); the others cannot
//! be done by a plugin.
//!
//! Invariants:
//! - Scripts and functions are refused, because a script can call commands that the table forbids.
//! - Only settings of a closed table can be read, and only those of another one can be written. Neither has a
//!   setting that holds a secret.
//! - Nothing is published to Sentinels, which take over the addresses that they read there.
//! - Each key that a writing command names must match a granted pattern.

mod acl;
mod key;
mod readable;
mod setting;
mod table;

pub use acl::{AclRuleError, check_acl_rule, check_keys, is_granted, written_keys};
pub use setting::{
    ConfigureSettingError, RUNTIME_SETTINGS, RedisRuntimeSetting, RedisSettingAllowedValues,
    check_settings,
};

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use table::{CommandRow, ROWS};

/// The most commands in one pipeline.
pub const COMMANDS_MAX: usize = 1024;

/// The prefix of the channels on which Sentinels tell each other who the primary is. A Sentinel believes a message
/// with a higher epoch than its own, whoever has sent it.
const SENTINEL_CHANNELS: &[u8] = b"__sentinel__:";

/// The effect of an allowed command on data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommandAccess {
    /// Changes no data.
    Read,
    /// Changes the keys that it names, or a statistic.
    Write,
}

/// Why the table forbids a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandRefusalReason {
    /// It runs a script, which could call anything.
    Script,
    /// It changes or takes over the connection, which the host uses.
    Connection,
    /// It changes roles or membership: a verb does that, under guards.
    Topology,
    /// It affects all keys at once.
    AtLarge,
    /// It blocks until another client acts.
    Blocking,
    /// It stops, debugs or configures the server.
    Server,
    /// It shows or changes credentials.
    Credentials,
    /// It needs a subcommand.
    Container,
}

impl CommandRefusalReason {
    const fn text(self) -> &'static str {
        match self {
            Self::Script => "scripts and functions could call forbidden commands",
            Self::Connection => "the host manages the connection",
            Self::Topology => "only the verbs of `redis/topology` change the topology",
            Self::AtLarge => "it affects all keys at once: use a verb, or SCAN instead of KEYS",
            Self::Blocking => "it blocks until another client acts",
            Self::Server => {
                "it stops, debugs or configures the server: use the verb `configure` for settings"
            }
            Self::Credentials => "it shows or changes credentials",
            Self::Container => "it needs a subcommand",
        }
    }
}

/// Why a command or a list of commands is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandRefused {
    /// The command has no name.
    #[error("the command is empty: it needs at least a name")]
    Empty,
    /// The list is too long.
    #[error(
        "{0} commands are too many, {COMMANDS_MAX} are allowed: send them in several pipelines"
    )]
    TooMany(usize),
    /// The table does not contain the command.
    #[error("the command `{0}` is unknown to this host")]
    Unknown(String),
    /// The table forbids the command.
    #[error("the command `{name}` is not allowed: {}", why.text())]
    Forbidden {
        /// The command.
        name: String,
        /// The reason.
        why: CommandRefusalReason,
    },
    /// A setting that is not in the table of readable settings, or a pattern, which could match such a one.
    #[error(
        "the setting `{0}` cannot be read: it is not in the host's table of readable settings; name each setting \
         in full, without a pattern, and none that holds a secret"
    )]
    Setting(String),
    /// A message to Sentinels.
    #[error(
        "the command `{name}` to the channel `{channel}` is not allowed: Sentinels take over the topology that \
         they read there, and only the verbs of `redis/topology` change the topology"
    )]
    SentinelChannel {
        /// The command.
        name: String,
        /// The channel.
        channel: String,
    },
    /// A command writes a key, and no pattern of keys is granted.
    #[error(
        "the command `{name}` writes the key `{key}`, and no pattern of keys is granted; the Plugin's \
         spec.grants.redis.commands needs one such as `~{}`",
        key::literal(key)
    )]
    NoKeyPattern {
        /// The command.
        name: String,
        /// The first key.
        key: String,
    },
    /// A command writes a key that no granted pattern matches.
    #[error(
        "the command `{name}` writes the key `{key}`, which no granted pattern matches; the Plugin's \
         spec.grants.redis.commands needs one such as `~{}`",
        key::literal(key)
    )]
    Key {
        /// The command.
        name: String,
        /// The first key that is not covered.
        key: String,
    },
    /// `MULTI` and `EXEC` do not enclose the whole list.
    #[error("a transaction must be the whole list: MULTI first, EXEC last")]
    Transaction,
}

/// Checks a list of commands for one connection and returns whether any of them writes. A transaction must be
/// the whole list: `MULTI`, its commands, `EXEC`.
///
/// # Errors
///
/// Fails with the first command that must not be sent.
pub fn check_list(commands: &[Vec<Vec<u8>>]) -> Result<CommandAccess, CommandRefused> {
    if COMMANDS_MAX < commands.len() {
        return Err(CommandRefused::TooMany(commands.len()));
    }
    let is = |command: Option<&Vec<Vec<u8>>>, name: &[u8]| match command.map(Vec::as_slice) {
        Some([argument]) => argument.eq_ignore_ascii_case(name),
        _ => false,
    };
    let inner = match (is(commands.first(), b"multi"), is(commands.last(), b"exec")) {
        (true, true) => commands.get(1..commands.len().saturating_sub(1)).unwrap_or_default(),
        (false, false) => commands,
        (true, false) | (false, true) => return Err(CommandRefused::Transaction),
    };
    let mut access = CommandAccess::Read;
    for command in inner {
        access = access.max(check(command)?);
    }
    Ok(access)
}

/// Checks one command with its arguments and returns whether it writes.
///
/// # Errors
///
/// Fails if the table does not contain the command, forbids it, if it reads a setting that is not in the table of
/// readable settings, or if it publishes to Sentinels.
pub fn check(command: &[Vec<u8>]) -> Result<CommandAccess, CommandRefused> {
    let (name, (_, access, _)) = row_of(command)?;
    let access = access.map_err(|why| CommandRefused::Forbidden { name: name.clone(), why })?;
    if name == "config|get" {
        setting::check_readable(command.get(2..).unwrap_or_default())?;
    }
    let channel = command.get(1).filter(|_| matches!(name.as_str(), "publish" | "spublish"));
    if let Some(channel) = channel.filter(|channel| channel.starts_with(SENTINEL_CHANNELS)) {
        let channel = String::from_utf8_lossy(channel).into_owned();
        return Err(CommandRefused::SentinelChannel { name, channel });
    }
    Ok(access)
}

/// Returns the name of a command as the table and grants write it: `get`, `config|get`.
///
/// # Errors
///
/// Fails if the table does not contain the command.
pub fn name_of(command: &[Vec<u8>]) -> Result<String, CommandRefused> {
    row_of(command).map(|(name, _)| name)
}

/// Returns whether the table allows a command, by its name (`get`, `config|get`); `None` if it does not
/// contain it.
#[must_use]
pub fn access_of(name: &str) -> Option<Result<CommandAccess, CommandRefusalReason>> {
    row(name).map(|(_, access, _)| *access)
}

/// Returns true if the only reply to a successful call of this writing command is `OK`, so that the caller
/// learns nothing from the reply. A plan (dry run) can then continue without sending it.
#[must_use]
pub fn replies_ok(command: &[Vec<u8>]) -> bool {
    const NAMES: &[&str] = &[
        "config|resetstat",
        "hmset",
        "lset",
        "ltrim",
        "memory|purge",
        "mset",
        "pfmerge",
        "psetex",
        "rename",
        "setex",
        "slowlog|reset",
        "xgroup|create",
        "xgroup|setid",
        "xsetid",
    ];
    // With one of these options the reply depends on the key's old value.
    let depends_on_old_value =
        |text: &Vec<u8>| ["nx", "xx", "get"].iter().any(|option| is_argument(text, option));
    match name_of(command).as_deref() {
        Ok("set") => !command.iter().skip(3).any(depends_on_old_value),
        Ok(name) => NAMES.contains(&name),
        Err(_) => false,
    }
}

fn is_argument(argument: &[u8], name: &str) -> bool {
    argument.eq_ignore_ascii_case(name.as_bytes())
}

fn row(name: &str) -> Option<&'static CommandRow> {
    ROWS.binary_search_by_key(&name, |(name, _, _)| name).ok().and_then(|at| ROWS.get(at))
}

fn row_of(command: &[Vec<u8>]) -> Result<(String, &'static CommandRow), CommandRefused> {
    let argument =
        |at: usize| command.get(at).map(|text| String::from_utf8_lossy(text).to_lowercase());
    let top = argument(0).filter(|name| !name.is_empty()).ok_or(CommandRefused::Empty)?;
    // The table writes `config|get` as one name; Redis takes two arguments.
    if top.contains('|') {
        return Err(CommandRefused::Unknown(top));
    }
    let found = row(&top).ok_or_else(|| CommandRefused::Unknown(top.clone()))?;
    let is_container = ROWS.iter().any(|(name, _, _)| {
        name.strip_prefix(top.as_str()).is_some_and(|rest| rest.starts_with('|'))
    });
    // `COMMAND` is a command by itself and also has subcommands.
    let Some(sub) = argument(1).filter(|_| is_container) else { return Ok((top, found)) };
    let name = [top.as_str(), sub.as_str()].join("|").to_string();
    let found = row(&name).ok_or_else(|| CommandRefused::Unknown(name.clone()))?;
    Ok((name, found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, vec};

    fn command(line: &str) -> Vec<Vec<u8>> {
        line.split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| word.as_bytes().to_vec())
            .collect()
    }

    #[test]
    fn the_table_is_in_order_and_names_each_command_once() {
        assert!(ROWS.is_sorted_by(|(a, _, _), (b, _, _)| a < b));
    }

    #[test]
    fn reads_and_writes_of_single_keys_are_allowed() {
        let cases = [
            ("GET a", CommandAccess::Read),
            ("info replication", CommandAccess::Read),
            ("CLUSTER NODES", CommandAccess::Read),
            ("config get maxmemory save", CommandAccess::Read),
            ("COMMAND", CommandAccess::Read),
            ("set a 1", CommandAccess::Write),
            ("SORT a STORE b", CommandAccess::Write),
            ("slowlog reset", CommandAccess::Write),
        ];
        for (line, access) in cases {
            assert_eq!(check(&command(line)), Ok(access), "{line}");
        }
    }

    #[test]
    fn commands_beyond_single_keys_are_refused() {
        let forbidden = [
            ("EVAL x 0", CommandRefusalReason::Script),
            ("function list", CommandRefusalReason::Script),
            ("cluster failover takeover", CommandRefusalReason::Topology),
            ("replicaof no one", CommandRefusalReason::Topology),
            ("FlushAll", CommandRefusalReason::AtLarge),
            ("client pause 1000", CommandRefusalReason::Connection),
            ("auth x", CommandRefusalReason::Connection),
            ("config set requirepass x", CommandRefusalReason::Server),
            ("acl list", CommandRefusalReason::Credentials),
            ("blpop a 0", CommandRefusalReason::Blocking),
            ("cluster", CommandRefusalReason::Container),
            ("multi", CommandRefusalReason::Connection),
        ];
        for (line, why) in forbidden {
            let refused = check(&command(line)).unwrap_err();
            assert!(
                matches!(refused, CommandRefused::Forbidden { why: w, .. } if w == why),
                "{line}"
            );
        }
        for line in ["nosuch", "cluster nosuch", "config|get maxmemory", "get\0 a"] {
            assert!(matches!(check(&command(line)), Err(CommandRefused::Unknown(_))), "{line}");
        }
        assert_eq!(check(&[]), Err(CommandRefused::Empty));
        assert_eq!(check(&[vec![]]), Err(CommandRefused::Empty));
    }

    #[test]
    fn only_settings_of_the_table_can_be_read() {
        for line in ["MaxMemory", "replica-read-only slave-read-only", "cluster-node-timeout save"]
        {
            let line = format!("config get {line}");
            assert_eq!(check(&command(&line)), Ok(CommandAccess::Read), "{line}");
        }
        let secret =
            ["requirepass", "MasterAuth", "primaryauth", "PrimaryUser", "tls-key-file-pass"];
        let others =
            ["*", "max*", "m?xmemory", "[a]", "nosuch", "aclfile", "maxmemory\0", "", "\u{e4}"];
        for line in secret.into_iter().chain(others) {
            let line = format!("config get maxmemory {line}");
            let mut words = command(&line);
            if line.ends_with(' ') {
                words.push(Vec::new());
            }
            assert!(matches!(check(&words), Err(CommandRefused::Setting(_))), "{line}");
        }
        assert!(check(&command("config get")).is_ok(), "Redis itself refuses this");
    }

    #[test]
    fn nothing_is_published_to_sentinels() {
        for line in ["PUBLISH __sentinel__:hello x", "spublish __sentinel__: x"] {
            let refused = check(&command(line)).unwrap_err();
            assert!(matches!(refused, CommandRefused::SentinelChannel { .. }), "{line}: {refused}");
            let list = [command("multi"), command(line), command("exec")];
            assert_eq!(check_list(&list), Err(refused), "{line}");
        }
        for line in ["publish sentinel x", "publish news __sentinel__:hello", "publish"] {
            assert_eq!(check(&command(line)), Ok(CommandAccess::Write), "{line}");
        }
    }

    #[test]
    fn a_transaction_is_one_whole_list() {
        let list = |lines: &[&str]| -> Vec<_> { lines.iter().map(|line| command(line)).collect() };
        assert_eq!(check_list(&list(&["MULTI", "set a 1", "EXEC"])), Ok(CommandAccess::Write));
        assert_eq!(check_list(&list(&["get a", "get b"])), Ok(CommandAccess::Read));
        for lines in [&["MULTI", "set a 1"][..], &["set a 1", "exec"]] {
            assert_eq!(check_list(&list(lines)), Err(CommandRefused::Transaction), "{lines:?}");
        }
        for lines in [&["multi", "watch a", "exec"][..], &["get a", "multi", "get b"]] {
            assert!(check_list(&list(lines)).is_err(), "{lines:?}");
        }
        assert_eq!(check_list(&vec![command("get a"); 1025]), Err(CommandRefused::TooMany(1025)));
    }

    #[test]
    fn only_a_constant_reply_is_known_beforehand() {
        for line in ["SET a 1", "set nx get", "set a 1 EX 5", "hmset a b c", "CONFIG resetstat"] {
            assert!(replies_ok(&command(line)), "{line}");
        }
        for line in
            ["SET a 1 NX", "set a 1 ex 5 get", "INCR a", "GET a", "del a", "multi", "nosuch"]
        {
            assert!(!replies_ok(&command(line)), "{line}");
        }
    }
}
