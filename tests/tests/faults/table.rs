//! The printed table: one row per input.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::print_line;

/// The rows of one case, printed when each ends.
pub(crate) struct FaultRows {
    number: u8,
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
    /// Adds an observation to the row.
    pub(crate) fn observed(&mut self, text: impl fmt::Display) {
        if !self.now.is_empty() {
            self.now.push_str("; ");
        }
        self.now.push_str(&text.to_string());
    }

    /// Sets the number of keys before the fault.
    pub(crate) const fn keys_before(&mut self, count: usize) {
        self.before = Some(count);
    }

    /// Sets the number of keys now.
    pub(crate) const fn keys_after(&mut self, count: usize) {
        self.after = Some(count);
    }
}

impl FaultRows {
    /// Creates the rows of one case with a cluster of one shape.
    pub(crate) const fn new(number: u8, shape: String) -> Self {
        Self { number, shape, green: 0, red: Vec::new() }
    }

    /// Measures one input. `before` is the behaviour before the fix. Returns true if the row is green; a red row is
    /// printed with its reason, and the run continues.
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
        let measured = measured.unwrap_or_else(|_| bail!("not finished after {deadline:?}"));
        let took_s = start.elapsed().as_secs_f64();
        let keys = |count: Option<usize>| count.map_or("-".to_owned(), |count| count.to_string());
        let Self { number, shape, .. } = self;
        let (sign, now) = match &measured {
            Ok(()) => ("green", row.now),
            Err(error) if row.now.is_empty() => ("RED", format!("{error:#}")),
            Err(error) => ("RED", format!("{}; {error:#}", row.now)),
        };
        print_line(&format!(
            "{sign:5} {number} {shape} | {input} | before: {before} | now: {now} | keys {} → {} | {took_s:.0} s",
            keys(row.before),
            keys(row.after)
        ));
        let is_green = measured.is_ok();
        if is_green {
            self.green += 1;
        } else {
            let name = format!("{number} {shape}: {input}");
            self.red.push(name);
        }
        is_green
    }

    /// Returns true if no row is red so far.
    pub(crate) const fn is_green(&self) -> bool {
        self.red.is_empty()
    }

    /// Returns the number of green rows, and the red ones.
    pub(crate) fn into_parts(self) -> (usize, Vec<String>) {
        (self.green, self.red)
    }

    /// Adds rows that another process has printed.
    pub(crate) fn add_printed(&mut self, name: &str, is_green: bool) {
        let Self { number, shape, .. } = self;
        if is_green {
            self.green += 1;
        } else {
            self.red.push(format!("{number} {shape}: {name}"));
        }
    }

    /// Prints a row for a case that failed outside its inputs.
    pub(crate) fn failed(&mut self, name: &str, error: &anyhow::Error) {
        let Self { number, shape, .. } = self;
        print_line(&format!(
            "RED   {number} {shape} | {name} | its cluster was not healthy: {error:#}"
        ));
        self.red.push(format!("{number} {shape}: {name}"));
    }
}
