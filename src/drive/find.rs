//! Finding inodes: by number, by name; loading them from the committed version.

use super::inode::{Body, Inode};
use super::table::Place;
use super::types::{Stat, Wait};
use super::{Drive, Held};
use crate::commit::entry::{Entry, check_name};
use crate::commit::inode::{FileKind, Name};
use crate::commit::shells;
use crate::error::{Error, Result};
use crate::tree::Map;
use crate::types::Ino;
use std::ops::Bound;
use std::sync::Arc;

/// What a directory's layers say of a name.
pub(super) enum Layered {
    Is(Ino),
    Gone,
    /// Nothing: the committed version decides.
    Ask,
}

const STALE: Error = Error::errno_of(libc::ESTALE);

/// The name in the key of a directory's entry.
pub(super) fn name_of_key(key: &[u8]) -> &[u8] {
    key.get(8..).unwrap_or_default()
}

impl Drive {
    /// The inode, loaded from the committed version if it must be, and the directories above it before.
    pub(super) fn load(&self, ino: Ino, wait: Wait) -> Result<Arc<Inode>> {
        // Up to what is loaded, then down again; not by recursion, for there may be more directories above an inode
        // than a stack is deep.
        let (mut at, mut below, mut dir) = (ino, Vec::new(), None::<Arc<Inode>>);
        loop {
            let epoch = self.epoch();
            let (found, place) = self.table.find(at).ok_or(STALE)?;
            let inode = match (found, place) {
                (Some(inode), _) => inode,
                (None, Place::NOWHERE) => return Err(STALE),
                (None, _) => {
                    let loaded = match dir.take().filter(|dir| dir.ino == place.parent) {
                        _ if place == Place::SHELLS => self.load_shell(at, wait)?,
                        Some(dir) => {
                            self.load_at(&self.base_of(&dir)?, place.parent, place.hash, at, wait)?
                        }
                        None if below.len() > self.table.len() => {
                            return Err(Error::damage(format!(
                                "inode {ino} is in a directory that is below itself"
                            )));
                        }
                        None => {
                            below.push(std::mem::replace(&mut at, place.parent));
                            continue;
                        }
                    };
                    match loaded {
                        Some(loaded) => match self.table.insert(loaded, place, 0, || self.in_epoch(epoch)) {
                            Some(inode) => {
                                self.make_room();
                                inode
                            }
                            None => continue,
                        },
                        None if !self.in_epoch(epoch) => continue,
                        None => {
                            return Err(Error::damage(format!("inode {at} is not where it was last seen")));
                        }
                    }
                }
            };
            match below.pop() {
                Some(next) => (at, dir) = (next, Some(inode)),
                None => return Ok(inode),
            }
        }
    }

    pub(super) fn base_of(&self, dir: &Inode) -> Result<Map> {
        match &dir.node.read().body {
            Body::Dir(d) => Ok(d.base.clone()),
            _ => Err(Error::errno_of(libc::ENOTDIR)),
        }
    }

    /// An inode of a directory of the committed version, by the hash of its name.
    fn load_at(
        &self,
        base: &Map,
        parent: Ino,
        hash: u64,
        ino: Ino,
        wait: Wait,
    ) -> Result<Option<Arc<Inode>>> {
        let chunks = self.chunks(wait);
        for item in base.range(chunks, Bound::Included(&hash.to_be_bytes())) {
            let (key, value) = item?;
            if !key.starts_with(&hash.to_be_bytes()) {
                break;
            }
            let Entry::Inode(stored) = Entry::from_bytes(&value)? else { continue };
            if stored.ino == ino {
                let name = name_of_key(&key).into();
                let record = stored.load(chunks)?;
                return Ok(Some(Inode::load(record, vec![Name { parent, name }], false, &self.xattr_bytes)));
            }
        }
        Ok(None)
    }

    fn load_shell(&self, ino: Ino, wait: Wait) -> Result<Option<Arc<Inode>>> {
        let shells = self.shells.read().clone();
        let chunks = self.chunks(wait);
        let Some(stored) = shells::get(&shells, ino, chunks)? else { return Ok(None) };
        let names = shells::names(&shells, ino, chunks)?;
        Ok(Some(Inode::load(stored.load(chunks)?, names, true, &self.xattr_bytes)))
    }

    /// What the layers of a locked directory say of a name.
    pub(super) fn layered(body: &Body, key: &crate::commit::change::DirKey) -> Result<Layered> {
        let Body::Dir(d) = body else { return Err(Error::errno_of(libc::ENOTDIR)) };
        let found = d.top.names.get(key).or_else(|| d.frozen.as_ref()?.names.get(key));
        Ok(match found {
            Some(Some((ino, _))) => Layered::Is(*ino),
            Some(None) => Layered::Gone,
            None => Layered::Ask,
        })
    }

    /// The inode that a name leads to, loaded; with the epoch in which that was found.
    pub(super) fn child(&self, dir: &Inode, name: &[u8], wait: Wait) -> Result<(u64, Option<Arc<Inode>>)> {
        let key = self.key(name);
        loop {
            let epoch = self.epoch();
            let (layered, base) = {
                let node = dir.node.read();
                let layered = Self::layered(&node.body, &key)?;
                let base = if let Body::Dir(d) = &node.body { d.base.clone() } else { Map::default() };
                (layered, base)
            };
            match layered {
                Layered::Gone => return Ok((epoch, None)),
                Layered::Is(ino) => {
                    if let Some(inode) = self.table.loaded_inode(ino) {
                        return Ok((epoch, Some(inode)));
                    }
                    if self.in_epoch(epoch) {
                        return Err(Error::failed(format!("inode {ino} has changes but is not loaded")));
                    }
                }
                Layered::Ask => {
                    let value = base.get(self.chunks(wait), &key.to_bytes())?;
                    let Some(value) = value else {
                        if self.in_epoch(epoch) {
                            return Ok((epoch, None));
                        }
                        continue;
                    };
                    let (loaded, place) = match Entry::from_bytes(&value)? {
                        Entry::Inode(stored) => {
                            let ino = stored.ino;
                            if let Some(inode) = self.table.loaded_inode(ino) {
                                return Ok((epoch, Some(inode)));
                            }
                            let name = Name { parent: dir.ino, name: name.into() };
                            let record = stored.load(self.chunks(wait))?;
                            (
                                Inode::load(record, vec![name], false, &self.xattr_bytes),
                                Place { parent: dir.ino, hash: key.hash },
                            )
                        }
                        Entry::Shell { ino, .. } => {
                            if let Some(inode) = self.table.loaded_inode(ino) {
                                return Ok((epoch, Some(inode)));
                            }
                            match self.load_shell(ino, wait)? {
                                Some(inode) => (inode, Place::SHELLS),
                                None if self.in_epoch(epoch) => {
                                    return Err(Error::damage(format!(
                                        "inode {ino} is not in the Map of shells"
                                    )));
                                }
                                None => continue,
                            }
                        }
                    };
                    if let Some(inode) = self.table.insert(loaded, place, 0, || self.in_epoch(epoch)) {
                        self.make_room();
                        return Ok((epoch, Some(inode)));
                    }
                }
            }
        }
    }

    /// Whether a name of a locked directory still leads to what [`Drive::child`] found in `epoch`.
    pub(super) fn still(
        &self,
        held: &mut Held,
        dir: Ino,
        name: &[u8],
        (epoch, found): (u64, Option<Ino>),
    ) -> Result<bool> {
        let key = self.key(name);
        let node = held.node(dir)?;
        Ok(match Self::layered(&node.body, &key)? {
            Layered::Is(ino) => found == Some(ino),
            Layered::Gone => found.is_none(),
            Layered::Ask => self.in_epoch(epoch),
        })
    }

    /// The inode of a name in a directory; counts a lookup of it.
    pub fn lookup(&self, wait: Wait, parent: Ino, name: &[u8]) -> Result<Option<Stat>> {
        if name.len() > 255 {
            return Err(Error::errno_of(libc::ENAMETOOLONG));
        }
        let dir = self.load(parent, wait)?;
        if name == b".." || name == b"." {
            let up = if let Body::Dir(d) = &dir.node.read().body { d.parent } else { parent };
            let ino = if name == b".." { up } else { parent };
            let inode = self.load(ino, wait)?;
            self.count_lookup(&inode);
            return Ok(Some(self.stat_of(&inode)));
        }
        // Most of what is looked up is clean and need not be loaded.
        let key = self.key(name);
        loop {
            let epoch = self.epoch();
            let base = {
                let node = dir.node.read();
                match (Self::layered(&node.body, &key)?, &node.body) {
                    (Layered::Gone, _) => return Ok(None),
                    (Layered::Ask, Body::Dir(d)) => Some(d.base.clone()),
                    _ => None,
                }
            };
            if let Some(base) = base {
                let Some(value) = base.get(self.chunks(wait), &key.to_bytes())? else {
                    if self.in_epoch(epoch) {
                        return Ok(None);
                    }
                    continue;
                };
                if let Entry::Inode(stored) = Entry::from_bytes(&value)?
                    && self.table.loaded_inode(stored.ino).is_none()
                {
                    let place = Place { parent, hash: key.hash };
                    if self.table.remember(stored.ino, place, 1, || self.in_epoch(epoch)) {
                        // Loaded and changed in between? Then that is the truth.
                        return Ok(Some(match self.table.loaded_inode(stored.ino) {
                            Some(inode) => self.stat_of(&inode),
                            None => Stat { ino: stored.ino, attr: stored.attr, settled: true },
                        }));
                    }
                    continue;
                }
            }
            let (_, found) = self.child(&dir, name, wait)?;
            return Ok(found.map(|inode| {
                self.count_lookup(&inode);
                self.stat_of(&inode)
            }));
        }
    }

    pub(super) fn count_lookup(&self, inode: &Arc<Inode>) {
        self.table.with(inode.ino, |s| s.lookups = s.lookups.saturating_add(1));
    }

    /// The kernel takes back lookups.
    pub fn forget(&self, ino: Ino, n: u64) {
        if self.table.forget(ino, n) {
            if let Some(inode) = self.table.loaded_inode(ino) {
                self.drop_if_unreachable(&inode);
            }
            self.release_if_idle(ino);
        }
    }

    pub(super) fn release_if_idle(&self, ino: Ino) {
        let committed = self.committed_generation();
        self.table.release(ino, committed, |inode| {
            Arc::strong_count(inode) == 1 && inode.opens.load(std::sync::atomic::Ordering::Relaxed) == 0
        });
    }

    /// The last generation that no uncommitted record belongs to.
    fn committed_generation(&self) -> u32 {
        self.gate.read().oldest.saturating_sub(1)
    }

    /// Whether more is loaded than what is changed and the clean inodes' share of the memory.
    pub(super) fn too_many_loaded(&self) -> bool {
        let changed = self.dirty.lock().len() + self.closing.load(std::sync::atomic::Ordering::Relaxed);
        self.table.loaded() + self.heavy() > self.settings.loaded_inodes + changed
    }

    /// Unloads clean inodes when there are too many. Those with changes cannot be unloaded, and do not count.
    pub(super) fn make_room(&self) {
        if !self.too_many_loaded() {
            return;
        }
        let shard = self.clock.monotonic().subsec_nanos() as usize;
        for ino in self.table.shard_inodes(shard % self.table.shard_count()) {
            self.release_if_idle(ino);
        }
    }

    /// Refuses names that cannot be.
    pub(super) fn check_new_name(&self, dir: Ino, name: &[u8]) -> Result<()> {
        if name.len() > 255 {
            return Err(Error::errno_of(libc::ENAMETOOLONG));
        }
        check_name(name).map_err(|_| Error::errno_of(libc::EINVAL))?;
        if self.is_past(dir, name) {
            return Err(Error::errno_of(libc::EEXIST));
        }
        Ok(())
    }

    /// Whether this is the name under which the drive's past is kept, which nothing else can have.
    pub fn is_past(&self, dir: Ino, name: &[u8]) -> bool {
        dir == crate::commit::ROOT && name == b".history"
    }

    pub fn stat(&self, wait: Wait, ino: Ino) -> Result<Stat> {
        Ok(self.stat_of(&*self.load(ino, wait)?))
    }

    pub fn read_link(&self, wait: Wait, ino: Ino) -> Result<Arc<[u8]>> {
        match &self.load(ino, wait)?.node.read().body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Error::errno_of(libc::EINVAL)),
        }
    }

    pub(super) fn is_dir(inode: &Inode) -> bool {
        inode.node.read().meta.attr.kind == FileKind::Directory
    }
}
