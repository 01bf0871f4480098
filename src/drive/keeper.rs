//! The threads that keep a mounted drive going: one makes durable what is acknowledged, every second or so;
//! one commits; one reads ahead; one prepares journal files. The drive itself needs none of them.

use super::Drive;
use crate::error::{Error, Kind, Result};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// How often things are done.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From a change to its being durable, at most.
    pub flush: Duration,
    /// Between commits, while there are changes.
    pub commit: Duration,
}

/// The running threads; [`Keeper::stop`] ends them.
pub struct Keeper {
    drive: Arc<Drive>,
    stopped: Arc<(Mutex<bool>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

/// The longest wait between tries while commits fail; and while writers wait for them.
const PATIENCE: Duration = Duration::from_secs(30);
const HASTE: Duration = Duration::from_secs(3);

impl Keeper {
    /// `look` is called whenever changes are about to be made durable.
    pub fn start(drive: Arc<Drive>, pace: Pace, mut look: impl FnMut() + Send + 'static) -> Result<Keeper> {
        let stopped = Arc::new((Mutex::new(false), Condvar::new()));
        let mut threads = Vec::new();
        let mut spawn = |name: &str, work: Box<dyn FnOnce() + Send>| -> Result<()> {
            let made = Builder::new().name(name.into()).spawn(work);
            threads.push(made.map_err(|e| Error::failed(format!("cannot start the thread {name}: {e}")))?);
            Ok(())
        };
        let (d, s) = (drive.clone(), stopped.clone());
        spawn("flush", Box::new(move || flush(&d, &s, pace.flush, &mut look)))?;
        let d = drive.clone();
        spawn("commit", Box::new(move || commit(&d, pace.commit)))?;
        let d = drive.clone();
        spawn("read-ahead", Box::new(move || while d.read_ahead() {}))?;
        let (d, s) = (drive.clone(), stopped.clone());
        spawn("prepare", Box::new(move || prepare(&d, &s)))?;
        Ok(Keeper { drive, stopped, threads })
    }

    /// Whether all threads are there.
    pub fn is_whole(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends the threads, and waits for what they are doing; whoever waits for a store that does not answer is left to
    /// end with the process.
    pub fn stop_within(&mut self, patience: Duration) {
        self.tell_to_stop();
        let deadline = Instant::now() + patience;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                let left: Vec<_> = self.threads.iter().filter(|t| !t.is_finished()).collect();
                let names: Vec<_> = left.iter().filter_map(|t| t.thread().name()).collect();
                tracing::warn!("not waited for: {}", names.join(", "));
                self.threads.retain(JoinHandle::is_finished);
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.join();
    }

    /// Ends the threads, and waits for what they are doing.
    pub fn stop(&mut self) {
        self.tell_to_stop();
        self.join();
    }

    fn tell_to_stop(&self) {
        *self.stopped.0.lock() = true;
        self.stopped.1.notify_all();
        self.drive.stop_waiting();
        self.drive.stop_read_ahead();
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the drive panicked");
            }
        }
    }
}

/// Waits; true when it is time to stop.
fn pause(stopped: &(Mutex<bool>, Condvar), time: Duration) -> bool {
    let mut s = stopped.0.lock();
    if !*s {
        stopped.1.wait_for(&mut s, time);
    }
    *s
}

/// Tells the log of an error once, however often it comes, and of its end.
struct Trouble {
    what: &'static str,
    last: Option<Kind>,
}

impl Trouble {
    fn new(what: &'static str) -> Trouble {
        Trouble { what, last: None }
    }

    /// Returns whether it went well.
    fn note(&mut self, drive: &Drive, outcome: Result<()>) -> bool {
        match outcome {
            Ok(()) => {
                if self.last.take().is_some() {
                    tracing::info!("no longer: cannot {}", self.what);
                }
                true
            }
            Err(e) => {
                if self.last.replace(e.kind()) != Some(e.kind()) {
                    tracing::error!("cannot {}: {}", self.what, e.chain());
                }
                drive.note_error(&e);
                false
            }
        }
    }
}

fn flush(drive: &Drive, stopped: &(Mutex<bool>, Condvar), every: Duration, look: &mut dyn FnMut()) {
    let mut trouble = Trouble::new("make changes durable");
    while !pause(stopped, every) {
        look();
        drive.balance_memory();
        if drive.journal().durable() < drive.journal().last() {
            // Not `Drive::sync`, which with `sync=store` would wait for the store.
            trouble.note(drive, drive.journal().sync(drive.journal().last()));
        }
    }
}

fn prepare(drive: &Drive, stopped: &(Mutex<bool>, Condvar)) {
    let mut trouble = Trouble::new("prepare a journal file");
    while !pause(stopped, Duration::from_millis(200)) {
        if !trouble.note(drive, drive.journal().prepare()) && pause(stopped, Duration::from_secs(2)) {
            return;
        }
    }
}

fn commit(drive: &Drive, every: Duration) {
    let mut wait = every;
    // A store that refuses is not tried without rest, however much writers press.
    let mut rest = Duration::ZERO;
    while drive.wait_for_work(rest, wait) {
        let begun = Instant::now();
        match drive.commit() {
            Ok(_) => {
                // However fast the store is, commits take no more than half of the time.
                wait = every.max(begun.elapsed());
                rest = Duration::ZERO;
            }
            // The drive has told the log.
            Err(_) => {
                wait = (wait * 2).min(PATIENCE);
                rest = wait.min(HASTE);
            }
        }
    }
}
