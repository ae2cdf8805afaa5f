//! Counts the bytes on this process' heap while a measurement asks for it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed},
};

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator;

/// Counting costs time, which must not be added to other measurements.
static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicIsize = AtomicIsize::new(0);

/// Returns the result of `work` and by how many requested bytes the heap grew meanwhile, without what the
/// allocator adds to each block.
pub(crate) async fn grown<T>(work: impl Future<Output = T>) -> (T, isize) {
    BYTES.store(0, Relaxed);
    IS_COUNTING.store(true, Relaxed);
    let done = work.await;
    IS_COUNTING.store(false, Relaxed);
    (done, BYTES.load(Relaxed))
}

/// The system's allocator, counted.
struct CountingAllocator;

impl CountingAllocator {
    fn count(&self, bytes: isize) {
        if IS_COUNTING.load(Relaxed) {
            BYTES.fetch_add(bytes, Relaxed);
        }
    }
}

#[expect(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; each call goes to the system's with what came in"
)]
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size().cast_signed());
        // SAFETY: the caller fulfils the trait's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        self.count(bytes.cast_signed() - layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, bytes) }
    }
}
