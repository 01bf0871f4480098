//! Whether what is not in the store stays in the journal when a mount ends.

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long whoever asked may take to detach the mount.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Who asked for it. Without anybody, a mount's end stores everything.
#[derive(Default)]
pub struct Leave(Mutex<Asked>);

#[derive(Default)]
enum Asked {
    #[default]
    Nobody,
    /// The caller cannot be known again (it is in another PID namespace): it detaches the mount at once, or not at all.
    Until(Instant),
    /// A process that then detaches the mount and waits for the daemon's end. Where it has ended before, it did not
    /// detach (the mount was in use, or it was killed), and somebody else's end of the mount is not what it asked for.
    By(OwnedFd),
}

impl Leave {
    /// `caller`: a pidfd of the process that is about to detach the mount.
    pub fn asked_by(&self, caller: Option<OwnedFd>) {
        *self.0.lock() = caller.map_or_else(|| Asked::Until(Instant::now() + AT_ONCE), Asked::By);
    }

    /// A commit was asked for instead.
    pub fn not(&self) {
        *self.0.lock() = Asked::Nobody;
    }

    /// To be asked when the mount has ended.
    pub fn holds(&self) -> bool {
        match &*self.0.lock() {
            Asked::Nobody => false,
            Asked::Until(time) => Instant::now() < *time,
            // A pidfd becomes readable when its process ends (pidfd_open(2)).
            Asked::By(caller) => {
                let mut ended = [PollFd::new(caller, PollFlags::IN)];
                poll(&mut ended, Some(&Timespec::default())) == Ok(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::process::Command;

    #[test]
    fn leaving_the_rest_holds_for_whoever_asked_and_still_waits() {
        let leave = Leave::default();
        assert!(!leave.holds());
        let mut caller = Command::new("sleep").arg("1000").spawn().unwrap();
        leave.asked_by(pidfd_open(Pid::from_child(&caller), PidfdFlags::empty()).ok());
        assert!(leave.holds());
        caller.kill().unwrap();
        caller.wait().unwrap();
        assert!(!leave.holds());
        leave.asked_by(None);
        assert!(leave.holds());
        // Somebody unmounts it, later.
        *leave.0.lock() = Asked::Until(Instant::now());
        assert!(!leave.holds());
        leave.not();
        assert!(!leave.holds());
    }
}
