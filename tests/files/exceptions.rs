//! What is not as on ext4 (docs/SEMANTICS.md lists it, with the reasons): proved here, so that the list stays
//! true in both directions.

use crate::common::TestDrive;
use crate::sys::*;
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, StatxFlags, fallocate, openat, statx};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

#[test]
fn the_exceptions_are_these() {
    let d = TestDrive::new();
    let path = d.mnt.join("f");
    let f = rw(&path);
    f.write_all_at(&noise(1, 65_536), 0).unwrap();

    let unnamed = openat(CWD, &d.mnt, OFlags::TMPFILE | OFlags::RDWR, Mode::RWXU);
    assert_eq!(unnamed.unwrap_err(), Errno::OPNOTSUPP, "O_TMPFILE");

    let x = statx(CWD, &path, rustix::fs::AtFlags::empty(), StatxFlags::ALL).unwrap();
    assert_eq!(x.stx_mask & StatxFlags::BTIME.bits(), 0, "birth time");

    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE, FallocateFlags::UNSHARE_RANGE]
    {
        assert_eq!(fallocate(&f, mode, 0, 4096), Err(Errno::OPNOTSUPP), "{mode:?}");
    }
    fallocate(&f, FallocateFlags::KEEP_SIZE, 0, 1 << 30).unwrap();
    assert_eq!(stat(&path).blocks(), 128, "fallocate reserves nothing");

    let g = rw(d.mnt.join("g"));
    assert_eq!(rustix::fs::ioctl_ficlone(&g, &f), Err(Errno::OPNOTSUPP), "FICLONE");
    const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
    let mut flags: libc::c_long = 0;
    // SAFETY: the call writes one long at most.
    let r = unsafe { libc::ioctl(f.as_raw_fd(), FS_IOC_GETFLAGS as _, &mut flags) };
    assert_eq!(
        (r, std::io::Error::last_os_error().raw_os_error()),
        (-1, Some(libc::ENOTTY)),
        "FS_IOC_GETFLAGS"
    );

    // The size of a directory is the number of its names.
    fs::create_dir(d.mnt.join("dir")).unwrap();
    assert_eq!(stat(d.mnt.join("dir")).size(), 0);
    fs::write(d.mnt.join("dir/a"), "").unwrap();
    assert_eq!(stat(d.mnt.join("dir")).size(), 1);
}
