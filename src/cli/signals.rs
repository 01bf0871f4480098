//! What signals mean to a process that serves a mount.
//!
//! | signal | |
//! | --- | --- |
//! | SIGTERM, SIGINT | commit, unmount, end; the second leaves the rest to the journal; the third ends at once |
//! | SIGHUP | open the log anew, and commit; in the foreground on a terminal, which has gone: as SIGTERM |
//! | SIGUSR1 | write the status into the log |
//!
//! SIGPIPE is ignored, as in all programs in Rust: a caller that hangs up is an error of its connection.

use super::backend::Running;
use super::control::Request;
use super::status::Told;
use super::{exit, logging};
use crate::error::{Context, Result};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread;

/// The mount that signals are for, once there is one.
pub struct Signals {
    running: Arc<Mutex<Option<Arc<dyn Running>>>>,
}

impl Signals {
    /// Must be called before any thread is made: threads inherit that these signals are blocked. `terminal`: the
    /// process ends when its terminal does.
    pub fn watch(terminal: bool) -> Result<Signals> {
        let running = Arc::new(Mutex::new(None));
        let set = block_signals()?;
        let watched = Signals { running: running.clone() };
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || watch(&set, &running, terminal))
            .context(|| "cannot start a thread for signals")?;
        Ok(watched)
    }

    /// From now on signals are for this mount; before, those that end ended the process.
    pub fn stop_on_signal(&self, mount: Arc<dyn Running>) {
        *self.running.lock() = Some(mount);
    }
}

fn watch(set: &libc::sigset_t, running: &Mutex<Option<Arc<dyn Running>>>, terminal: bool) {
    let mut ends = 0;
    loop {
        let signal = wait_signal(set);
        let mount = running.lock().clone();
        match (signal, mount) {
            (libc::SIGHUP, mount) if !terminal => hang_up(mount.as_deref()),
            (libc::SIGUSR1, Some(mount)) => tell_status(&*mount),
            (libc::SIGUSR1, None) => {}
            (_, Some(mount)) if ends < 2 => {
                ends += 1;
                end(mount, ends);
            }
            _ => std::process::exit(exit::INTERRUPTED.into()),
        }
    }
}

/// Ends a mount: patiently at first, at once the second time.
fn end(mount: Arc<dyn Running>, time: u32) {
    if time > 1 {
        tracing::warn!("told to end again: what is not stored stays in the journal");
        return mount.hurry();
    }
    tracing::info!("told to end: committing, then unmounting");
    let stopping = mount.clone();
    // On a thread of its own, so that the second signal is heard meanwhile.
    if let Err(e) = thread::Builder::new().name("stop".into()).spawn(move || stopping.stop()) {
        tracing::error!("cannot start a thread to end with: {e}");
        mount.hurry();
        mount.stop();
    }
}

fn hang_up(mount: Option<&dyn Running>) {
    if let Err(e) = logging::reopen() {
        tracing::error!("{}", e.chain());
    }
    tracing::info!("hung up: the log is open anew");
    if let Some(mount) = mount
        && let Err(e) = mount.handler().handle(Request::Commit {}, &mut Told::default())
    {
        tracing::error!("cannot start a commit: {}", e.chain());
    }
}

/// Writes the status into the log.
fn tell_status(mount: &dyn Running) {
    let mut told = Told::default();
    let asked = mount.handler().handle(Request::Status {}, &mut told).and_then(|()| told.status("the drive"));
    match asked.map(|status| serde_json::to_string(&status)) {
        Ok(Ok(text)) => tracing::info!("status: {text}"),
        Ok(Err(e)) => tracing::error!("cannot encode the status: {e}"),
        Err(e) => tracing::error!("cannot tell the status: {}", e.chain()),
    }
}

fn block_signals() -> Result<libc::sigset_t> {
    // A file over the limit of their size (setrlimit(2)) is an error of the write then, and no death.
    // SAFETY: no handler of ours runs; the signal number is valid.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set; the calls that follow use it, and the signal numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
            libc::sigaddset(&mut set, signal);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => Ok(set),
            e => Err(std::io::Error::from_raw_os_error(e)).context(|| "cannot block signals"),
        }
    }
}

fn wait_signal(set: &libc::sigset_t) -> i32 {
    let mut signal = 0;
    // SAFETY: both point to values of the right types; the set is of blocked signals. It fails only for a bad set.
    unsafe { libc::sigwait(set, &mut signal) };
    signal
}
