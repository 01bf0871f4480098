//! Mounting, serving and unmounting.

use super::convert::Shown;
use super::mountinfo::devices_at;
use super::ops::Ops;
use super::poll::{Poller, Polling};
use crate::drive::Drive;
use crate::error::{Context, Error, Kind, Result};
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The type of a mounted drive, as mount(8) shows it, is `fuse.` and this.
pub const SUBTYPE: &str = "nacrefs";

/// The kernel's read-ahead for files of a mount, in KiB. Its default of 128 halves the speed of reading a
/// file from its beginning to its end.
const READ_AHEAD_KB: &[u8] = b"1024";

const DEVICE: &str = "/dev/fuse";

/// How a drive is mounted.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// What df(1) and mountinfo show as the source: the store's URL.
    pub source: String,
    pub read_only: bool,
    /// Whether others than the one who mounts may see the mount. The modes of files hold in any case.
    pub allow_other: bool,
    /// Whether suid and sgid have an effect, device nodes work, and programs run. The first two are for root:
    /// a mount by anybody else is always nosuid and nodev.
    pub suid: bool,
    pub dev: bool,
    pub exec: bool,
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
            allow_other: false,
            suid: true,
            dev: true,
            exec: true,
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
    polling: Option<Polling>,
    unmounter: Unmounter,
}

impl Mount {
    /// Mounts `drive` at `mountpoint`, a directory. Descriptors 0 to 2 must be open.
    ///
    /// # Errors
    /// `Usage` where the directory or the options will not do; else `Failed`, with what is missing on the
    /// machine and how to get it.
    pub fn new(drive: Arc<Drive>, mountpoint: &Path, config: &MountConfig) -> Result<Mount> {
        let root = rustix::process::geteuid().is_root();
        let options = session_config(config, root)?;
        let dir = directory(mountpoint)?;
        let shown = Shown {
            entry_timeout: config.entry_timeout,
            attr_timeout: config.attr_timeout,
            uid: config.uid,
            gid: config.gid,
        };
        let poller = Arc::new(Poller::default());
        let ops = Ops::new(drive, shown, Arc::clone(&poller), config.workers, config.writeback)?;
        let session = Session::new(ops, &dir, &options)
            .map_err(|e| explain(e, &dir, config.allow_other, Path::new(DEVICE).exists()))?;
        let device = devices_at(&dir)?.pop().ok_or_else(|| {
            Error::failed(format!("{} is not mounted, though mounting it succeeded", dir.display()))
        })?;
        if let Err(e) = raise_read_ahead(&device) {
            tracing::debug!("the kernel's read-ahead stays as it is: {e}");
        }
        let polling = if config.poll { Polling::start(&session, &poller)? } else { None };
        Ok(Mount { session, polling, unmounter: Unmounter { dir, device } })
    }

    /// What unmounts this mount, from any thread.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Serves the kernel until somebody unmounts, from here or from outside.
    pub fn run(self) -> Result<()> {
        let Mount { session, polling, unmounter } = self;
        let result = session.run().context(|| format!("the mount at {} broke down", unmounter.dir.display()));
        drop(polling);
        if result.is_err() {
            // Else users would meet "Transport endpoint is not connected" there.
            unmounter.detach()?;
        }
        result
    }

    /// Serves the kernel on a thread of its own.
    pub fn spawn(self) -> Result<Serving> {
        let unmounter = self.unmounter();
        let thread = thread::Builder::new()
            .name("fuse-serve".into())
            .spawn(move || self.run())
            .context(|| "cannot start a thread to serve the mount")?;
        Ok(Serving { unmounter, thread })
    }
}

/// A drive that is mounted and served by a thread of its own.
pub struct Serving {
    unmounter: Unmounter,
    thread: JoinHandle<Result<()>>,
}

impl Serving {
    /// What unmounts this mount, from any thread.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Whether the mount has ended, for example because somebody unmounted it.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the mount has ended.
    pub fn wait(self) -> Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(Error::failed("the thread that served the mount panicked")))
    }
}

/// Unmounts one mount, and no other that may have come to stand at its place.
#[derive(Clone, Debug)]
pub struct Unmounter {
    dir: PathBuf,
    /// `major:minor`, as mountinfo has it.
    device: String,
}

impl Unmounter {
    /// Unmounts. Where it is not mounted any more, there is nothing to do.
    ///
    /// # Errors
    /// `Conflict` where files are open or something else is mounted over it.
    pub fn unmount(&self) -> Result<()> {
        self.unmount_with(UnmountFlags::empty())
    }

    /// Takes the mount out of sight at once; it ends when the last open file is closed.
    pub fn detach(&self) -> Result<()> {
        self.unmount_with(UnmountFlags::DETACH)
    }

    fn unmount_with(&self, flags: UnmountFlags) -> Result<()> {
        let dir = self.dir.display();
        let devices = devices_at(&self.dir)?;
        match devices.last() {
            Some(top) if *top == self.device => {}
            _ if devices.contains(&self.device) => {
                let message = format!("{dir}: something else is mounted over it; unmount that first");
                return Err(Error::new(Kind::Conflict, message));
            }
            _ => return Ok(()),
        }
        match rustix::mount::unmount(&self.dir, flags | UnmountFlags::NOFOLLOW) {
            // EINVAL: somebody else was faster.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(Errno::PERM) => self.unmount_by_helper(flags),
            Err(Errno::BUSY) => Err(busy(&self.dir)),
            Err(e) => Err(Error::from(io::Error::from(e)).context(format!("cannot unmount {dir}"))),
        }
    }

    /// Those who are not root unmount by way of fusermount3, as they mounted.
    fn unmount_by_helper(&self, flags: UnmountFlags) -> Result<()> {
        let dir = self.dir.display();
        let mut command = Command::new("fusermount3");
        command.arg("-u").args(flags.contains(UnmountFlags::DETACH).then_some("-z")).arg("--").arg(&self.dir);
        let output = command.output().map_err(|e| {
            let hint = if e.kind() == io::ErrorKind::NotFound { ": install the package fuse3" } else { "" };
            Error::failed(format!("cannot unmount {dir}: cannot run fusermount3{hint}")).with_source(e)
        })?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(()),
            false if said.contains("busy") => Err(busy(&self.dir)),
            false => Err(Error::failed(format!("cannot unmount {dir}: {}", said.trim()))),
        }
    }
}

fn busy(dir: &Path) -> Error {
    let dir = dir.display();
    Error::new(
        Kind::Conflict,
        format!("{dir} is in use: close what is open there (`fuser -vm {dir}` lists it), then try again"),
    )
}

/// The options for fuser and the kernel. `default_permissions` is not an option: the kernel checks every access
/// by mode, owner and ACL.
fn session_config(config: &MountConfig, root: bool) -> Result<Config> {
    if config.writeback && !config.allow_other && !root {
        // The kernel writes times back in its own name, which fuser would take for a stranger's.
        return Err(Error::new(
            Kind::Usage,
            "-o writeback needs -o allow_other where not root mounts: the kernel itself must be let in",
        ));
    }
    // The helper splits options at commas, and takes a backslash for an escape; in a URL both may be written
    // in hexadecimal.
    let source = config.source.replace(',', "%2C").replace('\\', "%5C");
    let mut options = vec![
        MountOption::FSName(source),
        // fuser's own option for this is not passed on where root mounts.
        MountOption::CUSTOM(format!("subtype={SUBTYPE}")),
        MountOption::DefaultPermissions,
        if config.read_only { MountOption::RO } else { MountOption::RW },
        if config.suid && root { MountOption::Suid } else { MountOption::NoSuid },
        if config.dev && root { MountOption::Dev } else { MountOption::NoDev },
    ];
    if !config.exec {
        options.push(MountOption::NoExec);
    }
    let mut session = Config::default();
    session.mount_options = options;
    session.acl = if config.allow_other { SessionACL::All } else { SessionACL::Owner };
    session.n_threads = Some(1);
    Ok(session)
}

/// The mount point as mountinfo will have it.
fn directory(mountpoint: &Path) -> Result<PathBuf> {
    let shown = mountpoint.display();
    let usage = |message: String| Error::new(Kind::Usage, message);
    let dir = mountpoint.canonicalize().map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT) => usage(format!("{shown} does not exist: make the directory first")),
        Some(libc::ENOTCONN) => Error::new(
            Kind::Conflict,
            format!("{shown} holds a mount whose daemon has died: clear it with `umount -l {shown}`"),
        ),
        _ => Error::from(e).context(format!("cannot mount at {shown}")),
    })?;
    if !dir.is_dir() {
        return Err(usage(format!("{shown} is not a directory: a drive is mounted at a directory")));
    }
    Ok(dir)
}

/// Says what to do about a failed mount.
fn explain(e: io::Error, dir: &Path, allow_other: bool, device_exists: bool) -> Error {
    let said = e.to_string();
    let hint = if !device_exists {
        "/dev/fuse is not there: load the kernel's module (`modprobe fuse`), or give the device to the container"
    } else if said.contains("user_allow_other") && allow_other {
        "-o allow_other is for root, unless /etc/fuse.conf says `user_allow_other`: add that line, or leave the option out"
    } else if e.kind() == io::ErrorKind::NotFound {
        "fusermount3 is missing: install the package fuse3"
    } else if e.kind() == io::ErrorKind::PermissionDenied {
        "this user may not open /dev/fuse or the directory: see `ls -ld` of both"
    } else {
        ""
    };
    let at = dir.display();
    let message = match hint {
        "" => format!("cannot mount at {at}"),
        hint => format!("cannot mount at {at}: {hint}"),
    };
    Error::failed(message).with_source(e)
}

/// Only root may do this, and without it everything works.
fn raise_read_ahead(device: &str) -> io::Result<()> {
    std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KB)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(config: &MountConfig, root: bool) -> Vec<MountOption> {
        session_config(config, root).unwrap().mount_options
    }

    #[test]
    fn the_kernel_always_checks_permissions() {
        for (root, read_only) in [(true, false), (false, true)] {
            let options = options(&MountConfig { read_only, ..MountConfig::default() }, root);
            assert!(options.contains(&MountOption::DefaultPermissions));
            assert_eq!(options.contains(&MountOption::RO), read_only);
        }
    }

    #[test]
    fn only_root_gets_suid_and_devices() {
        let with = |root| options(&MountConfig::default(), root);
        assert!(with(true).contains(&MountOption::Suid) && with(true).contains(&MountOption::Dev));
        assert!(with(false).contains(&MountOption::NoSuid) && with(false).contains(&MountOption::NoDev));
        let asked = MountConfig { suid: false, dev: false, exec: false, ..MountConfig::default() };
        let options = options(&asked, true);
        for o in [MountOption::NoSuid, MountOption::NoDev, MountOption::NoExec] {
            assert!(options.contains(&o));
        }
    }

    #[test]
    fn a_source_cannot_smuggle_in_options() {
        let config = MountConfig { source: "s3://b/x,allow_other\\".into(), ..MountConfig::default() };
        let name = MountOption::FSName("s3://b/x%2Callow_other%5C".into());
        assert!(options(&config, false).contains(&name));
    }

    #[test]
    fn writeback_needs_the_kernel_to_be_let_in() {
        let config = MountConfig { writeback: true, ..MountConfig::default() };
        assert_eq!(session_config(&config, false).unwrap_err().kind(), Kind::Usage);
        assert!(session_config(&config, true).is_ok());
        assert!(session_config(&MountConfig { allow_other: true, ..config }, false).is_ok());
    }

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
    fn a_failed_mount_says_what_to_do() {
        let failed = |kind, said: &str, allow_other, device| {
            explain(io::Error::new(kind, said.to_owned()), Path::new("/m"), allow_other, device).to_string()
        };
        use io::ErrorKind::*;
        assert!(failed(NotFound, "", false, false).contains("modprobe fuse"));
        assert!(failed(NotFound, "", false, true).contains("install the package fuse3"));
        let refused = "option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        assert!(failed(PermissionDenied, refused, true, true).contains("/etc/fuse.conf"));
        assert!(failed(PermissionDenied, "", false, true).contains("ls -ld"));
        let e = explain(io::Error::other("EBUSY of some sort"), Path::new("/m"), false, true);
        assert_eq!(e.chain(), "cannot mount at /m: EBUSY of some sort");
    }

    #[test]
    fn what_is_not_mounted_needs_no_unmounting() {
        let tmp = tempfile::tempdir().unwrap();
        let gone = Unmounter { dir: tmp.path().to_owned(), device: "0:0".into() };
        gone.unmount().unwrap();
        gone.detach().unwrap();
    }
}
