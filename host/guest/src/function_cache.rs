//! An in-memory cache of compiled functions, so that only the changed functions of a new build are compiled.
//!
//! The compiler computes the key of a function from its input, whatever component the function is in. The cache
//! is lost when the process ends; [`cache`](crate::cache) stores whole components on disk.
//!
//! Invariants:
//! - The cache holds at most [`BYTES_MAX`].
//! - The functions used by the latest compilations are evicted last. Entries are in two generations: a hit moves
//!   an entry to the young one, and when the young one exceeds half of the bound, it replaces the old one.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    mem::take,
    sync::{Mutex, PoisonError},
};

use wasmtime::CacheStore;

/// The size of the cache in bytes. A function takes about as much as its machine code; all functions of the
/// largest plugin in this tree take 3 MiB.
const BYTES_MAX: usize = 12 << 20;

/// The overhead of one entry besides its key and value, in bytes.
const ENTRY_BYTES: usize = 96;

/// The cache of compiled functions.
#[derive(Default)]
pub(crate) struct CompiledFunctionCache {
    generations: Mutex<TwoGenerationCache>,
}

#[derive(Default)]
struct TwoGenerationCache {
    young: FunctionCacheGeneration,
    old: FunctionCacheGeneration,
}

#[derive(Default)]
struct FunctionCacheGeneration {
    entries: HashMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

impl FunctionCacheGeneration {
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

impl TwoGenerationCache {
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

impl fmt::Debug for CompiledFunctionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionCache").finish_non_exhaustive()
    }
}

impl CacheStore for CompiledFunctionCache {
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

    const VALUE_BYTES: usize = 64 << 10;
    /// The number of entries that fill one generation.
    const FILL: usize = BYTES_MAX / 2 / (VALUE_BYTES + ENTRY_BYTES + 8);

    fn put(functions: &CompiledFunctionCache, number: usize) {
        functions.insert(&number.to_be_bytes(), vec![0; VALUE_BYTES]);
    }

    fn has(functions: &CompiledFunctionCache, number: usize) -> bool {
        functions.get(&number.to_be_bytes()).is_some()
    }

    #[test]
    fn recently_used_functions_stay_and_the_bound_holds() {
        let functions = CompiledFunctionCache::default();
        for number in 0..2 * FILL {
            put(&functions, number);
            // Entry 0 is used after every insertion, so it must never be evicted.
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
    fn a_function_that_is_too_large_is_not_kept_and_evicts_nothing() {
        let functions = CompiledFunctionCache::default();
        put(&functions, 1);
        functions.insert(b"large", vec![0; BYTES_MAX]);
        assert!(has(&functions, 1));
        assert!(functions.get(b"large").is_none());
    }
}
