//! The four oracles that judge every scenario: Writer, Quiet, Same end and Invariants.
//!
//! `tests/oracles.rs` checks each one: a deliberate violation must make it fail.

mod invariants;
mod quiet;
mod same_end;
mod writer;

pub use invariants::{Invariants, UNSERVED_MAX, host_writes, written_at};
pub use quiet::quiet;
pub use same_end::{differences, shape};
pub use writer::{Writer, WriterReport};

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Stops threads when it is dropped: an oracle must not run on after its scenario, because the next scenario
/// may use the same addresses.
#[derive(Debug, Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl StopOnDrop {
    /// Returns the flag that a thread must check.
    fn stop(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
