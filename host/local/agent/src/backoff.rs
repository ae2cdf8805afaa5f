//! The restart back-off of a container. It is hand-made because its rules are the kubelet's: it counts ends
//! of runs, and a long run resets it.

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran for this long counts as healthy: its next end is treated as the first one.
const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// Counts the ends of a container, and returns the pause before its next start: none at first, then 10 s,
/// doubling up to 300 s.
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
    pub(crate) fn after_failure(&mut self) -> SignedDuration {
        self.ends = self.ends.saturating_add(1);
        self.pause()
    }

    /// Forgets all counted ends.
    pub(crate) const fn reset(&mut self) {
        self.ends = 0;
    }

    fn pause(self) -> SignedDuration {
        match self.ends {
            0 => SignedDuration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 1).min(8)).min(LONGEST),
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
