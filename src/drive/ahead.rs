//! Read-ahead: while a file is read from front to back, what comes next is opened beforehand, by a thread of
//! its own, into the cache of opened chunks.

use super::Drive;
use super::inode::{Body, Inode};
use crate::content::Blob;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// How far ahead of the reader, in bytes: the kernel itself asks for one MiB at a time.
const AHEAD: u64 = 4 << 20;
/// How much is opened at a time.
const STEP: u64 = 1 << 20;

/// Where a file was read last, and up to where it is opened ahead.
#[derive(Default)]
pub struct Reading {
    next: AtomicU64,
    opened: AtomicU64,
}

/// What is to be opened.
struct Want {
    content: Blob,
    at: u64,
    len: u64,
}

/// The queue between readers and the thread that reads ahead; None ends it.
pub struct Ahead {
    wants: Sender<Option<Want>>,
    queue: Receiver<Option<Want>>,
    stopped: AtomicBool,
}

impl Default for Ahead {
    fn default() -> Ahead {
        let (wants, queue) = bounded(8);
        Ahead { wants, queue, stopped: AtomicBool::new(false) }
    }
}

impl Drive {
    /// Takes note of a read of `at..end`; asks for what follows if it went on from the last one.
    pub(super) fn note_read(&self, inode: &Inode, at: u64, end: u64) {
        let r = &inode.reading;
        let goes_on = at != 0 && r.next.swap(end, Relaxed) == at;
        if at == 0 {
            r.opened.store(0, Relaxed);
        }
        let opened = r.opened.load(Relaxed).max(end);
        if !goes_on || opened >= end + AHEAD / 2 {
            return;
        }
        let (content, size) = {
            let node = inode.node.read();
            let Body::File(f) = &node.body else { return };
            (f.base.clone(), node.meta.attr.size)
        };
        let upto = (end + AHEAD).min(size);
        if upto <= opened || !matches!(content, Blob::Segments { .. }) {
            return;
        }
        // Nobody waits for this: where the queue is full, the reader fetches for itself.
        if self.ahead.wants.try_send(Some(Want { content, at: opened, len: upto - opened })).is_ok() {
            r.opened.store(upto, Relaxed);
        }
    }

    /// Opens the next thing that is wanted; waits for one. False when there will be none any more.
    pub fn read_ahead(&self) -> bool {
        let Ok(Some(want)) = self.ahead.queue.recv() else { return false };
        let mut scratch = vec![0; STEP as usize];
        let mut done = 0;
        while done < want.len && !self.ahead.stopped.load(Relaxed) {
            let n = STEP.min(want.len - done);
            let Some(part) = scratch.get_mut(..n as usize) else { break };
            if let Err(e) = want.content.read(&*self.chunks, want.at + done, part) {
                // The reader will meet the same, and be told.
                tracing::debug!("cannot read ahead: {}", e.chain());
                break;
            }
            done += n;
        }
        !self.ahead.stopped.load(Relaxed)
    }

    /// Ends the reading ahead.
    pub fn stop_read_ahead(&self) {
        self.ahead.stopped.store(true, Relaxed);
        // Where the queue is full the thread is awake, or has panicked: nobody may wait for it here.
        let _ = self.ahead.wants.try_send(None);
    }
}
