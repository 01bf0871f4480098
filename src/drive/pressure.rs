//! Back-pressure: changes are slowed smoothly as the journal or the changes in memory near their limits, wait at
//! the limit for commits, and after the mount's time-out get ENOSPC.
//!
//! **The rule.** Every change is let in before it takes a lock, and says how many bytes it brings. So many are
//! promised to it until its record is in the journal ([`Room`], without which nothing is appended), so that those
//! who were let in together do not outgrow a limit together.
//!
//! | | [`Drive::admit`]: makes, writes, links, sets | [`Drive::admit_freeing`]: removes, renames, cuts |
//! | --- | --- | --- |
//! | of the journal it may fill | 92 % of the limit, and never the reserve | all of the limit |
//! | is slowed | from 60 % of that on, and of the memory | from 60 % of the memory on |
//! | without room in the journal | waits, then ENOSPC | waits, then ENOSPC |
//! | without room in memory | waits, then ENOSPC | waits, then is let in |
//!
//! The journal itself refuses a record beyond its limit before it gives it a number: what was acknowledged has one.

use super::Drive;
use super::types::Wait;
use crate::error::{Error, Kind, Result};
use crate::sys::Timer;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
/// What a record takes in the journal besides the bytes that the change brings: its names and places, and what
/// beginning another frame costs. (Only places deeper than some hundred directories take more.)
const RECORD: u64 = 16 << 10;
/// The longest that one operation is slowed below the limit.
const SLOWEST: Duration = Duration::from_millis(40);

/// Where writers wait for room, and the committer for work.
#[derive(Default)]
pub struct Pressure {
    state: Mutex<Wanted>,
    room: Condvar,
    work: Condvar,
    /// Bytes of the journal that are promised to changes which are not appended yet.
    promised: AtomicU64,
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

/// Room in the journal for one change, promised until this is dropped.
pub(super) struct Room<'a> {
    promised: &'a AtomicU64,
    bytes: u64,
    /// It may use the journal's reserve.
    pub frees: bool,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.promised.fetch_sub(self.bytes, Ordering::Relaxed);
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
    /// How full the fullest of what has a limit is for changes that free nothing: at [`FULL`] they wait.
    fn fullness(&self) -> u64 {
        let bytes = self.journal.usage().bytes + self.pressure.promised.load(Ordering::Relaxed);
        (bytes * FULL / self.journal_limit(false).max(1)).max(self.memory_fullness())
    }

    /// How many bytes a change may fill the journal to.
    fn journal_limit(&self, frees: bool) -> u64 {
        let (without_reserve, limit) = self.journal.limits();
        if frees { limit } else { (limit / 100 * FULL).min(without_reserve) }
    }

    /// Promises room in the journal; None where there is too little.
    fn promise(&self, bytes: u64, frees: bool) -> Option<Room<'_>> {
        let promised = &self.pressure.promised;
        let all = promised.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let room = Room { promised, bytes, frees };
        (self.journal.usage().bytes + all <= self.journal_limit(frees)).then_some(room)
    }

    /// How many inodes weigh as much as the extended attributes that are loaded.
    pub(super) fn heavy(&self) -> usize {
        self.xattr_bytes.load(Ordering::Relaxed) / super::open::INODE_BYTES
    }

    /// How much of the memory for changes is taken, in percent.
    fn memory_fullness(&self) -> u64 {
        let changed = self.dirty.lock().len() + CLOSING * self.closing.load(Ordering::Relaxed);
        let changed = changed + self.resident.writes() / WRITES;
        // What clean inodes have of it is unloaded when it is more than their share.
        let changed = changed + self.heavy().saturating_sub(self.settings.loaded_inodes);
        changed as u64 * 100 / self.settings.dirty_inodes.max(1) as u64
    }

    /// Lets a change in that frees space, or holds it back: see the rule above. To be called before any lock is taken.
    pub(super) fn admit_freeing(&self, wait: Wait) -> Result<Room<'_>> {
        let full = self.memory_fullness();
        if full.max(self.fullness()) >= COMMIT {
            self.pressure.want_commit();
        }
        if full < SLOW
            && let Some(room) = self.promise(RECORD, true)
        {
            self.ease(wait, RECORD)?;
            return Ok(room);
        }
        if wait == Wait::No {
            return Err(Error::new(Kind::Miss, "changes wait for room"));
        }
        self.slow_down(full);
        let room = self.wait_for(wait, |d| (d.memory_fullness() < FULL).then(|| d.promise(RECORD, true))?);
        let room = room.or_else(|| self.promise(RECORD, true)).ok_or(Error::errno_of(libc::ENOSPC))?;
        self.ease(wait, RECORD)?;
        Ok(room)
    }

    /// Lets the journal do its work with the disk here, where no lock is held.
    fn ease(&self, wait: Wait, bytes: u64) -> Result<()> {
        if self.journal.is_eased(bytes as usize) {
            return Ok(());
        }
        match wait {
            Wait::No => Err(Error::new(Kind::Miss, "the journal waits for the disk")),
            Wait::Since(_) => self.journal.ease(bytes as usize),
        }
    }

    fn slow_down(&self, full: u64) {
        if full < FULL {
            let _waiter = Waiter::of(&self.pressure);
            std::thread::sleep(SLOWEST * full.saturating_sub(SLOW) as u32 / (FULL - SLOW) as u32);
        }
    }

    /// Waits until commits have made room; None where that takes too long.
    fn wait_for<'a>(&'a self, wait: Wait, room: impl Fn(&'a Drive) -> Option<Room<'a>>) -> Option<Room<'a>> {
        let Wait::Since(asked) = wait else { return None };
        let deadline = asked + self.settings.timeout;
        let mut waiter = None;
        let mut state = self.pressure.state.lock();
        loop {
            if let Some(room) = room(self) {
                return Some(room);
            }
            waiter.get_or_insert_with(|| Waiter::of(&self.pressure));
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            state.commit = true;
            self.pressure.work.notify_all();
            self.pressure.room.wait_until(&mut state, (now + Duration::from_millis(100)).min(deadline));
        }
    }

    /// Lets a change in that brings `bytes`, or holds it back: see the rule above. To be called before any lock is
    /// taken.
    pub(super) fn admit(&self, wait: Wait, bytes: usize) -> Result<Room<'_>> {
        let bytes = RECORD + bytes as u64;
        let full = self.fullness();
        if full >= COMMIT {
            self.pressure.want_commit();
        }
        if full < SLOW
            && let Some(room) = self.promise(bytes, false)
        {
            self.ease(wait, bytes)?;
            return Ok(room);
        }
        if wait == Wait::No {
            return Err(Error::new(Kind::Miss, "writers are being slowed"));
        }
        self.slow_down(full);
        let room = self.wait_for(wait, |d| (d.memory_fullness() < FULL).then(|| d.promise(bytes, false))?);
        let room = room.ok_or(Error::errno_of(libc::ENOSPC))?;
        self.ease(wait, bytes)?;
        Ok(room)
    }

    /// Whether a mutating operation would have to wait.
    pub fn throttle(&self) -> bool {
        self.fullness() >= SLOW
    }
}
