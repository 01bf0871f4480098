//! What the tests share.

pub use crate::common::full;
use crate::common::{TestDrive, tree};
pub use rustix::io::Errno;
use std::fs::{File, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// The errno of a call that must fail.
#[track_caller]
pub fn refused<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(e) => e.raw_os_error().unwrap_or_else(|| panic!("{e}")),
    }
}

/// Runs something in a thread that belongs to somebody else, with no capability left.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|s| {
        let run = s.spawn(|| {
            // SAFETY: the raw calls change this thread only, and read `groups` during the call.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, gid, gid, gid), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
            }
            f()
        });
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A drive that every user may reach, mounted.
pub fn open_to_all(options: &str) -> TestDrive {
    let d = TestDrive::with(&format!("commit=1,allow_other{options}"));
    std::fs::set_permissions(d.dir(), Permissions::from_mode(0o755)).unwrap();
    d
}

/// Checks that all is as it is after a remount, and from store and key alone.
#[track_caller]
pub fn assert_kept(d: &mut TestDrive) {
    let before = tree::tree(&d.mnt);
    d.remount();
    tree::assert_same(&before, &tree::tree(&d.mnt), "after a remount");
    d.move_to_a_new_machine();
    tree::assert_same(&before, &tree::tree(&d.mnt), "from store and key alone");
}

pub fn stat(path: impl AsRef<Path>) -> Metadata {
    std::fs::symlink_metadata(path).unwrap()
}

/// The permission bits.
pub fn perm(path: impl AsRef<Path>) -> u32 {
    stat(path).mode() & 0o7777
}

pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A file opened to read and write, made where it is missing.
pub fn rw(path: impl AsRef<Path>) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Bytes that no compressor makes smaller, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}
