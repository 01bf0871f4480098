//! Listing directories: the committed names with the changes over them, ordered by hash, so that a position
//! stays true while the directory changes.

use super::Drive;
use super::inode::Body;
use super::table::Place;
use super::types::{DirItem, Stat, Wait};
use crate::commit::change::DirKey;
use crate::commit::entry::Entry;
use crate::commit::inode::FileKind;
use crate::error::{Error, Result};
use crate::types::Ino;
use std::collections::BTreeMap;
use std::ops::Bound;

/// How many changed names are merged at a time.
const WINDOW: usize = 1024;

/// A name to list.
struct Found {
    key: DirKey,
    ino: Ino,
    kind: FileKind,
    /// As the committed version has it; None where it has changes.
    stat: Option<Stat>,
    place: Place,
}

impl Drive {
    /// Lists a directory from a position (0: the start) until `take` refuses. With `plus`, each item but `.` and
    /// `..` carries its attributes, and a lookup is counted for it when it is taken.
    pub fn read_dir(
        &self,
        wait: Wait,
        ino: Ino,
        from: u64,
        plus: bool,
        take: &mut dyn FnMut(&DirItem) -> bool,
    ) -> Result<()> {
        let dir = self.load(ino, wait)?;
        let parent = match &dir.node.read().body {
            Body::Dir(d) => d.parent,
            _ => return Err(Error::errno_of(libc::ENOTDIR)),
        };
        let kind = FileKind::Directory;
        if from < 1 && !take(&DirItem { ino, kind, name: b".", next: 1, stat: None }) {
            return Ok(());
        }
        if from < 2 && !take(&DirItem { ino: parent, kind, name: b"..", next: 2, stat: None }) {
            return Ok(());
        }
        let mut after = from.max(2);
        loop {
            let epoch = self.epoch();
            // The changes of a stretch of the directory, and the version that they lie over.
            let (base, changes, end) = {
                let node = dir.node.read();
                let Body::Dir(d) = &node.body else { return Err(Error::errno_of(libc::ENOTDIR)) };
                let start = Bound::Excluded(DirKey { hash: after, name: [0xff; 256][..].into() });
                let mut changes: BTreeMap<DirKey, Option<(Ino, FileKind)>> = BTreeMap::new();
                let mut end = None;
                for layer in d.frozen.iter().map(|l| &**l).chain([&d.top]) {
                    for (i, (key, change)) in layer.names.range((start.clone(), Bound::Unbounded)).enumerate()
                    {
                        if i == WINDOW {
                            end = Some(end.map_or(key.hash, |e: u64| e.min(key.hash)));
                            break;
                        }
                        changes.insert(key.clone(), *change);
                    }
                }
                (d.base.clone(), changes, end)
            };
            // Below `end` every change is known; names of one hash are never parted.
            let end = end.unwrap_or(u64::MAX);
            let known = |key: &DirKey| key.hash < end;
            let mut changes = changes.into_iter().filter(|(k, _)| known(k)).peekable();
            let mut names =
                base.range(self.chunks(wait), Bound::Included(&after.saturating_add(1).to_be_bytes()));
            let mut next_base = || -> Result<Option<Found>> {
                let Some(item) = names.next() else { return Ok(None) };
                let (key, value) = item?;
                let key = DirKey::from_bytes(&key)
                    .ok_or_else(|| Error::damage("a directory's key is too short"))?;
                if !known(&key) {
                    return Ok(None);
                }
                let entry = Entry::from_bytes(&value)?;
                let here = Place { parent: ino, hash: key.hash };
                let (stat, place) = match &entry {
                    Entry::Inode(s) => (Some(Stat { ino: s.ino, attr: s.attr.clone(), settled: true }), here),
                    Entry::Shell { .. } => (None, Place::SHELLS),
                };
                Ok(Some(Found { key, ino: entry.ino(), kind: entry.kind(), stat, place }))
            };
            let mut base_item = next_base()?;
            loop {
                let change_first = match (changes.peek(), &base_item) {
                    (None, None) => break,
                    (Some((c, _)), Some(b)) => *c <= b.key,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                };
                let found = if change_first {
                    let Some((key, change)) = changes.next() else { break };
                    if base_item.as_ref().is_some_and(|b| b.key == key) {
                        base_item = next_base()?;
                    }
                    let Some((child, kind)) = change else { continue };
                    let place = Place { parent: ino, hash: key.hash };
                    Found { key, ino: child, kind, stat: None, place }
                } else {
                    let Some(found) = base_item.take() else { break };
                    base_item = next_base()?;
                    found
                };
                let next = found.key.hash;
                let mut item =
                    DirItem { ino: found.ino, kind: found.kind, name: &found.key.name, next, stat: None };
                if plus {
                    item.stat = match (self.table.loaded_inode(found.ino), found.stat) {
                        (Some(inode), _) => Some(self.stat_of(&inode)),
                        (None, Some(stat)) => Some(stat),
                        (None, None) => match self.child(&dir, &found.key.name, wait)?.1 {
                            Some(inode) => Some(self.stat_of(&inode)),
                            None => continue,
                        },
                    };
                    // The name may lead to another inode by now.
                    if let Some(stat) = &item.stat {
                        (item.ino, item.kind) = (stat.ino, stat.attr.kind);
                    }
                    if !self.table.remember(item.ino, found.place, 1, || self.in_epoch(epoch)) {
                        // The version changed below us: go on from here with the new one.
                        break;
                    }
                    if !take(&item) {
                        self.forget(item.ino, 1);
                        return Ok(());
                    }
                } else if !take(&item) {
                    return Ok(());
                }
                after = next;
            }
            if !self.in_epoch(epoch) {
                continue;
            }
            if end == u64::MAX {
                return Ok(());
            }
            after = end - 1;
        }
    }
}
