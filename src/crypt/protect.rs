//! Keeping secrets in memory, and only there: no swap, no core files, no other process of the same user.

use crate::error::{Context, Result};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use std::ffi::c_void;
use std::hint::black_box;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

/// Forbids core files and, to processes of the same user, reading this one's memory
/// (`PR_SET_DUMPABLE` 0, `RLIMIT_CORE` 0). For the daemon's start, before it holds a secret.
/// Each is tried even if the other fails; an error is a reason for a warning, not for stopping.
pub fn protect_process() -> Result<()> {
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(std::io::Error::from)
        .context(|| "cannot keep other processes from reading this one's memory");
    let core = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(std::io::Error::from)
        .context(|| "cannot forbid core files");
    dumpable.and(core)
}

/// Overwrites the part of the stack that calls before this one have used, with what they have left of secrets: moves
/// of values, buffers of ciphers and hashes.
#[inline(never)]
pub fn overwrite_stack() {
    black_box(&mut [0u8; 256 << 10]);
}

/// A page of the processors that we run on; where pages are larger, locks of neighbours may share one.
#[repr(C, align(4096))]
struct Pages<T>(ManuallyDrop<T>);

/// A secret on memory pages of its own, locked into memory where the kernel allows that
/// (`RLIMIT_MEMLOCK`): if it does not, the secret is held all the same.
pub struct Locked<T>(Box<Pages<T>>);

impl<T> Locked<T> {
    pub fn new(secret: T) -> Locked<T> {
        let pages = Box::new(Pages(ManuallyDrop::new(secret)));
        let (start, len) = range(&pages);
        // SAFETY: the range is the box's own allocation, which outlives the lock (see `drop`); locking
        // changes no memory. A refusal leaves the pages as they were.
        let _ = unsafe { rustix::mm::mlock(start, len) };
        Locked(pages)
    }
}

fn range<T>(pages: &Pages<T>) -> (*mut c_void, usize) {
    ((&raw const *pages).cast_mut().cast(), size_of::<Pages<T>>())
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // SAFETY: dropped here, once: `self.0` holds it as ManuallyDrop and nobody can use it afterwards.
        // It is wiped (by T) before the pages may be swapped.
        unsafe { ManuallyDrop::drop(&mut self.0.0) };
        let (start, len) = range(&self.0);
        // SAFETY: as in `new`; no other lock shares these pages, for they are aligned and whole.
        let _ = unsafe { rustix::mm::munlock(start, len) };
    }
}

impl<T> Deref for Locked<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.0
    }
}

impl<T> DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// TRUST 2: not dumpable, no core files.
    #[test]
    fn a_protected_process_is_not_dumped() {
        protect_process().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
    }

    #[test]
    fn a_locked_secret_has_pages_of_its_own_and_is_dropped_once() {
        let witness = Arc::new(());
        let mut locked = Locked::new((witness.clone(), [1u8; 5000]));
        locked.1[0] = 2;
        assert_eq!((locked.1[0], locked.1[4999]), (2, 1));
        let (start, len) = range(&locked.0);
        assert_eq!((start as usize % 4096, len), (0, 8192));
        assert_eq!(Arc::strong_count(&witness), 2);
        drop(locked);
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}
