//! The bytes of a write that is not yet in a committed version: in memory, or read back from the journal.

use crate::content::Datum;
use crate::error::{Error, Kind, Result};
use crate::journal::Journal;
use crate::types::Lsn;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// The data of one write record.
pub struct Written {
    memory: Mutex<Option<Bytes>>,
    /// Where the bytes lie in the journal: the record, and the range within it.
    record: Option<(Arc<Journal>, Lsn, Range<usize>)>,
}

impl Written {
    pub fn new(journal: Arc<Journal>, lsn: Lsn, range: Range<usize>, bytes: Bytes) -> Arc<Written> {
        Arc::new(Written { memory: Mutex::new(Some(bytes)), record: Some((journal, lsn, range)) })
    }

    /// Bytes that no journal holds (tests; a journal-less source).
    pub fn in_memory(bytes: Bytes) -> Arc<Written> {
        Arc::new(Written { memory: Mutex::new(Some(bytes)), record: None })
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

impl Datum for Written {
    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let all = self.bytes(true)?;
        match (range.start as usize, range.end as usize) {
            (from, to) if from <= to && to <= all.len() => Ok(all.slice(from..to)),
            _ => Err(Error::damage("a write in the journal is shorter than it was")),
        }
    }
}

/// Keeps the written bytes in memory within a budget: beyond it, the oldest are let go and must be read
/// back from the journal.
pub struct Resident {
    budget: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    /// Oldest first: the write, its length, its record.
    writes: VecDeque<(Weak<Written>, usize, Lsn)>,
}

impl Resident {
    pub fn new(budget: usize) -> Resident {
        Resident { budget, held: Mutex::default() }
    }

    /// Takes note of a write; lets go of the oldest ones that are over the budget and in the journal's files.
    pub fn add(&self, w: &Arc<Written>, len: usize, lsn: Lsn, journal: &Journal) {
        let mut held = self.held.lock();
        held.bytes += len;
        held.writes.push_back((Arc::downgrade(w), len, lsn));
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
    }

    /// Forgets the writes that are no longer anybody's.
    pub fn sweep(&self) {
        let mut held = self.held.lock();
        held.writes.retain(|(w, _, _)| w.strong_count() > 0);
        held.bytes = held.writes.iter().map(|(_, len, _)| len).sum();
    }
}
