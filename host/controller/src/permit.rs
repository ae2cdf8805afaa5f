//! The right to compute, which a pass gives back while it waits for the host.
//!
//! Two bounds: how many passes compute at once (the processor's), and how many are under way, waiting
//! ones included (the memory's: each keeps an instance of its guest).
//!
//! Invariants:
//! - A guest computes only under a permit.
//! - Who waits longer than [`TRIVIAL`] for a host call holds none, whatever the call is.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tholepin_core::{Answer, BoxedFuture, Call, CallContext, HostCalls};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// A wait for the host up to this long is not worth a change of hands.
const TRIVIAL: Duration = Duration::from_millis(5);

/// How many may do what at once.
#[derive(Debug)]
pub(crate) struct ComputePermits {
    computing: Arc<Semaphore>,
    in_flight: Arc<Semaphore>,
}

impl ComputePermits {
    pub(crate) fn new(computing: usize, in_flight: usize) -> Self {
        let in_flight = in_flight.max(computing);
        Self {
            computing: Arc::new(Semaphore::new(computing)),
            in_flight: Arc::new(Semaphore::new(in_flight)),
        }
    }

    /// Waits for a place among the passes under way.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphores are never closed; were they, a pass without a permit would do no harm.
        self.in_flight.clone().acquire_owned().await.ok()
    }

    /// Waits, first come, first served, for the right to compute.
    pub(crate) async fn permit(&self) -> ComputePermit {
        let held = self.computing.clone().acquire_owned().await.ok();
        ComputePermit { computing: self.computing.clone(), held: Mutex::new(held) }
    }
}

/// One pass' right to compute.
#[derive(Debug)]
pub(crate) struct ComputePermit {
    computing: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl ComputePermit {
    /// Waits for `work`. If that takes longer than [`TRIVIAL`], others compute meanwhile, and this pass
    /// goes on when it has a permit again.
    pub(crate) async fn lend<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Ok(done) = timeout(TRIVIAL, &mut work).await {
            return done;
        }
        self.give_back();
        let done = work.await;
        let held = self.computing.clone().acquire_owned().await.ok();
        *self.held() = held;
        done
    }

    /// Gives the right back for good: what is left to do is the host's work.
    pub(crate) fn give_back(&self) {
        self.held().take();
    }

    /// A poisoned lock is taken as it is: each change is a single assignment.
    fn held(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Performs a guest's calls, and lends its permit meanwhile.
pub(crate) struct PermitLender {
    pub(crate) permit: Arc<ComputePermit>,
    pub(crate) perform: Arc<dyn HostCalls>,
}

impl HostCalls for PermitLender {
    fn perform<'a>(&'a self, context: &'a CallContext, call: Call) -> BoxedFuture<'a, Answer> {
        Box::pin(self.permit.lend(self.perform.perform(context, call)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a future gives without being waited for.
    async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = future => Some(value),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn passes_under_way_are_bounded_whether_they_wait_or_not() {
        let permits = ComputePermits::new(1, 2);
        let places = (now(permits.place()).await, now(permits.place()).await);
        assert!(places.0.is_some() && places.1.is_some());
        assert!(now(permits.place()).await.is_none());
        drop(places);
        assert!(now(permits.place()).await.is_some());
        assert!(
            now(ComputePermits::new(2, 1).place()).await.is_some(),
            "who computes is under way"
        );
    }

    #[tokio::test]
    async fn a_permit_is_lent_while_its_holder_waits_and_not_for_a_trifle() {
        let permits = ComputePermits::new(1, 2);
        let permit = permits.permit().await;
        permit.lend(async { assert!(now(permits.permit()).await.is_none()) }).await;
        // Ends only if another gets the permit meanwhile, and gives it back.
        permit.lend(async { drop(permits.permit().await) }).await;
        assert!(now(permits.permit()).await.is_none(), "its holder goes on");
        permit.give_back();
        assert!(now(permits.permit()).await.is_some());
    }
}
