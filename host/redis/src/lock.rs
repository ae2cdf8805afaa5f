//! How this crate takes a lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic of another holder left nothing half done here.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
