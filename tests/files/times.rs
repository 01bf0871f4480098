//! Times: what can be set, and what each operation changes.

use crate::common::TestDrive;
use crate::sys::*;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

const NOW: i64 = rustix::fs::UTIME_NOW;
const OMIT: i64 = rustix::fs::UTIME_OMIT;

fn set(path: &Path, atime: (i64, i64), mtime: (i64, i64), flags: AtFlags) -> rustix::io::Result<()> {
    let spec = |(tv_sec, tv_nsec): (i64, i64)| Timespec { tv_sec, tv_nsec: tv_nsec as _ };
    let times = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
    utimensat(CWD, path, &times, flags)
}

type Stamp = (i64, i64);

fn stamps(path: &Path) -> (Stamp, Stamp, Stamp) {
    let m = stat(path);
    ((m.atime(), m.atime_nsec()), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()))
}

#[test]
fn times_of_all_ages_come_back_to_the_nanosecond() {
    let mut d = TestDrive::new();
    let ages: [Stamp; 14] = [
        (0, 0),
        // The ends, where the kernel knows no nanoseconds.
        (i64::MIN, 0),
        (i64::MIN + 1, 0),
        (-1, 999_999_999),
        (-1, 0),
        (-2, 300_000_000),
        (-5_000_000_000, 1),
        (-(1 << 40), 5),
        (1, 1),
        (i64::from(i32::MAX) + 1, 123_456_789),
        (4_294_967_296, 7),
        (9_223_372_037, 1), // 2262: the end of 64-bit nanoseconds
        (16_000_000_000, 999_999_999),
        (1 << 40, 1),
    ];
    for (i, t) in ages.iter().enumerate() {
        let path = d.mnt.join(format!("f{i}"));
        fs::write(&path, "").unwrap();
        set(&path, (t.0, t.1 / 2), *t, AtFlags::empty()).unwrap();
        let (a, m, _) = stamps(&path);
        assert_eq!((a, m), ((t.0, t.1 / 2), *t));
    }
    assert_kept(&mut d);
    for (i, t) in ages.iter().enumerate() {
        let (a, m, _) = stamps(&d.mnt.join(format!("f{i}")));
        assert_eq!((a, m), ((t.0, t.1 / 2), *t), "{t:?}");
    }
}

#[test]
fn utimensat_in_all_forms() {
    let d = open_to_all("");
    let f = &d.mnt.join("f");
    fs::write(f, "").unwrap();
    std::os::unix::fs::symlink("f", d.mnt.join("l")).unwrap();
    set(f, (10, 1), (20, 2), AtFlags::empty()).unwrap();
    set(f, (0, OMIT), (30, 3), AtFlags::empty()).unwrap();
    assert_eq!((stamps(f).0, stamps(f).1), ((10, 1), (30, 3)));
    set(f, (11, 1), (0, OMIT), AtFlags::empty()).unwrap();
    assert_eq!((stamps(f).0, stamps(f).1), ((11, 1), (30, 3)));
    let before = stamps(f);
    std::thread::sleep(Duration::from_millis(5));
    set(f, (0, OMIT), (0, OMIT), AtFlags::empty()).unwrap();
    assert_eq!(stamps(f), before, "nothing was asked for");
    set(f, (0, NOW), (0, OMIT), AtFlags::empty()).unwrap();
    assert!(stamps(f).0 > (1_600_000_000, 0) && stamps(f).1 == (30, 3) && stamps(f).2 > before.2);
    set(f, (0, NOW), (0, NOW), AtFlags::empty()).unwrap();
    assert_eq!(stamps(f).0, stamps(f).1);
    assert_eq!(set(f, (0, 1_000_000_000), (0, 0), AtFlags::empty()), Err(Errno::INVAL));
    // A link itself, a descriptor.
    set(&d.mnt.join("l"), (5, 5), (6, 6), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(stamps(&d.mnt.join("l")).1, (6, 6));
    assert_ne!(stamps(f).1, (6, 6));
    let spec = |s| Timespec { tv_sec: s, tv_nsec: 9 };
    let times = Timestamps { last_access: spec(40), last_modification: spec(50) };
    rustix::fs::futimens(rw(f), &times).unwrap();
    assert_eq!((stamps(f).0, stamps(f).1), ((40, 9), (50, 9)));
    // Who may write may say "now"; only the owner may say when.
    chmod(f, 0o666);
    as_user(1001, 1001, &[], || {
        assert_eq!(set(f, (0, NOW), (0, NOW), AtFlags::empty()), Ok(()));
        assert_eq!(set(f, (1, 0), (1, 0), AtFlags::empty()), Err(Errno::PERM));
        assert_eq!(set(f, (0, NOW), (0, OMIT), AtFlags::empty()), Err(Errno::PERM));
    });
    chmod(f, 0o644);
    as_user(1001, 1001, &[], || assert_eq!(set(f, (0, NOW), (0, NOW), AtFlags::empty()), Err(Errno::ACCESS)));
}

#[test]
fn each_operation_moves_the_times_that_it_must() {
    let d = TestDrive::new();
    let m = &d.mnt;
    for dir in ["d", "e"] {
        fs::create_dir(m.join(dir)).unwrap();
    }
    fs::write(m.join("d/f"), "0123456789").unwrap();
    fs::write(m.join("d/g"), "").unwrap();
    // What changes: of the file d/f, of d, of e: '-' nothing, 'c' ctime, 'm' mtime and ctime.
    let check = |what: &str, expect: &str, op: &mut dyn FnMut()| {
        let of = |p: &str| stamps(&m.join(p));
        let file = if m.join("d/f").exists() { "d/f" } else { "e/f" };
        let before = [of(file), of("d"), of("e")];
        std::thread::sleep(Duration::from_millis(3));
        op();
        let file = if m.join("d/f").exists() { "d/f" } else { "e/f" };
        let after = [of(file), of("d"), of("e")];
        let seen: String = before
            .iter()
            .zip(&after)
            .map(|(b, a)| match (b.1 != a.1, b.2 != a.2) {
                (false, false) => '-',
                (false, true) => 'c',
                (true, true) => 'm',
                (true, false) => '?',
            })
            .collect();
        assert_eq!(seen, expect, "{what}");
    };
    let f = m.join("d/f");
    let x = |n: &str| m.join(n);
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    use std::os::unix::fs::FileExt;
    check("write", "m--", &mut || rw(&f).write_all_at(b"x", 3).unwrap());
    check("write of nothing", "---", &mut || assert_eq!(rw(&f).write_at(b"", 0).unwrap(), 0));
    check("truncate", "m--", &mut || rw(&f).set_len(5).unwrap());
    check("truncate to the same size", "m--", &mut || rw(&f).set_len(5).unwrap());
    check("punch", "m--", &mut || rustix::fs::fallocate(rw(&f), flags, 0, 2).unwrap());
    check("grow", "m--", &mut || rw(&f).set_len(5000).unwrap());
    check("chmod", "c--", &mut || chmod(&f, 0o600));
    check("chown", "c--", &mut || std::os::unix::fs::chown(&f, Some(5), Some(6)).unwrap());
    check("set an attribute", "c--", &mut || {
        rustix::fs::lsetxattr(&f, "user.a", b"x", rustix::fs::XattrFlags::empty()).unwrap()
    });
    check("remove an attribute", "c--", &mut || rustix::fs::lremovexattr(&f, "user.a").unwrap());
    check("link", "c-m", &mut || fs::hard_link(&f, x("e/l")).unwrap());
    check("unlink of the other name", "c-m", &mut || fs::remove_file(x("e/l")).unwrap());
    check("rename to another directory", "cmm", &mut || fs::rename(x("d/f"), x("e/f")).unwrap());
    check("rename back", "cmm", &mut || fs::rename(x("e/f"), x("d/f")).unwrap());
    check("rename within", "cm-", &mut || {
        fs::rename(x("d/g"), x("d/h")).unwrap();
        chmod(&f, 0o640)
    });
    check("create", "--m", &mut || fs::write(x("e/n"), "").unwrap());
    check("mkdir", "--m", &mut || fs::create_dir(x("e/sub")).unwrap());
    check("rmdir", "--m", &mut || fs::remove_dir(x("e/sub")).unwrap());
    check("symlink", "--m", &mut || std::os::unix::fs::symlink("q", x("e/s")).unwrap());
    check("replace", "-mm", &mut || fs::rename(x("d/h"), x("e/n")).unwrap());
    check("read", "---", &mut || drop(fs::read(&f).unwrap()));
    check("list", "---", &mut || assert!(fs::read_dir(x("e")).unwrap().count() > 0));
    check("open and close", "---", &mut || drop(rw(&f)));
    check("refused", "---", &mut || assert!(fs::create_dir(x("e/n")).is_err()));
    check("empty by O_TRUNC", "m--", &mut || fs::write(&f, "").unwrap());
}

#[test]
fn access_times_are_relative() {
    let mut d = TestDrive::new();
    fs::write(d.mnt.join("f"), "0123456789").unwrap();
    d.remount(); // nothing is in the kernel's cache
    let f = &d.mnt.join("f");
    set(f, (1000, 0), (2000, 0), AtFlags::empty()).unwrap();
    assert_eq!(fs::read(f).unwrap().len(), 10);
    let (a, m, _) = stamps(f);
    assert!(a > (1_600_000_000, 0) && m == (2000, 0), "older than the change: it moves: {a:?}");
    d.remount();
    std::thread::sleep(Duration::from_millis(3));
    let before = stamps(f).0;
    fs::read(f).unwrap();
    d.remount();
    let again = stamps(f).0;
    fs::read(f).unwrap();
    assert!(again >= before);
    assert_eq!(stamps(f).0.0 - again.0, 0, "read since it changed: it stays for a day");
}

#[test]
fn a_read_only_mount_moves_no_access_time() {
    let mut d = TestDrive::new();
    let f = d.mnt.join("f");
    fs::write(&f, "0123456789").unwrap();
    set(&f, (1000, 0), (2000, 0), AtFlags::empty()).unwrap();
    d.umount();
    assert!(d.try_mount("ro").status.success());
    assert_eq!(fs::read(&f).unwrap().len(), 10);
    // Past the kernel's memory of its attributes.
    assert_eq!(statx_now(&f), 1000);
    d.umount();
}

/// The access time, in seconds, as the drive has it now.
fn statx_now(path: &Path) -> i64 {
    let flags = AtFlags::STATX_FORCE_SYNC;
    rustix::fs::statx(rustix::fs::CWD, path, flags, rustix::fs::StatxFlags::ATIME).unwrap().stx_atime.tv_sec
}

#[test]
fn a_reader_with_o_noatime_leaves_no_trace() {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut d = TestDrive::new();
    let f = d.mnt.join("f");
    fs::write(&f, "0123456789").unwrap();
    d.remount(); // nothing is in the kernel's cache
    set(&f, (1000, 0), (2000, 0), AtFlags::empty()).unwrap();
    let mut quiet = fs::File::options().read(true).custom_flags(libc::O_NOATIME).open(&f).unwrap();
    assert_eq!(quiet.read(&mut [0; 100]).unwrap(), 10);
    assert_eq!(statx_now(&f), 1000);
}
