//! What the allocator of the C library keeps for itself.
//!
//! This program has few threads that allocate, and now and then much at once: a whole list of
//! assignments, their file. By default glibc gives each thread a heap of its own and keeps what was
//! once used. Other libraries (musl in the images) have no such knobs and give back by themselves.

/// Larger pieces are mapped, and unmapped when they are freed: frames of the stream, the file.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 64 << 10;

/// To be called before any thread is started.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no safe interface exists")]
pub fn limit() {
    // SAFETY: no other thread runs yet. Values that are not accepted change nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED);
    }
}

/// Gives back what is free; takes less than a millisecond.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no safe interface exists")]
pub fn give_back() {
    // SAFETY: it may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
pub fn limit() {}

#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
