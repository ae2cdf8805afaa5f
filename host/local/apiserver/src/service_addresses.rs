//! The allocator of Service addresses from one block.
//!
//! A released address is allocated again only after the rest of the block, so that a client that still uses a deleted
//! Service's address does not soon reach another Service.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

/// The block of addresses, and the allocated ones.
pub(crate) struct ServiceAddressAllocator {
    first: u32,
    last: u32,
    state: Mutex<AllocatedServiceAddresses>,
}

struct AllocatedServiceAddresses {
    taken: BTreeSet<u32>,
    next: u32,
}

/// The error of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceAddressError {
    /// The address is outside the block.
    Outside,
    /// Another Service has the address.
    Taken,
    /// All addresses are allocated.
    Exhausted,
}

impl ServiceAddressAllocator {
    /// Returns an allocator for the block between two addresses, both included.
    pub(crate) fn new((first, last): (Ipv4Addr, Ipv4Addr)) -> Self {
        let (first, last) = (u32::from(first), u32::from(last));
        let state = AllocatedServiceAddresses { taken: BTreeSet::new(), next: first };
        Self { first, last, state: Mutex::new(state) }
    }

    /// Allocates the next free address.
    pub(crate) fn take(&self) -> Result<Ipv4Addr, ServiceAddressError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let from_next = state.next..=self.last;
        let free = from_next.chain(self.first..=self.last).find(|ip| !state.taken.contains(ip));
        let free = free.ok_or(ServiceAddressError::Exhausted)?;
        state.taken.insert(free);
        state.next = if free == self.last { self.first } else { free + 1 };
        Ok(Ipv4Addr::from(free))
    }

    /// Allocates this address.
    pub(crate) fn claim(&self, address: Ipv4Addr) -> Result<(), ServiceAddressError> {
        let number = u32::from(address);
        if number < self.first || self.last < number {
            return Err(ServiceAddressError::Outside);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.taken.insert(number) { Ok(()) } else { Err(ServiceAddressError::Taken) }
    }

    /// Releases an address.
    pub(crate) fn release(&self, address: Ipv4Addr) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.taken.remove(&u32::from(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_returns_only_after_the_block_has_wrapped() {
        let ip = |last| Ipv4Addr::new(127, 22, 240, last);
        let block = ServiceAddressAllocator::new((ip(1), ip(3)));
        assert_eq!(block.take(), Ok(ip(1)));
        block.release(ip(1));
        assert_eq!(block.take(), Ok(ip(2)));
        assert_eq!(block.claim(ip(2)), Err(ServiceAddressError::Taken));
        assert_eq!(block.claim(ip(4)), Err(ServiceAddressError::Outside));
        assert_eq!(block.take(), Ok(ip(3)));
        assert_eq!(block.take(), Ok(ip(1)));
        assert_eq!(block.take(), Err(ServiceAddressError::Exhausted));
    }
}
