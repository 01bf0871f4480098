#![no_main]
//! What trees hold of inodes (src/commit): entries of directories, inodes, shells, events of the history, extended
//! attributes, the index of packs.

use bytes::Bytes;
use nacrefs::chunk::{ChunkRef, Chunks};
use nacrefs::commit::inode::{StoredXattrs, encode_xattrs};
use nacrefs::commit::{Entry, Event, StoredInode, fuzzing};
use nacrefs::drive::acl::Acl;
use nacrefs::error::Result;
use nacrefs::wire::{Reader, Writer};
use nacrefs_fuzz::{bytes, choice, same, target};

/// One content behind every address.
struct Only<'a>(&'a [u8]);

impl Chunks for Only<'_> {
    fn get(&self, _: &ChunkRef) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(self.0))
    }
}

fn written(inode: &StoredInode) -> Vec<u8> {
    let mut w = Writer::new();
    inode.put(&mut w);
    w.into_vec()
}

fn inode(bytes: &[u8]) -> Result<StoredInode> {
    let mut r = Reader::new(bytes, "inode");
    let inode = StoredInode::get_from(&mut r)?;
    r.end()?;
    Ok(inode)
}

/// An inode whose large xattrs are the rest of the script.
fn xattrs(rest: &[u8]) -> Result<()> {
    let mut r = Reader::new(rest, "script");
    let mut inode = inode(bytes(&mut r)?)?;
    let value = r.rest();
    let StoredXattrs::Chunk { size, .. } = &mut inode.xattrs else { return Ok(()) };
    *size = value.len() as u32;
    let loaded = inode.load(&Only(value))?;
    same(Ok(loaded.xattrs.as_deref().map(encode_xattrs).unwrap_or_default()), value);
    Ok(())
}

target!(1, |data| {
    let (what, rest) = choice(data);
    match what % 7 {
        0 => same(Entry::from_bytes(rest).map(|e| e.to_bytes()), rest),
        1 => same(inode(rest).map(|i| written(&i)), rest),
        2 => same(Event::from_bytes(rest).map(|e| e.to_bytes()), rest),
        3 => drop(xattrs(rest)),
        4 => {
            let mut r = Reader::new(rest, "script");
            let Ok(key) = bytes(&mut r) else { return };
            if let Ok((again, value)) = fuzzing::shell(key, r.rest()) {
                assert!(again == key && value == r.rest());
            }
        }
        5 => {
            let mut r = Reader::new(rest, "script");
            let Ok(key) = bytes(&mut r) else { return };
            if let Ok((again, value)) = fuzzing::pack(key, r.rest()) {
                assert!(again == key && value == r.rest());
            }
        }
        _ => {
            let Some(acl) = Acl::parse(rest) else { return };
            assert_eq!(acl.to_bytes(), rest);
            let mut other = acl.clone();
            other.chmod(acl.mode());
            assert_eq!(other.mode(), acl.mode());
            let (inherited, mode) = acl.inherit(0o640);
            assert_eq!((inherited.mode(), mode & !0o640), (mode, 0));
        }
    }
});
