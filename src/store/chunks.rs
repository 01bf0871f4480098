//! The chunks of a realm: reading them by address, verified, and writing new ones in batches.

use super::index::{Entry, Index, Place, Shape};
use super::keys::IndexKeys;
use super::local_index::{LocalIndex, LocalPlace};
use super::objects::Objects;
use super::pack::{PackBuilder, PackId, PackInfo, SealedPack};
use super::runs::RunSet;
use crate::chunk::ChunkSink;
use crate::error::{Error, Kind, Result};
use crate::types::{Address, MAX_CHUNK};
use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

/// How many chunks are remembered as written or verified by us, and held now.
const VERIFIED: NonZeroUsize = NonZeroUsize::MIN.saturating_add((1 << 16) - 1);
/// No pack is aimed to be longer than this.
const MAX_TARGET: usize = 256 << 20;

/// How a chunk store works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A pack is put when the next chunk would make it longer than this, in bytes.
    pub pack: usize,
    /// How much memory the index may take for what it has read, in bytes.
    pub index_cache: usize,
    pub shape: Shape,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { pack: 16 << 20, index_cache: 16 << 20, shape: Shape::default() }
    }
}

/// The chunks of a realm.
pub struct ChunkStore {
    index: Arc<Index>,
    runs: RwLock<Arc<RunSet>>,
    pending: RwLock<Vec<Arc<Pending>>>,
    /// In which pack each was.
    verified: Mutex<LruCache<Address, PackId>>,
    /// Packs in which something was found damaged, or that are gone: their chunks are not remembered as verified.
    suspects: Mutex<HashSet<PackId>>,
    /// Packs that have gone from the store: what can be read of them all the same need not be there tomorrow.
    gone: Mutex<HashSet<PackId>>,
    local: OnceLock<Option<LocalIndex>>,
    pack: usize,
}

impl ChunkStore {
    /// `runs`: those of the commit that is read. `local`: where the local index may be kept. Reads nothing.
    pub fn open(
        objects: Arc<dyn Objects>,
        keys: IndexKeys,
        runs: RunSet,
        settings: Settings,
        local: Option<LocalPlace>,
    ) -> Arc<ChunkStore> {
        let store = Arc::new(ChunkStore {
            index: Arc::new(Index::new(objects, keys, settings.shape, settings.index_cache)),
            runs: RwLock::new(Arc::new(runs)),
            pending: RwLock::default(),
            verified: Mutex::new(LruCache::sparse(VERIFIED)),
            suspects: Mutex::default(),
            gone: Mutex::default(),
            local: OnceLock::new(),
            pack: settings.pack.min(MAX_TARGET),
        });
        if let Some(at) = local {
            store.keep_local(at);
        }
        store
    }

    /// Keeps a local index from now on, and there; before other runs are adopted.
    pub fn keep_local(&self, at: LocalPlace) {
        self.index.scratch_in(at.dir.clone());
        self.local.get_or_init(|| LocalIndex::start(at, self.index.clone(), self.runs()));
    }

    fn local(&self) -> Option<&LocalIndex> {
        self.local.get()?.as_ref()
    }

    /// The index runs that are read.
    pub fn runs(&self) -> Arc<RunSet> {
        self.runs.read().clone()
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether the local index knows a chunk.
    #[cfg(test)]
    pub(super) fn is_local(&self, address: &Address) -> bool {
        self.local().is_some_and(|l| l.get(address).is_some())
    }

    /// The stored bytes of a chunk, which its address vouches for. A chunk that is missing, or not what its
    /// address says, is `Damage`; a store that cannot be reached is `Away`.
    pub fn fetch(&self, address: &Address) -> Result<Bytes> {
        let pending = self.pending.read().iter().find_map(|p| p.find(address));
        match pending {
            Some(Held::Here(bytes)) => return check(address, bytes, "the batch in progress"),
            Some(Held::At(place)) => return self.read(address, &place),
            None => {}
        }
        if let Some(place) = self.local().and_then(|l| l.get(address)) {
            match self.read(address, &place) {
                Err(e) if e.kind() == Kind::Damage => {
                    tracing::debug!("the local index is wrong about chunk {address}: {}", e.chain());
                }
                read => return read,
            }
        }
        let found = self.find(address, true)?;
        found
            .map(|(_, bytes)| bytes)
            .ok_or_else(|| Error::damage(format!("chunk {address} is in no index run of the store")))
    }

    /// Whether a chunk need not be stored again: the index lists it, and we wrote it or have read it, and have found
    /// nothing wrong in its pack since. A chunk that is listed and damaged is not held.
    pub fn contains(&self, address: &Address) -> Result<bool> {
        Ok(self.holder(address)?.is_some())
    }

    /// In which pack a chunk is that need not be stored again.
    fn holder(&self, address: &Address) -> Result<Option<PackId>> {
        if let Some(pack) = self.verified.lock().get(address)
            && !self.gone.lock().contains(pack)
        {
            return Ok(Some(*pack));
        }
        match self.find(address, false) {
            Ok(found) => Ok(found.map(|(pack, _)| pack)),
            // Told once already, for all that it listed.
            Err(e) if e.kind() == Kind::Damage && self.index.any_damaged(&self.runs()) => Ok(None),
            Err(e) if e.kind() == Kind::Damage => {
                tracing::warn!("chunk {address} will be stored again: {}", e.chain());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Whether a pack is in the store still. From one that is gone, what can be read is, and nothing counts as stored.
    fn is_there(&self, pack: PackId) -> Result<bool> {
        let name = self.index.layout.pack(&pack);
        let there = self.index.objects.is_there(&name)?;
        if !there && self.gone.lock().insert(pack) {
            tracing::error!(
                "{name} is gone from the store, or another file has its name: it is no more relied on"
            );
            self.suspect(pack);
        }
        Ok(there)
    }

    /// Looks a chunk up in the runs, newest first, until one gives its bytes; from which pack they are. Nothing if no run lists it. Where a part
    /// of these is damaged, it may be looked up in the packs' own lists, which is not enough to deduplicate against.
    fn find(&self, address: &Address, in_packs: bool) -> Result<Option<(PackId, Bytes)>> {
        let runs = self.runs();
        let (mut trouble, mut unread) = (None::<Error>, false);
        let mut note = |e: Error| {
            // While the store is away nothing is known to be damaged.
            if trouble.as_ref().is_none_or(|t| t.kind() == Kind::Damage) {
                trouble = Some(e);
            }
        };
        for place in self.index.listed(&runs, address) {
            unread |= place.as_ref().is_err_and(|e| e.kind() == Kind::Damage);
            // Whoever asks only whether it is stored does not look into packs' lists, nor into packs that are gone.
            let is_gone = |place: &Place| !in_packs && self.gone.lock().contains(&place.pack);
            if place.as_ref().is_ok_and(is_gone) {
                continue;
            }
            match place.and_then(|place| Ok((place.pack, self.read(address, &place)?))) {
                Ok((pack, bytes)) => {
                    let mut verified = self.verified.lock();
                    if Arc::ptr_eq(&runs, &self.runs.read()) && !self.suspects.lock().contains(&pack) {
                        verified.put(*address, pack);
                    }
                    return Ok(Some((pack, bytes)));
                }
                Err(e) => note(e),
            }
        }
        if in_packs && unread {
            let places = self.index.places_in_packs(&runs, address);
            for place in places.unwrap_or_else(|e| {
                note(e);
                Vec::new()
            }) {
                match self.read(address, &place) {
                    Ok(bytes) => return Ok(Some((place.pack, bytes))),
                    Err(e) => note(e),
                }
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    fn read(&self, address: &Address, place: &Place) -> Result<Bytes> {
        let read = self.read_at(address, place);
        if read.as_ref().is_err_and(|e| e.kind() == Kind::Damage) {
            self.suspect(place.pack);
        }
        read
    }

    /// Something in a pack is damaged, or all of it is gone: its neighbours may be too, so that none of what was verified
    /// in it counts any more.
    fn suspect(&self, pack: PackId) {
        let mut verified = self.verified.lock();
        if self.suspects.lock().insert(pack) {
            verified.clear();
        }
    }

    fn read_at(&self, address: &Address, place: &Place) -> Result<Bytes> {
        let name = self.index.layout.pack(&place.pack);
        if place.len as usize > MAX_CHUNK {
            return Err(Error::damage(format!("chunk {address} cannot be {} bytes long", place.len)));
        }
        match self.index.objects.get_range(&name, place.offset.into(), place.len as usize) {
            Ok(bytes) => check(address, bytes, &name),
            Err(e) if e.kind() == Kind::NotFound => {
                Err(Error::damage(format!("chunk {address} is lost: pack {name} is missing")).with_source(e))
            }
            Err(e) => Err(e.context(format!("cannot read chunk {address}"))),
        }
    }

    /// Starts a batch of new chunks. `fetch` finds them at once; `contains` does not before [`Self::adopt`].
    /// `order`: random bytes, which decide in what order they stand in their packs.
    pub fn begin(self: &Arc<Self>, order: [u8; 32]) -> Batch {
        let pending = Arc::new(Pending::default());
        self.pending.write().push(pending.clone());
        Batch {
            hold: Arc::new(Hold { store: self.clone(), pending }),
            order,
            duplicates: Vec::new(),
            checked: self.runs(),
            suspects: self.suspects.lock().len(),
            present: HashSet::new(),
            finishing: false,
            listed: None,
        }
    }

    /// In how many packs something was found damaged, or that are gone, since this was opened.
    pub fn damaged_packs(&self) -> usize {
        self.suspects.lock().len()
    }

    /// Reads the runs of another commit from now on: of one that we made, or of somebody else's.
    pub fn adopt(&self, runs: RunSet) {
        let runs = Arc::new(runs);
        let (base, ours) = {
            // Under this lock, so that nothing found in the old runs is remembered after the change.
            let mut verified = self.verified.lock();
            let base = std::mem::replace(&mut *self.runs.write(), runs.clone());
            self.index.let_go(&runs);
            let ours = self.pending.read().iter().find_map(|p| p.finished_as(&base, &runs));
            match &ours {
                Some(entries) => {
                    for entry in entries {
                        verified.put(entry.address, entry.place.pack);
                    }
                }
                None if base != runs => verified.clear(),
                None => {}
            }
            (base, ours)
        };
        if let Some(local) = self.local() {
            local.adopt(base, runs, ours);
        }
    }
}

fn check(address: &Address, bytes: Bytes, name: &str) -> Result<Bytes> {
    if Address::of(&bytes) == *address {
        Ok(bytes)
    } else {
        Err(Error::damage(format!("chunk {address} in {name} is not what its address says")))
    }
}

/// Where a chunk of a batch in progress is.
enum Held {
    Here(Bytes),
    At(Place),
}

/// What a batch has taken so far, as readers see it.
#[derive(Default)]
struct Pending {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// Each chunk: the number of its pack, its offset and length there.
    chunks: HashMap<Address, (usize, u32, u32)>,
    /// Packs that the store has, durably.
    packs: Vec<PackInfo>,
    /// A pack that is being put; its number is that of `packs` to come.
    full: Option<SealedPack>,
    open: PackBuilder,
    /// The runs that the batch was added to, and what they became.
    finished: Option<(Arc<RunSet>, RunSet)>,
}

impl State {
    fn entries(&self) -> Vec<Entry> {
        let place = |(pack, offset, len): (usize, u32, u32)| {
            self.packs.get(pack).map(|p| Place { pack: p.id, offset, len })
        };
        self.chunks.iter().filter_map(|(a, at)| Some(Entry { address: *a, place: place(*at)? })).collect()
    }
}

impl Pending {
    fn find(&self, address: &Address) -> Option<Held> {
        let state = self.state.read();
        let &(pack, offset, len) = state.chunks.get(address)?;
        if let Some(info) = state.packs.get(pack) {
            return Some(Held::At(Place { pack: info.id, offset, len }));
        }
        match &state.full {
            Some(full) if pack == state.packs.len() => {
                let range = offset as usize..offset as usize + len as usize;
                Some(Held::Here(full.bytes.slice(range)))
            }
            _ => state.open.chunk(offset, len).map(|c| Held::Here(Bytes::copy_from_slice(c))),
        }
    }

    /// What the batch added, if that is how `base` became `runs`.
    fn finished_as(&self, base: &Arc<RunSet>, runs: &RunSet) -> Option<Vec<Entry>> {
        let state = self.state.read();
        match &state.finished {
            Some((from, to)) if Arc::ptr_eq(from, base) && to == runs => Some(state.entries()),
            _ => None,
        }
    }
}

/// Keeps a batch's chunks readable; lets go of them when the batch and what was made of it are dropped.
struct Hold {
    store: Arc<ChunkStore>,
    pending: Arc<Pending>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.store.pending.write().retain(|p| !Arc::ptr_eq(p, &self.pending));
    }
}

/// New chunks on their way into the store. Takes the memory of one pack, of two while it is shuffled, and some 100 bytes
/// for each chunk. Dropped unfinished, it leaves at most packs that nothing names.
pub struct Batch {
    hold: Arc<Hold>,
    order: [u8; 32],
    /// Chunks that were not taken because the store holds them.
    duplicates: Vec<Address>,
    /// The runs in which all duplicates are known to be.
    checked: Arc<RunSet>,
    /// How many packs were suspect when the duplicates were last looked at.
    suspects: usize,
    /// Packs with duplicates, which were there when the first of them was taken.
    present: HashSet<PackId>,
    /// [`Self::finish`] was called before, maybe long ago.
    finishing: bool,
    /// The packs of the drive, where the index is to be healed.
    listed: Option<HashSet<PackId>>,
}

/// What a batch became: packs and index runs that the store has, durably. While it lives, the chunks can be
/// read even though the runs are not adopted yet.
pub struct Written {
    pub packs: Vec<PackInfo>,
    pub runs: RunSet,
    _hold: Arc<Hold>,
}

impl ChunkSink for Batch {
    /// After an error the chunk was not taken: it may be put again.
    fn put(&mut self, address: Address, stored: Vec<u8>) -> Result<()> {
        self.put_together(vec![(address, stored)])
    }

    /// Chunks that stay together are in one pack. After an error none was taken: they may be put again.
    fn put_together(&mut self, mut chunks: Vec<(Address, Vec<u8>)>) -> Result<()> {
        debug_assert!(chunks.iter().all(|(address, stored)| Address::of(stored) == *address));
        let store = &self.hold.store;
        let state = &self.hold.pending.state;
        let (mut new, mut duplicates) = (HashSet::new(), Vec::new());
        'chunks: for (address, _) in &chunks {
            if state.read().chunks.contains_key(address) {
                continue;
            }
            // Of a pack that is gone no chunk has its holder any more: another may be it.
            while let Some(pack) = store.holder(address)? {
                if self.present.contains(&pack) || store.is_there(pack)? {
                    self.present.insert(pack);
                    duplicates.push(*address);
                    continue 'chunks;
                }
            }
            new.insert(*address);
        }
        // Each once.
        chunks.retain(|(address, _)| new.remove(address));
        if !chunks.is_empty() {
            // A pack whose putting failed goes first: there is never more than one waiting.
            let bytes = chunks.iter().map(|(_, stored)| stored.len()).sum::<usize>();
            let fits = |s: &State| s.open.is_empty() || s.open.len() + bytes <= store.pack;
            let ready = |s: &State| s.full.is_none() && fits(s);
            while !ready(&state.read()) {
                self.put_pack()?;
            }
            let mut state = state.write();
            let State { chunks: places, open, packs, .. } = &mut *state;
            for at in open.push_together(&chunks)? {
                places.insert(at.address, (packs.len(), at.offset, at.len));
            }
        }
        self.duplicates.append(&mut duplicates);
        Ok(())
    }
}

impl Batch {
    /// Puts the open pack into the store. After an error it stays, and can be put again.
    fn put_pack(&self) -> Result<()> {
        let (index, state) = (&self.hold.store.index, &self.hold.pending.state);
        let full = {
            let mut state = state.write();
            let State { chunks, packs, full, open, .. } = &mut *state;
            if full.is_none() && !open.is_empty() {
                let number = packs.len();
                open.shuffle(blake3::keyed_hash(&self.order, &number.to_le_bytes()).as_bytes());
                chunks.extend(open.entries().iter().map(|e| (e.address, (number, e.offset, e.len))));
                *full = Some(std::mem::take(open).seal(&index.keys)?);
            }
            full.clone()
        };
        if let Some(full) = full {
            index.objects.put(&index.layout.pack(&full.info.id), full.bytes)?;
            let mut state = state.write();
            state.full = None;
            state.packs.push(full.info);
        }
        Ok(())
    }

    /// Whether parts of the index are known to be damaged, so that [`Self::heal`] is worth its while.
    pub fn index_is_damaged(&self) -> bool {
        let store = &self.hold.store;
        store.index.any_damaged(&store.runs())
    }

    /// Has [`Self::finish`] write damaged parts of the index anew, with the chunks of these packs: all that the
    /// versions of the drive list.
    pub fn heal(&mut self, packs: HashSet<PackId>) {
        self.listed = Some(packs);
    }

    /// The index without its damage, as far as it can be had: a commit does not fail for it.
    fn healed(&self, base: &RunSet) -> Result<RunSet> {
        let Some(listed) = &self.listed else { return Ok(base.clone()) };
        match self.hold.store.index.heal(base, listed) {
            Err(e) if e.kind() != Kind::Away => {
                tracing::error!("the index stays damaged for now, the commit goes on: {}", e.chain());
                Ok(base.clone())
            }
            healed => healed,
        }
    }

    /// Deletes the packs that were put. To be called where nothing can name them: before the batch was finished, or when
    /// what was made of it was not tried to be published.
    pub fn discard(self) {
        let index = &self.hold.store.index;
        let state = self.hold.pending.state.read();
        // One whose putting failed is perhaps there.
        for id in state.packs.iter().map(|p| p.id).chain(state.full.iter().map(|full| full.info.id)) {
            if let Err(e) = index.objects.delete(&index.layout.pack(&id)) {
                tracing::debug!("a pack that nothing names stays in the store: {}", e.chain());
            }
        }
    }

    /// Puts what is left, then an index run on top of the runs that are adopted now. All of it is durable
    /// when this returns. May be called again: after an error, or to come on top of runs that were adopted
    /// since. `Conflict` if a chunk that was taken for a duplicate is not in those, or is found damaged since: then the
    /// batch must be made anew.
    pub fn finish(&mut self) -> Result<Written> {
        // Twice: a pack whose putting failed, then the open one.
        self.put_pack()?;
        self.put_pack()?;
        let store = &self.hold.store;
        let base = store.runs();
        if !Arc::ptr_eq(&base, &self.checked) {
            for address in &self.duplicates {
                let listed = match store.index.lookup(&base, address) {
                    // As for `contains`: what cannot be looked up is stored again.
                    Err(e) if e.kind() == Kind::Damage => false,
                    found => found?.is_some(),
                };
                if !listed {
                    let gone =
                        format!("chunk {address} was taken for a duplicate, and is gone from the index");
                    return Err(Error::new(Kind::Conflict, gone));
                }
            }
            self.checked = base.clone();
        }
        if std::mem::replace(&mut self.finishing, true) {
            for pack in &self.present {
                store.is_there(*pack)?;
            }
        }
        let suspects = store.suspects.lock().len();
        if suspects != self.suspects {
            for address in &self.duplicates {
                if !store.contains(address)? {
                    let what =
                        format!("chunk {address} was taken for a duplicate, and is found damaged since");
                    return Err(Error::new(Kind::Conflict, what));
                }
            }
            self.suspects = suspects;
        }
        let (entries, packs) = {
            let state = self.hold.pending.state.read();
            (state.entries(), state.packs.clone())
        };
        let runs = store.index.add(&self.healed(&base)?, entries)?;
        self.hold.pending.state.write().finished = Some((base, runs.clone()));
        Ok(Written { packs, runs, _hold: self.hold.clone() })
    }
}
