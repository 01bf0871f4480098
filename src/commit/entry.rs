//! What a name in a directory leads to, and what may be a name (docs/FORMAT.md, "Directories").

use super::inode::{FileKind, StoredInode};
use crate::error::{Error, Result};
use crate::types::Ino;
use crate::wire::{Reader, Writer};

/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// The value of a directory's Map.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every entry is an inode")]
pub enum Entry {
    /// The inode itself: it has no other name.
    Inode(StoredInode),
    /// The inode has, or had, several names: it stands in the commit's Map of shells.
    Shell { ino: Ino, kind: FileKind },
}

const INODE: u8 = 1;
const SHELL: u8 = 2;

impl Entry {
    pub fn ino(&self) -> Ino {
        match self {
            Entry::Inode(inode) => inode.ino,
            Entry::Shell { ino, .. } => *ino,
        }
    }

    pub fn kind(&self) -> FileKind {
        match self {
            Entry::Inode(inode) => inode.attr.kind,
            Entry::Shell { kind, .. } => *kind,
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(160);
        match self {
            Entry::Inode(inode) => {
                w.u8(INODE);
                inode.put(&mut w);
            }
            Entry::Shell { ino, kind } => {
                w.u8(SHELL).var(*ino).u8(*kind as u8);
            }
        }
        w.into_vec()
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Entry> {
        let mut r = Reader::new(bytes, "directory entry");
        let entry = match r.u8()? {
            INODE => Entry::Inode(StoredInode::get_from(&mut r)?),
            SHELL => {
                let ino = get_ino(&mut r)?;
                match FileKind::from_u8(r.u8()?) {
                    None | Some(FileKind::Directory) => {
                        return Err(r.bad("the type cannot have several names"));
                    }
                    Some(kind) => Entry::Shell { ino, kind },
                }
            }
            _ => return Err(r.bad("unknown form")),
        };
        r.end()?;
        Ok(entry)
    }
}

/// Reads an inode number: neither 0 nor one with the top bit, which is kept for the past.
pub(super) fn get_ino(r: &mut Reader) -> Result<Ino> {
    let ino = r.var()?;
    if is_stored(ino) { Ok(ino) } else { Err(r.bad("inode number out of range")) }
}

/// Whether an inode number can be one at rest.
pub(super) fn is_stored(ino: Ino) -> bool {
    ino != 0 && ino >> 63 == 0
}

/// Refuses what no directory may hold: an empty name, `.`, `..`, `/`, NUL, over 255 bytes.
pub fn check_name(name: &[u8]) -> Result<()> {
    let why = match name {
        b"" => "is empty",
        b"." | b".." => "is reserved",
        _ if name.len() > NAME_MAX => "is over 255 bytes",
        _ if name.contains(&b'/') => "has a slash",
        _ if name.contains(&0) => "has a NUL",
        _ => return Ok(()),
    };
    let shown = name.get(..NAME_MAX).unwrap_or(name).escape_ascii();
    Err(Error::damage(format!("directory entry: the name '{shown}' {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_mislead_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'x'; 256]] {
            assert!(check_name(bad).is_err(), "{}", bad.escape_ascii());
        }
        for good in [&b"a"[..], b"...", b".history", b"\xff\n", &[b'x'; 255]] {
            check_name(good).unwrap();
        }
    }

    #[test]
    fn a_shell_entry_has_one_encoding_and_checks_its_parts() {
        let entry = Entry::Shell { ino: 300, kind: FileKind::File };
        let bytes = entry.to_bytes();
        assert_eq!(bytes, [2, 0xac, 2, 1]);
        assert_eq!(Entry::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        for bad in [&[][..], &[0, 1, 1], &[2, 0, 1], &[2, 1, 2], &[2, 1, 9], &[2, 1, 1, 0], &[2, 0x81, 0, 1]]
        {
            assert!(Entry::from_bytes(bad).is_err(), "{bad:?}");
        }
        let mut past = vec![2];
        past.extend_from_slice(&[0xff; 9]);
        past.extend_from_slice(&[1, 1]);
        assert!(Entry::from_bytes(&past).is_err(), "the top bit is not for inodes at rest");
    }
}
