//! The ways in which a test waits; nothing else in the tests sleeps.
//!
//! - [`until`] and its variants poll a condition with a deadline.
//! - [`holds_for`] checks that a condition holds all the time.
//! - [`elapse`] lets time pass that is part of the test's input: a fault's duration, the pace of a load, an idle
//!   period. It must never be used to wait for an effect.

use std::{
    fmt::Display,
    future::Future,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The pause between two polls of [`until`].
const PAUSE: Duration = Duration::from_millis(20);
/// The pause between two checks of [`holds_for`].
const CHECK_PAUSE: Duration = Duration::from_millis(200);

/// The result of one poll of a condition.
pub enum Poll<T> {
    /// The condition holds.
    Done(T),
    /// The condition does not hold yet; the text is what was found instead.
    NotYet(String),
}

/// Polls until the condition holds; returns the result and how long that took. An error counts as "not yet".
///
/// # Errors
///
/// Fails at the deadline with what was found last.
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
        if let Some(done) = judge(poll().await, &what, deadline, start)? {
            return Ok(done);
        }
        elapse(PAUSE).await;
    }
}

/// Does the same as [`until`] with another pause between two polls, which limits the precision of the time, and
/// with a closure that may change what it captures.
///
/// # Errors
///
/// Fails at the deadline with what was found last.
pub async fn until_every<T>(
    pause: Duration,
    what: impl Display,
    deadline: Duration,
    mut poll: impl AsyncFnMut() -> Result<Poll<T>>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        if let Some(done) = judge(poll().await, &what, deadline, start)? {
            return Ok(done);
        }
        elapse(pause).await;
    }
}

/// Does the same as [`until_every`] on a thread without a runtime.
///
/// # Errors
///
/// Fails at the deadline with what was found last.
pub fn until_blocking<T>(
    pause: Duration,
    what: impl Display,
    deadline: Duration,
    mut poll: impl FnMut() -> Result<Poll<T>>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        if let Some(done) = judge(poll(), &what, deadline, start)? {
            return Ok(done);
        }
        elapse_blocking(pause);
    }
}

/// Returns the result if the condition holds, and nothing if it must be polled again.
fn judge<T>(
    polled: Result<Poll<T>>,
    what: &impl Display,
    deadline: Duration,
    start: Instant,
) -> Result<Option<(T, Duration)>> {
    let found = match polled {
        Ok(Poll::Done(result)) => return Ok(Some((result, start.elapsed()))),
        Ok(Poll::NotYet(found)) => found,
        Err(error) => format!("{error:#}"),
    };
    if deadline < start.elapsed() {
        bail!("waited {deadline:?} for {what}; last found: {found}");
    }
    Ok(None)
}

/// Checks again and again for this duration that a condition holds.
///
/// # Errors
///
/// Fails at the first check that fails, with `violation` and the time.
pub async fn holds_for<F>(
    violation: &str,
    duration: Duration,
    mut check: impl FnMut() -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let start = Instant::now();
    while start.elapsed() < duration {
        let now_s = start.elapsed().as_secs_f64();
        check().await.with_context(|| format!("{violation}, after {now_s:.0} s"))?;
        elapse(CHECK_PAUSE).await;
    }
    Ok(())
}

/// Lets this time pass. See the module's header for when that is allowed.
pub async fn elapse(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Does the same as [`elapse`] on a thread without a runtime.
pub fn elapse_blocking(duration: Duration) {
    thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(50);
    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn a_condition_that_never_holds_fails_at_the_deadline_with_the_last_error() {
        let mut polls = 0;
        let waited = until_blocking(SHORT, "nothing", DEADLINE, || -> Result<Poll<()>> {
            polls += 1;
            bail!("poll {polls}")
        });
        let error = waited.unwrap_err().to_string();
        assert!(
            error.contains("for nothing") && error.ends_with(&format!("poll {polls}")),
            "{error}"
        );
        assert!(1 < polls, "{error}");
    }

    #[tokio::test]
    async fn a_condition_is_polled_until_it_holds() {
        let mut polls = 0;
        let poll = async || -> Result<Poll<u32>> {
            polls += 1;
            Ok(if polls == 3 { Poll::Done(polls) } else { Poll::NotYet(String::new()) })
        };
        let polled = until_every(SHORT, "the third poll", DEADLINE * 100, poll).await;
        let (result, _) = polled.unwrap();
        assert_eq!(result, 3);
    }

    #[tokio::test]
    async fn a_condition_that_stops_holding_is_found() {
        let mut checks = 0;
        let held = holds_for("it stopped", Duration::from_secs(60), || {
            checks += 1;
            let holds = checks < 4;
            async move { if holds { Ok(()) } else { bail!("check {checks}") } }
        });
        let error = format!("{:#}", held.await.unwrap_err());
        assert!(error.starts_with("it stopped, after") && error.ends_with("check 4"), "{error}");
    }
}
