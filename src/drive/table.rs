//! The table of inodes that the kernel remembers, that are open, or that have changes not yet committed.
//!
//! A clean inode that is not in use costs only its slot: where it stands (its parent and the hash of its
//! name), from which it is loaded again when it is wanted. There may be millions of slots, so loaded inodes
//! stand in a table of their own.

use super::inode::{Generation, Inode};
use super::locks::TABLE;
use crate::sys::ranked::Mutex;
use crate::types::Ino;
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

/// What is known of an inode whether or not it is loaded: 24 bytes.
#[derive(Clone, Copy)]
pub struct Slot {
    pub place: Place,
    /// How many lookups the kernel has not taken back. Stuck once it cannot be counted any more.
    pub lookups: u32,
    /// The last generation whose journal records say where this inode stands.
    pub placed: Generation,
}

/// The most memory that a slot takes, in bytes: an entry of the hash table is 33, and the table, which grows by
/// doubling, is at least 7/16 full. 52 on average.
pub const SLOT_BYTES: usize = 76;
const _: () = assert!(size_of::<(Ino, Slot)>() == 32);

#[derive(Default)]
struct Shard {
    slots: HashMap<Ino, Slot>,
    /// Each has a slot.
    loaded: HashMap<Ino, Arc<Inode>>,
}

#[derive(Default)]
pub struct Table {
    shards: Vec<Mutex<Shard, TABLE>>,
    loaded: AtomicUsize,
    slots: AtomicUsize,
}

impl Table {
    pub fn new() -> Table {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Table { shards, loaded: AtomicUsize::new(0), slots: AtomicUsize::new(0) }
    }

    fn shard(&self, ino: Ino) -> &Mutex<Shard, TABLE> {
        &self.shards[ino as usize % SHARDS]
    }

    /// How many inodes are loaded.
    pub fn loaded(&self) -> usize {
        self.loaded.load(Relaxed)
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.slots.load(Relaxed)
    }

    /// Looks at, or changes, a slot.
    pub fn with<T>(&self, ino: Ino, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.shard(ino).lock().slots.get_mut(&ino).map(f)
    }

    pub fn loaded_inode(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.shard(ino).lock().loaded.get(&ino).cloned()
    }

    /// An inode, if it is loaded, and its place.
    pub fn find(&self, ino: Ino) -> Option<(Option<Arc<Inode>>, Place)> {
        let shard = self.shard(ino).lock();
        let place = shard.slots.get(&ino)?.place;
        Some((shard.loaded.get(&ino).cloned(), place))
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
        let there = shard.loaded.get(&inode.ino).cloned();
        if there.is_none() && !valid() {
            return None;
        }
        let slot = self.slot(&mut shard.slots, inode.ino, place);
        // Whether it was read when it was loaded before, nobody knows any more.
        if there.is_none() && slot.lookups > 0 {
            inode.seen.lock().add(0, u64::MAX);
        }
        slot.lookups = slot.lookups.saturating_add(lookups);
        Some(there.unwrap_or_else(|| {
            shard.loaded.insert(inode.ino, inode.clone());
            self.loaded.fetch_add(1, Relaxed);
            inode
        }))
    }

    /// The slot of an inode; a new one at this place where it has none.
    fn slot<'a>(&self, slots: &'a mut HashMap<Ino, Slot>, ino: Ino, place: Place) -> &'a mut Slot {
        slots.entry(ino).or_insert_with(|| {
            self.slots.fetch_add(1, Relaxed);
            Slot { place, lookups: 0, placed: 0 }
        })
    }

    /// Counts a lookup of an inode that need not be loaded. False, having done nothing, where it is not in the
    /// table and `valid` fails.
    pub fn remember(&self, ino: Ino, place: Place, lookups: u32, valid: impl FnOnce() -> bool) -> bool {
        let mut shard = self.shard(ino).lock();
        if !shard.slots.contains_key(&ino) && !valid() {
            return false;
        }
        let slot = self.slot(&mut shard.slots, ino, place);
        slot.lookups = slot.lookups.saturating_add(lookups);
        true
    }

    /// Says where an inode stands, at replay.
    pub fn place(&self, ino: Ino, place: Place, generation: Generation) {
        let mut shard = self.shard(ino).lock();
        let slot = self.slot(&mut shard.slots, ino, place);
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
        let mut guard = self.shard(ino).lock();
        let shard = &mut *guard;
        let Some(slot) = shard.slots.get(&ino) else { return };
        if let Some(inode) = shard.loaded.get(&ino) {
            // What has no name cannot be loaded again.
            if !idle(inode) || slot.place == Place::NOWHERE && slot.lookups > 0 {
                return;
            }
            shard.loaded.remove(&ino);
            self.loaded.fetch_sub(1, Relaxed);
        }
        if slot.lookups == 0 && slot.placed <= committed {
            shard.slots.remove(&ino);
            self.slots.fetch_sub(1, Relaxed);
            // What is nearly empty gives its memory back; by so much that it does not grow again at once.
            if shard.slots.capacity() > 4096 && shard.slots.len() < shard.slots.capacity() / 8 {
                let keep = shard.slots.len() * 2;
                shard.slots.shrink_to(keep);
            }
        }
    }

    /// The loaded inodes of one shard; for making room.
    pub fn shard_inodes(&self, shard: usize) -> Vec<Ino> {
        self.shards[shard % SHARDS].lock().loaded.keys().copied().collect()
    }

    /// The inodes of one shard that the kernel remembers by a name and nobody uses: at most `most`.
    pub fn unused(&self, shard: usize, most: usize) -> Vec<(Ino, Place)> {
        let shard = self.shards[shard % SHARDS].lock();
        let unused = |(ino, s): &(&Ino, &Slot)| {
            s.lookups > 0
                && s.place != Place::SHELLS
                && s.place != Place::NOWHERE
                && !shard.loaded.contains_key(ino)
        };
        shard.slots.iter().filter(unused).take(most).map(|(ino, s)| (*ino, s.place)).collect()
    }

    pub fn shard_count(&self) -> usize {
        SHARDS
    }
}
