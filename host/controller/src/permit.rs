//! Permits that limit how many guests run at once. A reconcile releases its permit while it waits for the host.
//!
//! Two bounds: how many reconciles compute concurrently (bounds the processor), and how many have begun, waiting
//! ones included (bounds the memory: each keeps an instance of its guest).
//!
//! Invariants:
//! - A guest computes only under a permit.
//! - A reconcile that waits longer than [`SHORT_WAIT`] for a host call holds no permit, whatever the call is.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tholepin_core::{Answer, BoxedFuture, Call, CallError, HostCalls, PluginCallerIdentity};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// How long a reconcile keeps its permit while it waits for the host. Releasing the permit for a shorter wait would
/// cost more than it gains.
const SHORT_WAIT: Duration = Duration::from_millis(5);

/// The permits for all reconciles.
#[derive(Debug)]
pub(crate) struct ReconcilePermits {
    computing: Arc<Semaphore>,
    in_flight: Arc<Semaphore>,
}

impl ReconcilePermits {
    pub(crate) fn new(computing: usize, in_flight: usize) -> Self {
        let in_flight = in_flight.max(computing);
        Self {
            computing: Arc::new(Semaphore::new(computing)),
            in_flight: Arc::new(Semaphore::new(in_flight)),
        }
    }

    /// Waits until one more reconcile may begin.
    pub(crate) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphores are never closed. If they were, a reconcile without a permit would do no harm.
        self.in_flight.clone().acquire_owned().await.ok()
    }

    /// Waits for a permit; permits are granted in the order of the requests.
    pub(crate) async fn permit(&self) -> ComputePermit {
        let held = self.computing.clone().acquire_owned().await.ok();
        ComputePermit { computing: self.computing.clone(), held: Mutex::new(held) }
    }
}

/// The permit of one reconcile.
#[derive(Debug)]
pub(crate) struct ComputePermit {
    computing: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl ComputePermit {
    /// Waits for `work`. If that takes longer than [`SHORT_WAIT`], releases the permit until `work` has ended, and
    /// then waits for a permit again.
    pub(crate) async fn release_during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Ok(done) = timeout(SHORT_WAIT, &mut work).await {
            return done;
        }
        self.release();
        let done = work.await;
        let held = self.computing.clone().acquire_owned().await.ok();
        *self.held() = held;
        done
    }

    /// Releases the permit and takes no other: no guest code runs in the rest of the reconcile.
    pub(crate) fn release(&self) {
        self.held().take();
    }

    /// Ignores poisoning: each change is a single assignment.
    fn held(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Performs the calls of a guest, and releases its permit during a call that takes long.
pub(crate) struct PermitReleasingHostCalls {
    pub(crate) permit: Arc<ComputePermit>,
    pub(crate) calls: Arc<dyn HostCalls>,
}

impl HostCalls for PermitReleasingHostCalls {
    fn perform<'a>(
        &'a self,
        context: &'a PluginCallerIdentity,
        call: Call,
    ) -> BoxedFuture<'a, Answer> {
        Box::pin(self.permit.release_during(self.calls.perform(context, call)))
    }

    fn spend_bytes(&self, bytes: usize) -> Result<(), CallError> {
        self.calls.spend_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the value of a future that is ready.
    async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = future => Some(value),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn running_reconciles_are_bounded_including_those_that_wait() {
        let permits = ReconcilePermits::new(1, 2);
        let slots = (now(permits.slot()).await, now(permits.slot()).await);
        assert!(slots.0.is_some() && slots.1.is_some());
        assert!(now(permits.slot()).await.is_none());
        drop(slots);
        assert!(now(permits.slot()).await.is_some());
        assert!(
            now(ReconcilePermits::new(2, 1).slot()).await.is_some(),
            "no fewer may begin than compute"
        );
    }

    #[tokio::test]
    async fn a_permit_is_released_during_a_long_wait_and_kept_during_a_short_one() {
        let permits = ReconcilePermits::new(1, 2);
        let permit = permits.permit().await;
        permit.release_during(async { assert!(now(permits.permit()).await.is_none()) }).await;
        // Ends only if this inner wait gets the permit.
        permit.release_during(async { drop(permits.permit().await) }).await;
        assert!(now(permits.permit()).await.is_none(), "its holder has it again");
        permit.release();
        assert!(now(permits.permit()).await.is_some());
    }
}
