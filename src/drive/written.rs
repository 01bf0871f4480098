//! The bytes of a write that is not yet in a committed version: in memory, or read back from the journal.

use super::locks::{BYTES, FACTS};
use crate::content::Datum;
use crate::error::{Error, Kind, Result};
use crate::journal::Journal;
use crate::sys::ranked::Mutex;
use crate::types::Lsn;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// The data of one write record.
pub struct Written {
    memory: Mutex<Option<Bytes>, BYTES>,
    /// Where the bytes lie in the journal: the record, and the range within it.
    record: Option<(Arc<Journal>, Lsn, Range<usize>)>,
    tally: Arc<Tally>,
}

/// What all writes count together.
#[derive(Default)]
struct Tally {
    /// How many there are, in memory or not.
    alive: AtomicUsize,
    /// Bytes that the commit under way has taken.
    taken: AtomicU64,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.tally.alive.fetch_sub(1, Relaxed);
    }
}

impl Written {
    /// Bytes that no journal holds.
    #[cfg(test)]
    pub fn in_memory(bytes: Bytes) -> Arc<Written> {
        let tally = Arc::new(Tally { alive: AtomicUsize::new(1), ..Tally::default() });
        Arc::new(Written { memory: Mutex::new(Some(bytes)), record: None, tally })
    }

    /// All the bytes. Where they were let go and `wait` is false: `Kind::Miss`.
    pub fn bytes(&self, wait: bool) -> Result<Bytes> {
        if let Some(b) = &*self.memory.lock() {
            return Ok(b.clone());
        }
        match &self.record {
            Some((journal, lsn, range)) if wait => journal.read(*lsn, range.clone()),
            Some(_) => Err(Error::new(Kind::Miss, "the bytes of a write are in the journal only")),
            None => Err(Error::failed("the bytes of a write are nowhere")),
        }
    }
}

/// As a commit takes it.
impl Datum for Written {
    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let all = self.bytes(true)?;
        match (range.start as usize, range.end as usize) {
            (from, to) if from <= to && to <= all.len() => {
                self.tally.taken.fetch_add((to - from) as u64, Relaxed);
                Ok(all.slice(from..to))
            }
            _ => Err(Error::damage("a write in the journal is shorter than it was")),
        }
    }
}

/// Keeps the written bytes in memory within a budget: beyond it, the oldest are let go and must be read
/// back from the journal.
pub struct Resident {
    budget: usize,
    held: Mutex<Held, FACTS>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    /// Oldest first: the write, its length, its record.
    writes: VecDeque<(Weak<Written>, usize, Lsn)>,
}

impl Resident {
    pub fn new(budget: usize) -> Resident {
        Resident { budget, held: Mutex::default(), tally: Arc::default() }
    }

    /// How many writes there are, in memory or not: each takes some 300 bytes besides its own.
    pub fn writes(&self) -> usize {
        self.tally.alive.load(Relaxed)
    }

    /// Bytes of writes that the commit under way has taken; some of them perhaps twice.
    pub fn taken(&self) -> u64 {
        self.tally.taken.load(Relaxed)
    }

    /// No commit is under way, or one begins.
    pub fn none_taken(&self) {
        self.tally.taken.store(0, Relaxed);
    }

    /// Takes a write, whose bytes lie in this range of a record; lets go of the oldest ones that are over the
    /// budget and in the journal's files.
    pub fn take(&self, journal: &Arc<Journal>, lsn: Lsn, range: Range<usize>, bytes: Bytes) -> Arc<Written> {
        let len = bytes.len();
        self.tally.alive.fetch_add(1, Relaxed);
        let record = Some((journal.clone(), lsn, range));
        let w = Arc::new(Written { memory: Mutex::new(Some(bytes)), record, tally: self.tally.clone() });
        let mut held = self.held.lock();
        // A write that was overwritten keeps its memory for as long as it stands here.
        if held.writes.len() > 2 * self.writes() + 1024 {
            held.sweep();
        }
        held.bytes += len;
        held.writes.push_back((Arc::downgrade(&w), len, lsn));
        while held.bytes > self.budget {
            let Some((oldest, len, lsn)) = held.writes.front().cloned() else { break };
            if let Some(w) = oldest.upgrade() {
                if lsn > journal.written() {
                    break;
                }
                *w.memory.lock() = None;
            }
            held.writes.pop_front();
            held.bytes -= len;
        }
        drop(held);
        w
    }

    /// Forgets the writes that are no longer anybody's.
    pub fn sweep(&self) {
        self.held.lock().sweep();
    }
}

impl Held {
    fn sweep(&mut self) {
        self.writes.retain(|(w, _, _)| w.strong_count() > 0);
        self.writes.shrink_to(2 * self.writes.len());
        self.bytes = self.writes.iter().map(|(_, len, _)| len).sum();
    }
}
