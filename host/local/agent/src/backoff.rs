//! The back-offs of the local host: the pauses of retry loops, and the restart back-off of a container.
//!
//! `backon` is not used: its factor is an `f32`, which makes the pauses inexact, and most back-offs here are a
//! counter in a state that is cloned and compared.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::utils::Backoff;

/// Returns the pause after that many earlier failures in a row: `first`, doubling up to `longest`.
pub fn retry_pause(first: Duration, longest: Duration, earlier_failures: u32) -> Duration {
    const DOUBLINGS_MAX: u32 = 16;
    first.saturating_mul(1 << earlier_failures.min(DOUBLINGS_MAX)).min(longest)
}

/// The pauses of a retry loop: `first`, doubling up to `longest`, without end.
#[derive(Clone, Debug)]
pub struct RetryPauses {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl RetryPauses {
    /// Creates the pauses of a loop that has not failed yet.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Counts a failure, and returns the pause before the next attempt.
    pub fn after_failure(&mut self) -> Duration {
        let pause = retry_pause(self.first, self.longest, self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

impl Iterator for RetryPauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.after_failure())
    }
}

impl Backoff for RetryPauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

const RESTART_FIRST: Duration = Duration::from_secs(10);
const RESTART_LONGEST: Duration = Duration::from_secs(300);
/// A container that ran for this long counts as healthy: its next end is treated as the first one.
const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// The restart back-off of a container: counts its ends, and returns the pause before its next start: none at
/// first, then 10 s, doubling up to 300 s.
///
/// The first restart is immediate, as the kubelet's is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RestartBackoff {
    ends: u32,
}

impl RestartBackoff {
    /// Counts the end of a run, and returns the earliest time for the next one.
    pub(crate) fn after_end(&mut self, started: Timestamp, ended: Timestamp) -> Timestamp {
        if ended.duration_since(started) >= RESET_AFTER {
            self.ends = 0;
        }
        let pause = self.pause();
        self.ends = self.ends.saturating_add(1);
        ended.saturating_add(pause).unwrap_or(ended)
    }

    /// Counts a start that failed (so that there was no run), and returns the pause before the next attempt.
    pub(crate) fn after_failure(&mut self) -> Duration {
        self.ends = self.ends.saturating_add(1);
        self.pause()
    }

    /// Forgets all counted ends.
    pub(crate) const fn reset(&mut self) {
        self.ends = 0;
    }

    fn pause(self) -> Duration {
        match self.ends.checked_sub(1) {
            None => Duration::ZERO,
            Some(earlier_ends) => retry_pause(RESTART_FIRST, RESTART_LONGEST, earlier_ends),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_start_again_after_a_reset() {
        let [first, longest] = [100, 350].map(Duration::from_millis);
        let mut pauses = RetryPauses::new(first, longest);
        let found: Vec<_> = pauses.by_ref().take(4).map(|pause| pause.as_millis()).collect();
        assert_eq!(found, [100, 200, 350, 350]);
        pauses.reset();
        assert_eq!(pauses.after_failure(), first);
        assert_eq!(retry_pause(first, longest, u32::MAX), longest);
    }

    #[test]
    fn first_restart_is_immediate_then_ten_seconds_doubling_to_five_minutes() {
        let mut backoff = RestartBackoff::default();
        for pause in [0, 10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(backoff.after_end(at(1000), at(1001)), at(1001 + pause), "{pause}");
        }
    }

    #[test]
    fn a_run_of_ten_minutes_resets_the_back_off() {
        let mut backoff = RestartBackoff::default();
        for _ in 0..5 {
            backoff.after_end(at(0), at(1));
        }
        assert_eq!(backoff.after_end(at(1000), at(1600)), at(1600));
        assert_eq!(backoff.after_end(at(1600), at(1601)), at(1611));
    }

    #[test]
    fn failed_starts_pause_from_the_first() {
        let mut backoff = RestartBackoff::default();
        assert_eq!(backoff.after_failure().as_secs(), 10);
        assert_eq!(backoff.after_failure().as_secs(), 20);
    }
}
