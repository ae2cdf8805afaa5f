//! The memory allocator of a plugin. An instance lives for one call, so the allocator never returns small
//! blocks to the system.
//!
//! Small blocks are cut from chunks. A freed block goes into the free list of its size class, from which the
//! next allocation of that class takes it. Measured: a reconcile of `redis-cluster` takes a seventh less time
//! than with the C library's allocator or `talc`.
//!
//! Invariants:
//! - A block stays in its size class: it is never split, merged or returned to the system.
//! - Allocations larger than [`SMALL_BYTES_MAX`], or aligned wider than [`SMALL_BYTES_MIN`], go to the system
//!   allocator.

#![expect(
    unsafe_code,
    reason = "an allocator hands out raw memory; it is small, and has a test natively"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::UnsafeCell,
    ptr::{self, null_mut},
};

/// The smallest block. Smaller sizes share its class, because a free block must hold a pointer.
const SMALL_BYTES_MIN: usize = 16;
/// The largest block that is cut from a chunk.
const SMALL_BYTES_MAX: usize = 2048;
/// The bytes of one chunk: what the smallest reconcile needs. Larger chunks touch more pages.
const CHUNK_BYTES: usize = 8 << 10;
/// One size class for each power of two.
const CLASSES: usize = 1 + (SMALL_BYTES_MAX / SMALL_BYTES_MIN).ilog2() as usize;

/// The heap of one instance.
pub(crate) struct GuestAllocator(UnsafeCell<GuestHeapFreeBlocks>);

struct GuestHeapFreeBlocks {
    /// For each class, the block that was freed last; its first word points to the one freed before.
    free: [*mut u8; CLASSES],
    /// The rest of the newest chunk that is not cut yet, and its length in bytes.
    chunk: *mut u8,
    left: usize,
}

// SAFETY: a guest has one thread, and so has the test.
unsafe impl Sync for GuestAllocator {}

impl GuestAllocator {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(GuestHeapFreeBlocks {
            free: [null_mut(); CLASSES],
            chunk: null_mut(),
            left: 0,
        }))
    }
}

/// Returns the size class of a small block: `0` for 16 bytes, `1` for 32 and so on; `None` if it is not
/// small.
const fn class(layout: Layout) -> Option<usize> {
    let size = layout.size();
    if SMALL_BYTES_MAX < size || SMALL_BYTES_MIN < layout.align() {
        return None;
    }
    let least = if size < SMALL_BYTES_MIN { SMALL_BYTES_MIN } else { size };
    Some((least.next_power_of_two() / SMALL_BYTES_MIN).ilog2() as usize)
}

impl GuestHeapFreeBlocks {
    /// Cuts a block off the chunk.
    fn cut(&mut self, class: usize) -> *mut u8 {
        let bytes = SMALL_BYTES_MIN << class;
        if self.left < bytes && !self.take_chunk() {
            return null_mut();
        }
        let block = self.chunk;
        self.chunk = block.wrapping_add(bytes);
        self.left -= bytes;
        block
    }

    /// Allocates the next chunk. The rest of the old one, which is less than a block, is lost.
    #[cold]
    fn take_chunk(&mut self) -> bool {
        let Ok(layout) = Layout::from_size_align(CHUNK_BYTES, SMALL_BYTES_MIN) else {
            return false;
        };
        // SAFETY: the size is not zero.
        let chunk = unsafe { System.alloc(layout) };
        if chunk.is_null() {
            return false;
        }
        (self.chunk, self.left) = (chunk, CHUNK_BYTES);
        true
    }
}

// SAFETY: a block is cut once, is as long as its class and aligned to 16 bytes; it is in the free list of its
// class only while it is not allocated. All other memory belongs to the system allocator.
unsafe impl GlobalAlloc for GuestAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else { return unsafe { System.alloc(layout) } };
        let blocks = unsafe { &mut *self.0.get() };
        let Some(last) = blocks.free.get_mut(class) else { return null_mut() };
        if last.is_null() {
            return blocks.cut(class);
        }
        let block = *last;
        *last = unsafe { block.cast::<*mut u8>().read() };
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class(layout) else { return unsafe { System.dealloc(block, layout) } };
        let blocks = unsafe { &mut *self.0.get() };
        if let Some(last) = blocks.free.get_mut(class) {
            unsafe { block.cast::<*mut u8>().write(*last) };
            *last = block;
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(new_layout) = Layout::from_size_align(size, layout.align()) else {
            return null_mut();
        };
        match (class(layout), class(new_layout)) {
            (None, None) => return unsafe { System.realloc(block, layout, size) },
            (old, new) if old == new => return block,
            _ => {}
        }
        unsafe {
            let moved = self.alloc(new_layout);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn blocks_do_not_overlap_keep_their_content_and_are_reused() {
        let heap = GuestAllocator::new();
        let sizes = [1, 8, 15, 16, 17, 100, 1000, 2047, 2048, 2049, 70_000];
        let layouts: Vec<_> = (0..400).map(|turn| layout(sizes[turn % sizes.len()], 8)).collect();
        let fill = |turn: usize| u8::try_from(turn % 251).unwrap();
        let mut blocks = Vec::new();
        for (turn, layout) in layouts.iter().enumerate() {
            let block = unsafe { heap.alloc(*layout) };
            assert_eq!(block.align_offset(8), 0);
            unsafe { block.write_bytes(fill(turn), layout.size()) };
            blocks.push(block);
        }
        for (turn, (block, layout)) in blocks.iter_mut().zip(&layouts).enumerate() {
            // Grows within its class, into another class, or beyond the small ones.
            *block = unsafe { heap.realloc(*block, *layout, layout.size() * 3) };
            let kept = unsafe { std::slice::from_raw_parts(*block, layout.size()) };
            assert!(kept.iter().all(|byte| *byte == fill(turn)), "{turn}: {layout:?}");
        }
        for (block, old) in blocks.into_iter().zip(&layouts) {
            unsafe { heap.dealloc(block, layout(old.size() * 3, 8)) };
        }
        let one = unsafe { heap.alloc(layout(40, 8)) };
        unsafe { heap.dealloc(one, layout(40, 8)) };
        assert_eq!(unsafe { heap.alloc(layout(64, 8)) }, one, "64 bytes are of the class of 40");
        unsafe { heap.dealloc(one, layout(64, 8)) };
    }

    #[test]
    fn wide_alignments_use_the_system_allocator() {
        let heap = GuestAllocator::new();
        for align in [1, 16, 32, 4096] {
            let layout = layout(48, align);
            let block = unsafe { heap.alloc(layout) };
            assert_eq!(block.align_offset(align), 0);
            unsafe { heap.dealloc(block, layout) };
        }
    }
}
