//! What the drive knows of one inode, and its bytes at rest (docs/FORMAT.md, "Inodes").

use super::entry::{NAME_MAX, get_ino};
use crate::chunk::{ChunkRef, ChunkSink, Chunks, Opening, Sealer};
use crate::content::Blob;
use crate::crypt::Seal;
use crate::error::{Error, Result};
use crate::tree::Map;
use crate::types::{Address, Ino, Key, Time};
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The longest target of a symbolic link, in bytes (PATH_MAX less its NUL).
pub const TARGET_MAX: usize = 4095;
/// Extended attributes whose encoding is no longer than this stand in the inode; larger ones in a chunk.
pub const INLINE_XATTRS: usize = 1 << 10;
/// The longest encoding of all extended attributes of an inode. The drive refuses more with ENOSPC.
pub const MAX_XATTRS: usize = 1 << 20;

/// An inode as it stands at rest: the same as [`InodeRecord`], but large xattrs are left where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredInode {
    pub ino: Ino,
    pub attr: Attr,
    pub xattrs: StoredXattrs,
    pub content: Content,
}

/// Extended attributes at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredXattrs {
    None,
    /// At most [`INLINE_XATTRS`] bytes, encoded.
    Inline(Arc<Xattrs>),
    /// A sealed chunk of `size` bytes.
    Chunk {
        address: Address,
        key: Key,
        size: u32,
    },
}

impl InodeRecord {
    /// Writes large xattrs as a chunk; what remains is plain bytes.
    pub fn store(&self, sealer: &dyn Sealer, sink: &mut dyn ChunkSink) -> Result<StoredInode> {
        let xattrs = match &self.xattrs {
            None => StoredXattrs::None,
            Some(xattrs) if xattrs.is_empty() => StoredXattrs::None,
            Some(xattrs) => match encode_xattrs(xattrs) {
                bytes if bytes.len() <= INLINE_XATTRS => StoredXattrs::Inline(xattrs.clone()),
                bytes if bytes.len() > MAX_XATTRS => {
                    return Err(Error::failed(format!(
                        "inode {}: extended attributes of {} bytes, over the {MAX_XATTRS} that fit",
                        self.ino,
                        bytes.len()
                    )));
                }
                bytes => {
                    let (chunk, stored) = sealer.seal(Seal::Content, &bytes)?;
                    sink.put(chunk.address, stored)?;
                    let Opening::Sealed { key, .. } = chunk.opening else {
                        return Err(Error::failed("a sealed chunk that is not opened as one"));
                    };
                    StoredXattrs::Chunk { address: chunk.address, key, size: bytes.len() as u32 }
                }
            },
        };
        Ok(StoredInode { ino: self.ino, attr: self.attr.clone(), xattrs, content: self.content.clone() })
    }
}

impl StoredInode {
    /// The inode with its xattrs, fetched where they are a chunk.
    pub fn load(self, chunks: &dyn Chunks) -> Result<InodeRecord> {
        let xattrs = match self.xattrs {
            StoredXattrs::None => None,
            StoredXattrs::Inline(xattrs) => Some(xattrs),
            StoredXattrs::Chunk { address, key, size } => {
                let bytes = chunks.get(&sealed(address, key))?;
                if bytes.len() != size as usize {
                    return Err(Error::damage(format!(
                        "inode {}: extended attributes of {} bytes where {size} were declared",
                        self.ino,
                        bytes.len()
                    )));
                }
                Some(Arc::new(decode_xattrs(&bytes)?))
            }
        };
        Ok(InodeRecord { ino: self.ino, attr: self.attr, xattrs, content: self.content })
    }

    pub fn put(&self, w: &mut Writer) {
        w.var(self.ino);
        self.attr.put(w);
        match &self.xattrs {
            StoredXattrs::None => {
                w.u8(0);
            }
            StoredXattrs::Inline(xattrs) => {
                w.u8(1).bytes(&encode_xattrs(xattrs));
            }
            StoredXattrs::Chunk { address, key, size } => {
                w.u8(2).var((*size).into()).raw(&address.0).raw(&key.0);
            }
        }
        match &self.content {
            Content::File(blob) => blob.put(w),
            Content::Directory(map) => map.put(w),
            Content::Symlink(target) => {
                w.bytes(target);
            }
            Content::Special => {}
        }
    }

    pub fn get_from(r: &mut Reader) -> Result<StoredInode> {
        let ino = get_ino(r)?;
        let attr = Attr::get(r)?;
        let xattrs = match r.u8()? {
            0 => StoredXattrs::None,
            1 => {
                let bytes = r.bytes()?;
                if bytes.len() > INLINE_XATTRS {
                    return Err(r.bad("extended attributes are too long to stand here"));
                }
                StoredXattrs::Inline(Arc::new(decode_xattrs(bytes)?))
            }
            2 => {
                let size = r.var32()?;
                if !(INLINE_XATTRS + 1..=MAX_XATTRS).contains(&(size as usize)) {
                    return Err(r.bad("extended attributes of a size out of range"));
                }
                StoredXattrs::Chunk { size, address: Address(r.array()?), key: Key(r.array()?) }
            }
            _ => return Err(r.bad("unknown form of extended attributes")),
        };
        let content = Content::get_from(attr.kind, r)?;
        // The size of a file is its own: past its data it is a hole.
        let size = match &content {
            Content::Symlink(target) => target.len() as u64,
            Content::Directory(map) => map.len(),
            Content::File(_) | Content::Special => attr.size,
        };
        if size != attr.size || content.allocated().is_some_and(|n| n != attr.allocated) {
            return Err(r.bad("size is not that of the content"));
        }
        Ok(StoredInode { ino, attr, xattrs, content })
    }
}

impl Content {
    /// Bytes of data of a file.
    pub fn allocated(&self) -> Option<u64> {
        match self {
            Content::File(blob) => Some(blob.allocated()),
            Content::Directory(_) | Content::Symlink(_) | Content::Special => None,
        }
    }

    /// The content of an inode of this type.
    fn get_from(kind: FileKind, r: &mut Reader) -> Result<Content> {
        Ok(match kind {
            FileKind::File => Content::File(Blob::get(r)?),
            FileKind::Directory => Content::Directory(Map::get_from(r)?),
            FileKind::Symlink => Content::Symlink(get_target(r)?),
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                Content::Special
            }
        })
    }
}

/// The target of a symbolic link: 1 to 4095 bytes without NUL.
pub(super) fn get_target(r: &mut Reader) -> Result<Arc<[u8]>> {
    let target = r.bytes()?;
    if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) {
        return Err(r.bad("a link's target that cannot be one"));
    }
    Ok(target.into())
}

fn sealed(address: Address, key: Key) -> ChunkRef {
    ChunkRef { address, opening: Opening::Sealed { seal: Seal::Content, key } }
}

/// How many, then for each its name and its value, in the order of the names.
pub fn encode_xattrs(xattrs: &Xattrs) -> Vec<u8> {
    let mut w = Writer::new();
    w.var(xattrs.len() as u64);
    for (name, value) in xattrs {
        w.bytes(name).bytes(value);
    }
    w.into_vec()
}

fn decode_xattrs(bytes: &[u8]) -> Result<Xattrs> {
    let mut r = Reader::new(bytes, "extended attributes");
    let n = r.count(2)?;
    let mut xattrs = Xattrs::new();
    for _ in 0..n {
        let (name, value) = (r.bytes()?, r.bytes()?);
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) {
            return Err(r.bad("a name that cannot be one"));
        }
        if xattrs.last_key_value().is_some_and(|(last, _)| last.as_slice() >= name) {
            return Err(r.bad("names are not in order"));
        }
        xattrs.insert(name.to_vec(), value.to_vec());
    }
    if n == 0 {
        return Err(r.bad("there are none"));
    }
    r.end()?;
    Ok(xattrs)
}
