//! What was measured, as a table for people and as JSON for programs.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde_json::{Value, json};

/// Some measurements of one thing.
#[derive(Debug)]
pub(crate) struct Row {
    /// What was measured.
    name: String,
    /// In the order in which they were taken.
    samples: Vec<Duration>,
    /// What the median should not exceed.
    goal: Option<Duration>,
    /// What others need for the same: their name and their median.
    beside: Option<(&'static str, Duration)>,
}

impl Row {
    /// A row without a goal.
    pub(crate) const fn new(name: String, samples: Vec<Duration>) -> Self {
        Self { name, samples, goal: None, beside: None }
    }

    /// The same with a goal for the median.
    pub(crate) fn goal(self, goal: Duration) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// The same with what others need.
    pub(crate) fn beside(self, name: &'static str, other: &Self) -> Self {
        Self { beside: Some((name, other.percentile(50))), ..self }
    }

    /// The smallest sample that at least this many percent do not exceed; zero of none.
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(rank).copied().unwrap_or_default()
    }

    fn to_goal(&self) -> Option<f64> {
        self.goal.map(|goal| self.percentile(50).div_duration_f64(goal))
    }

    fn to_other(&self) -> Option<f64> {
        let (_, other) = self.beside.filter(|(_, other)| !other.is_zero())?;
        Some(self.percentile(50).div_duration_f64(other))
    }

    /// Times in milliseconds, ratios as numbers (below 1 is better than the goal or the other).
    pub(crate) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "count": self.samples.len(),
            "p50Ms": ms(self.percentile(50)),
            "p95Ms": ms(self.percentile(95)),
            "samplesMs": self.samples.iter().copied().map(ms).collect::<Vec<_>>(),
            "goalMs": self.goal.map(ms),
            "ratioToGoal": self.to_goal(),
            "beside": self.beside.map(|(name, _)| name),
            "besideMs": self.beside.map(|(_, other)| ms(other)),
            "ratioToBeside": self.to_other(),
        })
    }
}

/// Prints the table: medians, 95th percentiles, goals, and the median's ratio to each.
pub(crate) fn print(rows: &[Row]) {
    let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    say(&format!(
        "{:<44}{:>4}{:>12}{:>12}{:>12}{:>9}{:>10}",
        "", "n", "p50 ms", "p95 ms", "goal ms", "to goal", "to Redis"
    ));
    for row in rows {
        say(&format!(
            "{:<44}{:>4}{:>12.1}{:>12.1}{:>12}{:>9}{:>10}",
            row.name,
            row.samples.len(),
            ms(row.percentile(50)),
            ms(row.percentile(95)),
            row.goal.map_or_else(String::new, |goal| goal.as_millis().to_string()),
            ratio(row.to_goal()),
            ratio(row.to_other()),
        ));
    }
}

/// One line for people.
pub(crate) fn say(line: &str) {
    // Whoever closed the pipe does not want to know.
    writeln!(io::stdout(), "{line}").ok();
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::{Duration, Row};

    #[test]
    fn percentiles_are_samples() {
        let of = |count: u64| {
            let row = Row::new(String::new(), (1..=count).rev().map(Duration::from_secs).collect());
            (row.percentile(50).as_secs(), row.percentile(95).as_secs())
        };
        assert_eq!([of(0), of(1), of(10), of(20)], [(0, 0), (1, 1), (5, 10), (10, 19)]);
    }
}
