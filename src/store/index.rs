//! Where chunks are: lookups in the index runs of the store, with a bounded cache of what was read.

pub use super::part::{Entry, Part, PartId, Place, Shape};

use super::keys::{HEADER, IndexKeys, read_header};
use super::layout::Layout;
use super::objects::Objects;
use super::pack::PackId;
use super::part::{ENTRY, Footer, MAGIC, RawEntry, TABLE, prefix, search};
use super::rebuild::Damaged;
use super::runs::RunSet;
use crate::error::{Error, Kind, Result};
use crate::types::Address;
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;

/// A part smaller than this (64 KiB) is read whole, once: one journey to the store instead of three.
const SMALL: u64 = 64 << 10;
/// How much of a part a scan reads at a time (1 MiB).
const SCAN: usize = 1 << 20;

/// Reads and writes the index runs of a realm.
pub struct Index {
    pub(super) objects: Arc<dyn Objects>,
    pub(super) layout: Layout,
    pub(super) keys: IndexKeys,
    pub(super) shape: Shape,
    cache: Mutex<Cache>,
    pub(super) damaged: Damaged,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Piece {
    Footer,
    Block(usize),
    Table(usize),
}

#[derive(Clone)]
enum Cached {
    Footer(Arc<Footer>),
    Bytes(Arc<Vec<u8>>),
}

impl Cached {
    fn weight(&self) -> usize {
        // What an entry of the cache costs besides.
        const SELF: usize = 160;
        SELF + match self {
            Cached::Footer(f) => f.weight(),
            Cached::Bytes(b) => b.len(),
        }
    }
}

struct Cache {
    pieces: LruCache<(PartId, Piece), Cached>,
    used: usize,
    budget: usize,
}

impl Cache {
    fn put(&mut self, at: (PartId, Piece), piece: Cached) {
        self.used += piece.weight();
        if let Some(old) = self.pieces.put(at, piece) {
            self.used -= old.weight();
        }
        while self.used > self.budget
            && let Some((_, old)) = self.pieces.pop_lru()
        {
            self.used -= old.weight();
        }
    }
}

impl Index {
    /// `budget`: how many bytes of footers and blocks are kept in memory.
    pub fn new(objects: Arc<dyn Objects>, keys: IndexKeys, shape: Shape, budget: usize) -> Index {
        let layout = Layout::new(keys.realm());
        let cache = Mutex::new(Cache { pieces: LruCache::unbounded(), used: 0, budget });
        Index { objects, layout, keys, shape, cache, damaged: Damaged::default() }
    }

    /// Says in which directory a scratch file may be made, where the index must be made anew; once.
    pub fn scratch_in(&self, dir: PathBuf) {
        self.damaged.dir.get_or_init(|| dir);
    }

    /// Where a chunk is, by the newest run that lists it.
    pub fn lookup(&self, runs: &RunSet, address: &Address) -> Result<Option<Place>> {
        self.listed(runs, address).next().transpose()
    }

    /// Every place of a chunk that the runs list, newest first; parts that cannot be read give their error.
    pub fn listed(&self, runs: &RunSet, address: &Address) -> impl Iterator<Item = Result<Place>> {
        // The parts whose range holds the address: one, or two where it has the prefix of a boundary.
        let wanted = prefix(address);
        let parts = runs.runs.iter().flat_map(move |run| run.overlapping(&(wanted..=wanted)));
        parts.filter_map(move |part| {
            let found = self.lookup_in(part, address);
            if let Err(e) = &found
                && e.kind() == Kind::Damage
            {
                self.note_damaged(part, e);
            }
            found.transpose()
        })
    }

    /// Every place of a chunk, newest first: those that the runs list, and where a part of these is damaged, those
    /// that the packs themselves list. The part's error if there is none. May take long, once.
    pub fn places(&self, runs: &RunSet, address: &Address) -> Result<Vec<Place>> {
        let (mut places, mut unread) = (Vec::new(), None);
        for place in self.listed(runs, address) {
            match place {
                Ok(place) => places.push(place),
                Err(e) if e.kind() == Kind::Damage => unread = Some(e),
                Err(e) => return Err(e),
            }
        }
        if let Some(unread) = unread {
            places.extend(self.places_in_packs(runs, address)?);
            if places.is_empty() {
                return Err(unread);
            }
        }
        Ok(places)
    }

    fn lookup_in(&self, part: &Part, address: &Address) -> Result<Option<Place>> {
        let look = || -> Result<Option<Place>> {
            let footer = self.footer(part)?;
            let Some(n) = footer.block_of(address) else {
                return Ok(None);
            };
            let block = self.piece(part, &footer, Piece::Block(n))?;
            match search(&block, address)? {
                Some(raw) => Ok(Some(raw.placed(self.pack(part, &footer, raw.pack)?).place)),
                None => Ok(None),
            }
        };
        look().map_err(|e| self.told(part, e))
    }

    /// An error while reading a part, told with the part's name.
    fn told(&self, part: &Part, e: Error) -> Error {
        let name = self.layout.part(&part.id);
        match e.kind() {
            // The commit names it: it has to be there.
            Kind::NotFound => Error::damage(format!("index run {name} is missing")).with_source(e),
            _ => e.context(format!("cannot read index run {name}")),
        }
    }

    fn footer(&self, part: &Part) -> Result<Arc<Footer>> {
        if let Some(Cached::Footer(footer)) = self.cache.lock().pieces.get(&(part.id, Piece::Footer)) {
            return Ok(footer.clone());
        }
        let name = self.layout.part(&part.id);
        let small = part.bytes <= SMALL;
        let from = if small { 0 } else { part.bytes - u64::from(part.footer) };
        let bytes = self.objects.get_range(&name, from, (part.bytes - from) as usize)?;
        let sealed = &bytes[bytes.len() - part.footer as usize..];
        let footer = Arc::new(Footer::open(&self.keys, part, sealed)?);
        if small {
            let pieces = (0..footer.blocks.len()).map(Piece::Block);
            for piece in pieces.chain((0..footer.tables.len()).map(Piece::Table)) {
                // A damaged block says so when it is wanted.
                if let Ok(block) = self.open_piece(part, &footer, piece, Some(&bytes)) {
                    self.cache.lock().put((part.id, piece), Cached::Bytes(Arc::new(block)));
                }
            }
        }
        self.cache.lock().put((part.id, Piece::Footer), Cached::Footer(footer.clone()));
        Ok(footer)
    }

    /// Opens a block of entries or of the table, from the whole part or from the store.
    fn open_piece(
        &self,
        part: &Part,
        footer: &Footer,
        piece: Piece,
        whole: Option<&Bytes>,
    ) -> Result<Vec<u8>> {
        let block = match piece {
            Piece::Block(n) => footer.blocks.get(n),
            Piece::Table(n) => footer.tables.get(n),
            Piece::Footer => None,
        };
        let block = block.ok_or_else(|| Error::damage("it lists no such block"))?;
        let sealed = match whole {
            // Where blocks lie was checked against the size of the part.
            Some(whole) => whole.slice(block.at as usize..block.at as usize + block.len),
            None => self.objects.get_range(&self.layout.part(&part.id), block.at, block.len)?,
        };
        match piece {
            Piece::Table(n) => footer.open_table(&self.keys, part, n, &sealed),
            Piece::Block(n) => footer.open_block(&self.keys, part, n, &sealed),
            Piece::Footer => Ok(Vec::new()),
        }
    }

    fn piece(&self, part: &Part, footer: &Footer, piece: Piece) -> Result<Arc<Vec<u8>>> {
        if let Some(Cached::Bytes(bytes)) = self.cache.lock().pieces.get(&(part.id, piece)) {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(self.open_piece(part, footer, piece, None)?);
        self.cache.lock().put((part.id, piece), Cached::Bytes(bytes.clone()));
        Ok(bytes)
    }

    fn pack(&self, part: &Part, footer: &Footer, number: u32) -> Result<PackId> {
        let table = self.piece(part, footer, Piece::Table(number as usize / TABLE))?;
        pack_at(&table, number as usize % TABLE)
    }

    /// Reads all of a part, and says what is wrong with it.
    pub fn verify(&self, part: &Part) -> Result<()> {
        self.verify_frame(part)?;
        self.scan(part).try_for_each(|entry| entry.map(drop))
    }

    /// Whether a part is as long as the commit says, and begins as it must. Reads none of its blocks.
    pub(super) fn verify_frame(&self, part: &Part) -> Result<()> {
        let name = self.layout.part(&part.id);
        let look = || -> Result<()> {
            let size = self.objects.size(&name)?;
            if size != part.bytes {
                return Err(Error::damage(format!("it has {size} bytes, not {}", part.bytes)));
            }
            let start = self.objects.get_range(&name, 0, HEADER)?;
            match read_header(&start, MAGIC, "index run header")? {
                epoch if epoch == part.epoch => Ok(()),
                epoch => Err(Error::damage(format!("its header tells of key epoch {epoch}"))),
            }
        };
        look().map_err(|e| self.told(part, e))
    }

    /// All entries of a part, sorted by address. Reads past the cache.
    pub fn scan(&self, part: &Part) -> Scan<'_> {
        Scan { index: self, part: *part, opened: None, next: 0, ready: Vec::new().into_iter(), failed: false }
    }
}

fn pack_at(table: &[u8], n: usize) -> Result<PackId> {
    let (ids, _) = table.as_chunks();
    ids.get(n).copied().map(PackId).ok_or_else(|| Error::damage("an entry names a pack that is not listed"))
}

/// The entries of a part; ends after the first error.
pub struct Scan<'a> {
    index: &'a Index,
    part: Part,
    /// The footer and the whole pack table.
    opened: Option<(Arc<Footer>, Vec<u8>)>,
    next: usize,
    ready: std::vec::IntoIter<Entry>,
    failed: bool,
}

impl Scan<'_> {
    /// Reads the next blocks: about [`SCAN`] bytes of them.
    fn load(&mut self) -> Result<()> {
        let (index, part) = (self.index, &self.part);
        let (footer, table) = match &self.opened {
            Some(opened) => opened,
            None => {
                let footer = index.footer(part)?;
                let mut table = Vec::with_capacity(footer.packs as usize * 32);
                for n in 0..footer.tables.len() {
                    table.extend_from_slice(&index.open_piece(part, &footer, Piece::Table(n), None)?);
                }
                self.opened.insert((footer, table))
            }
        };
        let Some(blocks) = footer.blocks.get(self.next..).filter(|b| !b.is_empty()) else {
            return Ok(());
        };
        let start = blocks[0].at;
        let fit = blocks.iter().take_while(|b| b.at + b.len as u64 - start <= SCAN as u64).count().max(1);
        let last = &blocks[fit - 1];
        let len = (last.at + last.len as u64 - start) as usize;
        let bytes = index.objects.get_range(&index.layout.part(&part.id), start, len)?;
        let mut entries = Vec::with_capacity(blocks[..fit].iter().map(|b| b.count as usize).sum());
        for (n, block) in blocks[..fit].iter().enumerate() {
            let sealed = &bytes[(block.at - start) as usize..][..block.len];
            let plain = footer.open_block(&index.keys, part, self.next + n, sealed)?;
            for raw in plain.chunks_exact(ENTRY) {
                let raw = RawEntry::get(raw)?;
                entries.push(raw.placed(pack_at(table, raw.pack as usize)?));
            }
        }
        if !entries.is_sorted_by(|a, b| a.address < b.address) {
            return Err(Error::damage("its blocks overlap"));
        }
        self.next += fit;
        self.ready = entries.into_iter();
        Ok(())
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.failed {
            return None;
        }
        if let Some(entry) = self.ready.next() {
            return Some(Ok(entry));
        }
        if let Err(e) = self.load() {
            self.failed = true;
            return Some(Err(self.index.told(&self.part, e)));
        }
        self.ready.next().map(Ok)
    }
}
