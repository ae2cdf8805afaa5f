//! The clock of a host: starts at the machine's clock and is not changed by it afterwards.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tholepin_core::port::Clock;
use tracing::warn;

/// The difference to the machine's clock above which a warning is logged.
const JUMP_MS: u64 = 1_000;

/// The machine's clock at the start plus the time that has passed since. A change of the machine's clock while the host
/// runs must neither prove an age that is false nor make a wait endless.
pub struct SteadyClock {
    start: Instant,
    start_ms: u64,
    has_warned: AtomicBool,
}

impl SteadyClock {
    /// Starts at the machine's clock.
    #[must_use]
    pub fn start() -> Self {
        Self::at(Instant::now(), machine_ms())
    }

    const fn at(start: Instant, start_ms: u64) -> Self {
        Self { start, start_ms, has_warned: AtomicBool::new(false) }
    }

    /// Returns the time after this much has passed. Warns once if the machine's clock was changed since the start.
    fn after(&self, passed: Duration, machine_ms: u64) -> u64 {
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.start_ms.saturating_add(passed_ms);
        let difference_ms = now_ms.abs_diff(machine_ms);
        if JUMP_MS < difference_ms && !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(
                apart_ms = difference_ms,
                "the machine's clock was changed; this host keeps its own time until it is restarted"
            );
        }
        now_ms
    }
}

impl Clock for SteadyClock {
    fn now_ms(&self) -> u64 {
        self.after(self.start.elapsed(), machine_ms())
    }
}

/// Returns the machine's clock, or 0 if it is before 1970: every age is then 0, which guards refuse.
fn machine_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_machine_clock_warns_once_and_changes_no_time() {
        let clock = SteadyClock::at(Instant::now(), 10_000);
        let rows = [(0, 10_000, false), (500, 11_500, false), (600, 99_000, true), (700, 0, true)];
        for (passed_ms, machine_ms, has_warned) in rows {
            let now_ms = clock.after(Duration::from_millis(passed_ms), machine_ms);
            assert_eq!(now_ms, 10_000 + passed_ms);
            assert_eq!(clock.has_warned.load(Ordering::Relaxed), has_warned, "{machine_ms}");
        }
    }
}
