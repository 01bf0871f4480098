//! Counters that anybody may read at any time, and that cost next to nothing to raise.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows, from 0 at the start of the process.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Time that was spent on something, and how often.
#[derive(Debug, Default)]
pub struct Timer {
    times: Counter,
    nanos: Counter,
}

impl Timer {
    pub fn add(&self, took: Duration) {
        self.times.one();
        self.nanos.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How often.
    pub fn times(&self) -> u64 {
        self.times.get()
    }

    /// How long, in all.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.nanos.get())
    }
}
