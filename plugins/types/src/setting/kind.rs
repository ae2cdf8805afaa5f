//! The values that a setting may have: the server's own syntax and ranges.
//!
//! A server accepts every value that is accepted here, in its configuration file and by `CONFIG SET`; with an
//! invalid line in its file it does not start. `tests/engine.rs` checks the ends of every range with a real
//! server.

use alloc::string::{String, ToString};
use core::fmt;

/// The values that a setting accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisSettingType {
    /// A whole number, both ends included.
    Integer {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// A number of bytes, with or without a unit, both ends included.
    Memory {
        /// The smallest, in bytes.
        min: u64,
        /// The largest, in bytes.
        max: u64,
    },
    /// `yes` or `no`.
    YesNo,
    /// One of these keywords.
    OneOf(&'static [&'static str]),
    /// Groups of `class hard soft seconds`, as in `client-output-buffer-limit`.
    BufferLimits,
    /// Letters, each of which stands for a class of events; may be empty.
    EventLetters,
}

/// The client classes that have a limit.
const CLASSES: &[&str] = &["normal", "replica", "slave", "pubsub"];
/// The letters of `notify-keyspace-events` in Redis 7.0.
const EVENT_LETTERS: &str = "AKEg$lshzxetdmn";
/// The server multiplies a number by its unit without checking that the product fits into 64 bits.
pub(super) const BYTES_MAX: u64 = i64::MAX as u64;

impl RedisSettingType {
    /// Returns true if the server accepts the value.
    #[must_use]
    pub fn accepts(self, value: &str) -> bool {
        match self {
            Self::Integer { min, max } => {
                integer(value).is_some_and(|number| min <= number && number <= max)
            }
            Self::Memory { min, max } => {
                bytes(value).is_some_and(|bytes| min <= bytes && bytes <= max)
            }
            Self::YesNo => matches!(value, "yes" | "no"),
            Self::OneOf(words) => words.contains(&value),
            Self::BufferLimits => are_buffer_limits(value),
            Self::EventLetters => value.chars().all(|letter| EVENT_LETTERS.contains(letter)),
        }
    }

    /// Returns the value in the form of `CONFIG GET`; `None` if servers write it in more than one form.
    #[must_use]
    pub fn as_shown(self, value: &str) -> Option<String> {
        match self {
            Self::Integer { .. } | Self::YesNo | Self::OneOf(_) => Some(value.to_string()),
            Self::Memory { .. } => bytes(value).map(|bytes| bytes.to_string()),
            Self::BufferLimits | Self::EventLetters => None,
        }
    }
}

/// Parses a whole number as the server does: without `+`, leading zeros or `-0`.
fn integer(value: &str) -> Option<i64> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_shortest = value == "0" || !digits.starts_with('0');
    if is_plain && is_shortest { value.parse().ok() } else { None }
}

/// Parses a number of bytes as the server does: `1k` is 1000 and `1kb` is 1024.
fn bytes(value: &str) -> Option<u64> {
    const UNITS: &[(&str, u64)] = &[
        ("", 1),
        ("b", 1),
        ("k", 1000),
        ("kb", 1 << 10),
        ("m", 1_000_000),
        ("mb", 1 << 20),
        ("g", 1_000_000_000),
        ("gb", 1 << 30),
    ];
    let unit = value.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let number: u64 = value.strip_suffix(unit)?.parse().ok()?;
    let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor).filter(|bytes| *bytes <= BYTES_MAX)
}

fn are_buffer_limits(value: &str) -> bool {
    let words: alloc::vec::Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
    let is_group = |group: &[&str]| match group {
        [class, hard, soft, seconds] => {
            let seconds = integer(seconds)
                .is_some_and(|seconds| (0..=i64::from(i32::MAX)).contains(&seconds));
            CLASSES.contains(class) && bytes(hard).is_some() && bytes(soft).is_some() && seconds
        }
        _ => false,
    };
    !words.is_empty() && words.chunks(4).all(is_group)
}

impl fmt::Display for RedisSettingType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Memory { min, max: BYTES_MAX } if *min == 0 => {
                f.write_str("a number of bytes such as `100mb`")
            }
            Self::Memory { min, max: BYTES_MAX } => {
                write!(f, "a number of bytes such as `100mb`, at least {}", ByteSizeText(*min))
            }
            Self::Memory { min, max } => {
                let (min, max) = (ByteSizeText(*min), ByteSizeText(*max));
                write!(f, "a number of bytes such as `100mb`, from {min} to {max}")
            }
            Self::YesNo => f.write_str("`yes` or `no`, in quotes"),
            Self::OneOf(words) => {
                f.write_str("one of")?;
                list(f, words)
            }
            Self::BufferLimits => {
                f.write_str(
                    "one or more groups of class, hard limit, soft limit and seconds, such as \
                     `replica 256mb 64mb 60`; the classes are",
                )?;
                list(f, CLASSES)
            }
            Self::EventLetters => write!(f, "empty, or letters of `{EVENT_LETTERS}`"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, words: &[&str]) -> fmt::Result {
    words
        .iter()
        .enumerate()
        .try_for_each(|(index, word)| write!(f, "{} `{word}`", if index == 0 { "" } else { "," }))
}

/// Writes a number of bytes in the largest unit that divides it.
struct ByteSizeText(u64);

impl fmt::Display for ByteSizeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("gb", 30), ("mb", 20), ("kb", 10)];
        let whole =
            units.iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match whole {
            Some((unit, shift)) => write!(f, "`{}{unit}`", self.0 >> shift),
            None => write!(f, "`{}`", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_parsed_as_the_server_parses_it() {
        let cases = [
            ("0", Some(0)),
            ("1k", Some(1000)),
            ("1kb", Some(1024)),
            ("2MB", Some(2 << 20)),
            ("3b", Some(3)),
            ("007", Some(7)),
            ("9223372036854775807", Some(BYTES_MAX)),
            ("9223372036854775808", None),
            ("99999999999gb", None),
            ("8589934592gb", None),
            ("", None),
            ("mb", None),
            ("-1", None),
            ("1 mb", None),
            ("1tb", None),
            ("0x10", None),
        ];
        for (value, expected) in cases {
            assert_eq!(bytes(value), expected, "{value}");
        }
    }

    #[test]
    fn whole_numbers_have_one_form() {
        for (value, expected) in [
            ("0", Some(0)),
            ("-5", Some(-5)),
            ("500", Some(500)),
            ("9223372036854775807", Some(i64::MAX)),
        ] {
            assert_eq!(integer(value), expected, "{value}");
        }
        for value in ["", "-", "+5", "05", "-0", "00", "1.0", " 1", "9223372036854775808"] {
            assert_eq!(integer(value), None, "{value}");
        }
    }

    #[test]
    fn values_are_shown_in_the_servers_form() {
        let memory = RedisSettingType::Memory { min: 0, max: BYTES_MAX };
        assert_eq!(memory.as_shown("1mb").as_deref(), Some("1048576"));
        assert_eq!(RedisSettingType::YesNo.as_shown("no").as_deref(), Some("no"));
        assert_eq!(RedisSettingType::EventLetters.as_shown("KEA"), None);
    }

    #[test]
    fn bounds_are_shown_in_units() {
        let cases = [
            (RedisSettingType::Memory { min: 1 << 20, max: BYTES_MAX }, "at least `1mb`"),
            (RedisSettingType::Memory { min: 16_384, max: 64 << 30 }, "from `16kb` to `64gb`"),
            (
                RedisSettingType::Memory { min: 0, max: BYTES_MAX },
                "a number of bytes such as `100mb`",
            ),
            (
                RedisSettingType::BufferLimits,
                "the classes are `normal`, `replica`, `slave`, `pubsub`",
            ),
        ];
        for (kind, expected) in cases {
            assert!(kind.to_string().ends_with(expected), "{kind}");
        }
    }
}
