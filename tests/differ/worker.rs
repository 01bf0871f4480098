//! A user on one of the two file systems: a thread with an identity, a root directory, a umask and a table of
//! descriptors of its own. (The raw system calls change one thread; the C library would change all. Locks of
//! fcntl(2) belong to the table of descriptors, so threads like these conflict as processes do.)

use crate::calls::{Call, User};
use crate::outcome::{Errno, Outcome};
use crate::seat::Seat;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a worker is asked to do.
#[derive(Clone, Copy)]
enum Ask {
    Call(Call),
    /// Put the open file of a slot on the wire, and the other side of it: take one from there.
    Give {
        slot: u8,
    },
    Take {
        slot: u8,
    },
}

/// The wire on which open files go from one user to another: each worker keeps its own copies of both ends, from
/// when it begins.
pub type Wire = (UnixDatagram, UnixDatagram);

pub fn wire() -> Wire {
    UnixDatagram::pair().expect("a pair of sockets")
}

pub struct Worker {
    ask: Option<Sender<Ask>>,
    answers: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
    /// By which /proc knows the thread.
    pub tid: i32,
}

impl Worker {
    /// Somebody whose root directory is `root`.
    pub fn start(root: &Path, user: &'static User, wire: &Wire) -> Worker {
        let (ask, asked) = channel::<Ask>();
        let (answer, answers) = channel();
        let (ready, is_ready) = channel();
        let (root, ends) = (root.to_owned(), [wire.0.as_raw_fd(), wire.1.as_raw_fd()]);
        let run = move || {
            become_user(&root, user, ends).unwrap_or_else(|e| panic!("{user:?} in {}: {e}", root.display()));
            // SAFETY: the call has no arguments.
            ready.send(unsafe { libc::gettid() }).unwrap_or(());
            let mut seat = Seat::default();
            while let Ok(ask) = asked.recv() {
                let outcome = match ask {
                    Ask::Call(call) => seat.perform(&call),
                    Ask::Give { slot } => seat.give(slot, ends[0]),
                    Ask::Take { slot } => seat.take(slot, ends[1]),
                };
                if answer.send(outcome).is_err() {
                    break;
                }
            }
            // What is open is closed with the thread's table.
        };
        let thread = std::thread::Builder::new().name(user.name.into()).spawn(run).expect("a thread");
        let tid = is_ready.recv().expect("a worker that has begun");
        Worker { ask: Some(ask), answers, thread: Some(thread), tid }
    }

    pub fn call(&self, call: &Call) -> Outcome {
        self.ask(Ask::Call(*call))
    }

    /// Gives the open file of a slot to somebody else, into the same slot there.
    pub fn pass(&self, slot: u8, to: &Worker) -> Outcome {
        self.ask(Ask::Give { slot })?;
        to.ask(Ask::Take { slot })
    }

    fn ask(&self, ask: Ask) -> Outcome {
        let lost = Err(Errno(libc::ETIMEDOUT));
        let Some(worker) = &self.ask else { return lost };
        if worker.send(ask).is_err() {
            return lost;
        }
        // No call waits for another here: one that does not come back is a fault, and there is no going on.
        self.answers.recv_timeout(Duration::from_secs(60)).expect("a call came back within a minute")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has said so, and its caller has met the loss of the answer.
            let _ = thread.join();
        }
        // A thread is joined before the kernel closes what it had open: until it is gone from /proc, unmounting may
        // find the file system busy.
        let task = format!("/proc/self/task/{}", self.tid);
        let until = Instant::now() + Duration::from_secs(60);
        while Path::new(&task).exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn become_user(root: &Path, user: &User, keep: [RawFd; 2]) -> io::Result<()> {
    let root = std::ffi::CString::new(root.as_os_str().as_bytes())?;
    let check = |r: i64| if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: the raw calls change this thread alone, and read what they point to during the call. Closing
    // touches only this thread's copy of the table, of which nothing in this thread owns a descriptor.
    unsafe {
        check(libc::unshare(libc::CLONE_FS | libc::CLONE_FILES).into())?;
        let (low, high) = (keep[0].min(keep[1]) as u32, keep[0].max(keep[1]) as u32);
        for (from, to) in [(3, low - 1), (low + 1, high - 1), (high + 1, u32::MAX)] {
            if from <= to {
                check(libc::syscall(libc::SYS_close_range, from, to, 0))?;
            }
        }
        check(libc::chroot(root.as_ptr()).into())?;
        check(libc::chdir(c"/".as_ptr()).into())?;
        libc::umask(0o022);
        check(libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid))?;
        check(libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid))
    }
}
