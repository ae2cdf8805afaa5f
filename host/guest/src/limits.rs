//! The limits of one guest call.

use std::time::Duration;

/// The largest answer of the host and the largest result of an export, in bytes of JSON.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The most bytes of the host's memory that the result of an export may take, as parsed.
pub(crate) const RESULT_BYTES_MAX: usize = 8 << 20;

/// The most bytes that a guest may pass to one host call; a larger call traps.
pub(crate) const HOST_CALL_BYTES_MAX: usize = 4 << 20;

/// The most bytes of the host's memory for the arguments of calls in `describe` and `validate`, as parsed. All such
/// calls are denied. Those of `reconcile` spend the budget of the gate.
pub(crate) const DENIED_ARGUMENT_BYTES_MAX: usize = 4 << 20;

/// The most host calls that a guest may make during one call of an export. The gate refuses calls long before;
/// this limit stops a guest that continues to call after that.
pub(crate) const HOST_CALLS_MAX: u32 = 10_000;

/// The longest log line in bytes; longer lines are truncated.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 8 << 10;

/// The most log lines of one call; further lines are dropped.
pub(crate) const LOG_LINES_MAX: u32 = 1000;

/// The limits of one guest call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLimits {
    /// Linear memory in bytes.
    pub memory_bytes: usize,
    /// The time of the whole call, including waiting.
    pub wall_clock: Duration,
    /// The compute time between two host calls. Waiting for the host does not count.
    pub compute: Duration,
}

impl GuestLimits {
    /// The largest memory limit that a `Plugin` object can set; a pooled slot has this size.
    pub const MEMORY_BYTES_MAX: usize = 1 << 30;
    /// The largest wall-clock limit that a `Plugin` object can set.
    pub const WALL_CLOCK_MAX: Duration = Duration::from_secs(600);
    /// The largest compute limit that a `Plugin` object can set.
    pub const COMPUTE_MAX: Duration = Duration::from_secs(60);

    /// The limits of `describe`, which runs before the settings are checked.
    pub(crate) const DESCRIBE: Self = Self {
        memory_bytes: 64 << 20,
        wall_clock: Duration::from_secs(2),
        compute: Duration::from_secs(1),
    };
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            wall_clock: Duration::from_secs(30),
            compute: Duration::from_secs(1),
        }
    }
}
