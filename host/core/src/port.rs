//! The ports: what the host's deciding parts need from the world, as traits.
//!
//! Each is implemented once for production and once as a fake in tests. All methods have deadlines of
//! their own; an implementation that cannot keep its deadline answers [`CallError::Timeout`](crate::CallError::Timeout).

mod guests;
mod kubernetes;
mod prober;
mod redis;
mod watches;

pub use guests::{GuestError, GuestRuntime};
pub use kubernetes::{
    ApplyRequest, DeleteRequest, Kubernetes, PublishRequest, StoreView, WARNINGS_MAX, Warning,
};
pub use prober::Prober;
pub use redis::{
    InstanceMembers, MemberPod, PerformedAction, PollDetail, PollReport, PollStream, Redis,
    RedisCredentials,
};
pub use watches::{
    StatusWriter, StoreChange, StoreEvent, StoreSubscription, WatchLease, WatchScope, WatchSource,
    WatchState,
};

/// Gives random bytes.
pub trait Entropy: Send + Sync {
    /// `count` bytes that nobody can guess.
    fn bytes(&self, count: usize) -> Vec<u8>;
}

/// Reads the time.
///
/// # Guarantees
///
/// It passes as time does: it never goes back and never jumps, whatever is done to the machine's clock
/// meanwhile, because guards measure ages with it.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}
