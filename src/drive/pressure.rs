//! Back-pressure: writers are slowed smoothly as the journal or the changes in memory near their limits, wait
//! at the limit, and after the mount's time-out get ENOSPC.

use super::Drive;
use super::types::Wait;
use crate::error::{Error, Kind, Result};
use crate::sys::Timer;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The share of a limit from which on writers are slowed, and from which on they wait (percent).
const SLOW: u64 = 60;
const FULL: u64 = 92;
/// The share from which on a commit is due at once.
const COMMIT: u64 = 25;
/// What else counts as so many inodes with changes: one that is being committed, whose change and new record
/// are there as well; and, the other way round, how many writes weigh as much as an inode. Measured.
const CLOSING: usize = 2;
const WRITES: usize = 5;
/// The longest that one operation is slowed below the limit.
const SLOWEST: Duration = Duration::from_millis(40);

/// Where writers wait for room, and the committer for work.
#[derive(Default)]
pub struct Pressure {
    state: Mutex<Wanted>,
    room: Condvar,
    work: Condvar,
    /// Operations that wait for room now, and those that ever did.
    waiting: AtomicUsize,
    pub(super) held_back: Timer,
}

/// An operation that waits for room, counted.
struct Waiter<'a>(&'a Pressure, Instant);

impl<'a> Waiter<'a> {
    fn of(pressure: &'a Pressure) -> Waiter<'a> {
        pressure.waiting.fetch_add(1, Ordering::Relaxed);
        Waiter(pressure, Instant::now())
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.held_back.add(self.1.elapsed());
    }
}

#[derive(Default)]
struct Wanted {
    commit: bool,
    stop: bool,
}

impl Pressure {
    /// Asks for a commit soon.
    pub fn want_commit(&self) {
        let mut s = self.state.lock();
        if !s.commit {
            s.commit = true;
            self.work.notify_all();
        }
    }

    /// Ends the waits of the committer.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.work.notify_all();
    }

    /// Waits until a commit is wanted, or for as long as `at_most`, and for no less than `at_least`. False: it is to
    /// stop.
    pub fn wait_for_work(&self, at_least: Duration, at_most: Duration) -> bool {
        let begun = Instant::now();
        let mut s = self.state.lock();
        while !s.stop {
            let until = begun + if s.commit { at_least } else { at_most };
            if Instant::now() >= until {
                break;
            }
            self.work.wait_until(&mut s, until);
        }
        s.commit = false;
        !s.stop
    }

    /// How many operations wait for room now.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// There is room again.
    pub fn made_room(&self) {
        let _s = self.state.lock();
        self.room.notify_all();
    }
}

impl Drive {
    /// How full the fullest of what has a limit is, in percent.
    fn fullness(&self) -> u64 {
        let usage = self.journal.usage();
        (usage.bytes * 100 / usage.limit.max(1)).max(self.memory_fullness())
    }

    /// How much of the memory for changes is taken, in percent.
    fn memory_fullness(&self) -> u64 {
        let changed = self.dirty.lock().len() + CLOSING * self.closing.load(Ordering::Relaxed);
        let changed = changed + self.resident.writes() / WRITES;
        changed as u64 * 100 / self.settings.dirty_inodes.max(1) as u64
    }

    /// Lets a change in that frees space, or holds it back: it may use the journal's reserve, and the memory for
    /// changes is all that it waits for. It is never refused for want of that.
    pub(super) fn admit_freeing(&self, wait: Wait) -> Result<()> {
        let full = self.memory_fullness();
        if full >= COMMIT {
            self.pressure.want_commit();
        }
        if full < SLOW {
            return Ok(());
        }
        if wait == Wait::No {
            return Err(Error::new(Kind::Miss, "changes wait for memory"));
        }
        self.slow_down(full);
        self.wait_while(|d| d.memory_fullness() >= FULL);
        Ok(())
    }

    fn slow_down(&self, full: u64) {
        if full < FULL {
            let _waiter = Waiter::of(&self.pressure);
            std::thread::sleep(SLOWEST * full.saturating_sub(SLOW) as u32 / (FULL - SLOW) as u32);
        }
    }

    /// Waits for commits to end what `full` tells; false where that took too long.
    fn wait_while(&self, full: impl Fn(&Drive) -> bool) -> bool {
        let deadline = Instant::now() + self.settings.timeout;
        let mut waiter = None;
        let mut state = self.pressure.state.lock();
        while full(self) {
            waiter.get_or_insert_with(|| Waiter::of(&self.pressure));
            state.commit = true;
            self.pressure.work.notify_all();
            let step = (Instant::now() + Duration::from_millis(100)).min(deadline);
            self.pressure.room.wait_until(&mut state, step);
            if Instant::now() >= deadline {
                return false;
            }
        }
        true
    }

    /// Lets a change in, or holds it back. To be called before any lock is taken.
    pub(super) fn admit(&self, wait: Wait) -> Result<()> {
        let full = self.fullness();
        if full >= COMMIT {
            self.pressure.want_commit();
        }
        if full < SLOW {
            return Ok(());
        }
        if wait == Wait::No {
            return Err(Error::new(Kind::Miss, "writers are being slowed"));
        }
        self.slow_down(full);
        if self.wait_while(|d| d.fullness() >= FULL) { Ok(()) } else { Err(Error::errno_of(libc::ENOSPC)) }
    }

    /// Whether a mutating operation would have to wait.
    pub fn throttle(&self) -> bool {
        self.fullness() >= SLOW
    }
}
