//! The Map of shells: inodes that have, or had, several names (docs/FORMAT.md, "Shells").
//!
//! Under the inode number (8 bytes, big-endian) stands the inode; under the number, the parent's number
//! (8 bytes, big-endian) and a name stands nothing: each name has an entry of its own, so that the ten
//! thousandth link costs no more than the second. An inode that once was a shell stays one until its last
//! name goes.

use super::entry::{check_name, is_stored};
use super::inode::{FileKind, Name, StoredInode};
use crate::chunk::Chunks;
use crate::error::{Error, Result};
use crate::tree::Map;
use crate::types::Ino;
use crate::wire::{Reader, Writer};
use std::ops::Bound;

/// What an entry of the Map of shells says.
#[derive(Debug)]
pub(super) enum Item {
    Inode(Box<StoredInode>),
    Name(Ino, Name),
}

pub(super) fn record_key(ino: Ino) -> Vec<u8> {
    ino.to_be_bytes().to_vec()
}

pub(super) fn record_bytes(inode: &StoredInode) -> Vec<u8> {
    let mut w = Writer::with_capacity(160);
    inode.put(&mut w);
    w.into_vec()
}

pub(super) fn name_key(ino: Ino, name: &Name) -> Vec<u8> {
    [&ino.to_be_bytes()[..], &name.parent.to_be_bytes(), &name.name].concat()
}

/// Reads an entry, and holds it to its key.
pub(super) fn item(key: &[u8], value: &[u8]) -> Result<Item> {
    let bad = || Error::damage("map of shells: a key that cannot be one");
    let (ino, rest) = key.split_first_chunk::<8>().ok_or_else(bad)?;
    let ino = Ino::from_be_bytes(*ino);
    let named = |e: Error| e.context(format!("shell {ino}"));
    if rest.is_empty() {
        let mut r = Reader::new(value, "shell");
        let inode = StoredInode::get_from(&mut r).map_err(named)?;
        r.end().map_err(named)?;
        if inode.ino != ino || inode.attr.kind == FileKind::Directory {
            return Err(named(Error::damage("another inode, or a directory, stands in its place")));
        }
        return Ok(Item::Inode(Box::new(inode)));
    }
    let (parent, name) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
    let parent = Ino::from_be_bytes(*parent);
    check_name(name).map_err(named)?;
    if !value.is_empty() || !is_stored(ino) || !is_stored(parent) {
        return Err(bad());
    }
    Ok(Item::Name(ino, Name { parent, name: name.into() }))
}

/// The inode of a shell.
pub fn get(shells: &Map, ino: Ino, chunks: &dyn Chunks) -> Result<Option<StoredInode>> {
    let key = record_key(ino);
    let Some(value) = shells.get(chunks, &key)? else { return Ok(None) };
    match item(&key, &value)? {
        Item::Inode(inode) => Ok(Some(*inode)),
        Item::Name(..) => Err(Error::damage(format!("shell {ino}: a name stands in its place"))),
    }
}

/// All names of a shell, in the order of parent and name; none where there is no such shell.
pub fn names(shells: &Map, ino: Ino, chunks: &dyn Chunks) -> Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in shells.range(chunks, Bound::Excluded(&record_key(ino))) {
        let (key, value) = entry?;
        match item(&key, &value)? {
            Item::Name(of, name) if of == ino => names.push(name),
            _ => break,
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_shells_are_held_to_their_form() {
        let name = Name { parent: 1, name: b"a".as_slice().into() };
        let key = name_key(7, &name);
        assert!(matches!(item(&key, b"").unwrap(), Item::Name(7, n) if n == name));
        assert!(item(&key, b"x").is_err(), "a name has no value");
        assert!(item(&key[..9], b"").is_err());
        assert!(item(&key[..16], b"").is_err(), "an empty name");
        assert!(item(&name_key(0, &name), b"").is_err());
        assert!(item(&name_key(7, &Name { parent: 1 << 63, ..name.clone() }), b"").is_err());
        assert!(item(&name_key(7, &Name { name: b"..".as_slice().into(), ..name }), b"").is_err());
        assert!(item(b"short", b"").is_err());
        assert!(item(&record_key(7), b"junk").is_err());
    }
}
