//! The journal: one sealed, append-only log of operations, on which every acknowledgement rests.
//!
//! ```text
//! append ──> open frame ──full, flush, sync──> sealed, written ──sync──> durable ──trim──> gone
//! ```
//!
//! A **record** is the bytes of one operation; its number (LSN) is given out under a short lock that the
//! caller takes while it holds what it changes, so the order of numbers is the order of effects. Records
//! are gathered into **frames**, each sealed as a whole and written at whole blocks of files that were
//! filled with zeros ahead, so that fdatasync(2) writes no metadata. Sealing and writing happen outside the
//! lock, on the thread that closed the frame; durability is a contiguous watermark, moved by one
//! fdatasync for all who wait. What is not durable stays in memory: after a failed write or sync it is
//! written again to another file, and if that fails the journal is poisoned and says so to everybody.
//!
//! Bytes: docs/FORMAT.md, "The journal". Which frames count after a crash: `scan.rs`.

mod counts;
mod files;
mod footing;
mod format;
#[cfg(fuzzing)]
pub mod fuzzing;
mod log;
mod scan;
#[cfg(test)]
mod tests;
mod write;

pub use counts::Counts;
pub use scan::Replay;

use crate::error::{Error, Kind, Result};
use crate::sys::{Disk, Random};
use crate::types::{Key, Lsn, RealmId};
use bytes::Bytes;
use files::{Files, LogFile, Plan};
use format::{BLOCK, Body, RECORD_HEADER, space};
use log::{Log, Stored};
use parking_lot::{Condvar, Mutex, MutexGuard};
use scan::Place;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The size of the first file of a run, in bytes; each later one is twice as large, up to `file_size`.
const FIRST_FILE: u64 = 4 << 20;
/// The largest record, in bytes, where the files are large enough for it.
const MAX_RECORD: usize = 3 << 20;
/// What is kept of the limit for [`Journal::append_reserve`], in bytes.
const RESERVE: u64 = 4 << 20;
/// How many bytes of frames may wait in memory for a sync before an appender does one itself.
const UNSYNCED: u64 = 16 << 20;
/// How many spare files are kept while the journal is in use.
const SPARES: usize = 2;
/// How many files may be left when there is nothing in them.
const IDLE_FILES: usize = 2;
/// How many opened frames are kept for [`Journal::read`].
const CACHED: usize = 8;

/// How a journal is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The largest size of a file, in bytes; a multiple of 4096, at least 64 KiB.
    pub file_size: u64,
    /// How many bytes of frames may be kept, untrimmed.
    pub limit: u64,
    /// A frame is closed when it would grow beyond this, in bytes.
    pub frame_bytes: usize,
    /// Records up to this one are in the commit that the replay starts from: they are not replayed, and
    /// numbers are never given out again below it. Must be durable somewhere before they are trimmed.
    pub floor: Lsn,
    /// For a read-only mount: damage ends the replay instead of refusing it, and nothing is ever written.
    pub before_damage: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            file_size: 64 << 20,
            limit: 2 << 30,
            frame_bytes: 256 << 10,
            floor: 0,
            before_damage: false,
        }
    }
}

/// How full the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of frames that were not trimmed.
    pub bytes: u64,
    /// `Options::limit`.
    pub limit: u64,
    /// Files on the disk, spare ones included.
    pub files: usize,
}

/// See the module. All methods may be called from any thread.
pub struct Journal {
    files: Files,
    limit: u64,
    reserve: u64,
    frame_bytes: usize,
    max_record: usize,
    read_only: bool,
    log: Mutex<Log>,
    /// Wakes whoever waits for a frame to be written, a sync to end, or an error to be dealt with.
    changed: Condvar,
    /// Held by whoever makes, recycles or removes files; taken before `log`.
    keeper: Mutex<()>,
    /// Frames opened by `read`, the latest first.
    cache: Mutex<Vec<(Lsn, Arc<Body>)>>,
    /// Copies of the watermarks, to be read without the lock.
    last: AtomicU64,
    written: AtomicU64,
    durable: AtomicU64,
    counts: Counts,
}

impl Journal {
    /// Opens the journal on a disk, or begins one. Everything replayed is durable when this returns, and
    /// what is appended goes to a new file.
    ///
    /// `Kind::Damage` where a record that was durable is missing or does not open: nothing was changed then.
    pub fn open(
        disk: Arc<dyn Disk>,
        key: Key,
        realm: RealmId,
        random: Arc<dyn Random>,
        options: Options,
    ) -> Result<(Journal, Replay)> {
        let files = Files::new(disk, format::Keys::new(&key, realm), random);
        let scan = scan::scan(&files, options.floor, options.before_damage)?;
        let file_size = options.file_size.max(16 * BLOCK).next_multiple_of(BLOCK);
        let first_file = file_size.min(FIRST_FILE);
        // Every frame must fit into any file behind its header.
        let largest = (first_file - 2 * BLOCK) as usize;
        let replay = Replay {
            frames: scan.frames.clone(),
            floor: options.floor,
            damage: scan.damage,
            begins: scan.begins,
        };
        let journal = Journal {
            files,
            limit: options.limit,
            reserve: RESERVE.min(options.limit / 4),
            frame_bytes: options.frame_bytes.min(largest),
            max_record: MAX_RECORD.min(largest),
            read_only: options.before_damage,
            log: Mutex::new(Log::new(
                scan.files,
                scan.frames,
                scan.last,
                scan.next_id,
                (first_file, file_size),
            )),
            changed: Condvar::new(),
            keeper: Mutex::new(()),
            cache: Mutex::default(),
            last: AtomicU64::new(scan.last),
            written: AtomicU64::new(scan.last),
            durable: AtomicU64::new(scan.last),
            counts: Counts::default(),
        };
        if !journal.read_only {
            journal.begin_run(&scan.spares, &scan.idle)?;
        }
        Ok((journal, replay))
    }

    /// Makes sure of what was replayed, tidies up, and begins the file that voids a cut tail.
    fn begin_run(&self, spares: &[String], idle: &[String]) -> Result<()> {
        let mut log = self.log.lock();
        // A daemon that died may have left frames in the page cache only.
        for file in log.files.iter().filter(|f| f.live.load(Ordering::Relaxed) > 0) {
            file.file.sync_data()?;
        }
        for name in spares {
            self.files.discard_name(name)?;
        }
        let dead = log.take_dead();
        log.spares = self.files.retire(dead, SPARES, log.has_files())?;
        let plan = log.plan();
        match self.files.begin(plan) {
            Ok(file) => log.ready(file),
            // The drive must open on a full disk; the first append that needs room will say it.
            Err(e) if e.kind() == Kind::NoSpace => return Ok(()),
            Err(e) => return Err(e),
        }
        for name in idle {
            self.files.discard_name(name)?;
        }
        // Files of earlier runs with nothing that counts: their tails are void now.
        let empty = log.take_empty_tail();
        let room = SPARES.saturating_sub(log.spares.len());
        let spares = self.files.retire(empty, room, log.has_files())?;
        log.spares.extend(spares);
        Ok(())
    }

    /// Whether a record of so many bytes can be appended without waiting for the disk.
    pub fn is_eased(&self, bytes: usize) -> bool {
        let log = self.log.lock();
        self.read_only || log.unsynced <= UNSYNCED && (log.next.is_some() || log.room() >= self.ample(bytes))
    }

    /// Makes durable what is too much for one fsync, and the next file when it will be needed. For those who are
    /// going to append, before they take a lock; otherwise appending does it.
    pub fn ease(&self, bytes: usize) -> Result<()> {
        let (unsynced, closed, next) = {
            let log = self.log.lock();
            (log.unsynced, log.closed, log.next.is_none() && log.room() < self.ample(bytes))
        };
        if next && let Err(e) = self.make_next() {
            // Whoever finds no room for a record says so.
            tracing::debug!("no further journal file yet: {}", e.chain());
        }
        if unsynced > UNSYNCED { self.sync(closed) } else { Ok(()) }
    }

    /// Room for a record, and for the frame that it does not fit into.
    fn ample(&self, bytes: usize) -> u64 {
        space(self.frame_bytes) + space(bytes)
    }

    /// Appends a record, the concatenation of `parts`, and returns its number. Does no I/O unless a frame is
    /// full. `Kind::NoSpace` where the limit or the disk leaves no room: no number is given out then, and
    /// a later call may succeed.
    pub fn append(&self, parts: &[&[u8]]) -> Result<Lsn> {
        self.append_within(parts, self.limits().0)
    }

    /// [`append`](Journal::append) for operations that free space: may use the last 4 MiB of the limit, and on a full
    /// disk what is kept of the last file.
    pub fn append_reserve(&self, parts: &[&[u8]]) -> Result<Lsn> {
        self.append_within(parts, self.limit)
    }

    fn append_within(&self, parts: &[&[u8]], limit: u64) -> Result<Lsn> {
        if self.read_only {
            return Err(Error::errno_of(libc::EROFS));
        }
        let len = parts.iter().map(|p| p.len()).sum();
        if len > self.max_record {
            return Err(Error::failed(format!("journal record of {len} bytes; at most {}", self.max_record)));
        }
        let mut log = self.log.lock();
        let frees = limit == self.limit;
        loop {
            self.settle(&mut log)?;
            let grown = log.open.len() + RECORD_HEADER + len;
            if !log.open.is_empty() && grown > self.frame_bytes {
                self.write_open(&mut log);
                if log.unsynced > 2 * UNSYNCED {
                    let closed = log.closed;
                    MutexGuard::unlocked(&mut log, || self.sync(closed))?;
                }
                continue;
            }
            let room = space(grown);
            if log.used + room > limit {
                return Err(Error::new(
                    Kind::NoSpace,
                    format!("the journal is full ({} MiB); a commit makes room", self.limit >> 20),
                ));
            }
            let kept = if frees { 0 } else { log.kept() };
            if room + kept > log.room() && log.next.is_none() {
                MutexGuard::unlocked(&mut log, || self.make_next())?;
                continue;
            }
            log.open.push(parts, len);
            log.last += 1;
            self.last.store(log.last, Ordering::Release);
            self.counts.records.one();
            self.counts.bytes.add(len as u64);
            return Ok(log.last);
        }
    }

    /// Writes the open frame, without making it durable.
    pub fn flush(&self) -> Result<()> {
        let mut log = self.log.lock();
        let upto = log.last;
        loop {
            self.settle(&mut log)?;
            if log.written >= upto {
                return Ok(());
            }
            match log.closed < upto {
                true => self.write_open(&mut log),
                false => self.changed.wait(&mut log),
            }
        }
    }

    /// Makes everything up to a record durable. Whoever waits at the same time shares one fdatasync.
    pub fn sync(&self, upto: Lsn) -> Result<()> {
        if self.durable() >= upto {
            return Ok(());
        }
        let mut log = self.log.lock();
        let upto = upto.min(log.last);
        loop {
            if log.durable >= upto {
                return Ok(());
            }
            if log.syncing {
                self.changed.wait(&mut log);
                continue;
            }
            self.settle(&mut log)?;
            if !log.syncing {
                self.sync_all(&mut log);
            }
        }
    }

    /// The last record that a power cut cannot take.
    pub fn durable(&self) -> Lsn {
        self.durable.load(Ordering::Acquire)
    }

    /// The last record that the death of the daemon cannot take.
    pub fn written(&self) -> Lsn {
        self.written.load(Ordering::Acquire)
    }

    /// The last record.
    pub fn last(&self) -> Lsn {
        self.last.load(Ordering::Acquire)
    }

    /// Bytes `range` of a record. `Kind::NotFound` where it was trimmed or never was.
    pub fn read(&self, lsn: Lsn, range: Range<usize>) -> Result<Bytes> {
        let place = match self.find(lsn)? {
            Found::Record(body, index) => return cut(&body, index, lsn, range),
            Found::Open => {
                let log = self.log.lock();
                // The frame may have been closed in the meantime.
                match lsn.checked_sub(log.closed + 1) {
                    Some(index) => return cut(&log.open, index as usize, lsn, range),
                    None => {
                        drop(log);
                        return self.read(lsn, range);
                    }
                }
            }
            Found::Stored(place) => place,
        };
        let body = match place.load() {
            Ok(body) => Arc::new(body),
            // A file that was trimmed while it was read may hold other frames now.
            Err(e) => return Err(self.find(lsn).map_or_else(|gone| gone, |_| e)),
        };
        let mut cache = self.cache.lock();
        cache.truncate(CACHED - 1);
        cache.insert(0, (place.first, body.clone()));
        drop(cache);
        cut(&body, (lsn - place.first) as usize, lsn, range)
    }

    fn find(&self, lsn: Lsn) -> Result<Found> {
        let log = self.log.lock();
        if lsn > log.closed && lsn <= log.last {
            return Ok(Found::Open);
        }
        let frame = log.frame(lsn).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("journal record {lsn} was trimmed or never written"))
        })?;
        let index = (lsn - frame.place.first) as usize;
        if let Some(body) = &frame.body {
            return Ok(Found::Record(body.clone(), index));
        }
        let place = frame.place.clone();
        drop(log);
        let mut cache = self.cache.lock();
        match cache.iter().position(|(first, _)| *first == place.first) {
            Some(at) => {
                cache[..=at].rotate_right(1);
                Ok(Found::Record(cache[0].1.clone(), index))
            }
            None => Ok(Found::Stored(place)),
        }
    }

    /// Gives up records up to `upto`: makes them durable first, then recycles or removes files that hold
    /// nothing else. The caller has made `upto` durable as the floor of the next open. A journal that takes nothing
    /// more is no error: the caller needs it no more.
    pub fn trim(&self, upto: Lsn) -> Result<()> {
        if self.read_only {
            return Err(Error::errno_of(libc::EROFS));
        }
        if let Err(e) = self.sync(upto)
            && self.poison().is_none()
        {
            return Err(e);
        }
        let _keeper = self.keeper.lock();
        let mut log = self.log.lock();
        // Files of another directory are left alone.
        log.looked = None;
        self.look(&mut log);
        log.drop_frames(upto);
        if log.poison.is_some() {
            self.leave(&log, upto);
            return Ok(());
        }
        let dead = log.take_dead();
        let others = log.has_files();
        let idle = log.frames.is_empty() && log.open.is_empty();
        let most = match idle {
            true => IDLE_FILES.saturating_sub(log.files.len() + usize::from(log.next.is_some())),
            false => SPARES,
        };
        let surplus = log.spares.len().saturating_sub(most);
        let surplus: Vec<_> = log.spares.drain(..surplus).collect();
        let room = most - log.spares.len();
        drop(log);
        self.cache.lock().retain(|(first, _)| *first > upto);
        for spare in surplus {
            self.files.discard(spare)?;
        }
        let spares = self.files.retire(dead, room, others)?;
        self.log.lock().spares.extend(spares);
        Ok(())
    }

    /// Makes the next file ready when the present one is half full, so that no appender has to. For a
    /// background thread; failure is harmless until the appenders run out of room.
    pub fn prepare(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let due = self.log.lock().half_full();
        if due { self.make_next() } else { Ok(()) }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many bytes of frames [`Journal::append`] may fill it to, and [`Journal::append_reserve`].
    pub fn limits(&self) -> (u64, u64) {
        (self.limit - self.reserve, self.limit)
    }

    pub fn usage(&self) -> Usage {
        let log = self.log.lock();
        let files = log.files.len() + log.spares.len() + usize::from(log.next.is_some());
        let open = if log.open.is_empty() { 0 } else { space(log.open.len()) };
        Usage { bytes: log.used + open, limit: self.limit, files }
    }
}

/// Where a record is.
enum Found {
    Record(Arc<Body>, usize),
    Open,
    Stored(Place),
}

fn cut(body: &Body, index: usize, lsn: Lsn, range: Range<usize>) -> Result<Bytes> {
    let bytes = body.record(index).and_then(|record| record.get(range.clone()));
    match bytes {
        Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
        None => Err(Error::failed(format!("journal record {lsn} has no bytes {range:?}"))),
    }
}
