//! A cache of stored chunks on the local disk, before a store that is far away.
//!
//! What it keeps is sealed once more under a key of the state directory's, by names that are keyed hashes of addresses:
//! whoever finds the disk learns how much there is, and not which chunks of the store this machine reads. It is never
//! the only copy of anything; a damaged chunk is deleted and fetched again, and any other trouble turns the cache off
//! and is told in the log.
//!
//! Files `chunks-<16 hex>` hold records one after another: name (16 bytes; zeros where the record was deleted), length
//! (u32, little-endian), sealed bytes. A new file is begun at [`FILE`] bytes; over the limit the oldest file goes. A
//! start reads only the heads of the records, on a thread of its own.

use super::opener::Fetch;
use crate::crypt::{LocalKeys, Seal, SealKey, domains, seal::OVERHEAD};
use crate::error::{Context, Error, Result};
use crate::types::{Address, Key, MAX_CHUNK, RealmId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file is full at this size, in bytes.
const FILE: u64 = 32 << 20;
const NAME: usize = 16;
const HEAD: usize = NAME + 4;
/// Chunks are forgotten beyond this number, so that the index stays small in memory (about 64 bytes each).
const MOST: usize = 1 << 18;

/// What a chunk is called here: the start of a keyed hash of its address.
type Name = [u8; NAME];
const DELETED: Name = [0; NAME];

/// See the module.
pub struct DiskCache {
    dir: PathBuf,
    limit: u64,
    names: Key,
    chunks: SealKey,
    realm: RealmId,
    state: Mutex<State>,
    /// The files of earlier runs are known.
    ready: AtomicBool,
    off: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    files: VecDeque<Part>,
    places: HashMap<Name, At>,
    next: u64,
    /// The newest file was begun in this run: those of earlier ones are not added to.
    begun: bool,
}

struct Part {
    id: u64,
    file: Arc<File>,
    len: u64,
    chunks: Vec<Name>,
}

#[derive(Clone, Copy)]
struct At {
    file: u64,
    offset: u64,
    len: u32,
}

impl DiskCache {
    /// Opens the cache in a directory of its own, which is made where there is none. `limit`: bytes.
    pub fn open(dir: &Path, keys: &LocalKeys, limit: u64) -> Result<Arc<DiskCache>> {
        let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        make.context(|| format!("cannot make the cache's directory {}", dir.display()))?;
        let cache = Arc::new(DiskCache {
            dir: dir.into(),
            limit,
            names: domains::CACHE_NAMES.derive(&[&keys.cache_key().0]),
            chunks: SealKey::new(&domains::CACHE_CHUNKS.derive(&[&keys.cache_key().0])),
            realm: keys.realm(),
            state: Mutex::default(),
            ready: AtomicBool::new(false),
            off: AtomicBool::new(false),
        });
        let scanning = cache.clone();
        std::thread::Builder::new()
            .name("cache-scan".into())
            .spawn(move || match scanning.scan() {
                Ok(()) => scanning.ready.store(true, Ordering::Release),
                Err(e) => scanning.turn_off(&e),
            })
            .context(|| "cannot start a thread for the cache")?;
        Ok(cache)
    }

    fn turn_off(&self, e: &Error) {
        if !self.off.swap(true, Ordering::Relaxed) {
            tracing::warn!("the disk cache in {} is not used any more: {}", self.dir.display(), e.chain());
        }
    }

    pub(super) fn usable(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.off.load(Ordering::Relaxed)
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("chunks-{id:016x}"))
    }

    fn name(&self, address: &Address) -> Name {
        let mut name = DELETED;
        blake3::Hasher::new_keyed(&self.names.0).update(&address.0).finalize_xof().fill(&mut name);
        name
    }

    /// Learns what earlier runs left.
    fn scan(&self) -> Result<()> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            ids.extend(entry?.file_name().to_str().and_then(id_of));
        }
        ids.sort_unstable();
        let mut state = State { next: ids.last().map_or(0, |id| id + 1), ..State::default() };
        for id in ids {
            let file = File::options().read(true).write(true).open(self.path(id))?;
            let size = file.metadata()?.len();
            let mut part = Part { id, file: Arc::new(file), len: 0, chunks: Vec::new() };
            let mut head = [0; HEAD];
            while part.len + HEAD as u64 <= size {
                part.file.read_exact_at(&mut head, part.len)?;
                let [name @ .., a, b, c, d] = head;
                let len = u32::from_le_bytes([a, b, c, d]);
                let end = part.len + HEAD as u64 + u64::from(len);
                if len as usize > MAX_CHUNK + OVERHEAD || end > size {
                    break; // torn by a crash
                }
                if name != DELETED {
                    state.places.insert(name, At { file: id, offset: part.len + HEAD as u64, len });
                    part.chunks.push(name);
                }
                part.len = end;
            }
            state.files.push_back(part);
        }
        *self.state.lock() = state;
        Ok(())
    }

    /// A chunk's stored bytes, if they are here and what their address says. What is here and is not that goes.
    pub fn get(&self, address: &Address) -> Option<Bytes> {
        if !self.usable() {
            return None;
        }
        let name = self.name(address);
        let (file, at) = {
            let state = self.state.lock();
            let at = *state.places.get(&name)?;
            (state.files.iter().find(|p| p.id == at.file)?.file.clone(), at)
        };
        let mut sealed = vec![0; at.len as usize];
        let read = file.read_exact_at(&mut sealed, at.offset).map_err(Error::from);
        let opened = read.and_then(|()| self.chunks.open(Seal::Cache, &self.realm, &address.0, &sealed));
        match opened {
            Ok(stored) if Address::of(&stored) == *address => Some(stored.into()),
            _ => {
                tracing::info!("a damaged chunk in the disk cache is deleted");
                self.state.lock().places.remove(&name);
                if let Err(e) = file.write_all_at(&DELETED, at.offset - HEAD as u64) {
                    self.turn_off(&e.into());
                }
                None
            }
        }
    }

    /// Keeps a chunk's stored bytes, if that can be.
    pub fn put(&self, address: &Address, stored: &[u8]) {
        if self.usable()
            && let Err(e) = self.try_put(address, stored)
        {
            self.turn_off(&e);
        }
    }

    fn try_put(&self, address: &Address, stored: &[u8]) -> Result<()> {
        let name = self.name(address);
        if stored.len() > MAX_CHUNK || self.state.lock().places.contains_key(&name) {
            return Ok(());
        }
        let mut record = Vec::with_capacity(HEAD + stored.len() + OVERHEAD);
        record.extend_from_slice(&name);
        record.extend_from_slice(&((stored.len() + OVERHEAD) as u32).to_le_bytes());
        self.chunks.seal_into(Seal::Cache, &self.realm, &address.0, stored, &mut record)?;
        let need = record.len() as u64;

        let mut state = self.state.lock();
        if state.places.contains_key(&name) {
            return Ok(());
        }
        let fits = state.begun && state.files.back().is_some_and(|p| p.len + need <= FILE);
        if !fits {
            let id = state.next;
            let file =
                File::options().read(true).write(true).create_new(true).mode(0o600).open(self.path(id))?;
            (state.next, state.begun) = (id + 1, true);
            state.files.push_back(Part { id, file: Arc::new(file), len: 0, chunks: Vec::new() });
        }
        let Some(part) = state.files.back_mut() else { return Ok(()) };
        part.file.write_all_at(&record, part.len)?;
        let at = At { file: part.id, offset: part.len + HEAD as u64, len: (record.len() - HEAD) as u32 };
        part.len += need;
        part.chunks.push(name);
        state.places.insert(name, at);
        self.shrink(&mut state)
    }

    /// Lets the oldest files go until the rest is within the limits; the newest stays.
    fn shrink(&self, state: &mut State) -> Result<()> {
        let over =
            |s: &State| s.files.iter().map(|p| p.len).sum::<u64>() > self.limit || s.places.len() > MOST;
        while state.files.len() > 1 && over(state) {
            let Some(oldest) = state.files.pop_front() else { break };
            for name in &oldest.chunks {
                if state.places.get(name).is_some_and(|at| at.file == oldest.id) {
                    state.places.remove(name);
                }
            }
            fs::remove_file(self.path(oldest.id))?;
        }
        Ok(())
    }
}

/// The number in the name of a file; none of other names, and none that cannot be counted on from.
fn id_of(name: &str) -> Option<u64> {
    let id = u64::from_str_radix(name.strip_prefix("chunks-")?, 16).ok()?;
    (id < u64::MAX && format!("chunks-{id:016x}") == name).then_some(id)
}

/// A source of stored chunks behind a disk cache.
pub struct Cached<F> {
    pub cache: Option<Arc<DiskCache>>,
    pub source: F,
}

impl<F: Fetch> Fetch for Cached<F> {
    fn fetch(&self, address: &Address) -> Result<Bytes> {
        let Some(cache) = &self.cache else { return self.source.fetch(address) };
        if let Some(bytes) = cache.get(address) {
            return Ok(bytes);
        }
        let bytes = self.source.fetch(address)?;
        cache.put(address, &bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::DriveSecrets;
    use crate::sys::SystemRandom;
    use std::sync::LazyLock;
    use std::sync::atomic::AtomicUsize;

    fn some_keys() -> LocalKeys {
        let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        LocalKeys::generate(&secrets, &SystemRandom).unwrap()
    }

    /// The machine's.
    static KEYS: LazyLock<LocalKeys> = LazyLock::new(some_keys);

    fn opened(dir: &Path, limit: u64) -> Arc<DiskCache> {
        opened_with(dir, &KEYS, limit)
    }

    fn opened_with(dir: &Path, keys: &LocalKeys, limit: u64) -> Arc<DiskCache> {
        let cache = DiskCache::open(dir, keys, limit).unwrap();
        while !cache.ready.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        cache
    }

    fn chunk(n: u32) -> (Address, Bytes) {
        let bytes: Bytes = n.to_le_bytes().repeat(5000).into();
        (Address::of(&bytes), bytes)
    }

    #[test]
    fn what_was_fetched_once_is_here_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let fetched = AtomicUsize::new(0);
        let source = |a: &Address| {
            fetched.fetch_add(1, Ordering::Relaxed);
            (0..10)
                .map(chunk)
                .find(|(b, _)| b == a)
                .map(|(_, c)| c)
                .ok_or_else(|| Error::damage("no such chunk"))
        };
        for _ in 0..3 {
            let cached = Cached { cache: Some(opened(dir.path(), 1 << 30)), source };
            for n in 0..10 {
                let (address, bytes) = chunk(n);
                assert_eq!(cached.fetch(&address).unwrap(), bytes);
            }
        }
        assert_eq!(fetched.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn damage_is_a_miss_and_deleted_and_a_torn_end_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let cache = opened(dir.path(), 1 << 30);
        for n in 0..3 {
            let (address, bytes) = chunk(n);
            cache.put(&address, &bytes);
        }
        let path = cache.path(0);
        drop(cache);
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEAD + 100] ^= 1;
        bytes.truncate(bytes.len() - 7);
        fs::write(&path, bytes).unwrap();
        let cache = opened(dir.path(), 1 << 30);
        assert_eq!(cache.state.lock().places.len(), 2);
        assert_eq!([0, 1, 2].map(|n| cache.get(&chunk(n).0).is_some()), [false, true, false]);
        let again = opened(dir.path(), 1 << 30);
        assert_eq!(again.state.lock().places.len(), 1, "the damaged one is known no more");
        let (address, bytes) = chunk(0);
        cache.put(&address, &bytes);
        assert_eq!(cache.get(&address), Some(bytes));
    }

    /// TRUST 2: what is on the disk does not tell which chunks of the store this machine reads.
    #[test]
    fn neither_addresses_nor_stored_bytes_are_in_the_cache() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keys = some_keys();
        let (one, two) = (opened(dir.path(), 1 << 30), opened_with(other.path(), &keys, 1 << 30));
        for n in 0..3 {
            let (address, bytes) = chunk(n);
            one.put(&address, &bytes);
            two.put(&address, &bytes);
        }
        let raw = |cache: &DiskCache| fs::read(cache.path(0)).unwrap();
        let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|w| w == part);
        for n in 0..3 {
            let (address, bytes) = chunk(n);
            for part in [&address.0[..8], &address.0[24..], &bytes[..16]] {
                assert!(!holds(&raw(&one), part), "chunk {n}");
            }
        }
        assert_ne!(one.name(&chunk(0).0), two.name(&chunk(0).0), "names of one state directory alone");
        // With another directory's key it is a cache of nothing.
        fs::copy(one.path(0), two.path(0)).unwrap();
        let strange = opened_with(other.path(), &keys, 1 << 30);
        assert_eq!(strange.get(&chunk(0).0), None);
    }

    /// The number after the last one overflowed: the cache was never used, or its files were written over.
    #[test]
    fn files_of_other_names_and_of_the_last_number_are_none_of_the_caches() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["chunks-ffffffffffffffff", "chunks-+00000000000001f", "chunks-1", "chunks-", "other"] {
            fs::write(dir.path().join(name), b"bytes").unwrap();
        }
        let cache = opened(dir.path(), 1 << 30);
        let (address, bytes) = chunk(0);
        cache.put(&address, &bytes);
        assert_eq!(cache.get(&address), Some(bytes));
        assert!(cache.path(0).exists());
    }

    /// A record under another chunk's name is no answer.
    #[test]
    fn a_record_answers_only_for_its_own_chunk() {
        let dir = tempfile::tempdir().unwrap();
        let cache = opened(dir.path(), 1 << 30);
        let (address, bytes) = chunk(0);
        cache.put(&address, &bytes);
        let mut raw = fs::read(cache.path(0)).unwrap();
        raw[..NAME].copy_from_slice(&cache.name(&chunk(1).0));
        fs::write(cache.path(0), raw).unwrap();
        let cache = opened(dir.path(), 1 << 30);
        assert_eq!(cache.get(&chunk(1).0), None);
    }

    #[test]
    fn the_limit_holds_and_the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = opened(dir.path(), 2 * FILE);
        let big = |n: u32| -> Bytes { n.to_le_bytes().repeat(1 << 18).into() };
        for n in 0..100 {
            let bytes = big(n);
            cache.put(&Address::of(&bytes), &bytes);
        }
        let used: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(used <= 2 * FILE + FILE / 2, "{used}");
        assert!(cache.get(&Address::of(&big(0))).is_none());
        assert!(cache.get(&Address::of(&big(99))).is_some());
    }
}
