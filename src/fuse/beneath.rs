//! Mounting in the place of a dead mount. The new one is put beneath it, and then the dead one is taken away: were it
//! the other way round, programs would find the bare directory in between, and write in the clear what nobody sees
//! again. Mount points are made with the newer calls for that (fsopen(2), move_mount(2)).

use super::attach::{Attach, SUBTYPE};
use super::mount::unmount_at;
use super::mountinfo::device_at;
use crate::error::{Error, Result};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Makes a mount that is nowhere yet, served by `session`.
///
/// # Errors
/// Whatever the kernel says: `ENOSYS` before Linux 5.2, `EPERM` where a sandbox does not know these calls.
pub(super) fn make(attach: &Attach, session: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(format!("fuse.{SUBTYPE}"), FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", &*attach.source)?;
    fsconfig_set_string(&context, "subtype", SUBTYPE)?;
    for (key, value) in attach.kernel_options(session.as_raw_fd()) {
        match value {
            Some(value) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, key)?,
        }
    }
    for (on, flag) in [(attach.read_only, "ro"), (attach.sync, "sync")] {
        if on {
            fsconfig_set_flag(&context, flag)?;
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes(attach))
}

fn attributes(attach: &Attach) -> MountAttrFlags {
    let mut flags = MountAttrFlags::empty();
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, attach.read_only);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, !attach.suid);
    flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, !attach.dev);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !attach.exec);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, !attach.symfollow);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOATIME, attach.noatime);
    flags.set(MountAttrFlags::MOUNT_ATTR_NODIRATIME, attach.nodiratime);
    flags
}

/// Puts `mount` where the dead mount with this device is on top at `dir`, and takes that away. Before Linux 6.5 the
/// bare directory can be seen for the time of one call.
pub(super) fn put(mount: &OwnedFd, dir: &Path, dead: &str) -> Result<()> {
    let put = |flags| {
        move_mount(mount, "", CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | flags)
            .map_err(io::Error::from)
    };
    match put(MoveMountFlags::MOVE_MOUNT_BENEATH) {
        Ok(()) => take_away(dir, dead),
        Err(e) => {
            tracing::debug!("the mount cannot be put beneath the dead one: {e}");
            take_away(dir, dead)?;
            put(MoveMountFlags::empty()).map_err(|e| Error::failed("the kernel refuses").with_source(e))
        }
    }
}

/// Detaches the dead mount with this device from `dir`, if it is on top there.
pub(super) fn take_away(dir: &Path, dead: &str) -> Result<()> {
    match device_at(dir)?.as_deref() == Some(dead) {
        true => unmount_at(dir, UnmountFlags::DETACH),
        false => Ok(()),
    }
}
