//! How long a container waits before it is started again.

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long is taken as healthy: its next end counts as the first.
const FORGIVEN_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// Counts ends, and turns the count into a pause: none, then 10 s doubling up to 300 s.
///
/// The first restart is immediate, as the kubelet's is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RestartBackoff {
    ends: u32,
}

impl RestartBackoff {
    /// Notes that a run ended and returns the earliest moment for the next.
    pub(crate) fn after_end(&mut self, started: Timestamp, ended: Timestamp) -> Timestamp {
        if ended.duration_since(started) >= FORGIVEN_AFTER {
            self.ends = 0;
        }
        let pause = self.pause();
        self.ends = self.ends.saturating_add(1);
        ended.saturating_add(pause).unwrap_or(ended)
    }

    /// Notes that a start failed (no run at all) and returns the pause before the next try.
    pub(crate) fn after_failure(&mut self) -> SignedDuration {
        self.ends = self.ends.saturating_add(1);
        self.pause()
    }

    /// Forgets the past.
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
    fn ten_minutes_of_running_are_forgiven() {
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
