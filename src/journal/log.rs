//! The state of the journal behind its lock: watermarks, the open frame, the index, the files.

use super::*;
use crate::journal::files::Spare;
use std::collections::VecDeque;
use std::time::Instant;

/// A closed frame.
pub struct Stored {
    pub place: Place,
    /// Its records, until it is durable.
    pub body: Option<Arc<Body>>,
    pub written: bool,
}

/// The file that frames are put into, and where the next one goes.
struct Active {
    file: Arc<LogFile>,
    at: u64,
}

pub struct Log {
    /// Records `closed + 1 ..= last`.
    pub open: Body,
    pub last: Lsn,
    /// The last record of the last closed frame.
    pub closed: Lsn,
    pub written: Lsn,
    pub durable: Lsn,
    /// By number; those after `durable` keep their bodies.
    pub frames: VecDeque<Stored>,
    /// In the order in which they were begun; the active one is the last.
    pub files: VecDeque<Arc<LogFile>>,
    active: Option<Active>,
    pub next: Option<Arc<LogFile>>,
    pub spares: Vec<Spare>,
    next_id: u64,
    next_size: u64,
    largest: u64,
    /// The run has its first file, which voids what older files hold beyond the replay.
    begun: bool,
    /// Room of the frames in the index, in bytes.
    pub used: u64,
    /// Room of those that are not durable, in bytes.
    pub unsynced: u64,
    /// How many threads are writing a frame.
    pub writing: usize,
    /// Somebody is making frames durable.
    pub syncing: bool,
    /// A write or a sync failed, and what is not durable must be written again.
    pub failed: Option<Error>,
    /// That failed too, or the files are gone.
    pub poison: Option<Error>,
    /// It is poisoned because the files are gone.
    pub lost: bool,
    /// When it was last looked whether the directory is in its place; None to do it at the next sync.
    pub looked: Option<Instant>,
    /// Memory for bodies and sealed frames, to be used again.
    pub bodies: Vec<Body>,
    pub scratch: Vec<Vec<u8>>,
}

/// How much memory is kept for frames to come: this many buffers of each kind.
const BUFFERS: usize = 4;

impl Log {
    /// `sizes`: of the first file of the run, and of the largest, in bytes.
    pub fn new(
        files: Vec<Arc<LogFile>>,
        frames: Vec<Place>,
        last: Lsn,
        next_id: u64,
        sizes: (u64, u64),
    ) -> Log {
        Log {
            open: Body::default(),
            last,
            closed: last,
            written: last,
            durable: last,
            used: frames.iter().map(|f| f.space).sum(),
            frames: frames.into_iter().map(|place| Stored { place, body: None, written: true }).collect(),
            files: files.into(),
            active: None,
            next: None,
            spares: Vec::new(),
            next_id,
            next_size: sizes.0,
            largest: sizes.1,
            begun: false,
            unsynced: 0,
            writing: 0,
            syncing: false,
            failed: None,
            poison: None,
            lost: false,
            looked: None,
            bodies: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// The frame that holds a record.
    pub fn frame(&self, lsn: Lsn) -> Option<&Stored> {
        let at = self.frames.partition_point(|f| f.place.last < lsn);
        self.frames.get(at).filter(|f| f.place.first <= lsn)
    }

    /// The room left in the active file, in bytes.
    pub fn room(&self) -> u64 {
        self.active.as_ref().map_or(0, |a| a.file.size - a.at)
    }

    /// What of the active file is kept for what frees space, as long as no next one can be made: a quarter, or 1 MiB.
    pub fn kept(&self) -> u64 {
        self.active.as_ref().map_or(0, |a| (a.file.size / 4).min(1 << 20))
    }

    pub fn half_full(&self) -> bool {
        self.active.as_ref().is_none_or(|a| a.at > a.file.size / 2)
    }

    /// What the next file is begun with; takes a spare if there is one.
    pub fn plan(&mut self) -> Plan {
        let id = self.next_id;
        self.next_id += 1;
        let spare = self.spares.pop();
        Plan { id, size: self.next_size, durable: self.durable, supersedes: !self.begun, spare }
    }

    /// Takes a file that was begun.
    pub fn ready(&mut self, file: Arc<LogFile>) {
        self.begun = true;
        if file.size >= self.next_size {
            self.next_size = (2 * file.size).min(self.largest);
        }
        self.next = Some(file);
    }

    /// A place for a frame, in the active file or at the beginning of the next.
    pub fn place(&mut self, space: u64) -> Option<(Arc<LogFile>, u64)> {
        if space > self.room() {
            let file = self.next.take()?;
            self.files.push_back(file.clone());
            self.active = Some(Active { file, at: BLOCK });
        }
        let active = self.active.as_mut()?;
        let at = active.at;
        active.at += space;
        Some((active.file.clone(), at))
    }

    /// No frame is put into the active file any more.
    pub fn abandon_active(&mut self) {
        if let Some(active) = self.active.take() {
            active.file.suspect.store(true, Ordering::Relaxed);
        }
    }

    /// The index of the first frame that is not durable.
    pub fn first_unsynced(&self) -> usize {
        let durable = self.durable;
        self.frames.partition_point(|f| f.place.last <= durable)
    }

    /// Notes that the frame which begins with `first` is written.
    pub fn mark_written(&mut self, first: Lsn) {
        let at = self.frames.partition_point(|f| f.place.first < first);
        if let Some(frame) = self.frames.get_mut(at) {
            frame.written = true;
        }
        let done = self.written;
        let mut at = self.frames.partition_point(|f| f.place.last <= done);
        while let Some(frame) = self.frames.get(at).filter(|f| f.written) {
            self.written = frame.place.last;
            at += 1;
        }
    }

    /// Notes that everything up to `upto`, the end of a frame, is durable; lets go of its memory.
    pub fn mark_durable(&mut self, upto: Lsn, frame_bytes: usize) {
        for at in self.first_unsynced().. {
            let Some(frame) = self.frames.get_mut(at).filter(|f| f.place.last <= upto) else { break };
            self.unsynced -= frame.place.space;
            let body = frame.body.take().and_then(Arc::into_inner);
            if let Some(mut body) = body.filter(|_| self.bodies.len() < BUFFERS) {
                body.clear(2 * frame_bytes);
                self.bodies.push(body);
            }
        }
        self.durable = upto;
    }

    /// Leaves an error for `Journal::settle` to deal with.
    pub fn fail(&mut self, e: Error) {
        self.failed.get_or_insert(e);
    }

    pub fn give_back(&mut self, mut scratch: Vec<u8>, frame_bytes: usize) {
        if self.scratch.len() < BUFFERS {
            scratch.clear();
            scratch.shrink_to(2 * frame_bytes);
            self.scratch.push(scratch);
        }
    }

    /// Drops frames that end at or before `upto` from the index, as far as they are durable or never will be.
    pub fn drop_frames(&mut self, upto: Lsn) {
        let upto = if self.poison.is_some() { upto } else { upto.min(self.durable) };
        while let Some(frame) = self.frames.pop_front_if(|f| f.place.last <= upto) {
            self.used -= frame.place.space;
            frame.place.file.live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether there is a file beside those that were taken out of the list.
    pub fn has_files(&self) -> bool {
        !self.files.is_empty() || self.next.is_some()
    }

    /// Removes the oldest files from the list, as far as nothing in them counts. (Not from the middle: a
    /// file may void records in older ones.)
    pub fn take_dead(&mut self) -> Vec<Arc<LogFile>> {
        let mut dead = Vec::new();
        while let Some(file) = self.files.front() {
            let active = self.active.as_ref().is_some_and(|a| Arc::ptr_eq(&a.file, file));
            if active || file.live.load(Ordering::Relaxed) > 0 {
                break;
            }
            dead.extend(self.files.pop_front());
        }
        dead
    }

    /// Removes files of earlier runs from the end of the list, as far as nothing in them counts.
    pub fn take_empty_tail(&mut self) -> Vec<Arc<LogFile>> {
        let mut tail = Vec::new();
        while self.active.is_none() && self.files.back().is_some_and(|f| f.live.load(Ordering::Relaxed) == 0)
        {
            tail.extend(self.files.pop_back());
        }
        tail.reverse();
        tail
    }
}
