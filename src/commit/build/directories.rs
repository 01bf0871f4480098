//! Rewrites the directories that changed, and those above them, from the deepest up.
//!
//! What goes into a directory: the names that were added and removed there, and the entries of inodes below
//! it that changed. A shell's entry says no more than which shell it is, so a change of a shell touches no
//! directory, save when it becomes one.

use super::super::change::{Ancestors, BodyChange, Change, DirKey};
use super::super::entry::Entry;
use super::super::inode::{Attr, Content, FileKind, InodeRecord, ROOT, StoredInode};
use super::super::object::Commit;
use super::{ByIno, Tools, bug, entry_bytes, is_removed, record};
use crate::chunk::ChunkSink;
use crate::error::{Error, Kind, Result};
use crate::tree::Map;
use crate::types::Ino;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// A directory to rewrite.
struct Dir {
    /// Where its entry stands; the root has none.
    place: Option<(Ino, Vec<u8>)>,
    /// Steps from the root.
    depth: usize,
    /// Its names in the last version.
    base: Map,
    /// Itself in the last version, if it did not change but for its content.
    unchanged: Option<StoredInode>,
    edits: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// Writes the directories into `made`, beside the changes they belong to; returns those above that had no
/// change of their own, whose extended attributes nobody has to read.
pub(super) fn update(
    base: Option<&Commit>,
    changes: &[Change],
    by_ino: &ByIno,
    made: &mut [Option<InodeRecord>],
    ancestors: &dyn Ancestors,
    tools: Tools,
    sink: &mut dyn ChunkSink,
) -> Result<Vec<StoredInode>> {
    let mut work = Work { base, changes, by_ino, ancestors, tools, sink, dirs: HashMap::new() };
    work.enter_entries(made)?;
    work.enter_names()?;

    let mut order: Vec<(usize, Ino)> = work.dirs.iter().map(|(ino, dir)| (dir.depth, *ino)).collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    let mut above = Vec::new();
    for (_, ino) in order {
        let Some(dir) = work.dirs.remove(&ino) else { continue };
        let edits: Vec<_> = dir.edits.into_iter().collect();
        let map = dir
            .base
            .update(tools.directories, tools.chunks, work.sink, &edits)
            .map_err(|e| e.context(format!("directory {ino} cannot be stored")))?;
        let inode = match (dir.unchanged, by_ino.get(&ino).copied()) {
            (Some(old), _) => {
                // Around what cannot be read, counts are an estimate that may have changed.
                let attr = Attr { size: map.len(), ..old.attr };
                let inode = StoredInode { content: Content::Directory(map), attr, ..old };
                above.push(inode.clone());
                inode
            }
            (None, Some(at)) => {
                let change = changes.get(at).ok_or_else(|| bug("a change is lost"))?;
                let inode = record((change, Some(Content::Directory(map))));
                let stored = inode.as_ref().map(|i| i.store(tools.keys, work.sink)).transpose()?;
                if let Some(slot) = made.get_mut(at) {
                    *slot = inode;
                }
                stored.ok_or_else(|| bug("a directory is lost"))?
            }
            (None, None) => return Err(bug(format!("directory {ino} comes from nowhere"))),
        };
        if let Some((parent, key)) = dir.place {
            let parent = work.dirs.get_mut(&parent).ok_or_else(|| bug("a directory is above its parent"))?;
            parent.edits.insert(key, Some(entry_bytes(inode)?));
        }
    }
    Ok(above)
}

struct Work<'a> {
    base: Option<&'a Commit>,
    changes: &'a [Change],
    by_ino: &'a ByIno,
    ancestors: &'a dyn Ancestors,
    tools: Tools<'a>,
    sink: &'a mut dyn ChunkSink,
    dirs: HashMap<Ino, Dir>,
}

impl Work<'_> {
    fn change(&self, ino: Ino) -> Option<&Change> {
        self.by_ino.get(&ino).and_then(|at| self.changes.get(*at))
    }

    fn key(&self, name: &[u8]) -> Vec<u8> {
        DirKey { hash: self.tools.keys.name_hash(name), name: name.into() }.to_bytes()
    }

    /// The entries of changed inodes but directories, in the directories of their names; and all directories
    /// that changed themselves.
    fn enter_entries(&mut self, made: &[Option<InodeRecord>]) -> Result<()> {
        let changes = self.changes;
        for (change, inode) in changes.iter().zip(made) {
            if let Some(name) = change.names.iter().find(|n| self.change(n.parent).is_some_and(is_removed)) {
                return Err(bug(format!("directory {} is removed, and has names in it", name.parent)));
            }
            match (&change.body, inode) {
                (BodyChange::Directory { .. }, _) if !is_removed(change) => {
                    self.dir(change.ino)?;
                }
                (_, Some(inode)) if !change.shell => {
                    let entry = entry_bytes(inode.store(self.tools.keys, self.sink)?)?;
                    self.enter(change, &entry)?;
                }
                (_, Some(_)) if !change.was_shell => {
                    let entry = Entry::Shell { ino: change.ino, kind: change.attr.kind }.to_bytes();
                    self.enter(change, &entry)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn enter(&mut self, change: &Change, entry: &[u8]) -> Result<()> {
        for name in &change.names {
            let key = self.key(&name.name);
            let dir = self.dir(name.parent)?;
            if dir.edits.insert(key, Some(entry.to_vec())).is_some() {
                return Err(bug(format!("inode {} has the name of another", change.ino)));
            }
        }
        Ok(())
    }

    /// The names that were added and removed, held against the names of the inodes that changed.
    fn enter_names(&mut self) -> Result<()> {
        let changes = self.changes;
        for change in changes.iter().filter(|c| !is_removed(c)) {
            let BodyChange::Directory { names, .. } = &change.body else { continue };
            for (key, target) in names {
                let wrong = |why| {
                    let name = key.name.escape_ascii();
                    bug(format!("the name '{name}' in directory {} {why}", change.ino))
                };
                if key.hash != self.tools.keys.name_hash(&key.name) {
                    return Err(wrong("has another hash"));
                }
                let bytes = key.to_bytes();
                let entered = self.dir(change.ino)?.edits.contains_key(&bytes);
                let entry = match target {
                    None if entered => return Err(wrong("is removed, and is an inode's name")),
                    None => None,
                    Some((ino, kind)) => {
                        let inode = self.change(*ino).filter(|c| c.attr.kind == *kind);
                        let named = |c: &&Change| {
                            c.names.iter().any(|n| n.parent == change.ino && n.name == key.name)
                        };
                        let Some(inode) = inode.filter(named) else {
                            return Err(wrong("leads to an inode that has no such name"));
                        };
                        if !inode.shell {
                            continue; // its entry is here, or will be when the directory it leads to is made
                        }
                        Some(Entry::Shell { ino: *ino, kind: *kind }.to_bytes())
                    }
                };
                self.dir(change.ino)?.edits.insert(bytes, entry);
            }
        }
        Ok(())
    }

    /// The directory as one to rewrite, and with it all above it.
    fn dir(&mut self, ino: Ino) -> Result<&mut Dir> {
        let mut missing: Vec<(Ino, Option<Place>)> = Vec::new();
        let mut next = ino;
        while !self.dirs.contains_key(&next) {
            let place = self.place(next)?;
            missing.push((next, place.clone()));
            match place {
                Some(place) => next = place.parent,
                None => break,
            }
            // Each step goes up by one; no tree is deeper than it has directories.
            if missing.len() > MAX_DEPTH {
                return Err(bug(format!("directory {ino} is below itself")));
            }
        }
        while let Some((ino, place)) = missing.pop() {
            let dir = self.open(ino, place)?;
            self.dirs.insert(ino, dir);
        }
        self.dirs.get_mut(&ino).ok_or_else(|| bug(format!("directory {ino} is lost")))
    }

    /// Where a directory's entry stands; none for the root.
    fn place(&self, ino: Ino) -> Result<Option<Place>> {
        if ino == ROOT {
            return Ok(None);
        }
        let Some(change) = self.change(ino) else {
            let (parent, hash) = self.ancestors.place(ino)?;
            return Ok(Some(Place { parent, hash, name: None }));
        };
        match (&change.names[..], change.attr.kind) {
            ([name], FileKind::Directory) => {
                let hash = self.tools.keys.name_hash(&name.name);
                Ok(Some(Place { parent: name.parent, hash, name: Some(name.name.to_vec()) }))
            }
            _ => Err(bug(format!("inode {ino} is no directory, and has names in it"))),
        }
    }

    fn open(&mut self, ino: Ino, place: Option<Place>) -> Result<Dir> {
        let depth = match &place {
            Some(place) => self.dirs.get(&place.parent).map_or(0, |parent| parent.depth) + 1,
            None => 0,
        };
        let dir = |place, base, unchanged| Dir { place, depth, base, unchanged, edits: BTreeMap::new() };
        if let Some(change) = self.change(ino) {
            let BodyChange::Directory { base, .. } = &change.body else {
                return Err(bug(format!("inode {ino} is no directory, and has names in it")));
            };
            let place = place.map(|p| (p.parent, self.key(&p.name.unwrap_or_default())));
            return Ok(dir(place, base.clone(), None));
        }
        let (place, inode) = match place {
            None => {
                let base = self.base.ok_or_else(|| bug("the first version has no root"))?;
                (None, base.root.clone())
            }
            Some(place) => {
                let (key, inode) = match self.find(ino, &place) {
                    // The drive may know it all the same.
                    Err(e) if e.kind() == Kind::Damage => self.known(ino)?.ok_or(e)?,
                    found => found?,
                };
                (Some((place.parent, key)), inode)
            }
        };
        match inode.content.clone() {
            Content::Directory(base) => Ok(dir(place, base, Some(inode))),
            _ => Err(Error::damage(format!("inode {ino} is a directory to the drive and none at rest"))),
        }
    }

    /// The same of a directory whose entry cannot be read, from the drive.
    fn known(&mut self, ino: Ino) -> Result<Option<(Vec<u8>, StoredInode)>> {
        let Some((name, record)) = self.ancestors.known(ino) else { return Ok(None) };
        let stored = record.store(self.tools.keys, self.sink)?;
        Ok(Some((self.key(&name.name), stored)))
    }

    /// The entry of a directory in the last version of its parent. Several names may share a hash.
    fn find(&self, ino: Ino, place: &Place) -> Result<(Vec<u8>, StoredInode)> {
        let parent = self.dirs.get(&place.parent).ok_or_else(|| bug("a directory is above its parent"))?;
        let hash = place.hash.to_be_bytes();
        for entry in parent.base.range(self.tools.chunks, Bound::Included(&hash)) {
            let (key, value) = entry?;
            if !key.starts_with(&hash) {
                break;
            }
            if let Entry::Inode(inode) = Entry::from_bytes(&value)?
                && inode.ino == ino
            {
                return Ok((key.to_vec(), inode));
            }
        }
        Err(bug(format!("directory {ino} is not in directory {}, where the drive has it", place.parent)))
    }
}

/// More steps up than this are a cycle.
const MAX_DEPTH: usize = 1 << 20;

/// Where the drive says that a directory stands.
#[derive(Clone)]
struct Place {
    parent: Ino,
    hash: u64,
    /// Known of those that changed.
    name: Option<Vec<u8>>,
}
