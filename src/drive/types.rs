//! What goes in and out of the drive's operations: no FUSE types, no wire formats.

use crate::commit::inode::{Attr, FileKind};
use crate::types::{Ino, Time};
use std::time::Instant;

/// Whether an operation may wait for the store or the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Never: where something is not in memory, fail with `Kind::Miss`, having changed nothing.
    /// For event loops, which then run the operation again on a worker.
    No,
    /// As long as the mount's time-out says, from when it was asked for.
    Since(Instant),
}

impl Wait {
    /// From now on.
    pub fn yes() -> Wait {
        Wait::Since(Instant::now())
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
}

/// An inode's attributes, as `stat` shows them.
#[derive(Clone, Debug)]
pub struct Stat {
    pub ino: Ino,
    pub attr: Attr,
    /// False while `attr.allocated` may count bytes twice: the next commit sets it right.
    pub settled: bool,
}

/// What is to be made.
#[derive(Clone, Debug)]
pub struct New<'a> {
    pub kind: FileKind,
    /// Permission bits before the umask and default ACLs.
    pub perm: u16,
    pub rdev: u32,
    /// Of a symbolic link.
    pub target: &'a [u8],
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    To(Time),
}

/// What to change of an inode; None: as it is.
#[derive(Clone, Debug, Default)]
pub struct SetAttr {
    pub perm: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    pub ctime: Option<Time>,
    /// Clear suid, and sgid where the group may execute (a write or truncation by somebody without CAP_FSETID).
    pub kill_suid: bool,
}

/// What `open` learned.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The content is what it was when the kernel last cached it.
    pub keep_cache: bool,
}

/// One name in a directory.
pub struct DirItem<'a> {
    pub ino: Ino,
    pub kind: FileKind,
    pub name: &'a [u8],
    /// Where a later call goes on behind this item.
    pub next: u64,
    /// Attributes, where they were asked for; a lookup is counted for it when the item is taken.
    pub stat: Option<Stat>,
}

/// Flags of `rename`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameHow {
    pub no_replace: bool,
    pub exchange: bool,
    /// Who leaves a whiteout in the old place, and owns it.
    pub whiteout: Option<Caller>,
}

/// Where to seek to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

/// What `fallocate` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Make sure that the range can be written (mode 0, or KEEP_SIZE).
    Reserve { keep_size: bool },
    /// Deallocate (PUNCH_HOLE; the size stays).
    Punch,
    /// Make zero (ZERO_RANGE).
    Zero { keep_size: bool },
}

/// How much there is, for statfs. Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space {
    pub total: u64,
    pub free: u64,
    pub files: u64,
}
