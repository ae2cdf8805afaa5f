//! Checks of strings against OpenAPI's `format`.
//!
//! An unknown format accepts every string, as in the real server. The formats `bsonobjectid`, `isbn`, `creditcard`,
//! `ssn` and the colour formats, which the real server checks, are not implemented and accept every string too.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

/// Returns true if `text` has the format, and for every unknown format.
pub(crate) fn matches(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "duration" => duration_nanoseconds(text).is_some(),
        "hostname" => is_hostname(text),
        "email" => text.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace)
        }),
        "uri" => is_uri(text),
        _ => true,
    }
}

/// Parses a duration in Go's syntax: `1h30m`, `1.5s`, `-10ms`, `0`.
pub(super) fn duration_nanoseconds(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 7] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
    ];
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i64 = 0;
    let mut any = false;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit_and_rest) = rest.split_at_checked(length)?;
        let (after, scale) = UNITS
            .iter()
            .find_map(|(unit, scale)| Some((unit_and_rest.strip_prefix(unit)?, *scale)))?;
        total = total.checked_add(scaled(number, scale)?)?;
        rest = after;
        any = true;
    }
    any.then_some(if negative { -total } else { total })
}

/// Multiplies `number` (digits with at most one dot) by `scale`, and truncates to whole nanoseconds.
fn scaled(number: &str, scale: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(scale)?;
    let mut unit = scale;
    for digit in fraction.chars() {
        unit /= 10;
        total = total.checked_add(unit.checked_mul(i64::from(digit.to_digit(10)?))?)?;
    }
    Some(total)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Ok(bits) = bits.parse::<u8>() else { return false };
    let v4 = address.parse::<Ipv4Addr>().is_ok() && bits <= 32;
    v4 || (address.parse::<Ipv6Addr>().is_ok() && bits <= 128)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(parts.len(), 6 | 8) && parts.iter().all(hex)
}

fn is_uuid(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    plain.len() == 32 && plain.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

/// Returns true for a scheme followed by text, and for an absolute path, which Go's `url.ParseRequestURI` accepts.
fn is_uri(text: &str) -> bool {
    if text.contains(|c: char| c.is_control() || c == ' ') {
        return false;
    }
    let scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    };
    text.starts_with('/')
        || text.split_once(':').is_some_and(|(name, rest)| scheme(name) && !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse() {
        let cases = [
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "fe80::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("uuid", "0f3a61d2-3b0c-4f7e-9c54-3d3d3d3d3d3d", "0f3a"),
            ("byte", "aGk=", "a"),
            ("date", "2026-01-02", "2026-13-02"),
            ("date-time", "2026-01-02T03:04:05Z", "2026-01-02"),
            ("duration", "1h30m", "1 hour"),
            ("hostname", "a-b.c", "a_b"),
            ("email", "a@b.c", "a.b.c"),
            ("uri", "https://a/b", "not a uri"),
        ];
        for (format, good, bad) in cases {
            assert!(matches(format, good), "{format} must accept {good}");
            assert!(!matches(format, bad), "{format} must refuse {bad}");
        }
        assert!(matches("no-such-format", "anything"));
    }

    #[test]
    fn durations_add_up() {
        let cases = [
            ("0", Some(0)),
            ("1.5s", Some(1_500_000_000)),
            ("1h1m1s", Some(3_661_000_000_000)),
            ("-2ms", Some(-2_000_000)),
            ("5", None),
            ("", None),
            ("s", None),
            ("9999999999999h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration_nanoseconds(text), expected, "{text}");
        }
    }
}
