//! Locks with a rank, taken in the order of their ranks: a debug build checks each lock that a thread takes against those
//! that it holds, as FreeBSD's WITNESS and Linux's lockdep do, so that every test is a test against deadlocks, whether
//! threads meet in it or not. A release build has parking_lot's locks and nothing else.
//!
//! The ranks and what they are for: docs/ARCHITECTURE.md, lock order.

use parking_lot::lock_api::{self, GuardNoSend};
use parking_lot::{RawMutex, RawRwLock};
use std::cell::RefCell;

/// The rank of the only locks that may be held by who waits for the store.
pub const WAITS_FOR_STORE: u8 = 1;

/// A mutex of a rank.
pub type Mutex<T, const RANK: u8> = lock_api::Mutex<Ranked<RawMutex, RANK>, T>;
/// A readers-writer lock of a rank.
pub type RwLock<T, const RANK: u8> = lock_api::RwLock<Ranked<RawRwLock, RANK>, T>;
/// A share of a lock.
pub type ReadGuard<'a, T, const RANK: u8> = lock_api::RwLockReadGuard<'a, Ranked<RawRwLock, RANK>, T>;
/// A lock held exclusively, that keeps what it is the lock of.
pub type ArcWriteGuard<T, const RANK: u8> = lock_api::ArcRwLockWriteGuard<Ranked<RawRwLock, RANK>, T>;

const CHECKED: bool = cfg!(debug_assertions);

/// A lock, its rank, and its number among those of the same rank, which are taken in the order of their numbers.
pub struct Ranked<R, const RANK: u8> {
    raw: R,
    number: u64,
}

thread_local! {
    /// The ranks and numbers of what this thread holds.
    static HELD: RefCell<Vec<(u8, u64)>> = const { RefCell::new(Vec::new()) };
}

/// Demands, in a debug build, that this thread holds nothing above a rank: before it waits for what may never come.
#[inline]
pub fn assert_nothing_above(rank: u8) {
    if CHECKED && !std::thread::panicking() {
        let held = HELD.with_borrow(|held| held.iter().copied().max());
        assert!(
            held.is_none_or(|(highest, _)| highest <= rank),
            "rank {held:?} is held where {rank} is the most"
        );
    }
}

impl<const RANK: u8> Ranked<RawRwLock, RANK> {
    /// The raw lock of the thing with a number.
    pub fn numbered(number: u64) -> Self {
        Ranked { raw: lock_api::RawRwLock::INIT, number }
    }
}

impl<R, const RANK: u8> Ranked<R, RANK> {
    /// Before it is waited for.
    #[inline]
    fn check(&self) {
        if CHECKED && !std::thread::panicking() {
            let this = (RANK, self.number);
            HELD.with_borrow(|held| {
                assert!(
                    held.iter().all(|other| *other < this),
                    "lock {this:?} is taken while {held:?} are held"
                );
            });
        }
    }

    #[inline]
    fn note(&self) {
        if CHECKED {
            HELD.with_borrow_mut(|held| held.push((RANK, self.number)));
        }
    }

    #[inline]
    fn noted(&self, got: bool) -> bool {
        if got {
            self.note();
        }
        got
    }

    #[inline]
    fn forget(&self) {
        if CHECKED {
            HELD.with_borrow_mut(|held| {
                let at = held.iter().rposition(|other| *other == (RANK, self.number));
                at.map(|at| held.swap_remove(at));
            });
        }
    }
}

// SAFETY: it excludes whom the lock within excludes, which every method calls in its turn.
unsafe impl<const RANK: u8> lock_api::RawMutex for Ranked<RawMutex, RANK> {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Ranked { raw: RawMutex::INIT, number: 0 };
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        self.check();
        self.raw.lock();
        self.note();
    }

    fn try_lock(&self) -> bool {
        self.noted(self.raw.try_lock())
    }

    unsafe fn unlock(&self) {
        self.forget();
        // SAFETY: held by the caller's contract.
        unsafe { self.raw.unlock() }
    }

    fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }
}

// SAFETY: as above.
unsafe impl<const RANK: u8> lock_api::RawRwLock for Ranked<RawRwLock, RANK> {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Ranked { raw: RawRwLock::INIT, number: 0 };
    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        // Not a second time by one thread either: a writer that waits in between would hold up both.
        self.check();
        self.raw.lock_shared();
        self.note();
    }

    fn try_lock_shared(&self) -> bool {
        self.noted(self.raw.try_lock_shared())
    }

    unsafe fn unlock_shared(&self) {
        self.forget();
        // SAFETY: held by the caller's contract.
        unsafe { self.raw.unlock_shared() }
    }

    fn lock_exclusive(&self) {
        self.check();
        self.raw.lock_exclusive();
        self.note();
    }

    fn try_lock_exclusive(&self) -> bool {
        self.noted(self.raw.try_lock_exclusive())
    }

    unsafe fn unlock_exclusive(&self) {
        self.forget();
        // SAFETY: held by the caller's contract.
        unsafe { self.raw.unlock_exclusive() }
    }

    fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn panics(f: impl FnOnce() + Send) -> bool {
        std::thread::scope(|s| s.spawn(f).join().is_err())
    }

    #[test]
    fn locks_against_their_order_are_refused_though_nobody_waits() {
        let (first, second) = (Mutex::<_, 1>::new(()), RwLock::<_, 2>::new(()));
        let (_a, _b) = (first.lock(), second.read());
        drop((_a, _b));
        assert!(panics(|| {
            let _b = second.read();
            let _a = first.lock();
        }));
        assert!(panics(|| {
            let _a = second.read();
            let _b = second.read();
        }));
        // Who only tries waits for nobody.
        let _b = second.write();
        assert!(first.try_lock().is_some());
    }

    #[test]
    fn locks_of_one_rank_are_taken_by_number() {
        let lock = |n| Arc::new(RwLock::<_, 3>::from_raw(Ranked::numbered(n), ()));
        let (low, high) = (lock(4), lock(7));
        let held = (low.write_arc(), high.write_arc());
        drop(held);
        assert!(panics(|| {
            let _held = (high.write(), low.write());
        }));
    }

    #[test]
    fn what_is_held_is_known_until_it_is_let_go() {
        let (first, second) = (Mutex::<_, 1>::new(()), Mutex::<_, 2>::new(()));
        let a = first.lock();
        assert_nothing_above(1);
        let b = second.lock();
        assert!(std::panic::catch_unwind(|| assert_nothing_above(1)).is_err());
        // In any order.
        drop(a);
        assert!(std::panic::catch_unwind(|| assert_nothing_above(1)).is_err());
        drop(b);
        assert_nothing_above(0);
    }
}
