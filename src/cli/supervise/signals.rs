//! What signals mean to a supervisor: SIGTERM and SIGINT end it; SIGHUP is ignored, for whoever sends it by name means
//! the daemon, which opens its log anew.

use crate::error::{Context, Result};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// Keeps these signals until they are asked for. Dropping it, also in a child, lets them be as they were.
pub struct Signals {
    kept: libc::sigset_t,
    before: libc::sigset_t,
}

impl Signals {
    /// To be called while the process has one thread.
    pub fn keep() -> Result<Signals> {
        let (mut kept, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: `sigemptyset` initialises the one set, a `pthread_sigmask` that succeeds the other; the signal numbers
        // are valid.
        unsafe {
            libc::sigemptyset(kept.as_mut_ptr());
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD] {
                libc::sigaddset(kept.as_mut_ptr(), signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, kept.as_ptr(), before.as_mut_ptr()) {
                0 => Ok(Signals { kept: kept.assume_init(), before: before.assume_init() }),
                e => Err(std::io::Error::from_raw_os_error(e)).context(|| "cannot block signals"),
            }
        }
    }

    /// Waits for the end of a child; `None` where this process was told to end meanwhile.
    pub fn end_of(&self, child: Pid) -> Result<Option<WaitStatus>> {
        loop {
            // Looked at after the signals were blocked, so an end that comes later is heard.
            let ended = waitpid(Some(child), WaitOptions::NOHANG).map_err(std::io::Error::from);
            if let Some((_, status)) = ended.context(|| "cannot wait for the daemon")? {
                return Ok(Some(status));
            }
            if self.next(None) == Some(End) {
                return Ok(None);
            }
        }
    }

    /// Sleeps; `true` where this process was told to end meanwhile.
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.next(Some(left)) == Some(End) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    /// Waits for the next signal, for so long at most. `None`: nothing that ends this process.
    fn next(&self, time: Option<Duration>) -> Option<End> {
        let signal = match time {
            // SAFETY: the set is initialised, and nothing is asked for about the signal.
            None => unsafe { libc::sigwaitinfo(&self.kept, std::ptr::null_mut()) },
            Some(time) => {
                let time = libc::timespec {
                    tv_sec: time.as_secs() as libc::time_t,
                    tv_nsec: time.subsec_nanos().into(),
                };
                // SAFETY: as above; the time is valid and outlives the call.
                unsafe { libc::sigtimedwait(&self.kept, std::ptr::null_mut(), &time) }
            }
        };
        matches!(signal, libc::SIGTERM | libc::SIGINT).then_some(End)
    }
}

/// An order to end.
#[derive(PartialEq, Eq)]
struct End;

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: the set was initialised by the kernel. It cannot fail: the first argument is valid.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}
