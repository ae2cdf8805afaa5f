//! The keys that a writing command names, and the patterns that a grant allows it to write.
//!
//! The positions are those of the key specifications in Redis' reply to `COMMAND`; a test in `host/redis`
//! compares them with `COMMAND GETKEYS` of a real server. Where a command's grammar depends on its options, an
//! argument that may be a key counts as one.

use alloc::{string::String, vec::Vec};
use core::str;

use super::CommandRefused;

/// The longest pattern, in bytes. With [`KEY_BYTES_MAX`] it bounds the time of a comparison, which for a pattern
/// with several `*` grows with the product of both lengths.
pub(super) const PATTERN_BYTES_MAX: usize = 256;
/// The longest key that a pattern can match, in bytes.
const KEY_BYTES_MAX: usize = 4096;

/// Where a command has its keys. Positions count from the command's name, which is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyPositions {
    /// It names no key.
    None,
    /// At this position.
    At(usize),
    /// At the positions 1 and 2.
    FirstTwo,
    /// From this position to the end.
    From(usize),
    /// From position 1 on, each followed by its value.
    WithValues,
    /// After their number, which is at this position; a key that is written can precede it.
    Counted(usize),
    /// At position 1, and after each option that names a destination.
    WithStore,
}

/// Returns the positions for a command that the table lets write; every argument counts as a key if the command
/// is not known here.
fn positions(name: &str) -> KeyPositions {
    match name {
        "config|resetstat" | "latency|reset" | "memory|purge" | "publish" | "slowlog|reset"
        | "spublish" => KeyPositions::None,
        "append" | "bitfield" | "decr" | "decrby" | "expire" | "expireat" | "geoadd" | "getdel"
        | "getex" | "getset" | "hdel" | "hincrby" | "hincrbyfloat" | "hmset" | "hset"
        | "hsetnx" | "incr" | "incrby" | "incrbyfloat" | "linsert" | "lpop" | "lpush"
        | "lpushx" | "lrem" | "lset" | "ltrim" | "persist" | "pexpire" | "pexpireat" | "pfadd"
        | "psetex" | "rpop" | "rpush" | "rpushx" | "sadd" | "set" | "setbit" | "setex"
        | "setnx" | "setrange" | "spop" | "srem" | "xack" | "xadd" | "xautoclaim" | "xclaim"
        | "xdel" | "xsetid" | "xtrim" | "zadd" | "zincrby" | "zpopmax" | "zpopmin" | "zrem"
        | "zremrangebylex" | "zremrangebyrank" | "zremrangebyscore" => KeyPositions::At(1),
        "xgroup|create"
        | "xgroup|createconsumer"
        | "xgroup|delconsumer"
        | "xgroup|destroy"
        | "xgroup|setid" => KeyPositions::At(2),
        "copy" | "geosearchstore" | "lmove" | "rename" | "renamenx" | "rpoplpush" | "smove"
        | "zrangestore" => KeyPositions::FirstTwo,
        "bitop" => KeyPositions::From(2),
        "mset" | "msetnx" => KeyPositions::WithValues,
        "lmpop" | "zmpop" => KeyPositions::Counted(1),
        "zdiffstore" | "zinterstore" | "zunionstore" => KeyPositions::Counted(2),
        "georadius" | "georadiusbymember" | "sort" => KeyPositions::WithStore,
        // "del", "pfmerge", "sdiffstore", "sinterstore", "sunionstore", "unlink", and unknown commands.
        _ => KeyPositions::From(1),
    }
}

/// Returns the keys that a command of this name, which the table lets write, names in its arguments.
pub(super) fn keys<'a>(name: &str, command: &'a [Vec<u8>]) -> Vec<&'a [u8]> {
    let from = |at: usize| command.iter().skip(at).map(Vec::as_slice);
    match positions(name) {
        KeyPositions::None => Vec::new(),
        KeyPositions::At(at) => from(at).take(1).collect(),
        KeyPositions::FirstTwo => from(1).take(2).collect(),
        KeyPositions::From(at) => from(at).collect(),
        KeyPositions::WithValues => from(1).step_by(2).collect(),
        KeyPositions::Counted(at) => {
            let count = command.get(at).and_then(|text| str::from_utf8(text).ok()?.parse().ok());
            // Redis refuses another number; all arguments count until it does.
            let counted = from(at.saturating_add(1)).take(count.unwrap_or(usize::MAX));
            from(1).take(at.saturating_sub(1)).chain(counted).collect()
        }
        KeyPositions::WithStore => {
            let names_key = |text: &[u8]| {
                text.eq_ignore_ascii_case(b"store") || text.eq_ignore_ascii_case(b"storedist")
            };
            let options = from(2).zip(from(3));
            let stored = options.filter(|(option, _)| names_key(option)).map(|(_, key)| key);
            from(1).take(1).chain(stored).collect()
        }
    }
}

/// Returns the key pattern of a rule of a grant (`~app:*`, `%W~app:*`); `None` for a rule about commands.
pub(super) fn pattern(rule: &str) -> Option<&str> {
    rule.strip_prefix('~').or_else(|| {
        let (access, pattern) = rule.strip_prefix('%')?.split_once('~')?;
        access.eq_ignore_ascii_case("w").then_some(pattern)
    })
}

/// Returns a pattern that matches only this key.
pub(super) fn literal(key: &str) -> String {
    let is_special = |letter: char| matches!(letter, '*' | '?' | '[' | '\\');
    key.chars()
        .flat_map(|letter| is_special(letter).then_some('\\').into_iter().chain([letter]))
        .collect()
}

/// Checks that the patterns among these rules of a grant match all the keys that a command of this name names.
///
/// # Errors
///
/// Fails with the first key that no pattern matches.
pub(super) fn check(rules: &[String], name: String, keys: &[&[u8]]) -> Result<(), CommandRefused> {
    let patterns: Vec<&[u8]> =
        rules.iter().filter_map(|rule| pattern(rule)).map(str::as_bytes).collect();
    let is_granted = |key: &[u8]| patterns.iter().any(|pattern| matches(pattern, key));
    let Some(key) = keys.iter().find(|key| !is_granted(key)) else { return Ok(()) };
    let key = String::from_utf8_lossy(key).into_owned();
    Err(if patterns.is_empty() {
        CommandRefused::NoKeyPattern { name, key }
    } else {
        CommandRefused::Key { name, key }
    })
}

/// Returns true if Redis' glob pattern (`*`, `?`, `[a-z]`, `[^x]`, `\` before a literal character) matches the
/// whole key. Only the last `*` is tried again, which is enough, because each other part of a pattern matches
/// exactly one byte.
pub(super) fn matches(pattern: &[u8], key: &[u8]) -> bool {
    if KEY_BYTES_MAX < key.len() {
        return false;
    }
    let (mut pattern_left, mut key_left) = (pattern, key);
    // What follows the last `*`, and the part of the key that it has not consumed.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', rest)) = pattern_left.split_first() {
            if rest.is_empty() {
                return true;
            }
            (pattern_left, again) = (rest, Some((rest, key_left)));
            continue;
        }
        let Some((byte, key_rest)) = key_left.split_first() else {
            return pattern_left.is_empty();
        };
        if let Some(rest) = one_byte(pattern_left, *byte) {
            (pattern_left, key_left) = (rest, key_rest);
            continue;
        }
        let Some((after_star, [_, rest @ ..])) = again else { return false };
        (pattern_left, key_left, again) = (after_star, rest, Some((after_star, rest)));
    }
}

/// Matches one byte with the first part of a pattern and returns the rest of the pattern; `None` if it does not
/// match.
fn one_byte(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (is_match, rest) = match pattern {
        [] => return None,
        [b'?', rest @ ..] => (true, rest),
        [b'[', b'^', class @ ..] => {
            let (is_in_class, rest) = class_of(class, byte);
            (!is_in_class, rest)
        }
        [b'[', class @ ..] => class_of(class, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte, rest),
    };
    is_match.then_some(rest)
}

/// Returns whether a byte is in a class, and what follows its `]`. As in Redis, a class without `]` ends with the
/// pattern.
fn class_of(mut class: &[u8], byte: u8) -> (bool, &[u8]) {
    let mut is_in_class = false;
    loop {
        let (is_match, rest) = match class {
            [] => return (is_in_class, class),
            [b'\\', literal, rest @ ..] => (*literal == byte, rest),
            [b']', rest @ ..] => return (is_in_class, rest),
            [first, b'-', last, rest @ ..] => {
                ((*first.min(last)..=*first.max(last)).contains(&byte), rest)
            }
            [literal, rest @ ..] => (*literal == byte, rest),
        };
        is_in_class |= is_match;
        class = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CommandAccess, check_keys, table::ROWS, written_keys};
    use alloc::{string::ToString, vec};

    fn command(line: &str) -> Vec<Vec<u8>> {
        line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn patterns_match_as_in_redis() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("app:*", &["app:", "app:1"], &["app", "xapp:1", ""]),
            ("*", &["", "a"], &[]),
            ("a*b*c", &["abc", "axxbyyc", "abcbc"], &["ab", "abcd", "acb"]),
            ("h?llo", &["hello", "h*llo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hallo", "hello"], &["hillo", "hllo"]),
            ("h[^e]llo", &["hallo", "h]llo"], &["hello", "hllo"]),
            ("k[a-c]", &["ka", "kc"], &["kd", "k-", "k"]),
            ("k[c-a]", &["kb"], &["kd"]),
            ("k[a\\-c]", &["ka", "k-", "kc"], &["kb"]),
            ("k[\\]x]", &["k]", "kx"], &["k\\"]),
            ("k[]x", &[], &["kx", "k]x", "kax"]),
            ("k[ab", &["ka", "kb"], &["kc", "k"]),
            ("a\\*", &["a*"], &["ab", "a", "a\\*"]),
            ("a\\", &["a\\"], &["a"]),
            ("a**b", &["ab", "axb"], &["a"]),
        ];
        for (pattern, matching, others) in rows {
            let is_match = |key: &&&str| matches(pattern.as_bytes(), key.as_bytes());
            assert_eq!(matching.iter().find(|key| !is_match(key)), None, "{pattern}");
            assert_eq!(others.iter().find(is_match), None, "{pattern}");
        }
        for key in ["a*[b]?\\", "\u{e4}"] {
            assert!(matches(literal(key).as_bytes(), key.as_bytes()), "{key}");
        }
    }

    /// Tried again from every star, this pattern would take longer than the universe exists.
    #[test]
    fn a_pattern_with_many_stars_ends() {
        let pattern = ["a*"; PATTERN_BYTES_MAX / 2].concat() + "b";
        assert!(!matches(pattern.as_bytes(), &vec![b'a'; KEY_BYTES_MAX]));
        assert!(!matches(b"*", &vec![b'a'; KEY_BYTES_MAX + 1]), "too long for any pattern");
    }

    #[test]
    fn every_key_that_is_written_must_match_a_pattern() {
        let rules = ["+@write", "~app:*", "%W~log:?"].map(ToString::to_string);
        for line in [
            "SET app:1 x",
            "mset app:1 x log:1 y",
            "del app:1 app:2",
            "xgroup create app:s g $",
            "sort app:1 by other store app:2",
            "zunionstore app:1 2 app:2 app:3 weights 1 2",
            "bitop and app:1 app:2",
            "set",
            "publish other x",
            "get other",
            "multi",
        ] {
            assert_eq!(check_keys(&rules, &command(line)), Ok(()), "{line}");
        }
        for line in [
            "set other x",
            "mset app:1 x other y",
            "del app:1 other",
            "xgroup create other g $",
            "georadius app:1 1 1 1 m StoreDist other",
            "zunionstore other 1 app:2",
            "zunionstore app:1 2 app:2 other weights 1 2",
            "zunionstore app:1 two other",
            "bitop and app:1 other",
            "rename app:1 other",
            "lmpop 1 other left",
        ] {
            let refused = check_keys(&rules, &command(line)).unwrap_err();
            assert!(
                refused.to_string().contains("needs one such as `~other`"),
                "{line}: {refused}"
            );
            assert!(matches!(refused, CommandRefused::Key { .. }), "{line}: {refused}");
        }
        // Redis stores into `other`: the first `store` is a pattern. Each of the two may be the option.
        let stored = command("sort app:1 get store store other");
        assert_eq!(written_keys(&stored).unwrap(), [&b"app:1"[..], b"store", b"other"]);
        let refused = check_keys(&rules[..1], &command("set a*b x")).unwrap_err();
        assert!(matches!(refused, CommandRefused::NoKeyPattern { .. }), "{refused}");
        assert!(refused.to_string().contains("needs one such as `~a\\*b`"), "{refused}");
    }

    /// A command whose keys are not described here counts all its arguments as keys, which is right for few.
    #[test]
    fn the_commands_whose_arguments_all_are_keys_are_known() {
        let all_keys = ROWS.iter().filter(|(name, access, _)| {
            *access == Ok(CommandAccess::Write) && positions(name) == KeyPositions::From(1)
        });
        let names: Vec<&str> = all_keys.map(|(name, _, _)| *name).collect();
        assert_eq!(names, ["del", "pfmerge", "sdiffstore", "sinterstore", "sunionstore", "unlink"]);
        assert_eq!(written_keys(&command("mget a b")), Ok(vec![]));
    }
}
