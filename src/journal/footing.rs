//! Whether the files are still where the next opening looks for them. The state directory can be removed, moved or
//! exchanged under a mount; fdatasync(2) goes on succeeding in files that nobody will find again.

use super::*;
use std::time::{Duration, Instant};

/// How often the directory is looked at. Files are, at each sync.
const LOOK: Duration = Duration::from_secs(1);

impl Journal {
    /// Poisons the journal where files that were just made durable, or the directory, are not in their place.
    pub(super) fn look_at(&self, log: &mut Log, files: &[Arc<LogFile>]) {
        match files.iter().try_for_each(|file| self.files.named(file)) {
            Ok(()) => self.look(log),
            Err(e) => self.lost(log, e),
        }
    }

    /// The same for the directory alone; not more often than is needed.
    pub(super) fn look(&self, log: &mut Log) {
        if log.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        match self.files.in_place() {
            Ok(()) => log.looked = Some(Instant::now()),
            Err(e) => self.lost(log, e),
        }
    }

    /// What was durable is not any more, whatever is written from here on.
    fn lost(&self, log: &mut Log, e: Error) {
        if log.poison.is_some() {
            return;
        }
        let poison = e.context(
            "the journal was taken away under the mount, so nothing can be made durable here any more: unmount the drive, \
             which stores what is in memory, then mount it again",
        );
        tracing::error!("{}", poison.chain());
        (log.poison, log.lost) = (Some(poison), true);
        self.changed.notify_all();
    }

    /// Why nothing more can be written, if that is so.
    pub fn poison(&self) -> Option<String> {
        self.log.lock().poison.as_ref().map(Error::chain)
    }

    /// A journal that takes nothing more gives up no files: they may be somebody else's now. Where all that it ever
    /// held is stored, the next opening need not miss them.
    pub(super) fn leave(&self, log: &Log, upto: Lsn) {
        if log.lost
            && upto >= log.last
            && let Err(e) = self.files.disk.unnote()
        {
            tracing::warn!("the next mount will miss the journal, of which all is stored: {}", e.chain());
        }
    }
}
