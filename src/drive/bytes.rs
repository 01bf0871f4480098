//! Operations on the bytes of files: open, read, write, allocate, seek, copy.

use super::Drive;
use super::inode::{Body, FileBody, Inode};
use super::layer::{FileLayer, Piece, Run};
use super::record::Op;
use super::types::{Allocate, Caller, Opened, Seek, SetAttr, Wait};
use crate::content::{self, Blob};
use crate::error::{Error, Kind, Result};
use crate::types::Ino;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The largest offset that a file may reach (loff_t).
pub const MAX_SIZE: u64 = i64::MAX as u64;
const PAGE: u64 = content::PAGE as u64;
/// How much of a file a seek looks at first (bytes, whole pages).
const SEEK_WINDOW: u64 = 64 * 1024;

/// A range of a file as it was at one moment: what lies where, to be read without a lock.
struct Slice {
    size: u64,
    base: Blob,
    pieces: Vec<Piece>,
}

fn layers(f: &FileBody) -> impl Iterator<Item = &FileLayer> {
    std::iter::once(&f.top).chain(f.frozen.as_deref())
}

impl Slice {
    /// The range `at..at + len`, cut at the end of the file.
    fn of(inode: &Inode, at: u64, len: u64) -> Result<Slice> {
        let node = inode.node.read();
        let Body::File(f) = &node.body else {
            return Err(Error::errno_of(if node.is_dir() { libc::EISDIR } else { libc::EINVAL }));
        };
        let size = node.meta.attr.size;
        let end = at.saturating_add(len).min(size);
        let mut pieces = vec![Piece::Below { at, len: end.saturating_sub(at) }];
        for layer in layers(f) {
            pieces = pieces
                .into_iter()
                .flat_map(|p| match p {
                    Piece::Below { at, len } => layer.look(at, at + len),
                    run => vec![run],
                })
                .collect();
        }
        Ok(Slice { size, base: f.base.clone(), pieces })
    }
}

impl Drive {
    /// Opens a file; empties it first where `truncate` says who asks for that. `may_map`: for reading and writing.
    pub fn open(&self, wait: Wait, ino: Ino, truncate: Option<&Caller>, may_map: bool) -> Result<Opened> {
        let inode = self.load(ino, wait)?;
        if let Some(caller) = truncate {
            let how = SetAttr { size: Some(0), kill_suid: caller.uid != 0, ..SetAttr::default() };
            self.set_attr(wait, caller, ino, &how)?;
        }
        inode.opens.fetch_add(1, Relaxed);
        inode.mappable.fetch_add(u32::from(may_map), Relaxed);
        Ok(Opened { keep_cache: true })
    }

    /// Whether anybody can reach a file that may have no name: it is open, or the kernel remembers it for
    /// somebody who can open it yet (O_PATH).
    pub(super) fn is_reachable(&self, inode: &Inode) -> bool {
        inode.opens.load(Relaxed) > 0 || self.table.with(inode.ino, |s| s.lookups > 0) == Some(true)
    }

    /// Lets go of the changed bytes of a file that nobody can reach any more. The bytes below them stay: a
    /// generation that is being committed may still have a name for the file.
    pub(super) fn drop_if_unreachable(&self, inode: &Inode) {
        let mut node = inode.node.write();
        if node.is_gone()
            && !self.is_reachable(inode)
            && let Some(f) = node.file()
        {
            f.top = Default::default();
        }
    }

    /// Closes a file once, which was opened like this.
    pub fn release(&self, ino: Ino, may_map: bool) {
        let Some(inode) = self.table.loaded_inode(ino) else { return };
        inode.mappable.fetch_sub(u32::from(may_map), Relaxed);
        if inode.opens.fetch_sub(1, Relaxed) == 1 {
            self.drop_if_unreachable(&inode);
        }
        drop(inode);
        // The kernel may have forgotten it before it closed it.
        if self.table.with(ino, |s| s.lookups == 0) == Some(true) {
            self.release_if_idle(ino);
        }
    }

    /// Reads up to `len` bytes; fewer only at the end of the file.
    pub fn read(&self, wait: Wait, ino: Ino, at: u64, len: usize) -> Result<Vec<u8>> {
        self.read_as(wait, ino, at, len, false)
    }

    /// [`read`](Drive::read); `quietly`: the access time stays as it is (O_NOATIME).
    pub fn read_as(&self, wait: Wait, ino: Ino, at: u64, len: usize, quietly: bool) -> Result<Vec<u8>> {
        let inode = self.load(ino, wait)?;
        inode.seen.lock().add(at, at.saturating_add(len as u64));
        let (_, out) = self.bytes_of(&inode, at, len, wait)?;
        self.note_read(&inode, at, at + out.len() as u64);
        if !quietly {
            self.touch_atime(&inode);
        }
        Ok(out)
    }

    /// A range of a file, cut at its end; and its size.
    fn bytes_of(&self, inode: &Inode, at: u64, len: usize, wait: Wait) -> Result<(u64, Vec<u8>)> {
        loop {
            let epoch = self.epoch();
            let slice = Slice::of(inode, at, len as u64)?;
            let mut out = vec![0; slice.size.min(at.saturating_add(len as u64)).saturating_sub(at) as usize];
            match self.fill(&slice, at, &mut out, wait) {
                Ok(()) => return Ok((slice.size, out)),
                // A commit may have taken the bytes out of the journal since we looked: look again.
                Err(e) if e.kind() != Kind::Miss && !self.in_epoch(epoch) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn fill(&self, slice: &Slice, from: u64, out: &mut [u8], wait: Wait) -> Result<()> {
        let short = || Error::failed("a piece of a read lies outside of it");
        for piece in &slice.pieces {
            match piece {
                Piece::Run { run: Run::Hole, .. } => {}
                Piece::Run { at, len, run: Run::Data(w, skip) } => {
                    let bytes = w.bytes(wait != Wait::No)?;
                    let part = bytes.get(*skip..*skip + *len as usize).ok_or_else(short)?;
                    let start = (at - from) as usize;
                    out.get_mut(start..start + part.len()).ok_or_else(short)?.copy_from_slice(part);
                }
                Piece::Below { at, len } => {
                    let start = (at - from) as usize;
                    let part = out.get_mut(start..start + *len as usize).ok_or_else(short)?;
                    slice.base.read(self.chunks(wait), *at, part)?;
                }
            }
        }
        Ok(())
    }

    /// relatime: the access time moves when the file has changed since, or after a day. Kept in memory. Where nothing
    /// can be changed, it stays too.
    fn touch_atime(&self, inode: &Inode) {
        if self.settings.noatime || self.check_writable().is_err() {
            return;
        }
        let now = self.clock.now();
        let stale = |a: &crate::commit::inode::Attr| {
            a.atime <= a.mtime || a.atime <= a.ctime || now.sec - a.atime.sec >= 86_400
        };
        if stale(&inode.node.read().meta.attr)
            && let Some(mut node) = inode.node.try_write()
        {
            node.meta.attr.atime = now;
        }
    }

    /// Writes all of `data`; `append`: at the end, whatever `at` says.
    pub fn write(
        &self,
        wait: Wait,
        ino: Ino,
        at: u64,
        data: &[u8],
        append: bool,
        kill_suid: bool,
    ) -> Result<()> {
        self.check_writable()?;
        let inode = self.load(ino, wait)?;
        let room = self.admit(wait, data.len())?;
        let mut held = self.lock(&[&inode]);
        let node = held.node(ino)?;
        let at = if append { node.meta.attr.size } else { at };
        if at.checked_add(data.len() as u64).is_none_or(|end| end > MAX_SIZE) {
            return Err(Error::errno_of(libc::EFBIG));
        }
        if node.file().is_none() {
            return Err(Error::errno_of(libc::EINVAL));
        }
        if data.is_empty() {
            return Ok(());
        }
        let kill_suid = kill_suid && super::apply::without_suid(node.meta.attr.perm) != node.meta.attr.perm;
        self.perform(&mut held, &Op::Write { ino, at, kill_suid, data }, &room)?;
        Ok(())
    }

    /// See fallocate(2). Nothing is reserved ahead, but what there is surely no space for is refused (ENOSPC); where it
    /// is used up meanwhile, the write says so.
    pub fn fallocate(&self, wait: Wait, ino: Ino, at: u64, len: u64, what: Allocate) -> Result<()> {
        self.check_writable()?;
        let end = at.checked_add(len).filter(|e| *e <= MAX_SIZE).ok_or(Error::errno_of(libc::EFBIG))?;
        if len == 0 {
            return Err(Error::errno_of(libc::EINVAL));
        }
        let inode = self.load(ino, wait)?;
        let punches = what == Allocate::Punch;
        let free = if punches { u64::MAX } else { (self.space)().free };
        let room = if punches { self.admit_freeing(wait)? } else { self.admit(wait, 0)? };
        let mut held = self.lock(&[&inode]);
        let node = held.node(ino)?;
        if node.file().is_none() {
            return Err(Error::errno_of(if node.is_dir() { libc::EISDIR } else { libc::ENODEV }));
        }
        let old = node.meta.attr.size;
        if len.saturating_sub(node.attr().allocated) > free {
            return Err(Error::errno_of(libc::ENOSPC));
        }
        let (len, size) = match what {
            Allocate::Reserve { keep_size: true } => (0, old),
            Allocate::Reserve { keep_size: false } => (0, old.max(end)),
            Allocate::Punch | Allocate::Zero { keep_size: true } => (end.min(old).saturating_sub(at), old),
            Allocate::Zero { keep_size: false } => (len, old.max(end)),
        };
        // Where suid and sgid must go, they have gone before (`drop_suid`).
        self.perform(&mut held, &Op::Hole { ino, at, len, size, kill_suid: false }, &room)?;
        Ok(())
    }

    /// The next data or hole at or after an offset; see lseek(2). A page with any data is data, as it is once committed:
    /// what a file's map is must not hang on when it was committed. So is what we may not know of
    /// ([`Inode::may_hide_data`]).
    pub fn seek(&self, wait: Wait, ino: Ino, at: u64, what: Seek) -> Result<u64> {
        let inode = self.load(ino, wait)?;
        let Some(seen) = inode.may_hide_data() else { return self.seek_known(wait, &inode, at, what) };
        let size = inode.node.read().meta.attr.size;
        match what {
            _ if at >= size => Err(Error::errno_of(libc::ENXIO)),
            Seek::Data => {
                let known = self.seek_known(wait, &inode, at, what);
                let hidden = seen.next(at).map(|(from, _)| from).filter(|from| *from < size);
                match (known, hidden) {
                    (Ok(known), Some(hidden)) => Ok(known.min(hidden)),
                    (Err(e), Some(hidden)) if e.kind() == Kind::Errno(libc::ENXIO) => Ok(hidden),
                    (known, _) => known,
                }
            }
            Seek::Hole => {
                let mut hole = at;
                while hole < size {
                    hole = self.seek_known(wait, &inode, hole, what)?;
                    match seen.next(hole) {
                        Some((from, end)) if from == hole => hole = end,
                        _ => break,
                    }
                }
                Ok(hole.min(size))
            }
        }
    }

    /// The same, of what has come to us.
    fn seek_known(&self, wait: Wait, inode: &Inode, at: u64, what: Seek) -> Result<u64> {
        // Where to go on from, how far to look at once, and up to where all pages from the first one on are data. A file
        // of many changes is not looked at whole for an answer that is near.
        let (mut next, mut window) = (at - at % PAGE, SEEK_WINDOW);
        let mut reached = next;
        loop {
            let slice = Slice::of(inode, next, window)?;
            if at >= slice.size {
                return Err(Error::errno_of(libc::ENXIO));
            }
            for piece in &slice.pieces {
                let (mut from, end) = match piece {
                    Piece::Run { run: Run::Hole, .. } => continue,
                    Piece::Run { at, len, run: Run::Data(..) } | Piece::Below { at, len } => (*at, at + len),
                };
                while from < end {
                    let (mut data, mut hole) = (from, end);
                    if matches!(piece, Piece::Below { .. }) {
                        let chunks = self.chunks(wait);
                        let found = slice.base.seek(chunks, content::Seek::Data, from, end)?;
                        let Some(found) = found.filter(|f| *f < end) else { break };
                        let stop = slice.base.seek(chunks, content::Seek::Hole, found, end)?;
                        (data, hole) = (found, stop.map_or(end, |s| s.min(end)));
                    }
                    let page = data - data % PAGE;
                    match what {
                        Seek::Data => return Ok(at.max(page)),
                        Seek::Hole if page > reached => return Ok(at.max(reached)),
                        Seek::Hole => reached = reached.max(hole.next_multiple_of(PAGE)),
                    }
                    from = hole;
                }
            }
            next = next.saturating_add(window);
            match what {
                // Nothing that comes after is next to the data before it.
                Seek::Hole if reached < next || next >= slice.size => {
                    return Ok(at.max(reached).min(slice.size));
                }
                Seek::Data if next >= slice.size => return Err(Error::errno_of(libc::ENXIO)),
                _ => window = window.saturating_mul(4),
            }
        }
    }

    /// Copies a range from one file to another (or within one, not overlapping); returns how much was copied.
    pub fn copy_range(
        &self,
        wait: Wait,
        from: Ino,
        from_at: u64,
        to: Ino,
        to_at: u64,
        len: u64,
    ) -> Result<u64> {
        self.check_writable()?;
        if from == to && from_at < to_at.saturating_add(len) && to_at < from_at.saturating_add(len) {
            return Err(Error::errno_of(libc::EINVAL));
        }
        let source: Arc<Inode> = self.load(from, wait)?;
        let mut done = 0;
        // Piece by piece: a copy of any length holds no more than one in memory.
        while done < len {
            let patience = if done == 0 { wait } else { Wait::yes() };
            let hole = self.hole_at(&source, from_at + done, len - done, patience)?;
            if hole > 0 {
                match self.lay_hole(patience, to, to_at + done, hole) {
                    Ok(()) => done += hole,
                    Err(_) if done > 0 => break,
                    Err(e) => return Err(e),
                }
                continue;
            }
            let (_, bytes) =
                self.bytes_of(&source, from_at + done, (len - done).min(COPY) as usize, patience)?;
            if bytes.is_empty() {
                break;
            }
            let n = bytes.len() as u64;
            match self.write(patience, to, to_at + done, &bytes, false, false) {
                Ok(()) => done += n,
                // What was copied counts; whoever asks for the rest meets the error.
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
            if wait == Wait::No {
                break;
            }
        }
        Ok(done)
    }
}

impl Drive {
    /// How long the hole is that begins at an offset, at most `len`; 0 where there is data near by, and at the end.
    fn hole_at(&self, file: &Arc<Inode>, at: u64, len: u64, wait: Wait) -> Result<u64> {
        loop {
            let epoch = self.epoch();
            let near = self.data_in(file, at, len.min(COPY), wait);
            let found = match near {
                Ok((size, None)) if at < size => self.data_in(file, at, len, wait),
                other => other,
            };
            match found {
                Ok((size, data)) => {
                    let end = data.unwrap_or(u64::MAX).min(size).min(at.saturating_add(len));
                    let hole = end.saturating_sub(at);
                    return Ok(if hole < COPY && data.is_some() { 0 } else { hole });
                }
                Err(e) if e.kind() != Kind::Miss && !self.in_epoch(epoch) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The size of a file, and the first data in a range of it.
    fn data_in(&self, file: &Inode, at: u64, len: u64, wait: Wait) -> Result<(u64, Option<u64>)> {
        let slice = Slice::of(file, at, len)?;
        for piece in &slice.pieces {
            match piece {
                Piece::Run { run: Run::Hole, .. } => {}
                Piece::Run { at, run: Run::Data(..), .. } => return Ok((slice.size, Some(*at))),
                Piece::Below { at, len } => {
                    let end = at.saturating_add(*len);
                    let found = slice.base.seek(self.chunks(wait), content::Seek::Data, *at, end)?;
                    if found.is_some() {
                        return Ok((slice.size, found));
                    }
                }
            }
        }
        Ok((slice.size, None))
    }

    /// Makes a range of a file a hole, as if zeros were written there.
    fn lay_hole(&self, wait: Wait, ino: Ino, at: u64, len: u64) -> Result<()> {
        let end = at.checked_add(len).ok_or(Error::errno_of(libc::EFBIG))?;
        if end > MAX_SIZE {
            return Err(Error::errno_of(libc::EFBIG));
        }
        self.fallocate(wait, ino, at, len, Allocate::Zero { keep_size: false })
    }
}

/// How much a copy moves at a time.
const COPY: u64 = 1 << 20;
