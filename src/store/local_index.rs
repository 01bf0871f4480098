//! A local cache of where chunks are, in `sled`: it saves journeys to a store that is far away.
//!
//! It is never the only copy of anything, and deleting it is always safe: it is filled again in the
//! background, from the index runs in the store. No read waits for it, and what it says is only a hint: the
//! reader checks the chunk against its address, and asks the runs when the hint was wrong. Any trouble with
//! it is a line in the log, and it is not used any more.
//!
//! Whoever finds the disk learns from it how many chunks there are, and no address and no place: its keys
//! are keyed hashes of addresses, its values are sealed.

use super::index::{Entry, Index, Part, PartId, Place};
use super::pack::PackId;
use super::runs::RunSet;
use crate::crypt::{Seal, domains, open, seal};
use crate::error::{Context, Error, Kind, Result};
use crate::types::{Address, Key, RealmId};
use crate::wire::{Reader, Writer};
use crossbeam_channel::{Receiver, Sender};
use std::collections::HashSet;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// How much memory sled may take for its cache (16 MiB).
const CACHE: u64 = 16 << 20;
/// Entries written at once.
const BATCH: usize = 1000;
/// With more commits waiting than this, the entries are read from the runs instead of being kept.
const WAITING: usize = 4;
/// The database's key for the set of runs that it holds.
const HELD: &[u8] = b"held";

/// Where a local index is kept.
pub struct LocalPlace {
    /// A directory of its own; made where there is none.
    pub dir: PathBuf,
    /// The state directory's local key.
    pub key: Key,
}

/// The local index: a thread that keeps it up to date, and a door for readers.
pub struct LocalIndex {
    shared: Arc<Shared>,
    tasks: Option<Sender<Task>>,
    worker: Option<JoinHandle<()>>,
}

struct Task {
    base: Arc<RunSet>,
    runs: Arc<RunSet>,
    /// How `base` became `runs`, where that is known.
    added: Option<Vec<Entry>>,
}

/// What the thread and the readers share.
struct Shared {
    tables: OnceLock<Tables>,
    /// Set when it is not to be used any more.
    off: AtomicBool,
    /// Set when the thread is to end.
    stop: AtomicBool,
    names: Key,
    values: Key,
    realm: RealmId,
}

struct Tables {
    db: sled::Db,
    places: sled::Tree,
    /// Keeps other processes out, for as long as the database is open.
    _lock: File,
}

impl LocalIndex {
    /// Opens the local index in the background. Nothing if not even a thread can be had.
    pub fn start(at: LocalPlace, index: Arc<Index>, runs: Arc<RunSet>) -> Option<LocalIndex> {
        let shared = Arc::new(Shared {
            tables: OnceLock::new(),
            off: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            names: domains::LOCAL_INDEX_NAMES.derive(&[&at.key.0]),
            values: domains::LOCAL_INDEX_VALUES.derive(&[&at.key.0]),
            realm: *index.keys.realm(),
        });
        let (tasks, todo) = crossbeam_channel::unbounded();
        let theirs = shared.clone();
        let run = move || match catch_unwind(AssertUnwindSafe(|| theirs.work(&at.dir, &index, &todo))) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => theirs.give_up(&e),
            Err(_) => theirs.give_up(&Error::failed("the database panicked")),
        };
        let worker = std::thread::Builder::new().name("local-index".into()).spawn(run);
        let worker =
            worker.inspect_err(|e| tracing::warn!("no local index: cannot start its thread: {e}")).ok()?;
        let local = LocalIndex { shared, tasks: Some(tasks), worker: Some(worker) };
        local.adopt(runs.clone(), runs, None);
        Some(local)
    }

    /// Where a chunk was when it was last heard of. A hint.
    pub fn get(&self, address: &Address) -> Option<Place> {
        let shared = &self.shared;
        let tables = shared.tables.get()?;
        if shared.off.load(Ordering::Relaxed) {
            return None;
        }
        let found = catch_unwind(AssertUnwindSafe(|| tables.places.get(shared.name(address))));
        let found = match found {
            Ok(Ok(found)) => shared.place(address, &found?),
            Ok(Err(e)) => Err(e.into()),
            Err(_) => Err(Error::failed("the database panicked")),
        };
        found.inspect_err(|e| shared.give_up(e)).ok()
    }

    /// Tells that other runs are read from now on; `added`: what made `base` into `runs`, where known.
    pub fn adopt(&self, base: Arc<RunSet>, runs: Arc<RunSet>, added: Option<Vec<Entry>>) {
        if let Some(tasks) = self.tasks.as_ref().filter(|_| !self.shared.off.load(Ordering::Relaxed)) {
            let added = added.filter(|_| tasks.len() < WAITING);
            // Fails only when the thread has ended, and then there is no local index.
            drop(tasks.send(Task { base, runs, added }));
        }
    }
}

impl Drop for LocalIndex {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.tasks = None;
        if let Some(worker) = self.worker.take() {
            // Its panics are caught and logged where they happen.
            drop(worker.join());
        }
    }
}

impl Shared {
    fn give_up(&self, e: &Error) {
        if !self.off.swap(true, Ordering::Relaxed) {
            tracing::warn!("the local index is not used any more (nothing is lost): {}", e.chain());
        }
    }

    /// The database's key for a chunk.
    fn name(&self, address: &Address) -> [u8; 16] {
        let mut name = [0; 16];
        name.copy_from_slice(&blake3::keyed_hash(&self.names.0, &address.0).as_bytes()[..16]);
        name
    }

    fn place(&self, address: &Address, sealed: &[u8]) -> Result<Place> {
        let plain = open(Seal::Cache, &self.values, &self.realm, &address.0, sealed)?;
        let mut r = Reader::new(&plain, "local index entry");
        let place = Place { pack: PackId(r.array()?), offset: r.u32()?, len: r.u32()? };
        r.end()?;
        Ok(place)
    }

    fn sealed_place(&self, entry: &Entry) -> Result<Vec<u8>> {
        let mut w = Writer::with_capacity(40);
        w.raw(&entry.place.pack.0).u32(entry.place.offset).u32(entry.place.len);
        seal(Seal::Cache, &self.values, &self.realm, &entry.address.0, w.as_slice())
    }

    fn work(&self, dir: &std::path::Path, index: &Index, todo: &Receiver<Task>) -> Result<()> {
        let tables = open_tables(dir)?;
        let mut held = self.held(&tables)?;
        let tables = self.tables.get_or_init(|| tables);
        let mut looked = false;
        for task in todo {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            // What is held is not read again: damage is to be found all the same.
            if !std::mem::replace(&mut looked, true)
                && let Err(e) = index.look_over(&task.runs)
            {
                tracing::debug!("the index runs cannot be looked over for now: {}", e.chain());
            }
            if *task.runs == held {
                continue;
            }
            match &task.added {
                Some(added) if *task.base == held => self.insert(tables, added.iter().copied().map(Ok))?,
                // A later task brings all that this one would.
                _ if !todo.is_empty() => continue,
                _ => {
                    if let Err(e) = self.catch_up(tables, index, &held, &task.runs)? {
                        tracing::info!("the local index stays behind for now: {}", e.chain());
                        continue;
                    }
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            held = RunSet::clone(&task.runs);
            let sealed = seal(Seal::Cache, &self.values, &self.realm, HELD, &held.encode())?;
            tables.db.insert(HELD, sealed)?;
        }
        tables.db.flush()?;
        Ok(())
    }

    /// Which runs the database holds all entries of. One that cannot tell is emptied.
    fn held(&self, tables: &Tables) -> Result<RunSet> {
        let held = tables.db.get(HELD)?.map(|sealed| {
            open(Seal::Cache, &self.values, &self.realm, HELD, &sealed).and_then(|b| RunSet::decode(&b))
        });
        match held {
            Some(Ok(held)) => Ok(held),
            other => {
                if let Some(Err(e)) = other {
                    tracing::warn!("the local index is made anew: {}", e.chain());
                }
                tables.places.clear()?;
                tables.db.remove(HELD)?;
                Ok(RunSet::default())
            }
        }
    }

    /// Reads what the database does not hold. The outer error is of the database, the inner of the store.
    fn catch_up(&self, tables: &Tables, index: &Index, held: &RunSet, runs: &RunSet) -> Result<Result<()>> {
        let known: HashSet<PartId> = held.parts().map(|p| p.id).collect();
        // Oldest first, so that of two places the newer stays.
        let mut missing: Vec<&Part> = runs.parts().filter(|p| !known.contains(&p.id)).collect();
        missing.reverse();
        let mut damaged = false;
        for part in missing {
            match self.insert_until_error(tables, index.scan(part))? {
                Err(e) if e.kind() == Kind::Damage => {
                    index.note_damaged(part, &e);
                    damaged = true;
                }
                Err(e) => return Ok(Err(e)),
                Ok(()) => {}
            }
        }
        if damaged {
            return match index.rebuilt(runs) {
                Ok(rebuilt) => self.insert_until_error(tables, rebuilt.entries()),
                Err(e) => Ok(Err(e)),
            };
        }
        Ok(Ok(()))
    }

    /// The outer error is of the database, the inner of the entries.
    fn insert_until_error(
        &self,
        tables: &Tables,
        entries: impl Iterator<Item = Result<Entry>>,
    ) -> Result<Result<()>> {
        let mut trouble = None;
        let entries = entries.map_while(|e| e.map_err(|e| trouble = Some(e)).ok());
        self.insert(tables, entries.map(Ok))?;
        Ok(trouble.map_or(Ok(()), Err))
    }

    fn insert(&self, tables: &Tables, mut entries: impl Iterator<Item = Result<Entry>>) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut batch = sled::Batch::default();
            let mut some = false;
            for entry in entries.by_ref().take(BATCH) {
                let entry = entry?;
                batch.insert(&self.name(&entry.address), self.sealed_place(&entry)?);
                some = true;
            }
            if !some {
                break;
            }
            tables.places.apply_batch(batch)?;
        }
        Ok(())
    }
}

/// Opens the database; one that does not open is deleted and made anew.
fn open_tables(dir: &std::path::Path) -> Result<Tables> {
    fs::create_dir_all(dir).context(|| format!("cannot make the directory {}", dir.display()))?;
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock"));
    let lock = lock.context(|| format!("cannot open the lock of {}", dir.display()))?;
    lock.try_lock().map_err(|e| Error::failed(format!("{} is in use: {e}", dir.display())))?;
    let path = dir.join("db");
    let open = || -> Result<(sled::Db, sled::Tree)> {
        let opened = catch_unwind(|| {
            let db =
                sled::Config::new().path(&path).cache_capacity(CACHE).flush_every_ms(Some(2000)).open()?;
            let places = db.open_tree("places")?;
            Ok::<_, sled::Error>((db, places))
        });
        Ok(opened.map_err(|_| Error::failed("the database panicked"))??)
    };
    let opened = open().or_else(|e| {
        tracing::warn!("the local index does not open and is made anew: {}", e.chain());
        fs::remove_dir_all(&path).context(|| format!("cannot remove {}", path.display()))?;
        open()
    });
    let (db, places) = opened?;
    Ok(Tables { db, places, _lock: lock })
}

impl From<sled::Error> for Error {
    fn from(e: sled::Error) -> Error {
        Error::failed("the local index's database failed").with_source(e)
    }
}
