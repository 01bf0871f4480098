//! Encodes the contents that changed, several files at a time.

use super::super::change::{BodyChange, Change};
use super::super::inode::Content;
use super::{Tools, bug, is_removed};
use crate::chunk::ChunkSink;
use crate::content::Ctx;
use crate::error::Result;
use crate::types::Address;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How much a thread gathers before it hands it on, in bytes.
const GATHER: usize = 4 << 20;

/// The new contents, in the order of the changes. None of what was removed, and of directories.
pub(super) fn encode(
    changes: &[Change],
    tools: Tools,
    sink: &mut (dyn ChunkSink + Send),
    workers: usize,
) -> Result<Vec<Option<Content>>> {
    let files =
        changes.iter().filter(|c| matches!(c.body, BodyChange::File { .. }) && !is_removed(c)).count();
    let workers = workers.min(files);
    if workers < 2 {
        return changes.iter().map(|change| content(change, tools, sink)).collect();
    }
    let shared = Mutex::new(sink);
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut lane = Lane { sink: &shared, gathered: Vec::new(), bytes: 0 };
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(change) = changes.get(at) else { break };
            let one = content(change, tools, &mut lane).and_then(|c| lane.flush().map(|()| c));
            failed.fetch_or(one.is_err(), Ordering::Relaxed);
            done.push((at, one?));
        }
        Ok(done)
    };
    let lanes: Vec<Result<_>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(bug("a thread panicked")))).collect()
    });
    let mut contents: Vec<Option<Content>> = changes.iter().map(|_| None).collect();
    for lane in lanes {
        for (at, content) in lane? {
            if let Some(slot) = contents.get_mut(at) {
                *slot = content;
            }
        }
    }
    Ok(contents)
}

/// The new content of one inode.
fn content(change: &Change, tools: Tools, sink: &mut dyn ChunkSink) -> Result<Option<Content>> {
    if is_removed(change) {
        return Ok(None);
    }
    Ok(match &change.body {
        BodyChange::File { base, cut, edits } => {
            let ctx = Ctx { sealer: tools.keys, chunks: tools.chunks, fetch: tools.fetch, random: false };
            let blob = base
                .update(&ctx, sink, *cut, edits)
                .map_err(|e| e.context(format!("inode {}: its content cannot be stored", change.ino)))?;
            Some(Content::File(blob))
        }
        BodyChange::Directory { .. } => None,
        BodyChange::Symlink(target) => Some(Content::Symlink(target.clone())),
        BodyChange::Special => Some(Content::Special),
    })
}

/// One thread's way to the sink that all share.
struct Lane<'a, 'b> {
    sink: &'a Mutex<&'b mut (dyn ChunkSink + Send)>,
    /// Chunks that stay together, each time.
    gathered: Vec<Vec<(Address, Vec<u8>)>>,
    bytes: usize,
}

impl Lane<'_, '_> {
    fn flush(&mut self) -> Result<()> {
        let mut sink = self.sink.lock();
        self.bytes = 0;
        self.gathered.drain(..).try_for_each(|chunks| sink.put_together(chunks))
    }
}

impl ChunkSink for Lane<'_, '_> {
    fn put(&mut self, address: Address, stored: Vec<u8>) -> Result<()> {
        self.put_together(vec![(address, stored)])
    }

    fn put_together(&mut self, chunks: Vec<(Address, Vec<u8>)>) -> Result<()> {
        self.bytes += chunks.iter().map(|(_, stored)| stored.len()).sum::<usize>();
        self.gathered.push(chunks);
        if self.bytes >= GATHER { self.flush() } else { Ok(()) }
    }
}
