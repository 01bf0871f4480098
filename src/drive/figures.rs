//! How the drive is: what `status` and the metrics tell besides commits and the journal.

use super::Drive;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Figures of one moment, each read for itself.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Inodes that the kernel remembers; of these, loaded ones; inodes with changes that are not committed.
    pub inodes: usize,
    pub loaded: usize,
    pub changed: usize,
    /// Opened chunks in memory: bytes, their limit, and how often one was found there or not.
    pub cache_bytes: usize,
    pub cache_limit: usize,
    pub cache_hits: u64,
    pub cache_misses: u64,
    /// Operations that wait for room now; how many ever did, and how long.
    pub waiting: usize,
    pub held_back: u64,
    pub held_back_for: Duration,
    pub read_only: bool,
}

impl Drive {
    pub fn figures(&self) -> Figures {
        let (cache_hits, cache_misses) = self.cache.hits_and_misses();
        Figures {
            inodes: self.table.len(),
            loaded: self.table.loaded(),
            changed: self.dirty.lock().len() + self.closing.load(Relaxed),
            cache_bytes: self.cache.bytes(),
            cache_limit: self.cache.budget(),
            cache_hits,
            cache_misses,
            waiting: self.pressure.waiting(),
            held_back: self.pressure.held_back.times(),
            held_back_for: self.pressure.held_back.total(),
            read_only: self.read_only.load(Relaxed),
        }
    }
}
