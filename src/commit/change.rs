//! What the drive hands over to be committed: all that changed in one generation, as it was when the
//! generation was closed.

use super::inode::{Attr, FileKind, InodeRecord, Name, Xattrs};
use crate::content::{Blob, Edit};
use crate::error::Result;
use crate::tree::Map;
use crate::types::Ino;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One inode that changed.
pub struct Change {
    pub ino: Ino,
    pub attr: Attr,
    pub xattrs: Option<Arc<Xattrs>>,
    /// All its names; none when it was removed. The root has one: parent = itself, name empty.
    pub names: Vec<Name>,
    /// Whether it is (now) a shell of its own in the Map of shells, because it had several names.
    pub shell: bool,
    /// Whether the last version had it as a shell.
    pub was_shell: bool,
    pub body: BodyChange,
}

/// How the content of an inode changed.
pub enum BodyChange {
    /// `base` cut at `cut` (all at and beyond is gone), then `edits` (sorted, not overlapping).
    File {
        base: Blob,
        cut: Option<u64>,
        edits: Vec<Edit>,
    },
    /// Names that were added (inode and type) or removed (None), over `base`.
    Directory {
        base: Map,
        names: BTreeMap<DirKey, Option<(Ino, FileKind)>>,
    },
    Symlink(Arc<[u8]>),
    Special,
}

/// The order of a directory: the 63-bit keyed hash of the name, then the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirKey {
    pub hash: u64,
    pub name: Arc<[u8]>,
}

impl DirKey {
    /// The key in the directory's Map.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(8 + self.name.len());
        key.extend_from_slice(&self.hash.to_be_bytes());
        key.extend_from_slice(&self.name);
        key
    }

    pub fn from_bytes(key: &[u8]) -> Option<DirKey> {
        let (hash, name) = key.split_first_chunk::<8>()?;
        Some(DirKey { hash: u64::from_be_bytes(*hash), name: name.into() })
    }
}

/// What a commit asks of the drive about directories that did not change themselves, but have something
/// changed below them.
pub trait Ancestors: Sync {
    /// Where a directory stood when the generation was closed: its parent, and its name's hash.
    fn place(&self, dir: Ino) -> Result<(Ino, u64)>;

    /// Such a directory as the last version has it, and its name, where that is known without reading the version.
    fn known(&self, dir: Ino) -> Option<(Name, InodeRecord)> {
        let _ = dir;
        None
    }
}

/// What became of a change: the inode as the new version has it.
pub struct Committed {
    /// Every inode that has a new record: those of the changes; and the directories above them, without their extended
    /// attributes.
    pub inodes: Vec<InodeRecord>,
}
