//! What is mounted where: /proc/self/mountinfo (proc_pid_mountinfo(5)).

use crate::error::{Context, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// `major:minor`: bind mounts of a file system have the same.
    pub(super) device: String,
    pub(super) place: PathBuf,
}

/// All mounts that this process sees; of those at one place the one on top comes last.
pub(super) fn all() -> Result<Vec<Mounted>> {
    let text = std::fs::read("/proc/self/mountinfo").context(|| "cannot read /proc/self/mountinfo")?;
    Ok(parse(&text))
}

/// The device of what is on top at `dir` (an absolute path without links).
pub(super) fn device_at(dir: &Path) -> Result<Option<String>> {
    Ok(all()?.into_iter().rev().find(|m| m.place == dir).map(|m| m.device))
}

fn parse(mountinfo: &[u8]) -> Vec<Mounted> {
    mountinfo
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let (device, place) = (fields.nth(2)?, fields.nth(1)?);
            let device = String::from_utf8_lossy(device).into_owned();
            Some(Mounted { device, place: PathBuf::from(OsString::from_vec(unescape(place))) })
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
    fn the_topmost_mount_comes_last_and_escapes_are_undone() {
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
}
