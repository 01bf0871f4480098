//! What the kernel remembers of the drive costs memory here: a slot for each inode. Past a share of the budget it
//! is told to forget names that nobody uses; it answers with FORGET.

use super::table::{Place, SLOT_BYTES};
use super::types::Wait;
use super::{Drive, find::name_of_key};
use crate::commit::entry::Entry;
use crate::commit::inode::FileKind;
use crate::error::{Kind, Result};
use crate::types::Ino;
use std::ops::Bound;
use std::sync::atomic::Ordering::Relaxed;

/// What tells the kernel to forget.
pub trait Kernel {
    /// Drops a name of a directory from the kernel's caches, and with it the inode, if that is not in use.
    fn forget_name(&self, dir: Ino, name: &[u8]) -> Result<()>;
}

/// So many names of one shard are gathered at a time.
const BATCH: usize = 1024;

impl Drive {
    /// How many inodes more are remembered than there should be.
    pub fn surplus(&self) -> usize {
        self.table.len().saturating_sub(self.settings.remembered)
    }

    /// Has the kernel forget about as many inodes as are too many; the shards of the table take turns. Holds no
    /// lock while the kernel is told. Returns how many names it was told.
    ///
    /// Directories are spared: to forget one that is somebody's working directory would make it look deleted.
    /// So are files that are loaded, for they may be open.
    pub fn shed(&self, kernel: &dyn Kernel) -> Result<usize> {
        // Each shard sheds its share, and a little more, so that not every new inode calls for another round.
        let surplus = self.surplus() + self.settings.remembered / 16;
        let mut told = 0;
        for _ in 0..self.table.shard_count() {
            if told >= surplus {
                break;
            }
            let shard = self.next_shard.fetch_add(1, Relaxed);
            for (ino, place) in self.table.unused(shard, BATCH) {
                let name = match self.name_at(ino, place) {
                    Ok(Some(name)) => name,
                    Ok(None) => continue,
                    // It went meanwhile.
                    Err(e) if matches!(e.kind(), Kind::Errno(_)) => continue,
                    Err(e) => return Err(e),
                };
                kernel.forget_name(place.parent, &name)?;
                told += 1;
            }
        }
        Ok(told)
    }

    /// The name of a clean inode that is no directory, by its place in the committed version.
    fn name_at(&self, ino: Ino, place: Place) -> Result<Option<Vec<u8>>> {
        let dir = self.load(place.parent, Wait::yes())?;
        let base = self.base_of(&dir)?;
        let hash = place.hash.to_be_bytes();
        for item in base.range(self.chunks(Wait::yes()), Bound::Included(&hash)) {
            let (key, value) = item?;
            if !key.starts_with(&hash) {
                break;
            }
            let entry = Entry::from_bytes(&value)?;
            if entry.ino() == ino {
                return Ok((entry.kind() != FileKind::Directory).then(|| name_of_key(&key).to_vec()));
            }
        }
        Ok(None)
    }

    /// Gives the cache of chunks what the remembered inodes leave of the memory that both share.
    pub fn balance_memory(&self) {
        let slots = self.table.len() * SLOT_BYTES;
        self.cache.set_budget(self.settings.cache.saturating_sub(slots).max(self.settings.cache / 4));
    }
}
