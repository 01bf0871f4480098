//! What is mounted where: /proc/self/mountinfo (proc_pid_mountinfo(5)).

use crate::error::{Context, Result};
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    id: u64,
    /// The id of the mount that it is on.
    parent: u64,
    /// `major:minor`: bind mounts of a file system have the same.
    pub(super) device: String,
    pub(super) place: PathBuf,
}

/// All mounts that this process sees.
pub(super) fn all() -> Result<Vec<Mounted>> {
    let text = std::fs::read("/proc/self/mountinfo").context(|| "cannot read /proc/self/mountinfo")?;
    Ok(parse(&text))
}

/// The device of what is on top at `dir` (an absolute path without links).
pub(super) fn device_at(dir: &Path) -> Result<Option<String>> {
    let mut here = all()?;
    here.retain(|m| m.place == dir);
    Ok(top(&here).map(|m| m.device.clone()))
}

/// The device of the mount that a descriptor of `/dev/fuse` serves, where the kernel tells (from 6.10 on): whoever
/// mounts at the same place at the same time is on top of it, or below.
pub(super) fn device_of(session: &OwnedFd) -> Option<String> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", session.as_raw_fd())).ok()?;
    device_in(&info)
}

/// The kernel's own form of a device number has 20 bits for the minor one.
fn device_in(info: &str) -> Option<String> {
    let number: u32 =
        info.lines().find_map(|line| line.strip_prefix("fuse_connection:")?.trim().parse().ok())?;
    Some(format!("{}:{}", number >> 20, number & 0xf_ffff))
}

/// Of mounts at one place the one on top. The order of mountinfo does not tell (from Linux 6.8 on it is that of their
/// making, and an older mount can be moved on top of a younger one): it is the one that no other is on.
pub fn topmost<M>(here: &[M], id_and_parent: impl Fn(&M) -> (u64, u64)) -> Option<&M> {
    here.iter().rev().find(|m| here.iter().all(|other| id_and_parent(other).1 != id_and_parent(m).0))
}

pub(super) fn top(here: &[Mounted]) -> Option<&Mounted> {
    topmost(here, |m| (m.id, m.parent))
}

fn parse(mountinfo: &[u8]) -> Vec<Mounted> {
    mountinfo
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let mut id = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
            let (id, parent) = (id()?, id()?);
            let (device, place) = (fields.next()?, fields.nth(1)?);
            let device = String::from_utf8_lossy(device).into_owned();
            Some(Mounted { id, parent, device, place: PathBuf::from(OsString::from_vec(unescape(place))) })
        })
        .collect()
}

/// Spaces, tabs, line ends and backslashes stand as `\ooo`.
fn unescape(mut field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    while let Some((&first, rest)) = field.split_first() {
        field = rest;
        match rest.split_first_chunk::<3>() {
            Some((&[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7'], after)) if first == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                field = after;
            }
            _ => out.push(first),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    const SAMPLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
90 22 0:50 / /mnt/my\\040drive rw,nosuid,nodev shared:7 master:1 - fuse.nacrefs file:///srv/store rw
91 22 0:51 / /mnt/my\\040drive rw - fuse.other x rw
92 22 0:52 / /mnt/back\\134slash rw - fuse.nacrefs s rw
93 22 0:53 / /mnt/\xff rw - fuse.nacrefs s rw
broken line
";

    #[test]
    fn the_order_is_kept_and_escapes_are_undone() {
        let found = parse(SAMPLE);
        let at = |place: &[u8]| {
            let here = found.iter().filter(|m| m.place.as_os_str().as_bytes() == place);
            here.map(|m| m.device.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(at(b"/mnt/my drive"), ["0:50", "0:51"]);
        assert_eq!(at(b"/mnt/back\\slash"), ["0:52"]);
        assert_eq!(at(b"/mnt/\xff"), ["0:53"]);
        assert_eq!(at(b"/"), ["8:1"]);
        assert!(at(b"/mnt").is_empty());
    }

    #[test]
    fn this_machines_list_can_be_read() {
        assert!(device_at(Path::new("/")).unwrap().is_some());
        assert_eq!(device_at(Path::new("/no/such")).unwrap(), None);
    }

    #[test]
    fn the_topmost_mount_is_the_one_that_no_other_is_on() {
        let mounts = |text: &str| parse(text.as_bytes());
        let top_of = |text: &str| top(&mounts(text)).map(|m| m.device.clone());
        // In the order of their making; the second has been mounted below the first.
        assert_eq!(
            top_of("90 91 0:50 / /m rw - t s rw\n91 22 0:51 / /m rw - t s rw").as_deref(),
            Some("0:50")
        );
        assert_eq!(
            top_of("90 22 0:50 / /m rw - t s rw\n91 90 0:51 / /m rw - t s rw").as_deref(),
            Some("0:51")
        );
        assert_eq!(top_of(""), None);
    }

    #[test]
    fn the_kernel_tells_which_mount_a_descriptor_serves() {
        let info = "pos:\t0\nmnt_id:\t24\nino:\t90\nfuse_connection:\t61\n";
        assert_eq!(device_in(info).as_deref(), Some("0:61"));
        assert_eq!(device_in("fuse_connection:\t1048578").as_deref(), Some("1:2"));
        assert_eq!(device_in("pos:\t0\nfuse_connection:\tx"), None);
    }
}
