//! The process' heap.

/// Gives pages that nothing lies on back to the kernel. The allocator does that by itself at the end of
/// its memory only, and code that was given back lies in the middle: 13 MB of 100 plugins, measured.
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
