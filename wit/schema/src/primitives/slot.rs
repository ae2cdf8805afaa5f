//! Slots, ranges of slots and sets of slots.

use alloc::{string::String, vec::Vec};
use core::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One of the 16384 hash slots that Redis Cluster divides all keys into.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
// Invariant: below `Slot::COUNT`.
pub struct Slot(u16);

impl Slot {
    /// The number of slots.
    pub const COUNT: u16 = 16_384;

    /// Returns the slot with this number.
    ///
    /// # Errors
    ///
    /// Fails if the number is not below [`Slot::COUNT`].
    pub const fn new(number: u16) -> Result<Self, SlotError> {
        if number < Self::COUNT { Ok(Self(number)) } else { Err(SlotError::TooLarge(number)) }
    }

    /// Returns the slot's number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Slot {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        // Refuses `+5`, which would parse as a number but which Redis never writes.
        if !text.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(SlotError::NotANumber);
        }
        Self::new(text.parse().map_err(|_| SlotError::NotANumber)?)
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u16::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Why a text or a number is not a slot or a range of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The number is too large.
    #[error("slot {0} does not exist, the last one is 16383")]
    TooLarge(u16),
    /// The text is not a decimal number.
    #[error("a slot is a decimal number up to 16383")]
    NotANumber,
    /// The end is before the beginning.
    #[error("a range of slots must ascend, not go from {first} to {last}")]
    Backwards {
        /// The first slot.
        first: u16,
        /// The last slot.
        last: u16,
    },
}

/// A range of slots, both ends included; never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    first: Slot,
    // Invariant: `first <= last`.
    last: Slot,
}

impl SlotRange {
    /// All slots.
    pub const ALL: Self = Self { first: Slot(0), last: Slot(Slot::COUNT - 1) };

    /// Returns the range from `first` to `last`.
    ///
    /// # Errors
    ///
    /// Fails if `last` is before `first`.
    pub fn new(first: Slot, last: Slot) -> Result<Self, SlotError> {
        if last < first {
            return Err(SlotError::Backwards { first: first.0, last: last.0 });
        }
        Ok(Self { first, last })
    }

    /// Returns the first slot.
    #[must_use]
    pub const fn first(self) -> Slot {
        self.first
    }

    /// Returns the last slot.
    #[must_use]
    pub const fn last(self) -> Slot {
        self.last
    }

    /// Returns the number of slots, at least one.
    #[must_use]
    pub const fn slot_count(self) -> u16 {
        self.last.0 - self.first.0 + 1
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { first.fmt(f) } else { write!(f, "{first}-{last}") }
    }
}

impl fmt::Debug for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses `first-last`, or a single slot, as `CLUSTER NODES` writes them.
impl FromStr for SlotRange {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(first.parse()?, last.parse()?)
    }
}

impl Serialize for SlotRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A set of slots; in JSON a list of ranges, such as `["0-5460", "9000"]`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SlotSet {
    // Invariant: in ascending order, with at least one slot missing between two ranges.
    ranges: Vec<SlotRange>,
}

impl SlotSet {
    /// The empty set.
    pub const EMPTY: Self = Self { ranges: Vec::new() };

    /// Returns the ranges in ascending order; adjacent ranges are merged.
    #[must_use]
    pub fn ranges(&self) -> &[SlotRange] {
        &self.ranges
    }

    /// Returns true if the set is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the number of slots.
    #[must_use]
    pub fn slot_count(&self) -> u16 {
        self.ranges.iter().map(|range| range.slot_count()).sum()
    }

    /// Returns true if the set contains the slot.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.ranges.iter().any(|range| range.first <= slot && slot <= range.last)
    }

    /// Iterates over the slots in ascending order.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.ranges.iter().flat_map(|range| (range.first.0..=range.last.0).map(Slot))
    }

    /// Adds a range; slots that the set already contains stay.
    pub fn insert(&mut self, range: SlotRange) {
        let SlotRange { mut first, mut last } = range;
        self.ranges.retain(|existing| {
            // Merges ranges that touch. The sums cannot overflow, because slots are below 16384.
            let touches = existing.first.0 <= last.0 + 1 && first.0 <= existing.last.0 + 1;
            if touches {
                first = first.min(existing.first);
                last = last.max(existing.last);
            }
            !touches
        });
        let at = self.ranges.partition_point(|existing| existing.first < first);
        self.ranges.insert(at, SlotRange { first, last });
    }

    /// Returns the slots that are in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&other.ranges).copied().collect()
    }

    /// Returns the slots that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::EMPTY;
        for a in &self.ranges {
            for b in &other.ranges {
                let (first, last) = (a.first.max(b.first), a.last.min(b.last));
                if first <= last {
                    both.insert(SlotRange { first, last });
                }
            }
        }
        both
    }

    /// Returns the slots that are in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    /// Returns the slots that are not in this set.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut next = 0;
        let mut rest = Self::EMPTY;
        for range in &self.ranges {
            if next < range.first.0 {
                let (first, last) = (Slot(next), Slot(range.first.0 - 1));
                rest.ranges.push(SlotRange { first, last });
            }
            next = range.last.0 + 1;
        }
        if next < Slot::COUNT {
            let (first, last) = (Slot(next), Slot(Slot::COUNT - 1));
            rest.ranges.push(SlotRange { first, last });
        }
        rest
    }
}

impl FromIterator<SlotRange> for SlotSet {
    fn from_iter<I: IntoIterator<Item = SlotRange>>(ranges: I) -> Self {
        let mut set = Self::EMPTY;
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

impl From<SlotRange> for SlotSet {
    fn from(range: SlotRange) -> Self {
        Self::from_iter([range])
    }
}

impl<'de> Deserialize<'de> for SlotSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<SlotRange>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Writes the ranges separated by spaces, as `CLUSTER NODES` does; `none` for the empty set.
impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (index, range) in self.ranges.iter().enumerate() {
            if index != 0 {
                f.write_str(" ")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn set(ranges: &[&str]) -> SlotSet {
        ranges.iter().map(|text| text.parse::<SlotRange>().unwrap()).collect()
    }

    #[test]
    fn slot_range_parses_what_redis_prints() {
        let cases = [("0-16383", 16_384), ("5461", 1), ("0-5460", 5_461)];
        for (text, slot_count) in cases {
            let range: SlotRange = text.parse().unwrap();
            assert_eq!(range.slot_count(), slot_count, "{text}");
            assert_eq!(range.to_string(), text);
        }
    }

    #[test]
    fn an_invalid_range_is_refused() {
        let cases = [
            ("16384", SlotError::TooLarge(16_384)),
            ("7-5", SlotError::Backwards { first: 7, last: 5 }),
            ("", SlotError::NotANumber),
            ("+5", SlotError::NotANumber),
            ("1-", SlotError::NotANumber),
            ("70000", SlotError::NotANumber),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<SlotRange>(), Err(error), "{text}");
        }
    }

    #[test]
    fn one_set_has_one_form() {
        let cases: [(&[&str], &[&str]); 4] = [
            (&["5-9", "0-4"], &["0-9"]),
            (&["0-9", "3-4"], &["0-9"]),
            (&["7", "0-3", "4-6"], &["0-7"]),
            (&["9000", "0-5"], &["0-5", "9000"]),
        ];
        for (parts, whole) in cases {
            assert_eq!(set(parts), set(whole), "{parts:?}");
            assert_eq!(set(parts).ranges().len(), whole.len(), "{parts:?}");
        }
    }

    #[test]
    fn sets_are_combined() {
        let (a, b) = (set(&["0-99", "200"]), set(&["50-150", "16383"]));
        assert_eq!(a.union(&b), set(&["0-150", "200", "16383"]));
        assert_eq!(a.intersection(&b), set(&["50-99"]));
        assert_eq!(a.difference(&b), set(&["0-49", "200"]));
        assert_eq!(a.complement().complement(), a);
        assert_eq!(SlotSet::EMPTY.complement(), SlotRange::ALL.into());
        assert_eq!(a.slots().count(), usize::from(a.slot_count()));
        assert!(a.slots().all(|slot| a.contains(slot)) && !a.contains(Slot(100)));
    }

    #[test]
    fn json_round_trips_and_is_checked() {
        let a = set(&["0-99", "200"]);
        let json = serde_json::to_string(&a).unwrap();
        assert_eq!(json, r#"["0-99","200"]"#);
        assert_eq!(serde_json::from_str::<SlotSet>(&json).unwrap(), a);
        assert!(serde_json::from_str::<SlotSet>(r#"["16384"]"#).is_err());
        assert!(serde_json::from_str::<Slot>("16384").is_err());
    }
}
