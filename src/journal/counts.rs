//! What went through the journal, counted.

use crate::sys::{Counter, Timer};

/// Since the journal was opened.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records that were given a number, and their bytes before sealing.
    pub records: Counter,
    pub bytes: Counter,
    /// Times that appended frames were made durable (one fdatasync for each file that they lie in), without the
    /// repair of one that failed.
    pub syncs: Timer,
    /// Writes and syncs that failed, and were done again elsewhere.
    pub failures: Counter,
}
