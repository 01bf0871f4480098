//! The drive's words and the kernel's.

use crate::commit::inode::FileKind;
use crate::drive::types::{Allocate, Caller, RenameHow, Seek, SetTime, Stat};
use crate::error::{Error, Kind, Result};
use crate::types::{Ino, Time};
use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, RenameFlags, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a block, as statfs and `st_blksize` have it.
pub(super) const BLOCK: u32 = 4096;
/// The longest name, in bytes.
pub(super) const NAME_MAX: u32 = 255;
/// Inode numbers are never reused, so that one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// For how long the kernel may keep attributes that the next commit sets right.
const UNSETTLED: Duration = Duration::from_secs(1);

/// How inodes are shown to the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    /// For how long the kernel may keep names, and the absence of names.
    pub(super) entry_timeout: Duration,
    /// For how long the kernel may keep attributes.
    pub(super) attr_timeout: Duration,
    /// The owner and the group of everything, whatever is stored.
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

impl Shown {
    /// For how long the kernel may keep these attributes.
    pub(super) fn timeout_of(&self, stat: &Stat) -> Duration {
        if stat.settled { self.attr_timeout } else { self.attr_timeout.min(UNSETTLED) }
    }

    /// For replies that have one time-out for both.
    pub(super) fn both_timeouts(&self, stat: Option<&Stat>) -> Duration {
        self.entry_timeout.min(stat.map_or(self.attr_timeout, |s| self.timeout_of(s)))
    }
}

pub(super) fn attr(stat: &Stat, shown: &Shown) -> FileAttr {
    let a = &stat.attr;
    FileAttr {
        size: a.size,
        // tar(1) takes a file without any for zeros alone, and reads nothing. It may be mapped, with what we do not know of.
        blocks: a.allocated.div_ceil(512).max(u64::from(a.kind == FileKind::File && a.size > 0)),
        atime: to_system(a.atime),
        mtime: to_system(a.mtime),
        ctime: to_system(a.ctime),
        perm: a.perm,
        nlink: a.nlink,
        uid: shown.uid.unwrap_or(a.uid),
        gid: shown.gid.unwrap_or(a.gid),
        rdev: a.rdev,
        ..bare_attr(stat.ino, file_type(a.kind))
    }
}

/// Attributes of which only the number and the type are looked at.
pub(super) fn bare_attr(ino: Ino, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// What mknod(2) with this mode makes.
pub(super) fn mknod_kind(mode: u32) -> Result<FileKind> {
    Ok(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => FileKind::File,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => return Err(Error::errno_of(libc::EINVAL)),
    })
}

/// The permission bits of a mode, with suid, sgid and sticky.
pub(super) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// For replies. Nanoseconds count forward from the second also before 1970.
fn to_system(t: Time) -> SystemTime {
    let second = match u64::try_from(t.sec) {
        Ok(after) => UNIX_EPOCH.checked_add(Duration::from_secs(after)),
        Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(t.sec.unsigned_abs())),
    };
    second.and_then(|s| s.checked_add(Duration::from_nanos(t.nsec.into()))).unwrap_or(UNIX_EPOCH)
}

/// From requests. fuser 0.18 makes the kernel's (-2 s, 300 ms), which is 1.7 s before 1970, into 2.3 s before
/// it: read as it was made, the kernel's numbers come out again.
pub(super) fn from_request(t: SystemTime) -> Time {
    match t.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            Time { sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nsec: after.subsec_nanos() }
        }
        Err(e) => {
            let before = e.duration();
            Time { sec: 0i64.saturating_sub_unsigned(before.as_secs()), nsec: before.subsec_nanos() }
        }
    }
}

pub(super) fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::To(from_request(t)),
    }
}

/// EFBIG where a range reaches beyond what an offset can say.
pub(super) fn in_range(at: u64, len: u64) -> Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(Error::errno_of(libc::EFBIG)),
    }
}

/// What lseek(2) asks for. Other kinds of seeking are the kernel's own.
pub(super) fn seek(at: i64, whence: i32) -> Result<(u64, Seek)> {
    let seek = match whence {
        libc::SEEK_DATA => Seek::Data,
        libc::SEEK_HOLE => Seek::Hole,
        _ => return Err(Error::errno_of(libc::EINVAL)),
    };
    Ok((u64::try_from(at).map_err(|_| Error::errno_of(libc::ENXIO))?, seek))
}

/// A list of attributes' names, each ended by NUL, as others than root see it.
pub(super) fn without_trusted(names: &[u8]) -> Vec<u8> {
    let shown = names.split_inclusive(|b| *b == 0).filter(|n| !n.starts_with(b"trusted."));
    shown.flatten().copied().collect()
}

/// What fallocate(2) asks for.
pub(super) fn allocate(mode: i32) -> Result<Allocate> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    Ok(match mode {
        0 => Allocate::Reserve { keep_size: false },
        libc::FALLOC_FL_KEEP_SIZE => Allocate::Reserve { keep_size: true },
        PUNCH => Allocate::Punch,
        libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero { keep_size: false },
        ZERO_KEEP => Allocate::Zero { keep_size: true },
        _ => return Err(Error::errno_of(libc::EOPNOTSUPP)),
    })
}

/// What renameat2(2) asks for.
pub(super) fn rename_how(flags: RenameFlags, caller: Caller) -> Result<RenameHow> {
    let how = RenameHow {
        no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
        exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
        whiteout: flags.contains(RenameFlags::RENAME_WHITEOUT).then_some(caller),
    };
    let unknown = !RenameFlags::all().contains(flags);
    if unknown || (how.exchange && (how.no_replace || how.whiteout.is_some())) {
        return Err(Error::errno_of(libc::EINVAL));
    }
    Ok(how)
}

/// The errno that the kernel is told. Some numbers have a meaning of their own in a reply: with ENOSYS the
/// kernel would never send such a request again, and out of 1..512 it refuses the reply itself, and its
/// caller waits for ever. A miss that was allowed to wait is a fault of ours.
pub(super) fn errno(e: &Error) -> Errno {
    match e.kind() {
        Kind::Miss => Errno::EIO,
        _ => match e.errno() {
            libc::ENOSYS => Errno::EOPNOTSUPP,
            n @ 1..512 => Errno::from_i32(n),
            _ => Errno::EIO,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::inode::Attr;
    use proptest::prelude::*;

    /// What fuser 0.18 makes of the kernel's numbers (time.rs).
    fn as_fuser_makes_it(sec: i64, nsec: u32) -> SystemTime {
        if sec >= 0 {
            UNIX_EPOCH + Duration::new(sec as u64, nsec)
        } else {
            UNIX_EPOCH - Duration::new(sec.unsigned_abs(), nsec)
        }
    }

    /// What fuser 0.18 gives the kernel.
    fn as_fuser_sends_it(t: SystemTime) -> (i64, u32) {
        match t.duration_since(UNIX_EPOCH) {
            Ok(d) => (d.as_secs() as i64, d.subsec_nanos()),
            Err(e) => match (e.duration().as_secs(), e.duration().subsec_nanos()) {
                (s, 0) => (0i64.wrapping_sub_unsigned(s), 0),
                (s, n) => (-(s as i64) - 1, 1_000_000_000 - n),
            },
        }
    }

    fn stat() -> Stat {
        let t = Time { sec: -2, nsec: 300_000_000 };
        let attr = Attr {
            kind: FileKind::File,
            perm: 0o4755,
            uid: 1000,
            gid: 100,
            rdev: 0,
            nlink: 3,
            size: 10_000,
            allocated: 8193,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
        };
        Stat { ino: 42, attr, settled: true }
    }

    #[test]
    fn attributes_are_shown_in_the_kernels_units() {
        let a = attr(&stat(), &Shown::default());
        assert_eq!((a.ino.0, a.size, a.blocks, a.blksize), (42, 10_000, 17, 4096));
        assert_eq!((a.kind, a.perm, a.nlink, a.uid, a.gid), (FileType::RegularFile, 0o4755, 3, 1000, 100));
        assert_eq!(as_fuser_sends_it(a.mtime), (-2, 300_000_000));
        let a = attr(&stat(), &Shown { uid: Some(7), gid: Some(8), ..Shown::default() });
        assert_eq!((a.uid, a.gid), (7, 8));
    }

    proptest! {
        #[test]
        fn times_survive_the_way_in_and_the_way_out(sec in -(1i64 << 40)..1 << 40, nsec in 0u32..1_000_000_000) {
            let t = Time { sec, nsec };
            prop_assert_eq!(from_request(as_fuser_makes_it(sec, nsec)), t);
            prop_assert_eq!(as_fuser_sends_it(to_system(t)), (sec, nsec));
        }
    }

    #[test]
    fn times_at_the_ends_of_the_range_do_not_panic() {
        for t in [(i64::MIN, 0), (i64::MIN, 999_999_999), (i64::MAX, 0), (i64::MAX, 999_999_999), (-1, 1)] {
            to_system(Time { sec: t.0, nsec: t.1 });
        }
        assert_eq!(from_request(as_fuser_makes_it(i64::MIN, 0)), Time { sec: i64::MIN, nsec: 0 });
        assert_eq!(from_request(as_fuser_makes_it(i64::MAX, 5)), Time { sec: i64::MAX, nsec: 5 });
    }

    #[test]
    fn each_type_of_file_has_its_mode() {
        for (mode, kind) in [
            (0, FileKind::File),
            (libc::S_IFREG, FileKind::File),
            (libc::S_IFIFO, FileKind::Fifo),
            (libc::S_IFSOCK, FileKind::Socket),
            (libc::S_IFCHR, FileKind::CharDevice),
            (libc::S_IFBLK, FileKind::BlockDevice),
        ] {
            assert_eq!(mknod_kind(mode | 0o644).unwrap(), kind);
        }
        assert_eq!(mknod_kind(libc::S_IFDIR).unwrap_err().errno(), libc::EINVAL);
        assert_eq!(permissions(libc::S_IFREG | 0o7644), 0o7644);
    }

    #[test]
    fn fallocate_knows_its_modes() {
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        for (mode, what) in [
            (0, Allocate::Reserve { keep_size: false }),
            (keep, Allocate::Reserve { keep_size: true }),
            (libc::FALLOC_FL_PUNCH_HOLE | keep, Allocate::Punch),
            (libc::FALLOC_FL_ZERO_RANGE, Allocate::Zero { keep_size: false }),
            (libc::FALLOC_FL_ZERO_RANGE | keep, Allocate::Zero { keep_size: true }),
        ] {
            assert_eq!(allocate(mode).unwrap(), what);
        }
        for mode in [libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE]
        {
            assert_eq!(allocate(mode).unwrap_err().errno(), libc::EOPNOTSUPP);
        }
    }

    #[test]
    fn rename_refuses_what_it_does_not_know() {
        let caller = Caller { uid: 1, gid: 2, umask: 0 };
        let rename_how = |flags| rename_how(flags, caller);
        let how = rename_how(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_WHITEOUT).unwrap();
        assert_eq!(how, RenameHow { no_replace: true, exchange: false, whiteout: Some(caller) });
        assert!(rename_how(RenameFlags::RENAME_EXCHANGE).unwrap().exchange);
        for bad in [
            RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_NOREPLACE,
            RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_WHITEOUT,
            RenameFlags::from_bits_retain(1 << 9),
        ] {
            assert_eq!(rename_how(bad).unwrap_err().errno(), libc::EINVAL);
        }
    }

    #[test]
    fn offsets_and_seeks_out_of_range_are_refused() {
        assert!(in_range(i64::MAX as u64 - 1, 1).is_ok());
        for (at, len) in [(i64::MAX as u64, 1), (u64::MAX, 1), (0, 1 << 63)] {
            assert_eq!(in_range(at, len).unwrap_err().errno(), libc::EFBIG);
        }
        assert_eq!(seek(5, libc::SEEK_DATA).unwrap(), (5, Seek::Data));
        assert_eq!(seek(0, libc::SEEK_HOLE).unwrap(), (0, Seek::Hole));
        assert_eq!(seek(-1, libc::SEEK_HOLE).unwrap_err().errno(), libc::ENXIO);
        assert_eq!(seek(0, libc::SEEK_END).unwrap_err().errno(), libc::EINVAL);
    }

    #[test]
    fn no_error_reaches_the_kernel_as_a_number_with_another_meaning() {
        for (error, number) in [
            (Error::errno_of(libc::ENOTEMPTY), libc::ENOTEMPTY),
            (Error::errno_of(libc::ENOSYS), libc::EOPNOTSUPP),
            (Error::errno_of(0), libc::EIO),
            (Error::errno_of(-5), libc::EIO),
            (Error::errno_of(512), libc::EIO),
            (Error::new(Kind::Miss, ""), libc::EIO),
            (Error::new(Kind::NoSpace, ""), libc::ENOSPC),
            (Error::damage(""), libc::EIO),
        ] {
            assert_eq!(errno(&error).code(), number);
        }
    }
}
