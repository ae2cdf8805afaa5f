//! Keeps compiled functions in memory, so that a new build of a plugin costs only what changed in it.
//!
//! The compiler finds a function by a digest of what it would compile, whatever component it is in; what is
//! kept here never leaves the process. Whole components are kept on disk by [`cache`](crate::cache).
//!
//! Invariants:
//! - At most [`BYTES_MAX`] are held.
//! - What the last compilations used stays longest: entries live in two generations; a hit moves one to the
//!   young, and when the young is half of the bound, the old one goes as a whole.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    mem::take,
    sync::{Mutex, PoisonError},
};

use wasmtime::CacheStore;

/// How much is held. A function costs about as much as its machine code: 3 MiB for the largest plugin here.
const BYTES_MAX: usize = 12 << 20;

/// What one entry costs besides its key and value.
const ENTRY_BYTES: usize = 96;

/// The functions that were compiled last.
#[derive(Default)]
pub(crate) struct FunctionCache {
    generations: Mutex<CacheGenerations>,
}

#[derive(Default)]
struct CacheGenerations {
    young: CacheGeneration,
    old: CacheGeneration,
}

#[derive(Default)]
struct CacheGeneration {
    entries: HashMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

impl CacheGeneration {
    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.remove(&key);
        self.bytes += cost(&key, &value);
        self.entries.insert(key, value);
    }

    fn remove(&mut self, key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (key, value) = self.entries.remove_entry(key)?;
        self.bytes = self.bytes.saturating_sub(cost(&key, &value));
        Some((key, value))
    }
}

fn cost(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

impl CacheGenerations {
    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        if let Some((key, value)) = self.old.remove(key) {
            self.insert(key, value);
        }
        self.young.entries.get(key).cloned()
    }

    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let half = BYTES_MAX / 2;
        let cost = cost(&key, &value);
        if half < cost {
            return;
        }
        if half < self.young.bytes + cost {
            self.old = take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }
}

impl fmt::Debug for FunctionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").finish_non_exhaustive()
    }
}

impl CacheStore for FunctionCache {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.get(key).map(Cow::Owned)
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(key.to_vec(), value);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many entries of this size as fill one generation.
    const VALUE_BYTES: usize = 64 << 10;
    const FILL: usize = BYTES_MAX / 2 / (VALUE_BYTES + ENTRY_BYTES + 8);

    fn put(functions: &FunctionCache, number: usize) {
        functions.insert(&number.to_be_bytes(), vec![0; VALUE_BYTES]);
    }

    fn has(functions: &FunctionCache, number: usize) -> bool {
        functions.get(&number.to_be_bytes()).is_some()
    }

    #[test]
    fn what_was_used_last_stays_and_the_bound_holds() {
        let functions = FunctionCache::default();
        for number in 0..2 * FILL {
            put(&functions, number);
            // Used all the time.
            assert!(has(&functions, 0), "{number}");
        }
        for number in 2 * FILL..4 * FILL {
            put(&functions, number);
            assert!(has(&functions, 0), "{number}");
            let generations = functions.generations.lock().unwrap();
            assert!(generations.young.bytes + generations.old.bytes <= BYTES_MAX, "{number}");
            let held = generations.young.entries.len() + generations.old.entries.len();
            assert!(FILL <= held, "{held} entries at {number}");
        }
        assert!(!has(&functions, 1));
    }

    #[test]
    fn one_that_is_too_large_is_not_kept_and_drives_nothing_out() {
        let functions = FunctionCache::default();
        put(&functions, 1);
        functions.insert(b"large", vec![0; BYTES_MAX]);
        assert!(has(&functions, 1));
        assert!(functions.get(b"large").is_none());
    }
}
