//! Returns free heap memory to the kernel.

/// Returns unused heap pages to the kernel. The allocator itself does so only at the end of the heap, but the
/// memory of released plugin code lies in the middle: measured 13 MB for 100 plugins.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    #[expect(
        unsafe_code,
        reason = "a call into the C library that takes no pointer and may be made by any thread at any time"
    )]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
