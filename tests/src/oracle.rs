//! What watches every scenario: each oracle turns red when the product does what it must not.
//!
//! For each there is a saboteur in `tests/oracles.rs` that must turn it red.

mod invariants;
mod quiet;
mod same_end;
mod writer;

pub use invariants::Invariants;
pub use quiet::quiet;
pub use same_end::{differences, shape};
pub use writer::{Report, Writer};
