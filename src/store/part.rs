//! The objects that index runs are made of: sorted entries in sealed blocks, found through a sealed footer.
//!
//! ```text
//! header | entry blocks, each sealed | pack table blocks, each sealed | sealed footer
//! ```
//! The footer lists the blocks with their hashes, and holds a Bloom filter, and zeros that bring the part to a PADMÉ
//! size. A part's name is BLAKE3 of its sealed footer: so the name vouches for the footer, the footer for each block,
//! and one block can be read and trusted alone.

use super::keys::{HEADER, IndexKeys, header};
use super::pack::PackId;
use crate::crypt::pad::padme;
use crate::crypt::seal::OVERHEAD;
use crate::crypt::{Seal, open, seal};
use crate::error::{Error, Result};
use crate::types::{Address, Epoch, MAX_CHUNK};
use crate::wire::{Reader, Writer};
use std::collections::HashMap;

pub(super) const MAGIC: &[u8; 8] = b"nacreidx";
/// Address, number of the pack in the part's table, offset, length.
pub(super) const ENTRY: usize = 44;
const PACK: usize = 32;
/// How many pack ids a block of the table holds; the last one may hold fewer.
pub(super) const TABLE: usize = 512;
const BITS_PER_ENTRY: u64 = 10;
const PROBES: u64 = 7;
/// No footer is longer than this (64 MiB).
const MAX_FOOTER: u32 = 64 << 20;

/// The name of a part: BLAKE3 of its sealed footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(pub [u8; 32]);

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub pack: PackId,
    /// In bytes, from the start of the pack.
    pub offset: u32,
    /// In bytes.
    pub len: u32,
}

/// A chunk and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub address: Address,
    pub place: Place,
}

/// How parts are cut. Readers do not need to know.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Entries in a block.
    pub block: usize,
    /// Entries in a part.
    pub part: usize,
}

impl Default for Shape {
    /// Blocks of 16 KiB, parts of about 16 MiB.
    fn default() -> Shape {
        Shape { block: 370, part: 370_000 }
    }
}

/// What a commit keeps of a part: enough to find and to check its footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub id: PartId,
    /// The epoch of the key that it is sealed under.
    pub epoch: Epoch,
    /// The size of the object.
    pub bytes: u64,
    /// The size of the sealed footer, at its end.
    pub footer: u32,
    /// How many chunks it lists.
    pub entries: u64,
    /// The first 8 bytes of the least address, big-endian.
    pub first: u64,
}

impl Part {
    pub(super) fn put(&self, w: &mut Writer) {
        w.raw(&self.id.0).var(self.epoch.into()).var(self.bytes).var(self.footer.into());
        w.var(self.entries).u64(self.first);
    }

    pub(super) fn get(r: &mut Reader) -> Result<Part> {
        let part = Part {
            id: PartId(r.array()?),
            epoch: r.var32()?,
            bytes: r.var()?,
            footer: r.var32()?,
            entries: r.var()?,
            first: r.u64()?,
        };
        let around = u64::from(part.footer) + HEADER as u64;
        let least = part.entries.saturating_mul(ENTRY as u64).saturating_add(around);
        if part.entries == 0 || part.footer > MAX_FOOTER || part.bytes < least {
            return Err(r.bad("a part of an index run has impossible sizes"));
        }
        Ok(part)
    }
}

/// The first 8 bytes of an address, big-endian: sorts as addresses do.
pub(super) fn prefix(address: &Address) -> u64 {
    eight(address, 0)
}

fn eight(address: &Address, at: usize) -> u64 {
    address.0[at..].first_chunk().map_or(0, |b| u64::from_be_bytes(*b))
}

/// A Bloom filter (Bloom 1970; two hashes suffice, Kirsch and Mitzenmacher 2006) over addresses, which are
/// hashes already.
struct Bloom {
    words: Vec<u64>,
}

impl Bloom {
    fn words_for(entries: u64) -> u64 {
        (entries * BITS_PER_ENTRY).div_ceil(64)
    }

    fn bits(&self, address: &Address) -> impl Iterator<Item = u64> + use<> {
        let (one, two) = (eight(address, 8), eight(address, 16) | 1);
        let bits = self.words.len() as u64 * 64;
        (0..PROBES).map(move |n| {
            let hash = one.wrapping_add(two.wrapping_mul(n));
            ((u128::from(hash) * u128::from(bits)) >> 64) as u64
        })
    }

    fn add(&mut self, address: &Address) {
        for bit in self.bits(address) {
            self.words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    fn may_hold(&self, address: &Address) -> bool {
        self.bits(address).all(|bit| self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }
}

/// A sealed block in a part.
pub(super) struct Block {
    /// Where it begins in the object.
    pub at: u64,
    /// How long it is, sealed.
    pub len: usize,
    /// How many entries (or pack ids) it holds.
    pub count: u32,
    hash: [u8; 16],
}

/// An opened footer.
pub(super) struct Footer {
    pub blocks: Vec<Block>,
    /// The first address of each entry block.
    fences: Vec<Address>,
    pub tables: Vec<Block>,
    /// How many packs the table lists.
    pub packs: u64,
    bloom: Bloom,
}

impl Footer {
    /// Opens the sealed footer of a part.
    pub fn open(keys: &IndexKeys, part: &Part, sealed: &[u8]) -> Result<Footer> {
        if blake3::hash(sealed) != part.id.0 {
            return Err(Error::damage("its footer is not what its name says"));
        }
        let plain = open(Seal::Index, keys.of(part.epoch)?, keys.realm(), b"footer", sealed)?;
        let mut r = Reader::new(&plain, "index run footer");
        let mut at = HEADER as u64;
        let mut block = |count: u32, size: usize, hash| {
            let len = count as usize * size + OVERHEAD;
            let start = at;
            at += len as u64;
            Block { at: start, len, count, hash }
        };
        let n = r.count(32 + 1 + 16)?;
        let (mut blocks, mut fences) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let mut entries = 0;
        for _ in 0..n {
            fences.push(Address(r.array()?));
            let count = r.var32()?;
            if count == 0 || count > 1 << 20 {
                return Err(r.bad("has a block of impossible size"));
            }
            entries += u64::from(count);
            blocks.push(block(count, ENTRY, r.array()?));
        }
        let packs = r.var()?;
        if packs > entries || packs.div_ceil(TABLE as u64) > (r.rest().len() / 16) as u64 {
            return Err(r.bad("lists more packs than it can"));
        }
        let mut tables = Vec::new();
        let mut left = packs;
        while left > 0 {
            let count = left.min(TABLE as u64);
            tables.push(block(count as u32, PACK, r.array()?));
            left -= count;
        }
        let filter = usize::try_from(Bloom::words_for(entries) * 8).ok();
        let Some((filter, padding)) = filter.and_then(|len| r.rest().split_at_checked(len)) else {
            return Err(r.bad("has a filter of the wrong size"));
        };
        // The parts that were written first have no padding.
        let unpadded = part.bytes.saturating_sub(padding.len() as u64);
        let is_padded = padding.is_empty() || padme(unpadded as usize) as u64 == part.bytes;
        if !is_padded || padding.iter().any(|b| *b != 0) {
            return Err(r.bad("is not padded as it must be"));
        }
        let words = filter.chunks_exact(8).filter_map(|w| w.first_chunk().map(|w| u64::from_le_bytes(*w)));
        let bloom = Bloom { words: words.collect() };
        if entries != part.entries
            || at + u64::from(part.footer) != part.bytes
            || !fences.is_sorted_by(|a, b| a < b)
            || fences.first().map(prefix) != Some(part.first)
        {
            return Err(r.bad("contradicts the commit or itself"));
        }
        Ok(Footer { blocks, fences, tables, packs, bloom })
    }

    /// How much memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        let block = size_of::<Block>();
        self.blocks.len() * (block + 32) + self.tables.len() * block + self.bloom.words.len() * 8
    }

    /// The only entry block that can hold an address; nothing if the address is surely not in the part.
    pub fn block_of(&self, address: &Address) -> Option<usize> {
        if !self.bloom.may_hold(address) {
            return None;
        }
        self.fences.partition_point(|first| first <= address).checked_sub(1)
    }

    /// Opens an entry block, and checks it.
    pub fn open_block(&self, keys: &IndexKeys, part: &Part, n: usize, sealed: &[u8]) -> Result<Vec<u8>> {
        let (Some(block), Some(fence)) = (self.blocks.get(n), self.fences.get(n)) else {
            return Err(Error::damage("it has no such block"));
        };
        let plain = open_block(keys, part, b"block", n, block, ENTRY, sealed)?;
        let sorted = plain.chunks_exact(ENTRY).map(|e| &e[..32]).is_sorted_by(|a, b| a < b);
        if !sorted || !plain.starts_with(&fence.0) {
            return Err(Error::damage(format!("its block {n} is not sorted")));
        }
        Ok(plain)
    }

    /// Opens a block of the pack table.
    pub fn open_table(&self, keys: &IndexKeys, part: &Part, n: usize, sealed: &[u8]) -> Result<Vec<u8>> {
        let block = self.tables.get(n).ok_or_else(|| Error::damage("it lists no such pack"))?;
        open_block(keys, part, b"table", n, block, PACK, sealed)
    }
}

fn open_block(
    keys: &IndexKeys,
    part: &Part,
    kind: &[u8; 5],
    n: usize,
    block: &Block,
    size: usize,
    sealed: &[u8],
) -> Result<Vec<u8>> {
    let damaged = |why: &str| Error::damage(format!("its {} {n} {why}", String::from_utf8_lossy(kind)));
    if short_hash(sealed) != block.hash {
        return Err(damaged("is not what the footer says"));
    }
    let plain = open(Seal::Index, keys.of(part.epoch)?, keys.realm(), &block_binding(kind, n), sealed)?;
    if plain.len() != block.count as usize * size {
        return Err(damaged("has the wrong length"));
    }
    Ok(plain)
}

fn block_binding(kind: &[u8; 5], n: usize) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(kind).u32(n as u32);
    w.into_vec()
}

fn short_hash(sealed: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(sealed).as_bytes()[..16]);
    short
}

/// An entry as a block holds it: the pack is a number in the part's table.
pub(super) struct RawEntry {
    pub address: Address,
    pub pack: u32,
    pub offset: u32,
    pub len: u32,
}

impl RawEntry {
    pub fn get(bytes: &[u8]) -> Result<RawEntry> {
        let mut r = Reader::new(bytes, "index run entry");
        let entry =
            RawEntry { address: Address(r.array()?), pack: r.u32()?, offset: r.u32()?, len: r.u32()? };
        if entry.len == 0 || entry.len as usize > MAX_CHUNK {
            return Err(r.bad("has an impossible length"));
        }
        Ok(entry)
    }

    /// The entry with its pack's id.
    pub fn placed(&self, pack: PackId) -> Entry {
        Entry { address: self.address, place: Place { pack, offset: self.offset, len: self.len } }
    }
}

/// Finds an address in an opened block.
pub(super) fn search(block: &[u8], address: &Address) -> Result<Option<RawEntry>> {
    let (entries, _) = block.as_chunks::<ENTRY>();
    match entries.binary_search_by(|e| e[..32].cmp(&address.0)) {
        Ok(at) => RawEntry::get(&entries[at]).map(Some),
        Err(_) => Ok(None),
    }
}

/// Writes one part: entries must come sorted by address, without repeats.
pub(super) struct PartWriter<'a> {
    keys: &'a IndexKeys,
    shape: Shape,
    out: Vec<u8>,
    block: Vec<u8>,
    fences: Vec<(Address, u32, [u8; 16])>,
    packs: Vec<PackId>,
    numbers: HashMap<PackId, u32>,
    addresses: Vec<Address>,
}

impl<'a> PartWriter<'a> {
    pub fn new(keys: &'a IndexKeys, shape: Shape) -> PartWriter<'a> {
        PartWriter {
            keys,
            shape,
            out: header(MAGIC, keys.epoch()),
            block: Vec::new(),
            fences: Vec::new(),
            packs: Vec::new(),
            numbers: HashMap::new(),
            addresses: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.addresses.len() >= self.shape.part
    }

    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        let next = self.packs.len() as u32;
        let number = *self.numbers.entry(entry.place.pack).or_insert(next);
        if number == next {
            self.packs.push(entry.place.pack);
        }
        self.addresses.push(entry.address);
        self.block.extend_from_slice(&entry.address.0);
        for v in [number, entry.place.offset, entry.place.len] {
            self.block.extend_from_slice(&v.to_le_bytes());
        }
        if self.block.len() >= self.shape.block * ENTRY { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<()> {
        let Some(first) = self.block.first_chunk() else {
            return Ok(());
        };
        let first = Address(*first);
        let count = (self.block.len() / ENTRY) as u32;
        let block = std::mem::take(&mut self.block);
        let hash = self.write(b"block", self.fences.len(), &block)?;
        self.fences.push((first, count, hash));
        Ok(())
    }

    fn write(&mut self, kind: &[u8; 5], n: usize, plain: &[u8]) -> Result<[u8; 16]> {
        let key = self.keys.of(self.keys.epoch())?;
        let sealed = seal(Seal::Index, key, self.keys.realm(), &block_binding(kind, n), plain)?;
        self.out.extend_from_slice(&sealed);
        Ok(short_hash(&sealed))
    }

    /// The part, and the bytes of its object.
    pub fn finish(mut self) -> Result<(Part, Vec<u8>)> {
        self.end_block()?;
        let mut footer = Writer::new();
        footer.var(self.fences.len() as u64);
        for (first, count, hash) in &self.fences {
            footer.raw(&first.0).var((*count).into()).raw(hash);
        }
        footer.var(self.packs.len() as u64);
        let packs = std::mem::take(&mut self.packs);
        for (n, table) in packs.chunks(TABLE).enumerate() {
            let table: Vec<u8> = table.iter().flat_map(|id| id.0).collect();
            footer.raw(&self.write(b"table", n, &table)?);
        }
        let entries = self.addresses.len() as u64;
        let mut bloom = Bloom { words: vec![0; Bloom::words_for(entries) as usize] };
        self.addresses.iter().for_each(|a| bloom.add(a));
        for word in bloom.words {
            footer.u64(word);
        }
        let size = self.out.len() + footer.as_slice().len() + OVERHEAD;
        footer.raw(&vec![0; padme(size) - size]);
        let key = self.keys.of(self.keys.epoch())?;
        let sealed = seal(Seal::Index, key, self.keys.realm(), b"footer", footer.as_slice())?;
        self.out.extend_from_slice(&sealed);
        let part = Part {
            id: PartId(*blake3::hash(&sealed).as_bytes()),
            epoch: self.keys.epoch(),
            bytes: self.out.len() as u64,
            footer: sealed.len() as u32,
            entries,
            first: self.addresses.first().map_or(0, prefix),
        };
        Ok((part, self.out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::types::{Key, RealmId};

    fn keys() -> IndexKeys {
        IndexKeys::new(RealmId([1; 16]), 0, Key([2; 32]))
    }

    /// A part of chunks 0..n, all in one pack.
    fn part(n: u32) -> (Part, Vec<u8>) {
        let keys = keys();
        let mut entries: Vec<Entry> = (0..n)
            .map(|n| Entry {
                address: Address::of(&n.to_le_bytes()),
                place: Place { pack: PackId([3; 32]), offset: n, len: 1 },
            })
            .collect();
        entries.sort_unstable();
        let mut writer = PartWriter::new(&keys, Shape { block: 8, part: 1000 });
        entries.iter().for_each(|e| writer.push(e).unwrap());
        writer.finish().unwrap()
    }

    /// TRUST 5: the sizes of index runs are blurred.
    #[test]
    fn the_size_of_a_part_tells_roughly_how_many_chunks_it_lists() {
        let sizes: Vec<usize> = (1..400).map(|n| part(n).1.len()).collect();
        assert!(sizes.iter().all(|size| padme(*size) == *size));
        assert!(sizes.is_sorted());
        let mut told = sizes.clone();
        told.dedup();
        assert!(told.len() * 4 < sizes.len(), "{} sizes of {}", told.len(), sizes.len());
        let (part, bytes) = part(300);
        Footer::open(&keys(), &part, &bytes[bytes.len() - part.footer as usize..]).unwrap();
    }

    /// The part with another end of its footer, as if it had been written so.
    fn with_end(bytes: &[u8], part: &Part, change: impl Fn(&mut Vec<u8>)) -> (Part, Vec<u8>) {
        let (keys, at) = (keys(), bytes.len() - part.footer as usize);
        let key = keys.of(0).unwrap();
        let mut footer = open(Seal::Index, key, keys.realm(), b"footer", &bytes[at..]).unwrap();
        change(&mut footer);
        let sealed = seal(Seal::Index, key, keys.realm(), b"footer", &footer).unwrap();
        let id = PartId(*blake3::hash(&sealed).as_bytes());
        let part = Part { id, bytes: (at + sealed.len()) as u64, footer: sealed.len() as u32, ..*part };
        (part, sealed)
    }

    #[test]
    fn a_part_is_padded_as_it_must_be_or_not_at_all() {
        let (part, bytes) = part(300);
        // 38 blocks, one pack, and the filter.
        let unpadded = 1 + 38 * 49 + 1 + 16 + 47 * 8;
        let open = |change: &dyn Fn(&mut Vec<u8>)| {
            let (part, footer) = with_end(&bytes, &part, change);
            Footer::open(&keys(), &part, &footer).map(drop)
        };
        open(&|footer| assert!(footer.len() > unpadded + 1)).unwrap();
        open(&|footer| footer.truncate(unpadded)).unwrap();
        let cut = &|footer: &mut Vec<u8>| footer.truncate(unpadded - 1);
        assert!(open(cut).unwrap_err().to_string().contains("filter"));
        type Bend<'a> = &'a dyn Fn(&mut Vec<u8>);
        let bent: [Bend; 4] = [
            &|footer| *footer.last_mut().unwrap() = 1,
            &|footer| footer.truncate(unpadded + 1),
            &|footer| footer.truncate(footer.len() - 1),
            &|footer| footer.push(0),
        ];
        for change in bent {
            let e = open(change).unwrap_err();
            assert!(e.kind() == Kind::Damage && e.to_string().contains("padded"), "{e}");
        }
    }
}
