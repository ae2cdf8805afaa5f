//! What one call of a guest may use.

use std::time::Duration;

/// The largest answer of the host and of an export, in bytes of JSON.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How many bytes a guest may hand to one host call; beyond it, the call is a trap.
pub(crate) const HOST_CALL_BYTES_MAX: usize = 4 << 20;

/// How many calls a guest may make in one call of its own. A pass answers far fewer; who goes on asking
/// after that is stopped here, before it fills the host's time with refusals.
pub(crate) const HOST_CALLS_MAX: u32 = 10_000;

/// The longest log line in bytes; the rest is cut.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 8 << 10;

/// How many log lines of one call are taken; the rest is dropped.
pub(crate) const LOG_LINES_MAX: u32 = 1000;

/// What one call of a guest may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLimits {
    /// Linear memory in bytes.
    pub memory_bytes: usize,
    /// The whole call, waiting included.
    pub wall_clock: Duration,
    /// Computing between two host calls. Waiting for the host does not count.
    pub compute: Duration,
}

impl GuestLimits {
    /// The most memory that a `Plugin` object can ask for; a pooled slot is that large.
    pub const MEMORY_BYTES_MAX: usize = 1 << 30;
    /// The longest call that a `Plugin` object can ask for.
    pub const WALL_CLOCK_MAX: Duration = Duration::from_secs(600);
    /// The longest computing that a `Plugin` object can ask for.
    pub const COMPUTE_MAX: Duration = Duration::from_secs(60);

    /// The limits for `describe`, which runs before anybody's settings are known to fit.
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
