//! The measurements as a table and as JSON.
//!
//! For every measurement here less is better, so one rule serves all goals.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde_json::{Value, json};

/// The unit of a row's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowUnit {
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// How many times as much as something else.
    Ratio,
    /// Bytes; printed in KB or MB (powers of 1000).
    Bytes,
    /// Occurrences per minute.
    PerMinute,
}

impl RowUnit {
    const fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Microseconds => "µs",
            Self::Ratio => "ratio",
            Self::Bytes => "bytes",
            Self::PerMinute => "per minute",
        }
    }

    /// Returns a number with its unit, for the table.
    fn show(self, number: f64) -> String {
        match self {
            Self::Milliseconds => format!("{number:.1} ms"),
            Self::Microseconds => format!("{number:.1} µs"),
            Self::Ratio if number < 0.1 => format!("{number:.4}"),
            Self::Ratio => format!("{number:.2}"),
            Self::Bytes if number < 1e6 => format!("{:.2} KB", number / 1e3),
            Self::Bytes => format!("{:.1} MB", number / 1e6),
            Self::PerMinute => format!("{number:.1}/min"),
        }
    }
}

/// The goal of one percentile of a row: the value must not exceed `max`.
#[derive(Clone, Copy, Debug)]
struct RowGoal {
    percentile: usize,
    max: f64,
}

/// Several measurements of one thing.
#[derive(Debug)]
pub(crate) struct BenchRow {
    /// The measured thing.
    name: String,
    unit: RowUnit,
    /// The samples in the order in which they were taken.
    samples: Vec<f64>,
    goal: Option<RowGoal>,
    /// The name and the median of the row for comparison.
    beside: Option<(&'static str, f64)>,
}

impl BenchRow {
    /// Creates a row without a goal.
    pub(crate) fn new(name: impl Into<String>, unit: RowUnit, samples: Vec<f64>) -> Self {
        Self { name: name.into(), unit, samples, goal: None, beside: None }
    }

    /// Creates a row of times in milliseconds, without a goal.
    pub(crate) fn ms(name: impl Into<String>, samples: &[Duration]) -> Self {
        let samples = samples.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        Self::new(name, RowUnit::Milliseconds, samples)
    }

    /// Creates a row of times in microseconds, without a goal.
    pub(crate) fn us(name: impl Into<String>, samples: &[Duration]) -> Self {
        let samples = samples.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        Self::new(name, RowUnit::Microseconds, samples)
    }

    /// Adds a goal for the median, in the row's unit.
    pub(crate) fn goal(self, max: f64) -> Self {
        Self { goal: Some(RowGoal { percentile: 50, max }), ..self }
    }

    /// Adds a goal for the 99th percentile, in the row's unit.
    pub(crate) fn goal_p99(self, max: f64) -> Self {
        Self { goal: Some(RowGoal { percentile: 99, max }), ..self }
    }

    /// Adds a row for comparison.
    pub(crate) fn beside(self, name: &'static str, other: &Self) -> Self {
        Self { beside: Some((name, other.median())), ..self }
    }

    /// Returns the median.
    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// Returns the smallest sample that at least this many percent do not exceed; zero without samples.
    fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(rank).copied().unwrap_or_default()
    }

    /// Returns the ratio to the goal: at most 1 if it is met. A goal of zero is met only by zero.
    fn to_goal(&self) -> Option<f64> {
        let RowGoal { percentile, max } = self.goal?;
        let is = self.percentile(percentile);
        Some(if is == 0.0 { 0.0 } else { is / max })
    }

    fn to_other(&self) -> Option<f64> {
        let (_, other) = self.beside.filter(|(_, other)| *other != 0.0)?;
        Some(self.median() / other)
    }

    /// Returns the row as JSON, with numbers in the row's unit. Ratios below 1 are better than the goal or the
    /// compared row. The ratio to a missed goal of zero is null.
    pub(crate) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit.name(),
            "count": self.samples.len(),
            "p50": self.percentile(50),
            "p95": self.percentile(95),
            "p99": self.percentile(99),
            "samples": self.samples,
            "goal": self.goal.map(|goal| goal.max),
            "goalPercentile": self.goal.map(|goal| goal.percentile),
            "ratioToGoal": self.to_goal(),
            "isMet": self.to_goal().map(|ratio| ratio <= 1.0),
            "beside": self.beside.map(|(name, _)| name),
            "besideP50": self.beside.map(|(_, other)| other),
            "ratioToBeside": self.to_other(),
        })
    }
}

/// Prints the table: medians, higher percentiles, goals, and the ratio to each.
pub(crate) fn print(rows: &[BenchRow]) {
    let wide = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default() + 2;
    print_line(&format!(
        "{:<wide$}{:>6}{:>13}{:>13}{:>13}{:>18}{:>9}  {}",
        "", "n", "p50", "p95", "p99", "goal", "to goal", "beside"
    ));
    for row in rows {
        let goal = row
            .goal
            .map(|RowGoal { percentile, max }| format!("p{percentile} ≤ {}", row.unit.show(max)));
        let ratio = row.to_goal().map(|ratio| format!("{ratio:.2}"));
        let beside = row.beside.zip(row.to_other()).map(|((name, other), ratio)| {
            format!("{ratio:.2} × {name} ({})", row.unit.show(other))
        });
        let [p50, p95, p99] = [50, 95, 99].map(|rank| row.unit.show(row.percentile(rank)));
        let line = format!(
            "{:<wide$}{:>6}{p50:>13}{p95:>13}{p99:>13}{:>18}{:>9}  {}",
            row.name,
            row.samples.len(),
            goal.unwrap_or_default(),
            ratio.unwrap_or_default(),
            beside.unwrap_or_default(),
        );
        print_line(line.trim_end());
    }
}

/// Prints one line.
pub(crate) fn print_line(line: &str) {
    // An error means that the reader closed the pipe.
    writeln!(io::stdout(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let of = |count: u64| {
            let samples: Vec<_> = (1..=count).rev().map(Duration::from_millis).collect();
            let row = BenchRow::ms("", &samples);
            [50, 95, 99].map(|percent| row.percentile(percent))
        };
        let cases =
            [(0, [0.0; 3]), (1, [1.0; 3]), (20, [10.0, 19.0, 20.0]), (200, [100.0, 190.0, 198.0])];
        for (count, expected) in cases {
            assert_eq!(of(count), expected, "{count}");
        }
    }

    #[test]
    fn a_goal_is_met_by_its_own_percentile() {
        let row = |samples: &[f64]| BenchRow::new("", RowUnit::PerMinute, samples.to_vec());
        let slow_tail: Vec<f64> = [[1.0; 49], [9.0; 49]].concat();
        let cases = [
            (row(&slow_tail).goal(2.0), true),
            (row(&slow_tail).goal_p99(2.0), false),
            (row(&[0.0]).goal(0.0), true),
            (row(&[0.1]).goal(0.0), false),
        ];
        for (row, expected) in cases {
            assert_eq!(row.json()["isMet"], expected, "{row:?}");
        }
    }

    #[test]
    fn each_unit_is_formatted() {
        let cases = [
            (RowUnit::Milliseconds, 1.25, "1.2 ms"),
            (RowUnit::Microseconds, 24.96, "25.0 µs"),
            (RowUnit::Ratio, 1.3, "1.30"),
            (RowUnit::Ratio, 1.0 / 150.0, "0.0067"),
            (RowUnit::Bytes, 7_700.0, "7.70 KB"),
            (RowUnit::Bytes, 48_000_000.0, "48.0 MB"),
            (RowUnit::PerMinute, 0.0, "0.0/min"),
        ];
        for (unit, number, expected) in cases {
            assert_eq!(unit.show(number), expected, "{unit:?}");
        }
    }
}
