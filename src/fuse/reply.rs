//! The drive's results as the kernel's replies. fuser answers EIO for a reply that is dropped unanswered.

use super::convert::{self, BLOCK, GENERATION, NAME_MAX, Shown};
use crate::drive::types::{DirItem, Opened, Space, Stat};
use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Something that the kernel waits for.
pub(super) trait Reply: Send + 'static {
    fn fail(self, errno: Errno);
}

/// A reply that can be made of a `T`.
pub(super) trait Answer<T>: Reply {
    fn done(self, value: T, shown: &Shown);
}

macro_rules! fallible {
    ($($reply:ty),*) => {
        $(impl Reply for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}
fallible!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite
);

/// No file handle carries anything: the drive counts opens by inode, and the kernel sends the flags of the
/// open file, as they are now, with each read and write.
const NO_HANDLE: FileHandle = FileHandle(0);

impl Answer<()> for ReplyEmpty {
    fn done(self, (): (), _: &Shown) {
        self.ok();
    }
}

impl Answer<Stat> for ReplyAttr {
    fn done(self, stat: Stat, shown: &Shown) {
        self.attr(&shown.timeout_of(&stat), &convert::attr(&stat, shown));
    }
}

impl Answer<Stat> for ReplyEntry {
    fn done(self, stat: Stat, shown: &Shown) {
        let attr = convert::attr(&stat, shown);
        self.entry_with_ttls(&shown.timeout_of(&stat), &shown.entry_timeout, &attr, GENERATION);
    }
}

/// A lookup. None is cached too: nobody but us makes names, so the kernel would hear of a new one.
impl Answer<Option<Stat>> for ReplyEntry {
    fn done(self, stat: Option<Stat>, shown: &Shown) {
        match stat {
            Some(stat) => self.done(stat, shown),
            None if shown.entry_timeout.is_zero() => self.fail(Errno::ENOENT),
            None => {
                let nothing = convert::bare_attr(0, fuser::FileType::RegularFile);
                self.entry_with_ttls(&shown.entry_timeout, &shown.entry_timeout, &nothing, GENERATION);
            }
        }
    }
}

impl<B: AsRef<[u8]>> Answer<B> for ReplyData {
    fn done(self, bytes: B, _: &Shown) {
        self.data(bytes.as_ref());
    }
}

/// FOPEN_NOFLUSH: close(2) has nothing to tell us, which saves a request for each.
fn open_flags(opened: Opened) -> FopenFlags {
    let keep = if opened.keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
    keep | FopenFlags::FOPEN_NOFLUSH
}

impl Answer<Opened> for ReplyOpen {
    fn done(self, opened: Opened, _: &Shown) {
        self.opened(NO_HANDLE, open_flags(opened));
    }
}

impl Answer<(Stat, Opened)> for ReplyCreate {
    fn done(self, (stat, opened): (Stat, Opened), shown: &Shown) {
        let attr = convert::attr(&stat, shown);
        self.created(&shown.both_timeouts(Some(&stat)), &attr, GENERATION, NO_HANDLE, open_flags(opened));
    }
}

impl Answer<u32> for ReplyWrite {
    fn done(self, written: u32, _: &Shown) {
        self.written(written);
    }
}

/// Free inodes are as many as there are free blocks, for want of a limit of our own.
impl Answer<Space> for ReplyStatfs {
    fn done(self, s: Space, _: &Shown) {
        let (blocks, free) = (s.total / u64::from(BLOCK), s.free / u64::from(BLOCK));
        self.statfs(blocks, free, free, s.files.saturating_add(free), free, BLOCK, NAME_MAX, BLOCK);
    }
}

impl Answer<u64> for ReplyLseek {
    fn done(self, at: u64, _: &Shown) {
        match i64::try_from(at) {
            Ok(at) => self.offset(at),
            Err(_) => self.fail(Errno::EOVERFLOW),
        }
    }
}

/// A reply with an extended attribute or a list of names, for a caller with `room` bytes; 0 asks for the size.
pub(super) struct XattrReply {
    pub(super) reply: ReplyXattr,
    pub(super) room: u32,
}

impl Reply for XattrReply {
    fn fail(self, errno: Errno) {
        self.reply.error(errno);
    }
}

impl Answer<Vec<u8>> for XattrReply {
    fn done(self, value: Vec<u8>, _: &Shown) {
        match u32::try_from(value.len()) {
            Ok(size) if self.room == 0 => self.reply.size(size),
            Ok(size) if size <= self.room => self.reply.data(&value),
            _ => self.reply.error(Errno::ERANGE),
        }
    }
}

/// A reply that takes names until it is full.
pub(super) trait Listing: Answer<()> {
    /// Whether attributes go with the names (READDIRPLUS).
    const PLUS: bool;
    /// False where there is no room left: the item was not taken.
    fn take(&mut self, item: &DirItem, shown: &Shown) -> bool;
}

impl Answer<()> for ReplyDirectory {
    fn done(self, (): (), _: &Shown) {
        self.ok();
    }
}

impl Listing for ReplyDirectory {
    const PLUS: bool = false;

    fn take(&mut self, item: &DirItem, _: &Shown) -> bool {
        let kind = convert::file_type(item.kind);
        !self.add(INodeNo(item.ino), item.next, kind, OsStr::from_bytes(item.name))
    }
}

impl Answer<()> for ReplyDirectoryPlus {
    fn done(self, (): (), _: &Shown) {
        self.ok();
    }
}

impl Listing for ReplyDirectoryPlus {
    const PLUS: bool = true;

    /// `.` and `..` come without attributes: the kernel takes no more than their numbers, and counts no
    /// lookup.
    fn take(&mut self, item: &DirItem, shown: &Shown) -> bool {
        let attr = match &item.stat {
            Some(stat) => convert::attr(stat, shown),
            None => convert::bare_attr(item.ino, convert::file_type(item.kind)),
        };
        let name = OsStr::from_bytes(item.name);
        let keep = shown.both_timeouts(item.stat.as_ref());
        !self.add(INodeNo(item.ino), item.next, name, &keep, &attr, GENERATION)
    }
}
