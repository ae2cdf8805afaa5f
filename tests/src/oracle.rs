//! What watches every scenario: each oracle turns red when the product does what it must not.
//!
//! For each there is a saboteur in `tests/oracles.rs` that must turn it red.

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

/// Tells threads to stop when it is dropped: what watches a story must not go on after it, where the next
/// may have the same addresses.
#[derive(Debug, Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl StopOnDrop {
    /// What the threads look at.
    fn stop(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
