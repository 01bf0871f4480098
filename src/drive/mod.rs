//! The live drive: inodes, handles, locks, and the operations, over the newest committed version.
//!
//! The core knows nothing of FUSE, of threads or of real time: tests, a simulator and tools drive it as the
//! mount does. An operation looks up what it needs (which may wait), locks every inode that it changes,
//! checks, reserves its journal number, and applies itself (`apply.rs`). At replay the journal's records are
//! applied by the same code.
//!
//! Lock order: committing → renames → adopting → gate (shared; a commit closes a generation with it exclusive) →
//! inodes, by number → `placed` → table shard, `dirty` → the journal. No lock is held while the store is
//! waited for, save `committing`.

pub mod acl;
mod ahead;
mod apply;
mod attrs;
mod bytes;
mod committer;
pub mod figures;
mod find;
pub mod inode;
pub mod keeper;
mod layer;
mod list;
mod locks;
mod names;
mod open;
mod others;
mod pressure;
pub mod record;
mod shed;
mod table;
pub mod types;
mod written;

pub use committer::Progress;
pub use open::{FromStore, Keys, Parts, Replayed, Settings};
pub use others::BothChanged;
pub use shed::Kernel;

use crate::chunk::Chunks;
use crate::commit::Opened;
use crate::content::ContentCache;
use crate::crypt::RealmKeys;
use crate::error::{Error, Result};
use crate::journal::Journal;
use crate::store::ChunkStore;
use crate::sys::ranked::{Mutex, ReadGuard, RwLock};
use crate::sys::{Clock, Random};
use crate::tree::Map;
use crate::types::{Ino, Lsn};
use inode::{Generation, Inode, Node};
use locks::{ADOPTING, COMMITTING, FACTS, GATE, NodeGuard, NodeLock, PLACED, RENAMES, TABLE};
use pressure::Room;
use record::{Op, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use table::{Place, Table};
use types::{Stat, Wait};

/// The drive, open.
pub struct Drive {
    table: Table,
    root: Arc<Inode>,
    gate: RwLock<Gens, GATE>,
    /// The inodes that changed in the current generation.
    dirty: Mutex<Vec<Arc<Inode>>, TABLE>,
    /// The inodes whose place some record of the current generation tells.
    placed: Mutex<Vec<Ino>, PLACED>,
    renames: Mutex<(), RENAMES>,
    /// Grows before and after the inodes take over a committed version: odd in between, when nothing that is found
    /// in a version may be relied on.
    epoch: AtomicU64,
    /// Held exclusively while `epoch` is odd.
    adopting: RwLock<(), ADOPTING>,
    /// The committed version's Map of shells.
    shells: RwLock<Map, FACTS>,
    journal: Arc<Journal>,
    keys: Arc<RealmKeys>,
    /// Opened chunks, waiting for the store where need be; and without waiting.
    chunks: Arc<dyn Chunks>,
    quick: Arc<dyn Chunks>,
    cache: Arc<ContentCache>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    next_ino: AtomicU64,
    resident: written::Resident,
    committing: Mutex<committer::Committing, COMMITTING>,
    /// The newest version that is known here, and where the chunks are.
    newest: RwLock<Opened, FACTS>,
    store: Arc<ChunkStore>,
    /// How many inodes the generation has that is being committed.
    closing: AtomicUsize,
    /// And the bytes of the journal when it was closed.
    closing_bytes: AtomicU64,
    /// The bytes of extended attributes that loaded inodes hold.
    xattr_bytes: Arc<AtomicUsize>,
    /// Whose turn it is when the kernel is to forget inodes.
    next_shard: AtomicUsize,
    pressure: pressure::Pressure,
    ahead: ahead::Ahead,
    settings: Settings,
    facts: committer::Facts,
    /// Set where nothing may be changed: a read-only mount, or damage.
    read_only: AtomicBool,
    space: Box<dyn Fn() -> types::Space + Send + Sync>,
    control: std::sync::OnceLock<Vec<u8>>,
}

/// Which generations there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gens {
    /// The one that changes belong to.
    now: Generation,
    /// The one before it, closed and being committed.
    closed: Option<Generation>,
    /// The first one that has records which are not committed.
    oldest: Generation,
}

/// The inodes that an operation changes, locked, behind the gate.
pub(crate) struct Held<'a> {
    gate: ReadGuard<'a, Gens, GATE>,
    nodes: Vec<(Arc<Inode>, NodeGuard)>,
}

impl Held<'_> {
    fn gens(&self) -> Gens {
        *self.gate
    }

    fn entry(&mut self, ino: Ino) -> Result<(&Arc<Inode>, &mut Node)> {
        let found = self.nodes.iter_mut().find(|(i, _)| i.ino == ino);
        let (inode, guard) =
            found.ok_or_else(|| Error::failed(format!("inode {ino} is changed but not locked")))?;
        Ok((inode, &mut **guard))
    }

    fn node(&mut self, ino: Ino) -> Result<&mut Node> {
        Ok(self.entry(ino)?.1)
    }
}

impl Drive {
    /// The 63-bit hash that orders a directory; never 0 to 2, which are the start, `.` and `..`.
    pub(crate) fn name_hash(&self, name: &[u8]) -> u64 {
        self.keys.name_hash(name)
    }

    fn chunks(&self, wait: Wait) -> &dyn Chunks {
        match wait {
            Wait::Since(_) => &*self.chunks,
            Wait::No => &*self.quick,
        }
    }

    /// The present epoch, in which what is found in the committed version is true as long as [`Drive::in_epoch`]
    /// says so. Waits while a version is being taken over: half of the inodes are of the old one then. The caller
    /// holds no inode.
    fn epoch(&self) -> u64 {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch.is_multiple_of(2) {
                return epoch;
            }
            drop(self.adopting.read());
        }
    }

    fn in_epoch(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::SeqCst) == epoch
    }

    /// Refuses changes where there must be none.
    fn check_writable(&self) -> Result<()> {
        if self.read_only.load(Ordering::Relaxed) { Err(Error::errno_of(libc::EROFS)) } else { Ok(()) }
    }

    /// Locks inodes to change them.
    fn lock(&self, inodes: &[&Arc<Inode>]) -> Held<'_> {
        let mut nodes: Vec<Arc<Inode>> = inodes.iter().map(|i| (*i).clone()).collect();
        nodes.sort_by_key(|i| i.ino);
        nodes.dedup_by_key(|i| i.ino);
        let gate = self.gate.read();
        let nodes = nodes
            .into_iter()
            .map(|i| {
                let guard = NodeLock::write_arc(&i.node);
                (i, guard)
            })
            .collect();
        Held { gate, nodes }
    }

    /// Logs an operation and applies it, in the room that was promised for it.
    fn perform(&self, held: &mut Held, op: &Op, room: &Room) -> Result<Lsn> {
        let now = held.gens().now;
        let time = self.clock.now();
        let inodes = op.inodes();
        let placed =
            |ino: Ino| ino == crate::commit::ROOT || self.table.with(ino, |s| s.placed == now) == Some(true);
        let mut record = Record { places: Vec::new(), time, op: op.clone() };
        let lsn;
        let data_at;
        if inodes.iter().all(|i| placed(*i)) {
            let head = record.head();
            data_at = head.len();
            lsn = self.append(head.as_slice(), record.data(), room)?;
        } else {
            // The places are told in the journal before any other record can rely on them.
            let mut list = self.placed.lock();
            for ino in inodes {
                let mut at = ino;
                while !placed(at) && !record.places.iter().any(|(i, _)| *i == at) {
                    let place = self.table.with(at, |s| s.place).ok_or(Error::errno_of(libc::ESTALE))?;
                    record.places.push((at, place));
                    if place == Place::SHELLS || place == Place::NOWHERE {
                        break;
                    }
                    at = place.parent;
                }
            }
            // Directories first, so that a replay knows where to look.
            record.places.reverse();
            let head = record.head();
            data_at = head.len();
            lsn = self.append(head.as_slice(), record.data(), room)?;
            for (ino, _) in &record.places {
                self.table.with(*ino, |s| s.placed = now);
                list.push(*ino);
            }
        }
        self.apply(held, lsn, time, op, data_at)?;
        Ok(lsn)
    }

    fn append(&self, head: &[u8], data: &[u8], room: &Room) -> Result<Lsn> {
        let parts = [head, data];
        if room.frees { self.journal.append_reserve(&parts) } else { self.journal.append(&parts) }
    }

    /// Makes durable all that was acknowledged before the call.
    pub fn sync(&self) -> Result<()> {
        self.sync_journal()?;
        if self.settings.sync_store {
            self.commit_all()?;
        }
        Ok(())
    }

    /// Makes durable on this machine all that was acknowledged before the call, whatever `sync=store` says.
    pub fn sync_journal(&self) -> Result<()> {
        self.journal.sync(self.journal.last())
    }

    /// Whether everything is in the store.
    pub fn is_stored(&self) -> bool {
        let gens = self.gate.read();
        gens.closed.is_none() && self.dirty.lock().is_empty()
    }

    /// Bytes of opened chunks in memory.
    pub fn cached_bytes(&self) -> u64 {
        self.cache.bytes() as u64
    }

    /// The journal, for those who keep it going.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    fn stat_of(&self, inode: &Inode) -> Stat {
        let node = inode.node.read();
        Stat { ino: inode.ino, attr: node.attr(), settled: node.is_settled() }
    }

    pub fn space(&self) -> Result<types::Space> {
        Ok((self.space)())
    }
}
