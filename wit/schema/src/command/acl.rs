//! The ACL rules of a grant (`spec.grants.redis.commands`), in Redis' syntax.

use alloc::{string::String, vec::Vec};

use super::{CommandAccess, CommandRefused, key, name_of, row, row_of, table::ROWS};

/// Returns true if these ACL rules of Redis (`+@read`, `-keys`, `+config|get`), applied from left to right,
/// allow the command of this name. Before the first rule nothing is allowed.
#[must_use]
pub fn is_granted(rules: &[String], name: &str) -> bool {
    let Some((_, _, categories)) = row(name) else { return false };
    let top = name.split_once('|').map_or(name, |(top, _)| top);
    let covers = |subject: &str| match subject.strip_prefix('@') {
        Some("all") => true,
        Some(category) => categories.split(' ').any(|known| known == category),
        None => subject == name || subject == top,
    };
    rules.iter().fold(false, |granted, rule| {
        let rule = rule.to_ascii_lowercase();
        match (rule.strip_prefix('+'), rule.strip_prefix('-')) {
            (Some(subject), _) if covers(subject) => true,
            (_, Some(subject)) if covers(subject) => false,
            _ => granted,
        }
    })
}

/// Returns the keys that a command names if the table lets it write; none for any other command.
///
/// # Errors
///
/// Fails if the table does not contain the command.
pub fn written_keys(command: &[Vec<u8>]) -> Result<Vec<&[u8]>, CommandRefused> {
    let (name, (_, access, _)) = row_of(command)?;
    let is_write = *access == Ok(CommandAccess::Write);
    Ok(if is_write { key::keys(&name, command) } else { Vec::new() })
}

/// Checks that the patterns among these rules of a grant (`~app:*`, `%W~app:*`) match each key that a writing
/// command names. Other commands pass.
///
/// # Errors
///
/// Fails with the first key that no pattern matches: [`CommandRefused::NoKeyPattern`] if the rules have no
/// pattern, otherwise [`CommandRefused::Key`]. Fails if the table does not contain the command.
pub fn check_keys(rules: &[String], command: &[Vec<u8>]) -> Result<(), CommandRefused> {
    let keys = written_keys(command)?;
    name_of(command).and_then(|name| key::check(rules, name, &keys))
}

/// Why a text is not an ACL rule of a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclRuleError {
    /// It has no sign.
    #[error(
        "`{0}` must begin with `+` or `-`, or with `~` for a pattern of keys that may be written"
    )]
    Sign(String),
    /// It is a rule about keys, but not about writing them.
    #[error(
        "`{0}` is not a pattern of keys that may be written: use `~PREFIX*` or `%W~PREFIX*`; reads need no pattern"
    )]
    KeyAccess(String),
    /// The pattern of keys is empty or too long.
    #[error("the pattern of keys `{0}` must have 1 to {max} bytes after `~`", max = key::PATTERN_BYTES_MAX)]
    KeyPattern(String),
    /// The table contains no such command or category.
    #[error("`{0}` is not a command or category of Redis 7.0")]
    Unknown(String),
}

/// Checks one ACL rule of a grant.
///
/// # Errors
///
/// Fails if it is not `+` or `-` followed by a category or a command of the table, or `~` or `%W~` followed by a
/// pattern of keys.
pub fn check_acl_rule(rule: &str) -> Result<(), AclRuleError> {
    if rule.starts_with(['~', '%']) {
        return match key::pattern(rule) {
            None => Err(AclRuleError::KeyAccess(rule.into())),
            Some(pattern) if (1..=key::PATTERN_BYTES_MAX).contains(&pattern.len()) => Ok(()),
            Some(_) => Err(AclRuleError::KeyPattern(rule.into())),
        };
    }
    let lower = rule.to_ascii_lowercase();
    let Some(name) = lower.strip_prefix(['+', '-']) else {
        return Err(AclRuleError::Sign(rule.into()));
    };
    let known = match name.strip_prefix('@') {
        Some("all") => true,
        Some(category) => {
            ROWS.iter().any(|(_, _, all)| all.split(' ').any(|known| known == category))
        }
        None => row(name).is_some(),
    };
    if known { Ok(()) } else { Err(AclRuleError::Unknown(rule.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn grants_are_applied_like_redis_acl_rules() {
        let cases = [
            ("+@read", "get", true),
            ("+@read", "set", false),
            ("+@read", "config|get", false),
            ("+@all -@dangerous", "info", false),
            ("+@all -@dangerous +info", "info", true),
            ("+config|get", "config|get", true),
            ("+config|get", "config|resetstat", false),
            ("+config", "config|get", true),
            ("+config -config|get", "config|get", false),
            ("+GET", "get", true),
            ("", "get", false),
            ("+@all", "nosuch", false),
        ];
        for (words, name, granted) in cases {
            let list: Vec<String> = words.split(' ').map(ToString::to_string).collect();
            assert_eq!(is_granted(&list, name), granted, "{words} for {name}");
        }
        assert!(check_acl_rule("+@read").is_ok() && check_acl_rule("-config|get").is_ok());
        for word in ["get", "+@raed", "+nosuch", ""] {
            assert!(check_acl_rule(word).is_err(), "{word}");
        }
    }
}
