//! The table that the run prints: one row per input.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::say;

/// The rows of one case, printed as they end.
pub(crate) struct FaultRows {
    line: u8,
    shape: String,
    green: usize,
    red: Vec<String>,
}

/// One row while it is measured.
#[derive(Default)]
pub(crate) struct FaultRow {
    now: String,
    before: Option<usize>,
    after: Option<usize>,
}

impl FaultRow {
    /// Says what was seen; several times, if it was seen one after the other.
    pub(crate) fn saw(&mut self, text: impl fmt::Display) {
        if !self.now.is_empty() {
            self.now.push_str("; ");
        }
        self.now.push_str(&text.to_string());
    }

    /// How many keys there were before the fault.
    pub(crate) const fn keys_before(&mut self, count: usize) {
        self.before = Some(count);
    }

    /// How many keys there are now.
    pub(crate) const fn keys_after(&mut self, count: usize) {
        self.after = Some(count);
    }
}

impl FaultRows {
    /// Rows of this line of the issue, all with a cluster of one shape.
    pub(crate) const fn new(line: u8, shape: String) -> Self {
        Self { line, shape, green: 0, red: Vec::new() }
    }

    /// Measures one input: what was done to the cluster, and what happened before the fault was mended.
    /// Says whether the row is green; a red one is printed with its reason and the run goes on.
    pub(crate) async fn row(
        &mut self,
        input: &str,
        before: &str,
        deadline: Duration,
        measure: impl AsyncFnOnce(&mut FaultRow) -> Result<()>,
    ) -> bool {
        let start = Instant::now();
        let mut row = FaultRow::default();
        let measured = tokio::time::timeout(deadline, measure(&mut row)).await;
        let measured = measured.unwrap_or_else(|_| bail!("not at its end after {deadline:?}"));
        let took_s = start.elapsed().as_secs_f64();
        let keys = |count: Option<usize>| count.map_or("-".to_owned(), |count| count.to_string());
        let Self { line, shape, .. } = self;
        let (sign, now) = match &measured {
            Ok(()) => ("green", row.now),
            Err(error) if row.now.is_empty() => ("RED", format!("{error:#}")),
            Err(error) => ("RED", format!("{}; {error:#}", row.now)),
        };
        say(&format!(
            "{sign:5} {line} {shape} | {input} | before: {before} | now: {now} | keys {} → {} | {took_s:.0} s",
            keys(row.before),
            keys(row.after)
        ));
        let is_green = measured.is_ok();
        if is_green {
            self.green += 1;
        } else {
            let name = format!("{line} {shape}: {input}");
            self.red.push(name);
        }
        is_green
    }

    /// Whether no row is red so far.
    pub(crate) const fn is_green(&self) -> bool {
        self.red.is_empty()
    }

    /// How many rows are green, and which are red.
    pub(crate) fn into_parts(self) -> (usize, Vec<String>) {
        (self.green, self.red)
    }

    /// Takes in rows that another process has printed.
    pub(crate) fn told_elsewhere(&mut self, name: &str, is_green: bool) {
        let Self { line, shape, .. } = self;
        if is_green {
            self.green += 1;
        } else {
            self.red.push(format!("{line} {shape}: {name}"));
        }
    }

    /// Prints a row for a case that failed before its first input, or between two.
    pub(crate) fn failed(&mut self, name: &str, error: &anyhow::Error) {
        let Self { line, shape, .. } = self;
        say(&format!("RED   {line} {shape} | {name} | its cluster was not well: {error:#}"));
        self.red.push(format!("{line} {shape}: {name}"));
    }
}
