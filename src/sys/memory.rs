//! How the C library's allocator holds memory.

/// Blocks of so many bytes or more are mapped each for itself, and given back as soon as they are freed.
const MAPPED: libc::c_int = 256 << 10;
/// So much may lie free at the end of the heap.
const SLACK: libc::c_int = 4 << 20;
/// Each arena keeps what was freed in it. Threads that work by turns would fill one each.
const ARENAS: libc::c_int = 2;

/// Keeps what is free from growing with the number of threads and the sizes of buffers, so that a budget of memory
/// means something. To be called before threads are started. By default glibc has 8 arenas for each CPU, and
/// raises the size from which blocks are mapped to the largest that was ever freed: reading 256 MiB on 8 threads
/// then left 148 MiB resident instead of 54.
pub fn settle_allocator() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, ARENAS), (libc::M_MMAP_THRESHOLD, MAPPED), (libc::M_TRIM_THRESHOLD, SLACK)]
    {
        // SAFETY: mallopt has no requirements; it may be called at any time.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            tracing::debug!("the allocator refuses parameter {parameter}");
        }
    }
}
