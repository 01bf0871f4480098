//! `mount -o remount,…`: other flags for a mount that there is.
//!
//! The kernel changes what mount(2) has a flag for; of a FUSE mount nothing else can be changed, and what the daemon
//! was given (sizes, intervals, `allow_other`) stays as it is. Where something else is asked for, a line says so.

use super::control::Request;
use super::mounts::{self, shown};
use super::options::{Atime, MountOptions, Synchronous};
use super::output::Screen;
use super::status;
use crate::error::{Context, Error, Kind, Result};
use rustix::mount::{MountFlags, mount_remount};
use std::path::Path;

/// Remounts; `given` is what `options` were read from. With `ro`, what was written before is durable when it returns.
///
/// # Errors
/// `Conflict` where a file is open for writing and `ro` is asked for; `Usage` for `rw` where the drive itself was
/// opened read-only.
pub fn run(dir: &Path, options: &MountOptions, given: &[String]) -> Result<()> {
    let mount = match mounts::at(dir)? {
        Some(mount) if mount.is_ours() => mount,
        _ => return Err(Error::new(Kind::NotADrive, format!("{} is not a nacrefs mount", shown(dir)))),
    };
    let point = &mount.point;
    let remount = Request::Remount { ro: options.ro, options: given.to_vec() };
    mounts::daemon(&mount)?.ask(&remount, &mut Screen::new(false))?;
    let mut flags = flags(options);
    // fstab need not say what is so all the same: another's suid programs, and devices, are to have no effect.
    let status = status::of_mount(&mount)?;
    let of_user = mount.owner().is_some_and(|(user, _)| user != 0);
    flags.set(MountFlags::NOSUID, options.nosuid || of_user || status.uid.or(status.gid).is_some());
    flags.set(MountFlags::NODEV, options.nodev || of_user);
    // An empty list of options, where fd= and others would be: the kernel takes none for a FUSE mount that there is.
    mount_remount(point, flags, c"").map_err(|e| {
        use rustix::io::Errno;
        match e {
            Errno::BUSY => super::umount::busy(point).context("files are open for writing"),
            Errno::PERM => Error::failed(format!("{}: only root can remount", shown(point))),
            e => Error::from(std::io::Error::from(e)).context(format!("cannot remount {}", shown(point))),
        }
    })?;
    if options.ro {
        // Pages that the kernel kept (`-o writeback`) came to the daemon just now.
        let failed = || format!("{} is read-only now, but not all of it is durable", shown(point));
        let again = Request::Remount { ro: true, options: Vec::new() };
        mounts::daemon(&mount)
            .and_then(|client| client.ask(&again, &mut Screen::new(false)))
            .context(failed)?;
    }
    Ok(())
}

/// Makes the options what a mount's flags say, as mountinfo has them: somebody may have changed them since it was
/// mounted. A drive that was opened for changes stays so ([`Mount::read_only`](super::Mount)).
pub fn keep(options: &mut MountOptions, flags: &str) {
    let has = |flag| flags.split(',').any(|f| f == flag);
    options.ro &= has("ro");
    (options.nosuid, options.nodev, options.noexec) = (has("nosuid"), has("nodev"), has("noexec"));
    options.nosymfollow = has("nosymfollow");
    options.atime = if has("noatime") { Atime::Never } else { Atime::Relative };
    options.nodiratime = has("nodiratime");
}

/// All that mount(2) can change; what is not said is cleared, and mount(8) says all of it.
fn flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::empty();
    for (on, flag) in [
        (options.ro, MountFlags::RDONLY),
        (options.nosuid, MountFlags::NOSUID),
        (options.nodev, MountFlags::NODEV),
        (options.noexec, MountFlags::NOEXEC),
        (options.nosymfollow, MountFlags::NOSYMFOLLOW),
        (options.atime == Atime::Never, MountFlags::NOATIME),
        (options.atime == Atime::Relative, MountFlags::RELATIME),
        (options.nodiratime, MountFlags::NODIRATIME),
        (options.sync == Synchronous::All, MountFlags::SYNCHRONOUS),
    ] {
        flags.set(flag, on);
    }
    flags
}
