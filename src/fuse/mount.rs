//! Mounting, serving and unmounting a drive.

use super::attach::{Attach, SUBTYPE, detach_by_helper};
use super::convert::Shown;
use super::counts::Counts;
use super::dispatch::Durable;
use super::mountinfo::{self, device_at, device_of};
use super::ops::Ops;
use super::poll::{Poller, Polling};
use super::shed::Shedding;
use crate::drive::Drive;
use crate::error::{Context, Error, Kind, Result};
use fuser::{Config, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// The kernel's read-ahead for files of a mount, in KiB. Its default of 128 halves the speed of reading a
/// file from its beginning to its end.
const READ_AHEAD_KB: &[u8] = b"1024";

/// How a drive is mounted.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// What df(1) and mountinfo show as the source: the store, as it was given.
    pub source: String,
    pub read_only: bool,
    /// The device (`major:minor`) of a dead mount that is on top at the place: this one is mounted in its place.
    pub instead_of: Option<String>,
    /// Whether others than the one who mounts may see the mount. The modes of files hold in any case.
    pub allow_other: bool,
    /// Whether suid and sgid have an effect, device nodes work, and programs run. The first two are for root:
    /// a mount by anybody else is always nosuid and nodev.
    pub suid: bool,
    pub dev: bool,
    pub exec: bool,
    /// Whether symbolic links are followed. Only root can say no.
    pub symfollow: bool,
    /// For mountinfo; the drive itself is told by its settings.
    pub noatime: bool,
    pub nodiratime: bool,
    /// What is durable before the call that changed it returns.
    pub durable: Durable,
    /// Show everything as owned by this user or group.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Let the kernel collect writes, at the price of half a minute of them when the machine stops.
    pub writeback: bool,
    /// For how long the kernel may keep names (and their absence) and attributes without asking.
    pub entry_timeout: Duration,
    pub attr_timeout: Duration,
    /// Threads for what has to wait, for each of three lanes: misses, changes, fsync.
    pub workers: usize,
    /// Whether the event loop may poll the device while requests keep coming.
    pub poll: bool,
}

impl Default for MountConfig {
    fn default() -> MountConfig {
        MountConfig {
            source: SUBTYPE.to_owned(),
            read_only: false,
            instead_of: None,
            allow_other: false,
            suid: true,
            dev: true,
            exec: true,
            symfollow: true,
            noatime: false,
            nodiratime: false,
            durable: Durable::OnDemand,
            uid: None,
            gid: None,
            writeback: false,
            entry_timeout: Duration::from_secs(3600),
            attr_timeout: Duration::from_secs(3600),
            workers: 8,
            poll: true,
        }
    }
}

/// A drive that is mounted and not yet served: requests wait until [`Mount::run`] or [`Mount::spawn`].
/// Dropping it unmounts.
pub struct Mount {
    session: Session<Ops>,
    counts: Arc<Counts>,
    polling: Option<Polling>,
    shedding: Shedding,
    place: Place,
}

impl Mount {
    /// Mounts `drive` at `mountpoint`, a directory; where a dead mount is to make room for it, as mountinfo has it.
    ///
    /// # Errors
    /// `Usage` where the directory will not do, `Conflict` where a dead mount stands there; else `Failed`, with
    /// what is missing on the machine and how to get it.
    pub fn new(drive: Arc<Drive>, mountpoint: &Path, config: &MountConfig) -> Result<Mount> {
        let dir = match config.instead_of {
            // Who looks at it finds the dead mount.
            Some(_) => mountpoint.to_owned(),
            None => directory(mountpoint)?,
        };
        let shown = Shown {
            entry_timeout: config.entry_timeout,
            attr_timeout: config.attr_timeout,
            uid: config.uid,
            gid: config.gid,
        };
        let poller = Arc::new(Poller::default());
        let ops = Ops::new(
            drive.clone(),
            shown,
            Arc::clone(&poller),
            config.workers,
            config.writeback,
            config.durable,
        )?;
        let counts = Arc::clone(ops.counts());
        let attach = Attach {
            source: config.source.clone(),
            read_only: config.read_only,
            allow_other: config.allow_other,
            suid: config.suid,
            dev: config.dev,
            exec: config.exec,
            symfollow: config.symfollow,
            noatime: config.noatime,
            nodiratime: config.nodiratime,
            sync: config.durable == Durable::Changes,
        };
        let fd = attach.attach(&dir, config.instead_of.as_deref())?;
        let device = device_of(&fd).map_or_else(|| device_at(&dir), |device| Ok(Some(device)));
        let device = device.and_then(|device| {
            device.ok_or_else(|| Error::failed("it is not mounted, though mounting it succeeded"))
        });
        let device = match device {
            Ok(device) => device,
            Err(e) => {
                // Nothing can be said about what cannot be seen: the first error is the one to tell.
                let _ = rustix::mount::unmount(&dir, UnmountFlags::DETACH);
                return Err(e.context(format!("cannot mount at {}", dir.display())));
            }
        };
        let place = Place(Unmounter { dir, device, ended: Arc::new(AtomicBool::new(false)) });
        let mut session = Config::default();
        session.n_threads = Some(1);
        // The kernel itself lets in nobody but the owner, unless it was told `allow_other`.
        let session = Session::from_fd(ops, fd, SessionACL::All, session)
            .context(|| format!("the kernel did not take up the mount at {}", place.0.dir.display()))?;
        // Only now: the handshake sets it to what the kernel offered.
        if let Err(e) = raise_read_ahead(&place.0.device) {
            tracing::debug!("the kernel's read-ahead stays as it is: {e}");
        }
        let polling = if config.poll { Polling::start(&session, &poller)? } else { None };
        let shedding = Shedding::start(session.notifier(), &drive)?;
        Ok(Mount { session, counts, polling, shedding, place })
    }

    /// What the kernel asked for, counted.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// `major:minor`, as mountinfo has it.
    pub fn device(&self) -> &str {
        &self.place.0.device
    }

    /// What unmounts this mount, from any thread.
    pub fn unmounter(&self) -> Unmounter {
        self.place.0.clone()
    }

    /// Serves the kernel until somebody unmounts, from here or from outside.
    ///
    /// # Errors
    /// `Failed` where the session broke down; it is then taken out of sight, so that nobody meets "Transport
    /// endpoint is not connected".
    pub fn run(self) -> Result<()> {
        let Mount { session, polling, shedding, place, .. } = self;
        let result = session.run();
        drop((polling, shedding));
        if result.is_ok() {
            place.0.ended.store(true, Relaxed);
        }
        result.context(|| format!("the mount at {} broke down", place.0.dir.display()))
    }

    /// Serves the kernel on a thread of its own.
    pub fn spawn(self) -> Result<Serving> {
        let unmounter = self.unmounter();
        let (tell, told) = channel();
        let abandon = tell.clone();
        let serve = move || {
            let served = catch_unwind(AssertUnwindSafe(|| self.run()))
                .unwrap_or_else(|_| Err(Error::failed("the thread that served the mount panicked")));
            // Whoever has given the mount up hears nothing.
            let _ = tell.send(served);
        };
        let thread = thread::Builder::new().name("fuse-serve".into()).spawn(serve);
        drop(thread.context(|| "cannot start a thread to serve the mount")?);
        Ok(Serving { unmounter, told, abandon })
    }
}

/// A drive that is mounted and served by a thread of its own.
pub struct Serving {
    unmounter: Unmounter,
    told: Receiver<Result<()>>,
    abandon: Sender<Result<()>>,
}

/// Gives a mount up that cannot be unmounted.
pub struct Abandon(Sender<Result<()>>);

impl Abandon {
    /// Has [`Serving::wait`] return, although the mount is served on. It is dead when the process ends.
    pub fn abandon(&self) {
        // Nobody waits any more.
        let _ = self.0.send(Ok(()));
    }
}

impl Serving {
    /// What unmounts this mount, from any thread.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    pub fn abandon(&self) -> Abandon {
        Abandon(self.abandon.clone())
    }

    /// Waits until the mount has ended, or is abandoned.
    pub fn wait(self) -> Result<()> {
        self.told.recv().unwrap_or(Ok(()))
    }
}

/// Where a session is mounted. Takes the mount away when the session has gone.
struct Place(Unmounter);

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(e) = self.0.detach() {
            tracing::error!("{}", e.chain());
        }
    }
}

/// Unmounts one drive, and no other mount that may have come to stand at its place.
#[derive(Clone, Debug)]
pub struct Unmounter {
    /// Where it was mounted.
    dir: PathBuf,
    /// `major:minor`, as mountinfo has it.
    device: String,
    /// The kernel has ended the session. It may give the device's number to another mount.
    ended: Arc<AtomicBool>,
}

impl Unmounter {
    /// Unmounts. Where it is not mounted any more, there is nothing to do.
    ///
    /// # Errors
    /// `Conflict` where files are open, or something else is mounted over it.
    pub fn unmount(&self) -> Result<()> {
        self.unmount_with(UnmountFlags::empty())
    }

    /// Takes the mount out of sight at once; it ends when the last open file is closed.
    pub fn detach(&self) -> Result<()> {
        self.unmount_with(UnmountFlags::DETACH)
    }

    /// Takes the mount out of sight and cuts off whoever has files open: their next operations fail. Only root may
    /// cut off; for others it is [`detach`](Unmounter::detach).
    pub fn cut_off(&self) -> Result<()> {
        match rustix::process::geteuid().is_root() {
            true => self.unmount_with(UnmountFlags::FORCE | UnmountFlags::DETACH),
            false => self.detach(),
        }
    }

    /// Wherever it is by now: it may have been moved, and there may be bind mounts of it.
    fn unmount_with(&self, flags: UnmountFlags) -> Result<()> {
        // Each round takes the newest away; a mount that comes back for ever is somebody's joke.
        for _ in 0..MAX_PLACES {
            if self.ended.load(Relaxed) {
                return Ok(());
            }
            let mut mounts = mountinfo::all()?;
            let newest = mounts.iter().rev().find(|m| m.device == self.device).map(|m| m.place.clone());
            let Some(place) = newest else { return Ok(()) };
            let dir = place.display();
            mounts.retain(|m| m.place == place);
            if mountinfo::top(&mounts).is_some_and(|m| m.device != self.device) {
                let message = format!("{dir}: something else is mounted over it; unmount that first");
                return Err(Error::new(Kind::Conflict, message));
            }
            unmount_at(&place, flags)?;
        }
        Err(Error::failed(format!("{} is mounted at too many places", self.dir.display())))
    }
}

/// A mount has fewer places than this.
const MAX_PLACES: usize = 1000;

pub(super) fn unmount_at(place: &Path, flags: UnmountFlags) -> Result<()> {
    let dir = place.display();
    let result = match rustix::mount::unmount(place, flags | UnmountFlags::NOFOLLOW) {
        // EINVAL: somebody else was faster.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::PERM) => detach_by_helper(place, flags.contains(UnmountFlags::DETACH)),
        Err(Errno::BUSY) => Err(Error::new(Kind::Conflict, "files are open")),
        Err(e) => Err(io::Error::from(e).into()),
    };
    result.map_err(|e| match e.kind() {
        Kind::Conflict => e.context(format!(
            "{dir} is in use: close what is open there (`fuser -vm {dir}` lists it), then try again"
        )),
        _ => e.context(format!("cannot unmount {dir}")),
    })
}

/// The mount point as mountinfo will have it.
fn directory(mountpoint: &Path) -> Result<PathBuf> {
    let shown = mountpoint.display();
    let usage = |message: String| Error::new(Kind::Usage, message);
    // Not `metadata`: statx(2) as it asks it would set off an automount, which waits for this very mount.
    match rustix::fs::stat(mountpoint) {
        Ok(found) if rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() => {
            mountpoint.canonicalize().context(|| format!("cannot find out where {shown} is"))
        }
        Ok(_) => Err(usage(format!("{shown} is not a directory: a drive is mounted at a directory"))),
        Err(Errno::NOENT) => Err(usage(format!("{shown} does not exist: make the directory first"))),
        Err(Errno::NOTCONN) => Err(Error::new(
            Kind::Conflict,
            format!("{shown} holds a mount whose daemon has died: clear it with `umount -l {shown}`"),
        )),
        Err(e) => Err(Error::from(io::Error::from(e)).context(format!("cannot mount at {shown}"))),
    }
}

/// Only root may do this, and without it everything works.
fn raise_read_ahead(device: &str) -> io::Result<()> {
    std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_a_directory_that_exists() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, says) in [(tmp.path().join("none"), "does not exist"), (file, "not a directory")] {
            let e = directory(&path).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(e.to_string().contains(says), "{e}");
        }
        assert!(directory(tmp.path()).is_ok());
    }

    #[test]
    fn what_is_not_mounted_needs_no_unmounting() {
        let tmp = tempfile::tempdir().unwrap();
        let gone = Unmounter { dir: tmp.path().to_owned(), device: "0:0".into(), ended: Arc::default() };
        gone.unmount().unwrap();
        gone.detach().unwrap();
    }

    #[test]
    fn what_stands_at_the_place_of_another_mount_is_left_alone() {
        // The root directory is surely mounted; it is not this mount, or the kernel has ended this mount.
        let root = device_at(Path::new("/")).unwrap().unwrap();
        for (device, ended) in [("0:0".to_owned(), false), (root, true)] {
            let ended = Arc::new(AtomicBool::new(ended));
            Unmounter { dir: "/".into(), device, ended }.unmount().unwrap();
            assert!(device_at(Path::new("/")).unwrap().is_some());
        }
    }
}
