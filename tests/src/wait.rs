//! Waits for a condition with a deadline: the only way in which a test waits.

use std::{
    fmt::Display,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long to pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What one look at a condition found.
pub enum Poll<T> {
    /// It holds.
    Done(T),
    /// Not yet, and what was seen instead.
    NotYet(String),
}

/// Looks until the condition holds, and gives what was found and how long that took.
///
/// # Errors
///
/// Fails at the deadline with what was seen last.
pub async fn until<T, F>(
    what: impl Display,
    deadline: Duration,
    mut poll: impl FnMut() -> F,
) -> Result<(T, Duration)>
where
    F: Future<Output = Result<Poll<T>>>,
{
    let start = Instant::now();
    loop {
        let seen = match poll().await {
            Ok(Poll::Done(found)) => return Ok((found, start.elapsed())),
            Ok(Poll::NotYet(seen)) => seen,
            Err(error) => format!("{error:#}"),
        };
        if deadline < start.elapsed() {
            bail!("waited {deadline:?} for {what}; last seen: {seen}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
