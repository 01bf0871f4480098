//! One version of the drive, to read.

use super::change::DirKey;
use super::entry::{Entry, check_name};
use super::inode::{Content, InodeRecord, Name, ROOT};
use super::object::Commit;
use super::{history, shells};
use crate::chunk::Chunks;
use crate::crypt::RealmKeys;
use crate::error::{Error, Result};
use crate::tree::{Map, Range};
use crate::types::{Ino, Version};
use std::ops::Bound;
use std::sync::Arc;

/// More names than any path has.
const DEEPEST: usize = 1 << 16;

/// A version of the drive. Nothing is held but the commit: every question reads the nodes that it needs.
#[derive(Clone)]
pub struct View {
    commit: Arc<Commit>,
    keys: Arc<RealmKeys>,
    chunks: Arc<dyn Chunks>,
}

/// What a directory holds, in the order of its keys.
pub struct Listing<'a> {
    keys: &'a RealmKeys,
    range: Range<'a>,
}

impl View {
    pub fn new(commit: Arc<Commit>, keys: Arc<RealmKeys>, chunks: Arc<dyn Chunks>) -> View {
        View { commit, keys, chunks }
    }

    pub fn commit(&self) -> &Commit {
        &self.commit
    }

    pub fn root(&self) -> Result<InodeRecord> {
        self.commit.root.clone().load(&*self.chunks)
    }

    /// The key of a name in its directory.
    pub fn key(&self, name: &[u8]) -> DirKey {
        DirKey { hash: self.keys.name_hash(name), name: name.into() }
    }

    /// The entry of a name in a directory.
    pub fn entry(&self, dir: &Map, name: &[u8]) -> Result<Option<Entry>> {
        match dir.get(&*self.chunks, &self.key(name).to_bytes())? {
            Some(value) => Entry::from_bytes(&value).map(Some),
            None => Ok(None),
        }
    }

    /// The inode that an entry leads to.
    pub fn inode(&self, entry: Entry) -> Result<InodeRecord> {
        match entry {
            Entry::Inode(inode) => inode.load(&*self.chunks),
            Entry::Shell { ino, kind } => match self.shell(ino)? {
                Some(inode) if inode.attr.kind == kind => Ok(inode),
                Some(_) => Err(Error::damage(format!("shell {ino} is not of the type that its entry says"))),
                None => Err(Error::damage(format!("shell {ino} is not in the map of shells"))),
            },
        }
    }

    /// The inode of a shell.
    pub fn shell(&self, ino: Ino) -> Result<Option<InodeRecord>> {
        shells::get(&self.commit.shells, ino, &*self.chunks)?
            .map(|inode| inode.load(&*self.chunks))
            .transpose()
    }

    /// All names of a shell.
    pub fn names(&self, ino: Ino) -> Result<Vec<Name>> {
        shells::names(&self.commit.shells, ino, &*self.chunks)
    }

    /// The inode of a name in a directory.
    pub fn lookup(&self, dir: &Map, name: &[u8]) -> Result<Option<InodeRecord>> {
        self.entry(dir, name)?.map(|entry| self.inode(entry)).transpose()
    }

    /// The inode of a path from the root, `/` between names. Follows no symbolic links; `..` goes to where
    /// the path came from. Fails with ENOENT and ENOTDIR as open(2) does.
    pub fn resolve(&self, path: &[u8]) -> Result<InodeRecord> {
        let mut above = Vec::new();
        let mut here = self.root()?;
        for name in path.split(|b| *b == b'/') {
            let Content::Directory(dir) = &here.content else {
                return Err(Error::errno_of(libc::ENOTDIR));
            };
            match name {
                b"" | b"." => {}
                b".." => here = above.pop().unwrap_or(here),
                _ => {
                    let next = self.lookup(dir, name)?.ok_or(Error::errno_of(libc::ENOENT))?;
                    above.push(std::mem::replace(&mut here, next));
                }
            }
        }
        Ok(here)
    }

    /// The entries of a directory, from the beginning or after a key. Read as it goes; ends after an error.
    pub fn list(&self, dir: &Map, after: Option<&DirKey>) -> Listing<'_> {
        let after = after.map(DirKey::to_bytes);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        Listing { keys: &self.keys, range: dir.range(&*self.chunks, from) }
    }

    /// What the versions up to this one did to an inode, newest first.
    pub fn versions_of(&self, ino: Ino) -> history::Events<'_> {
        history::versions_of(&self.commit.history, ino, &*self.chunks)
    }

    /// Where an inode was that a version did something to: its path from the root, without a leading slash. As far as
    /// it is known: retention may have taken what an older version did to a directory above.
    pub fn path_of(&self, event: &history::Event, version: Version) -> Result<Vec<u8>> {
        let mut names = vec![event.name.clone()];
        let mut dir = event.parent;
        // A store that lies could make a circle; no path that can be given has more names.
        while dir != ROOT && names.len() < DEEPEST {
            let Some(above) = history::before(&self.commit.history, dir, version, &*self.chunks)? else {
                break;
            };
            names.push(above.name);
            dir = above.parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// Reads a file from a position on; returns how many bytes there were, less than asked only at its end.
    pub fn read(&self, file: &InodeRecord, at: u64, out: &mut [u8]) -> Result<usize> {
        let Content::File(blob) = &file.content else { return Err(Error::errno_of(libc::EINVAL)) };
        let left = usize::try_from(file.attr.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let n = out.len().min(left);
        let (out, _) = out.split_at_mut(n);
        blob.read(&*self.chunks, at, out)
            .map_err(|e| e.context(format!("inode {} cannot be read at {at}", file.ino)))?;
        Ok(n)
    }
}

/// Reads a name and its entry as a directory's Map has them: the name may be one, and stands where its hash
/// says.
pub(super) fn read_entry(keys: &RealmKeys, key: &[u8], value: &[u8]) -> Result<(DirKey, Entry)> {
    let at = DirKey::from_bytes(key).ok_or_else(|| Error::damage("directory entry: its key is too short"))?;
    check_name(&at.name)?;
    let named = |e: Error| e.context(format!("directory entry '{}'", at.name.escape_ascii()));
    if at.hash != keys.name_hash(&at.name) {
        return Err(named(Error::damage("stands in the wrong place")));
    }
    let entry = Entry::from_bytes(value).map_err(named)?;
    Ok((at, entry))
}

impl Iterator for Listing<'_> {
    type Item = Result<(DirKey, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.range.next()?;
        Some(entry.and_then(|(key, value)| read_entry(self.keys, &key, &value)))
    }
}
