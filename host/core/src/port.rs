//! The ports: traits through which the host's parts reach Kubernetes, Redis, plugins and the machine.
//!
//! Each has one implementation for production, and fakes in tests. All methods have deadlines of their own; an
//! implementation that cannot keep its deadline returns [`CallError::Timeout`](crate::CallError::Timeout).

mod guests;
mod kubernetes;
mod prober;
mod redis;
mod watches;

pub use guests::{GuestError, PluginExports};
pub use kubernetes::{
    ApplyRequest, DeleteRequest, Kubernetes, PublishRequest, WARNINGS_MAX, WarningEvent,
    WatchedStoreView,
};
pub use prober::PodPortProber;
pub use redis::{
    InstanceMembers, MemberPod, PerformedAction, PollDetail, PollReport, Redis, RedisCredentials,
    RedisPollStream, ReplyRoom,
};
pub use watches::{
    HostFieldsWriter, StoreSubscription, WatchLease, WatchScope, WatchSource, WatchState,
    WatchedStoreChange, WatchedStoreEvent,
};

/// A source of random bytes.
pub trait Entropy: Send + Sync {
    /// Returns `count` unpredictable bytes.
    fn bytes(&self, count: usize) -> Vec<u8>;
}

/// A clock.
///
/// # Guarantees
///
/// It never goes back and never jumps, also if the machine's clock is changed, because guards measure ages with it.
pub trait Clock: Send + Sync {
    /// Returns the milliseconds since 1970.
    fn now_ms(&self) -> u64;
}
