//! Reserves a block of loopback addresses for a local host, and allocates an address of it to each Pod.
//!
//! ```text
//! 127.N.0.1                    the API server
//! 127.N.1.0 - 127.N.239.255    Pods
//! 127.N.240.0 - 127.N.255.254  Services
//! ```
//!
//! A block is reserved by a file lock and by the socket on which the API server will listen, so it becomes
//! free as soon as the process of its holder ends, however it ends. The lock separates the local hosts of one
//! user, whatever ports they use. The socket separates those of different users, who share no lock directory,
//! and every other program that listens there. This module allocates no Service addresses; the API server
//! does.
//!
//! Invariants:
//! - Two local hosts of one user, or with the same API port, never hold the same block.
//! - A Pod address in use is not allocated again. A released address is allocated again only after the block
//!   has wrapped, so that a client that still dials the address of a deleted Pod reaches no other Pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tholepin_agent::PodAddressAllocator;

/// The blocks (N in 127.N.0.0/16) that are tried in order if none is requested.
pub const BLOCKS: RangeInclusive<u8> = 100..=250;

/// The offsets of Pod addresses within a block: 127.N.1.0 to 127.N.239.255.
const POD_OFFSETS: RangeInclusive<u16> = 0x0100..=0xEFFF;

/// Why no block could be reserved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoopbackBlockReserveError {
    /// The directory of the locks cannot be used.
    #[error("directory `{}` for address locks cannot be used", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory of the locks is not one that only this user can change.
    #[error("directory `{}` for address locks cannot be used: {problem}", path.display())]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// The problem, and how to fix it.
        problem: &'static str,
    },
    /// The lock file cannot be opened.
    #[error("lock file `{}` cannot be opened", path.display())]
    Open {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The requested block is held by another local host.
    #[error(
        "address block 127.{block}.0.0/16 is held by another local host: stop it or choose another block"
    )]
    Taken {
        /// The block's number.
        block: u8,
    },
    /// Another program listens on the address for the API server in the requested block.
    #[error(
        "cannot listen on {address} for the API server: choose another address block, or none for the \
         first free one"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Every block is held.
    #[error(
        "all address blocks 127.{}.0.0/16 to 127.{}.0.0/16 are held by other local hosts: stop one of them",
        BLOCKS.start(), BLOCKS.end()
    )]
    AllTaken,
}

/// A block 127.N.0.0/16, reserved until this value is dropped.
#[derive(Debug)]
pub struct AddressBlock {
    number: u8,
    // Held for its lock only.
    _lock: File,
}

impl AddressBlock {
    /// Reserves the block with the number `requested`, or the first free one. Returns it with the socket on
    /// which its API server must listen.
    ///
    /// # Errors
    ///
    /// Returns an error if the requested block, or every block, is held by another local host, or if `locks`
    /// is not a directory that only this user can enter.
    pub fn take(
        locks: &Path,
        requested: Option<u8>,
        api_port: u16,
    ) -> Result<(Self, TcpListener), LoopbackBlockReserveError> {
        private_directory(locks)?;
        if let Some(block) = requested {
            return Self::try_take(locks, block, api_port);
        }
        for block in BLOCKS {
            match Self::try_take(locks, block, api_port) {
                Err(LoopbackBlockReserveError::Taken { .. }) => {}
                Err(LoopbackBlockReserveError::Listen { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse => {}
                taken => return taken,
            }
        }
        Err(LoopbackBlockReserveError::AllTaken)
    }

    fn try_take(
        locks: &Path,
        number: u8,
        api_port: u16,
    ) -> Result<(Self, TcpListener), LoopbackBlockReserveError> {
        let path = locks.join(format!("block-{number}.lock"));
        let opened =
            OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
        let lock = opened
            .map_err(|source| LoopbackBlockReserveError::Open { path: path.clone(), source })?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => LoopbackBlockReserveError::Taken { block: number },
            fs::TryLockError::Error(source) => LoopbackBlockReserveError::Open { path, source },
        })?;
        let block = Self { number, _lock: lock };
        let address = SocketAddr::from((block.api(), api_port));
        let listener = TcpListener::bind(address);
        let listener =
            listener.map_err(|source| LoopbackBlockReserveError::Listen { address, source })?;
        Ok((block, listener))
    }

    /// Returns N of 127.N.0.0/16.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Returns the address of the API server.
    pub fn api(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// Returns the range of the addresses of Services.
    pub fn services(&self) -> RangeInclusive<Ipv4Addr> {
        self.at(0xF000)..=self.at(0xFFFE)
    }

    fn at(&self, offset: u16) -> Ipv4Addr {
        address(self.number, offset)
    }
}

/// Returns the directory of the address locks: one per user, the same for all local hosts of that user.
pub fn lock_directory() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // After a change of user (`su`, `sudo`), the environment may still contain the directory of the first
    // user.
    match base.filter(|path| path.is_dir() && is_ours(path)) {
        Some(base) => base.join("tholepin"),
        None => std::env::temp_dir().join(format!("tholepin-{}", nix::unistd::getuid())),
    }
}

fn is_ours(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.uid() == nix::unistd::getuid().as_raw())
}

/// Creates the directory with mode 0700, or checks that the existing one belongs to this user and is closed
/// to others: in a shared directory such as `/tmp` any user may have created it first.
fn private_directory(path: &Path) -> Result<(), LoopbackBlockReserveError> {
    let failed = |source| LoopbackBlockReserveError::Directory { path: path.to_owned(), source };
    let refused =
        |problem| LoopbackBlockReserveError::UnsafeDirectory { path: path.to_owned(), problem };
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let found = fs::symlink_metadata(path).map_err(failed)?;
    if !found.is_dir() {
        return Err(refused("it is not a directory; remove it"));
    }
    if found.uid() != nix::unistd::getuid().as_raw() {
        let problem = "it belongs to another user; set XDG_RUNTIME_DIR to a directory of your own";
        return Err(refused(problem));
    }
    if found.mode() & 0o077 != 0 {
        return Err(refused("other users can enter it; run `chmod 700` on it"));
    }
    Ok(())
}

/// Allocates the Pod addresses of one block, in order.
#[derive(Debug)]
pub struct BlockPodAddressAllocator {
    block: u8,
    state: Mutex<PodAddressAllocatorState>,
}

#[derive(Debug)]
struct PodAddressAllocatorState {
    next: u16,
    taken: BTreeSet<u16>,
    by_pod: BTreeMap<String, u16>,
}

impl BlockPodAddressAllocator {
    /// Creates the pool. The first allocation returns the first Pod address of the block.
    pub fn new(block: &AddressBlock) -> Self {
        let next = *POD_OFFSETS.start();
        let state =
            PodAddressAllocatorState { next, taken: BTreeSet::new(), by_pod: BTreeMap::new() };
        Self { block: block.number(), state: Mutex::new(state) }
    }

    /// Returns the offset of an address, if it is a Pod address of this block.
    fn offset(&self, address: Ipv4Addr) -> Option<u16> {
        let [net, block, high, low] = address.octets();
        let offset = u16::from_be_bytes([high, low]);
        (net == 127 && block == self.block && POD_OFFSETS.contains(&offset)).then_some(offset)
    }
}

impl PodAddressAllocator for BlockPodAddressAllocator {
    fn allocate(&self, uid: &str, requested: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(offset) = state.by_pod.get(uid) {
            return Some(address(self.block, *offset));
        }
        let requested = requested.and_then(|requested| self.offset(requested));
        let offset = match requested.filter(|requested| !state.taken.contains(requested)) {
            Some(requested) => requested,
            None => state.advance()?,
        };
        state.taken.insert(offset);
        state.by_pod.insert(uid.to_owned(), offset);
        Some(address(self.block, offset))
    }

    fn release(&self, uid: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(offset) = state.by_pod.remove(uid) {
            state.taken.remove(&offset);
        }
    }
}

impl PodAddressAllocatorState {
    /// Returns the next offset that is not in use.
    fn advance(&mut self) -> Option<u16> {
        for _ in POD_OFFSETS {
            let offset = self.next;
            let is_last = offset == *POD_OFFSETS.end();
            self.next = if is_last { *POD_OFFSETS.start() } else { offset + 1 };
            if !self.taken.contains(&offset) {
                return Some(offset);
            }
        }
        None
    }
}

fn address(block: u8, offset: u16) -> Ipv4Addr {
    let [high, low] = offset.to_be_bytes();
    Ipv4Addr::new(127, block, high, low)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn block(number: u8) -> (tempfile::TempDir, AddressBlock) {
        let folder = tempfile::tempdir().unwrap();
        let (block, _) = AddressBlock::take(&folder.path().join("locks"), Some(number), 0).unwrap();
        (folder, block)
    }

    #[test]
    fn a_block_has_one_holder_and_is_free_after_its_end() {
        let (folder, first) = block(124);
        let locks = folder.path().join("locks");
        let again = AddressBlock::take(&locks, Some(124), 0);
        assert!(matches!(again, Err(LoopbackBlockReserveError::Taken { block: 124 })));
        assert_eq!(AddressBlock::take(&locks, Some(125), 0).unwrap().0.number(), 125);
        drop(first);
        assert_eq!(AddressBlock::take(&locks, Some(124), 0).unwrap().0.number(), 124);
    }

    #[test]
    fn without_a_request_the_first_free_block_is_taken() {
        let (folder, _first) = block(100);
        let (second, _) = AddressBlock::take(&folder.path().join("locks"), None, 0).unwrap();
        assert_eq!(second.number(), 101);
        assert_eq!(second.api(), Ipv4Addr::new(127, 101, 0, 1));
        let services = second.services();
        assert_eq!(*services.start(), Ipv4Addr::new(127, 101, 240, 0));
        assert_eq!(*services.end(), Ipv4Addr::new(127, 101, 255, 254));
    }

    /// Two users have two directories of locks.
    #[test]
    fn a_block_in_which_another_user_listens_is_skipped() {
        let (home, other_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (locks, others) = (home.path().join("locks"), other_home.path().join("locks"));
        // A free port, so that other tests do not interfere.
        let port = AddressBlock::take(&others, None, 0).unwrap().1.local_addr().unwrap().port();
        let (theirs, listener) = AddressBlock::take(&others, None, port).unwrap();
        let (ours, api) = AddressBlock::take(&locks, None, port).unwrap();
        assert!(theirs.number() < ours.number(), "{theirs:?} {ours:?}");
        assert_eq!(api.local_addr().unwrap(), (ours.api(), port).into());
        let refused = AddressBlock::take(&locks, Some(theirs.number()), port).unwrap_err();
        assert!(matches!(refused, LoopbackBlockReserveError::Listen { .. }), "{refused}");
        drop(listener);
        assert!(AddressBlock::take(&locks, Some(theirs.number()), port).is_ok());
    }

    #[test]
    fn a_lock_directory_that_others_may_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let locks = folder.path().join("locks");
        fs::create_dir(&locks).unwrap();
        fs::set_permissions(&locks, fs::Permissions::from_mode(0o755)).unwrap();
        let error = AddressBlock::take(&locks, None, 0).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_released_address_is_allocated_again_only_after_the_block_has_wrapped() {
        let (_folder, block) = block(124);
        let pool = BlockPodAddressAllocator::new(&block);
        let first = pool.allocate("first", None).unwrap();
        assert_eq!(first, Ipv4Addr::new(127, 124, 1, 0));
        pool.release("first");
        let second = pool.allocate("second", None).unwrap();
        assert_eq!(second, Ipv4Addr::new(127, 124, 1, 1));
        // `second` stays in use, so it is skipped after the block has wrapped.
        for _ in POD_OFFSETS.skip(2) {
            assert_ne!(pool.allocate("passing", None), Some(first));
            pool.release("passing");
        }
        assert_eq!(pool.allocate("third", None), Some(first));
        assert_eq!(pool.allocate("fourth", None), Some(Ipv4Addr::new(127, 124, 1, 2)));
    }

    #[test]
    fn a_pod_keeps_its_address_and_may_request_its_earlier_one() {
        let (_folder, block) = block(124);
        let pool = BlockPodAddressAllocator::new(&block);
        let had = Ipv4Addr::new(127, 124, 7, 7);
        assert_eq!(pool.allocate("a", Some(had)), Some(had));
        assert_eq!(pool.allocate("a", None), Some(had));
        let others = [had, Ipv4Addr::new(127, 124, 0, 1), Ipv4Addr::new(127, 125, 1, 9)];
        for (number, requested) in others.into_iter().enumerate() {
            let given = pool.allocate(&format!("b{number}"), Some(requested)).unwrap();
            assert_ne!(given, requested, "in use, the API's, and another block's");
        }
    }

    #[test]
    fn a_full_block_allocates_nothing() {
        let (_folder, block) = block(124);
        let pool = BlockPodAddressAllocator::new(&block);
        let all: BTreeSet<_> =
            POD_OFFSETS.filter_map(|offset| pool.allocate(&offset.to_string(), None)).collect();
        assert_eq!(all.len(), 61_184);
        assert_eq!(pool.allocate("one more", None), None);
        pool.release("one more");
        assert_eq!(pool.allocate("one more", None), None);
        pool.release("4000");
        assert!(pool.allocate("one more", None).is_some());
    }
}
