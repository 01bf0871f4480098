//! From memory to the disk: writing frames, making them durable, and starting over where that fails.

use super::*;
use std::time::Instant;

/// Writeback begins each time that so many bytes more have been written to a file.
const WRITE_BACK: u64 = 4 << 20;

/// A closed frame on its way to its place.
struct Job {
    body: Arc<Body>,
    place: Place,
    durable: Lsn,
    scratch: Vec<u8>,
}

impl Job {
    /// Seals and writes.
    fn run(&mut self) -> Result<()> {
        let Place { first, file, at, space, .. } = &self.place;
        file.cipher.seal(*first, self.durable, &self.body, &mut self.scratch)?;
        file.file.write_at(&self.scratch, *at)?;
        let end = at + space;
        if at / WRITE_BACK != end / WRITE_BACK {
            let from = (end / WRITE_BACK - 1) * WRITE_BACK;
            file.file.write_back(from, end - from);
        }
        Ok(())
    }
}

impl Journal {
    /// Refuses on a poisoned journal; deals with an error that nobody has dealt with yet.
    pub(super) fn settle(&self, log: &mut MutexGuard<Log>) -> Result<()> {
        loop {
            if let Some(e) = &log.poison {
                return Err(Error::new(e.kind(), e.chain()));
            }
            if log.failed.is_none() {
                return Ok(());
            }
            self.recover(log);
        }
    }

    /// Closes the open frame and writes it, with the lock released. A failure is left in `log.failed`.
    pub(super) fn write_open(&self, log: &mut MutexGuard<Log>) {
        let Some(mut job) = self.close(log) else { return };
        log.writing += 1;
        let outcome = MutexGuard::unlocked(log, || job.run());
        log.writing -= 1;
        match outcome {
            Ok(()) => {
                log.mark_written(job.place.first);
                self.written.store(log.written, Ordering::Release);
            }
            Err(e) => log.fail(e),
        }
        log.give_back(job.scratch, self.frame_bytes);
        self.changed.notify_all();
    }

    /// Gives the open frame its place, and opens another.
    fn close(&self, log: &mut Log) -> Option<Job> {
        if log.open.is_empty() {
            return None;
        }
        let space = space(log.open.len());
        let Some((file, at)) = log.place(space) else {
            // append() sees to it that there is room; recover() will make some.
            log.fail(Error::failed("no file for a journal frame"));
            return None;
        };
        let empty = log.bodies.pop().unwrap_or_default();
        let body = Arc::new(std::mem::replace(&mut log.open, empty));
        let place = Place { first: log.closed + 1, last: log.last, file, at, space };
        place.file.live.fetch_add(1, Ordering::Relaxed);
        log.frames.push_back(Stored { place: place.clone(), body: Some(body.clone()), written: false });
        log.closed = log.last;
        log.used += space;
        log.unsynced += space;
        let scratch = log.scratch.pop().unwrap_or_default();
        Some(Job { body, place, durable: log.durable, scratch })
    }

    /// Makes everything durable that was appended so far: the one fdatasync for all who wait. A failure is
    /// left in `log.failed`.
    pub(super) fn sync_all(&self, log: &mut MutexGuard<Log>) {
        log.syncing = true;
        self.write_open(log);
        let upto = log.closed;
        while log.written < upto && log.failed.is_none() {
            self.changed.wait(log);
        }
        if log.failed.is_none() {
            let files = distinct(log.frames.range(log.first_unsynced()..).map(|f| &f.place));
            let begun = Instant::now();
            let outcome =
                MutexGuard::unlocked(log, || files.iter().try_for_each(|file| file.file.sync_data()));
            self.counts.syncs.add(begun.elapsed());
            match outcome {
                Ok(()) => {
                    self.look_at(log, &files);
                    if log.poison.is_none() {
                        self.set_durable(log, upto);
                    }
                }
                Err(e) => log.fail(e),
            }
        }
        log.syncing = false;
        self.changed.notify_all();
    }

    fn set_durable(&self, log: &mut Log, upto: Lsn) {
        log.mark_durable(upto, self.frame_bytes);
        self.durable.store(upto, Ordering::Release);
    }

    /// After a failed write or sync: what is not known durable goes to another file, from memory. A sync
    /// that succeeds later proves nothing, for Linux reports a lost page once. The lock is held
    /// throughout, but for waiting until nobody else writes.
    fn recover(&self, log: &mut MutexGuard<Log>) {
        while log.failed.is_some() && (log.syncing || log.writing > 0) {
            self.changed.wait(log);
        }
        let Some(cause) = log.failed.take() else { return };
        self.counts.failures.one();
        tracing::warn!("journal: {}; writing again to another file", cause.chain());
        if let Err(e) = self.write_again(log) {
            let poison = e.context(format!(
                "the journal cannot be written (it began with: {}); what was not yet durable is lost when \
                 the drive is unmounted: free or repair the disk, then mount again",
                cause.chain()
            ));
            tracing::error!("{}", poison.chain());
            log.poison = Some(poison);
        }
        self.changed.notify_all();
    }

    fn write_again(&self, log: &mut Log) -> Result<()> {
        let first = log.first_unsynced();
        for frame in log.frames.range(first..) {
            frame.place.file.suspect.store(true, Ordering::Relaxed);
        }
        log.abandon_active();
        for index in first..log.frames.len() {
            let Stored { place, body, .. } = &log.frames[index];
            let (old, body) = (place.clone(), body.clone());
            let body = body.ok_or_else(|| Error::failed("a frame left memory before it was durable"))?;
            self.make_room(log, old.space)?;
            let (file, at) = log.place(old.space).ok_or_else(|| Error::failed("no file for a frame"))?;
            file.live.fetch_add(1, Ordering::Relaxed);
            old.file.live.fetch_sub(1, Ordering::Relaxed);
            let place = Place { file, at, ..old };
            log.frames[index].place = place.clone();
            let scratch = log.scratch.pop().unwrap_or_default();
            let mut job = Job { body, place, durable: log.durable, scratch };
            job.run()?;
            log.give_back(job.scratch, self.frame_bytes);
            log.frames[index].written = true;
        }
        for file in distinct(log.frames.range(first..).map(|f| &f.place)) {
            file.file.sync_data()?;
            self.files.named(&file)?;
        }
        self.files.in_place()?;
        let closed = log.closed;
        log.written = closed;
        self.written.store(closed, Ordering::Release);
        self.set_durable(log, closed);
        match log.open.is_empty() {
            true => Ok(()),
            // append() promised the open frame a place.
            false => self.make_room(log, space(log.open.len())),
        }
    }

    /// Sees to it that a frame can be placed; holds the lock during I/O, so only for when all else waits.
    fn make_room(&self, log: &mut Log, space: u64) -> Result<()> {
        if space > log.room() && log.next.is_none() {
            let plan = log.plan();
            let file = self.files.begin(plan)?;
            log.ready(file);
        }
        Ok(())
    }

    /// Begins the next file, unless there is one.
    pub(super) fn make_next(&self) -> Result<()> {
        let _keeper = self.keeper.lock();
        let mut log = self.log.lock();
        if log.next.is_some() {
            return Ok(());
        }
        let plan = log.plan();
        drop(log);
        let begun = self.files.begin(plan);
        let mut log = self.log.lock();
        let file = begun.inspect_err(|_| log.looked = None)?;
        match log.next.is_none() {
            true => log.ready(file),
            // A recovery made one meanwhile. This one is empty: it goes to the end of the line.
            false => log.files.push_front(file),
        }
        Ok(())
    }
}

/// The files of frames, each once, in order.
fn distinct<'a>(places: impl Iterator<Item = &'a Place>) -> Vec<Arc<LogFile>> {
    let mut files: Vec<Arc<LogFile>> = Vec::new();
    for place in places {
        if !files.iter().any(|f| Arc::ptr_eq(f, &place.file)) {
            files.push(place.file.clone());
        }
    }
    files
}
