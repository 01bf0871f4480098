//! A commit that somebody waits for: for as long as that gets somewhere.

use crate::drive::Drive;
use crate::error::{Error, Kind, Result};
use crate::store::Counts;
use crate::types::Version;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a store that refuses is tried again by the last commit of a mount, and how often.
pub const REFUSED: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);
/// How long a store may be silent, with no request answered and nothing given up by the journal.
const SILENT: Duration = Duration::from_secs(60);
/// How often it is looked whether somebody is in a hurry, or wants to know how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// Commits everything, if the store lets that be done, and tries again for as long as `refused` where it refuses. An
/// error leaves the rest in the journal; it is `Interrupted` when `hurry` was set, and `Away` where the store has been
/// silent for too long. A commit that is stuck goes on, on a thread of its own. Meanwhile `waiting` is called every now
/// and then.
pub fn commit_patiently(
    drive: &Arc<Drive>,
    requests: &Counts,
    hurry: &AtomicBool,
    refused: Duration,
    mut waiting: impl FnMut(),
) -> Result<Version> {
    let (tell, told) = channel();
    let committing = drive.clone();
    let work = move || {
        // A listener that has gone has given up.
        let _ = tell.send(until_refused(&committing, refused));
    };
    if let Err(e) = thread::Builder::new().name("awaited-commit".into()).spawn(work) {
        return Err(Error::failed("cannot start a thread for a commit").with_source(e));
    }
    let progress = || (requests.answered(), drive.journal().usage().bytes);
    let mut seen = progress();
    let mut moved = Instant::now();
    loop {
        match told.recv_timeout(LOOK) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Error::failed("the commit panicked")),
        }
        waiting();
        if hurry.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Interrupted, "told not to wait for the store"));
        }
        let now = progress();
        if now != seen {
            (seen, moved) = (now, Instant::now());
        } else if moved.elapsed() > SILENT {
            return Err(Error::new(
                Kind::Away,
                format!("the store has answered nothing for {} s", SILENT.as_secs()),
            ));
        }
    }
}

/// Commits, and tries again for a while where the store refuses.
fn until_refused(drive: &Drive, refused: Duration) -> Result<Version> {
    let begun = Instant::now();
    loop {
        match drive.commit_all() {
            Err(e) if e.kind() != Kind::Conflict && begun.elapsed() < refused => thread::sleep(AGAIN),
            outcome => return outcome,
        }
    }
}
