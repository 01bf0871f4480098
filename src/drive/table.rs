//! The table of inodes that the kernel remembers, that are open, or that have changes not yet committed.
//!
//! A clean inode that is not in use costs only its slot: where it stands (its parent and the hash of its
//! name), from which it is loaded again when it is wanted.

use super::inode::{Generation, Inode};
use crate::types::Ino;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const SHARDS: usize = 64;

/// Where an inode stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory; [`Place::SHELLS`] for an inode in the Map of shells, [`Place::NOWHERE`] for a removed one.
    pub parent: Ino,
    /// The hash of its name.
    pub hash: u64,
}

impl Place {
    pub const SHELLS: Place = Place { parent: 0, hash: 0 };
    pub const NOWHERE: Place = Place { parent: u64::MAX, hash: 0 };
}

pub struct Slot {
    pub inode: Option<Arc<Inode>>,
    pub place: Place,
    /// How many lookups the kernel has not taken back. Stuck once it cannot be counted any more.
    pub lookups: u32,
    /// The last generation whose journal records say where this inode stands.
    pub placed: Generation,
}

#[derive(Default)]
pub struct Table {
    shards: Vec<Mutex<HashMap<Ino, Slot>>>,
    loaded: AtomicUsize,
}

impl Table {
    pub fn new() -> Table {
        Table { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), loaded: AtomicUsize::new(0) }
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Slot>> {
        &self.shards[ino as usize % SHARDS]
    }

    /// How many inodes are loaded.
    pub fn loaded(&self) -> usize {
        self.loaded.load(Relaxed)
    }

    /// Looks at, or changes, a slot.
    pub fn with<T>(&self, ino: Ino, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.shard(ino).lock().get_mut(&ino).map(f)
    }

    pub fn loaded_inode(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.with(ino, |s| s.inode.clone()).flatten()
    }

    /// Puts a loaded inode in, unless one is there (then that one is returned). `lookups` are added.
    /// Returns None, having done nothing, where `valid` says so while the shard is locked.
    pub fn insert(
        &self,
        inode: Arc<Inode>,
        place: Place,
        lookups: u32,
        valid: impl FnOnce() -> bool,
    ) -> Option<Arc<Inode>> {
        let mut shard = self.shard(inode.ino).lock();
        let slot = shard.entry(inode.ino);
        if let std::collections::hash_map::Entry::Occupied(mut o) = slot {
            let slot = o.get_mut();
            if slot.inode.is_none() {
                if !valid() {
                    return None;
                }
                slot.inode = Some(inode);
                self.loaded.fetch_add(1, Relaxed);
            }
            slot.lookups = slot.lookups.saturating_add(lookups);
            return slot.inode.clone();
        }
        if !valid() {
            return None;
        }
        slot.insert_entry(Slot { inode: Some(inode.clone()), place, lookups, placed: 0 });
        self.loaded.fetch_add(1, Relaxed);
        Some(inode)
    }

    /// Counts a lookup of an inode that need not be loaded. False, having done nothing, where it is not in the
    /// table and `valid` fails.
    pub fn remember(&self, ino: Ino, place: Place, lookups: u32, valid: impl FnOnce() -> bool) -> bool {
        let mut shard = self.shard(ino).lock();
        if let Some(slot) = shard.get_mut(&ino) {
            slot.lookups = slot.lookups.saturating_add(lookups);
            return true;
        }
        if !valid() {
            return false;
        }
        shard.insert(ino, Slot { inode: None, place, lookups, placed: 0 });
        true
    }

    /// Says where an inode stands, at replay.
    pub fn place(&self, ino: Ino, place: Place, generation: Generation) {
        let mut shard = self.shard(ino).lock();
        let slot = shard.entry(ino).or_insert(Slot { inode: None, place, lookups: 0, placed: generation });
        slot.place = place;
        slot.placed = generation;
    }

    /// Takes back `n` lookups; true when none is left.
    pub fn forget(&self, ino: Ino, n: u64) -> bool {
        self.with(ino, |s| {
            if s.lookups != u32::MAX {
                s.lookups = u32::try_from(u64::from(s.lookups).saturating_sub(n)).unwrap_or(0);
            }
            s.lookups == 0
        })
        .unwrap_or(false)
    }

    /// Drops what need not be kept of an inode: the loaded form if `idle` says that it is clean and unused,
    /// the slot too if the kernel has forgotten it and no record of a generation after `committed` names it.
    pub fn release(&self, ino: Ino, committed: Generation, idle: impl Fn(&Arc<Inode>) -> bool) {
        let mut shard = self.shard(ino).lock();
        let Some(slot) = shard.get_mut(&ino) else { return };
        if let Some(inode) = &slot.inode {
            // What has no name cannot be loaded again.
            if !idle(inode) || slot.place == Place::NOWHERE && slot.lookups > 0 {
                return;
            }
            slot.inode = None;
            self.loaded.fetch_sub(1, Relaxed);
        }
        if slot.lookups == 0 && slot.placed <= committed {
            shard.remove(&ino);
        }
    }

    /// Visits the inodes of one shard; for making room.
    pub fn shard_inodes(&self, shard: usize) -> Vec<Ino> {
        let shard = self.shards[shard % SHARDS].lock();
        shard.iter().filter(|(_, s)| s.inode.is_some()).map(|(ino, _)| *ino).collect()
    }

    pub fn shard_count(&self) -> usize {
        SHARDS
    }
}
