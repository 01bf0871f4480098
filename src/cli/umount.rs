//! `nacrefs umount`: commit, detach, and wait until the daemon is gone.

use super::args;
use super::control::{Client, Request};
use super::mounts::{self, shown};
use super::output::Screen;
use crate::error::{Context, Error, Kind, Result};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long the daemon may take to end after it was detached: it has committed, or was told not to.
const END_TIME: Duration = Duration::from_secs(120);

pub fn run(args: &args::Umount) -> Result<()> {
    let mount = match mounts::at(&args.dir)? {
        Some(mount) if mount.is_ours() => mount,
        _ => return Err(Error::new(Kind::NotADrive, format!("{} is not a nacrefs mount", shown(&args.dir)))),
    };
    if mounts::is_dead(&mount.point) {
        return detach(&mount.point, true);
    }
    let client = Client::connect(&mounts::control_socket(&mount.point)?)?.served_by(mount.owner())?;
    let daemon = client.pid().map_or(Ok(None), handle)?;
    let mut screen = Screen::new(false);
    let committed = client.ask(&Request::Umount { local: args.local }, &mut screen);
    screen.finish()?;
    committed.map_err(|e| match e.kind() {
        Kind::Away => e.context(format!(
            "{} is still mounted: the store is out of reach; --local unmounts and keeps the rest in the journal",
            shown(&mount.point)
        )),
        Kind::NoSpace | Kind::Damage | Kind::Conflict => e.context(format!(
            "{} is still mounted, for not all of it could be stored; --local unmounts and keeps the rest in the journal",
            shown(&mount.point)
        )),
        _ => e,
    })?;
    detach(&mount.point, false)?;
    match daemon {
        Some(daemon) => wait_end(&daemon),
        None => Ok(()),
    }
}

/// Takes a mount away; `lazy` even where it is in use or dead.
pub fn detach(point: &Path, lazy: bool) -> Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match unmount(point, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(busy(point)),
        Err(Errno::PERM) => detach_as_user(point, lazy),
        Err(e) => Err(std::io::Error::from(e)).context(|| format!("cannot unmount {}", shown(point))),
    }
}

fn busy(point: &Path) -> Error {
    let point = shown(point);
    Error::new(
        Kind::Conflict,
        format!("{point} is in use, and still mounted (`fuser -vm {point}` shows by whom)"),
    )
}

/// Ordinary users unmount through the setuid helper of libfuse.
fn detach_as_user(point: &Path, lazy: bool) -> Result<()> {
    let output = Command::new("fusermount3")
        .args(if lazy { &["-u", "-z", "--"][..] } else { &["-u", "--"] })
        .arg(point)
        .stdin(Stdio::null())
        .output()
        .context(|| "cannot run fusermount3, without which only root can unmount: install fuse3")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if said.contains("busy") {
        Err(busy(point))
    } else {
        Err(Error::failed(format!("cannot unmount {}: {}", shown(point), said.trim())))
    }
}

/// A handle on the daemon that cannot come to mean another process; `None` where it has ended, or where the
/// kernel has no such handles.
fn handle(pid: Pid) -> Result<Option<OwnedFd>> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH | Errno::NOSYS) => Ok(None),
        Err(e) => Err(std::io::Error::from(e)).context(|| "cannot watch the daemon"),
    }
}

/// Waits until the process has ended, and with it its lock on the state directory.
fn wait_end(process: &OwnedFd) -> Result<()> {
    let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one valid pollfd, for the time of the call.
    match unsafe { libc::poll(&mut poll, 1, END_TIME.as_millis() as libc::c_int) } {
        0 => Err(Error::failed(format!(
            "unmounted, but the daemon has not ended within {} s",
            END_TIME.as_secs()
        ))),
        -1 => Err(std::io::Error::last_os_error()).context(|| "cannot wait for the daemon"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_awaited() {
        let mut child = Command::new("sleep").arg("0.2").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let start = std::time::Instant::now();
        wait_end(&handle(pid).unwrap().unwrap()).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(150));
        child.wait().unwrap();
        assert!(handle(pid).unwrap().is_none());
    }

    #[test]
    fn only_our_mounts_are_unmounted() {
        for dir in ["/", "/proc", "/no/such"] {
            let e = run(&args::Umount { dir: dir.into(), local: false }).unwrap_err();
            assert_eq!(e.exit_status(), 7, "{dir}");
        }
    }
}
