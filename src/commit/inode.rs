//! What the drive knows of one inode, and its bytes at rest (docs/FORMAT.md, "Inodes").

use crate::content::Blob;
use crate::error::Result;
use crate::tree::Map;
use crate::types::{Ino, Time};
use crate::wire::{Reader, Writer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The inode number of the root directory of every drive.
pub const ROOT: Ino = 1;

/// The type of a file, as `mode & S_IFMT` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FileKind {
    File = 1,
    Directory = 2,
    Symlink = 3,
    Fifo = 4,
    Socket = 5,
    CharDevice = 6,
    BlockDevice = 7,
}

impl FileKind {
    pub fn from_u8(v: u8) -> Option<FileKind> {
        use FileKind::*;
        [File, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice].into_iter().find(|k| *k as u8 == v)
    }
}

/// Attributes of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    pub kind: FileKind,
    /// Permission bits with suid, sgid and sticky (`mode & 0o7777`).
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    /// Of device nodes: the kernel's 32-bit encoding (`new_encode_dev`). Else 0.
    pub rdev: u32,
    /// For directories: 2 + the number of subdirectories. For others: the number of names.
    pub nlink: u32,
    /// Bytes of a file, of a link's target; entries of a directory.
    pub size: u64,
    /// Bytes of a file that are data, not holes (an upper bound while it changes).
    pub allocated: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    /// When it was made.
    pub btime: Time,
}

/// Extended attributes: name to value. Names are 1 to 255 bytes without NUL.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What an inode holds.
#[derive(Clone, Debug)]
pub enum Content {
    File(Blob),
    /// Names to entries: key = name hash (8 bytes, big-endian) then the name; value = an [`Entry`](super::Entry).
    Directory(Map),
    Symlink(Arc<[u8]>),
    Special,
}

/// An inode, whole: what a directory entry, the Map of shells, or the commit (for the root) carries.
#[derive(Clone, Debug)]
pub struct InodeRecord {
    pub ino: Ino,
    pub attr: Attr,
    pub xattrs: Option<Arc<Xattrs>>,
    pub content: Content,
}

/// A name: the directory it stands in, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub parent: Ino,
    pub name: Arc<[u8]>,
}

impl Attr {
    pub fn put(&self, w: &mut Writer) {
        w.u8(self.kind as u8).var(self.perm.into()).var(self.uid.into()).var(self.gid.into());
        w.var(self.rdev.into()).var(self.nlink.into()).var(self.size).var(self.allocated);
        for t in [self.atime, self.mtime, self.ctime, self.btime] {
            t.put(w);
        }
    }

    pub fn get(r: &mut Reader) -> Result<Attr> {
        let kind = FileKind::from_u8(r.u8()?).ok_or_else(|| r.bad("unknown file type"))?;
        let perm = r.var32()?;
        if perm > 0o7777 {
            return Err(r.bad("permission bits out of range"));
        }
        Ok(Attr {
            kind,
            perm: perm as u16,
            uid: r.var32()?,
            gid: r.var32()?,
            rdev: r.var32()?,
            nlink: r.var32()?,
            size: r.var()?,
            allocated: r.var()?,
            atime: Time::get(r)?,
            mtime: Time::get(r)?,
            ctime: Time::get(r)?,
            btime: Time::get(r)?,
        })
    }
}
