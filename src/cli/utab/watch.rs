//! Looks after a drive's entries in utab, for as long as it is mounted.

use super::{FILE, Table};
use crate::cli::mounts::{self, Mount};
use crate::error::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// A thread that ends when this is dropped.
pub struct Watch {
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Of the drive that `mount` is of.
    pub fn start(table: Table, mount: Mount) -> Result<Watch> {
        let end = Arc::new(
            eventfd(0, EventfdFlags::CLOEXEC)
                .map_err(io::Error::from)
                .context(|| "cannot make an eventfd")?,
        );
        // The kernel marks it when a mount of this namespace comes or goes (proc_pid_mountinfo(5)).
        let mounts = File::open("/proc/self/mountinfo").context(|| "cannot open /proc/self/mountinfo")?;
        // Whoever changes the file puts a new one in its place.
        let names = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(io::Error::from)
            .context(|| "cannot watch directories")?;
        let told = end.clone();
        let thread = thread::Builder::new()
            .name("utab".into())
            .spawn(move || {
                let mut places = Places::default();
                loop {
                    // Anew each time: something else may be mounted there by now. Where it is missing, it is made below.
                    let watched =
                        inotify::add_watch(&names, &table.dir, WatchFlags::MOVED_TO | WatchFlags::DELETE);
                    let now = mounts::list().unwrap_or_default();
                    let settled = table.settle(places.of(&mount, &now));
                    if let Err(e) = &settled {
                        tracing::debug!("cannot write {}/{FILE}: {e}", table.dir.display());
                    }
                    // Nobody tells when a lock is free again, or when there is room.
                    let again = settled.is_err() || watched.is_err();
                    if !wait(&told, &mounts, &names, again.then_some(&AGAIN)) {
                        return;
                    }
                }
            })
            .context(|| "cannot start a thread for utab")?;
        Ok(Watch { end, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A counter of eight bytes (eventfd(2)).
        let told = rustix::io::write(&*self.end, &1u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            // It returns nothing; that it panicked was told then.
            let _ = thread.join();
        }
    }
}

/// When to try again what could not be done.
const AGAIN: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Waits for a change, or no longer than `time`; `false` when it is to end.
fn wait(end: &OwnedFd, mounts: &File, names: &OwnedFd, time: Option<&Timespec>) -> bool {
    let mut fds = [
        PollFd::new(end, PollFlags::IN),
        PollFd::new(mounts, PollFlags::PRI),
        PollFd::new(names, PollFlags::IN),
    ];
    while let Err(e) = poll(&mut fds, time) {
        if e != rustix::io::Errno::INTR {
            tracing::warn!(
                "plain `umount` may not wait for the store: cannot wait for changes of mounts: {e}"
            );
            return false;
        }
    }
    // What has changed is seen by looking.
    while rustix::io::read(names, &mut [0u8; 4096]).is_ok() {}
    fds.first().is_some_and(|end| end.revents().is_empty())
}

/// Where the drive is mounted, or was mounted last.
#[derive(Default)]
struct Places(Vec<PathBuf>);

impl Places {
    /// The places for which it is to have entries. When it is mounted nowhere any more it is where it was last, for as
    /// long as its daemon goes on: for a copy in another mount namespace, which is out of sight.
    fn of(&mut self, drive: &Mount, mounts: &[Mount]) -> &[PathBuf] {
        // When it is unmounted, the kernel gives its device number to the next who mounts.
        let is_of_drive =
            |m: &&Mount| m.device == drive.device && m.fs_type == drive.fs_type && m.source == drive.source;
        let mut now: Vec<PathBuf> = mounts.iter().filter(is_of_drive).map(|m| m.point.clone()).collect();
        now.sort();
        now.dedup();
        if now.is_empty() {
            self.0.retain(|place| mounts.iter().all(|m| m.point != *place));
        } else {
            self.0 = now;
        }
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_where_it_is_mounted_or_was_last_and_nothing_else_is() {
        let line = |device: &str, point: &str| {
            format!("36 35 {device} / {point} rw - fuse.nacrefs /s rw,user_id=0\n")
        };
        let mut places = Places::default();
        let drive = mounts::parse(line("0:7", "/a").as_bytes()).pop().unwrap();
        let mut of = |text: String| places.of(&drive, &mounts::parse(text.as_bytes())).to_vec();
        let (root, a, b) = (line("8:1", "/"), line("0:7", "/a"), line("0:7", "/b"));
        assert_eq!(of(format!("{root}{a}{b}{a}")), ["/a", "/b"].map(PathBuf::from));
        assert_eq!(of(format!("{root}{b}")), ["/b"].map(PathBuf::from));
        assert_eq!(of(root.clone()), ["/b"].map(PathBuf::from), "a copy of it may be elsewhere");
        let reused = "37 35 0:7 / /tmp rw - tmpfs none rw\n38 35 0:7 / /other rw - fuse.nacrefs /t rw\n";
        assert_eq!(of(format!("{root}{reused}")), ["/b"].map(PathBuf::from), "others have its number");
        assert!(of(format!("{root}{}", line("0:8", "/b"))).is_empty(), "another drive is there now");
    }
}
