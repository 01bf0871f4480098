//! Tells the kernel to forget names when it remembers too much, on a thread of its own: the kernel may have such a
//! call wait for the directory's lock, and whoever holds that may wait for an answer of ours.

use crate::drive::{Drive, Kernel};
use crate::error::{Context, Error, Result};
use crate::types::Ino;
use fuser::{INodeNo, Notifier};
use parking_lot::{Condvar, Mutex};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

/// How often the thread looks.
const PERIOD: Duration = Duration::from_millis(500);

struct Session(Notifier);

impl Kernel for Session {
    fn forget_name(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.0.inval_entry(INodeNo(dir), OsStr::from_bytes(name)).map_err(Error::from)
    }
}

/// The thread. Dropping it ends it, but does not wait: it holds a copy of the session's descriptor, and where the
/// event loop has died it may wait for what only the end of this process ends.
pub(super) struct Shedding {
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Shedding {
    pub(super) fn start(notifier: Notifier, drive: &Arc<Drive>) -> Result<Shedding> {
        let ended: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let (theirs, drive) = (Arc::clone(&ended), Arc::downgrade(drive));
        thread::Builder::new()
            .name("fuse-shed".into())
            .spawn(move || run(&Session(notifier), &drive, &theirs))
            .context(|| "cannot start the thread that has the kernel forget")?;
        Ok(Shedding { ended })
    }
}

impl Drop for Shedding {
    fn drop(&mut self) {
        *self.ended.0.lock() = true;
        self.ended.1.notify_all();
    }
}

fn run(kernel: &Session, drive: &Weak<Drive>, (ended, signal): &(Mutex<bool>, Condvar)) {
    loop {
        let mut guard = ended.lock();
        if !*guard {
            signal.wait_for(&mut guard, PERIOD);
        }
        if *guard {
            return;
        }
        drop(guard);
        let Some(drive) = drive.upgrade() else { return };
        if drive.surplus() > 0
            && let Err(e) = drive.shed(kernel)
        {
            tracing::warn!("the kernel cannot be told to forget: {}", e.chain());
        }
    }
}
