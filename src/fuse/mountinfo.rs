//! What is mounted where: /proc/self/mountinfo (proc_pid_mountinfo(5)).

use crate::error::{Context, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The device numbers (`major:minor`) of all that is mounted at `dir` (an absolute path without links), the
/// one on top last.
pub(super) fn devices_at(dir: &Path) -> Result<Vec<String>> {
    let text = std::fs::read("/proc/self/mountinfo").context(|| "cannot read /proc/self/mountinfo")?;
    Ok(parse(&text, dir))
}

fn parse(mountinfo: &[u8], dir: &Path) -> Vec<String> {
    mountinfo
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let (device, place) = (fields.nth(2)?, fields.nth(1)?);
            (unescape(place) == dir.as_os_str().as_bytes())
                .then(|| String::from_utf8_lossy(device).into_owned())
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

    const SAMPLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
90 22 0:50 / /mnt/my\\040drive rw,nosuid,nodev shared:7 master:1 - fuse.nacrefs file:///srv/store rw
91 22 0:51 / /mnt/my\\040drive rw - fuse.other x rw
92 22 0:52 / /mnt/back\\134slash rw - fuse.nacrefs s rw
93 22 0:53 / /mnt/\xff rw - fuse.nacrefs s rw
broken line
";

    #[test]
    fn the_topmost_mount_comes_last_and_escapes_are_undone() {
        assert_eq!(parse(SAMPLE, Path::new("/mnt/my drive")), ["0:50", "0:51"]);
        assert_eq!(parse(SAMPLE, Path::new("/mnt/back\\slash")), ["0:52"]);
        assert_eq!(parse(SAMPLE, Path::new(std::ffi::OsStr::from_bytes(b"/mnt/\xff"))), ["0:53"]);
        assert_eq!(parse(SAMPLE, Path::new("/")), ["8:1"]);
        assert!(parse(SAMPLE, Path::new("/mnt")).is_empty());
    }

    #[test]
    fn this_machines_list_can_be_read() {
        assert!(!devices_at(Path::new("/")).unwrap().is_empty());
    }
}
