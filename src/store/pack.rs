//! Packs: immutable runs of chunks, so that small chunks do not become small objects.
//!
//! ```text
//! header | chunks back to back | padding | sealed footer | trailer
//! ```
//! The footer says where each chunk is, so that the index can be rebuilt from packs alone. Footer and pack
//! are padded to PADMÉ sizes; the padding cannot be told from chunks. A pack's name is BLAKE3 of its bytes.

use super::keys::{HEADER, IndexKeys, header, read_header};
use super::objects::Objects;
use crate::crypt::pad::{pad, padme};
use crate::crypt::{Seal, domains, open, seal};
use crate::error::{Context, Error, Result};
use crate::types::{Address, MAX_CHUNK, hex};
use crate::wire::{Reader, Writer};
use bytes::Bytes;
use std::fmt;
use std::ops::Range;

const MAGIC: &[u8; 8] = b"nacrepck";
/// Ends a pack, after the length of its sealed footer.
const END: &[u8; 4] = b"ncre";
const TRAILER: usize = 8;
/// Address, offset, length.
const ENTRY: usize = 40;
/// How much of a pack's end is read at once when its footer is wanted.
const TAIL: u64 = 64 << 10;
/// Offsets in a pack are 32 bits.
const MAX_PACK: u64 = 1 << 30;

/// The name of a pack: BLAKE3 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub [u8; 32]);

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        Address(self.0).fmt(f)
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&hex(&self.0[..6]))
    }
}

/// Where a chunk is in its pack, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackEntry {
    pub address: Address,
    pub offset: u32,
    pub len: u32,
}

/// A pack that was written, as the commit's index of packs lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackInfo {
    pub id: PackId,
    /// The size of the object.
    pub bytes: u64,
    /// How many chunks it holds.
    pub chunks: u32,
}

/// A pack in the making.
#[derive(Default)]
pub struct PackBuilder {
    /// Header and chunks; the header is filled in when the pack is sealed.
    bytes: Vec<u8>,
    /// In the order in which the chunks stand.
    entries: Vec<PackEntry>,
    /// Which of the entries stay together.
    groups: Vec<Range<usize>>,
}

/// A finished pack, ready to be put.
#[derive(Clone)]
pub struct SealedPack {
    pub info: PackInfo,
    pub bytes: Bytes,
}

impl PackBuilder {
    pub fn new() -> PackBuilder {
        PackBuilder::default()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How long the pack is so far, in bytes, without its footer.
    pub fn len(&self) -> usize {
        self.bytes.len().max(HEADER)
    }

    /// Takes a chunk; says where it is, unless the pack is shuffled.
    pub fn push(&mut self, address: Address, stored: &[u8]) -> Result<PackEntry> {
        self.check(&[(address, stored)])?;
        let entry = self.append(address, stored);
        self.groups.push(self.entries.len() - 1..self.entries.len());
        Ok(entry)
    }

    /// Takes chunks that stay together, in this order; all of them or, after an error, none. Says where they are, unless
    /// the pack is shuffled.
    pub fn push_together(&mut self, chunks: &[(Address, Vec<u8>)]) -> Result<&[PackEntry]> {
        self.check(chunks)?;
        let first = self.entries.len();
        chunks.iter().for_each(|(address, stored)| {
            self.append(*address, stored);
        });
        self.groups.push(first..self.entries.len());
        Ok(&self.entries[first..])
    }

    fn check(&self, chunks: &[(Address, impl AsRef<[u8]>)]) -> Result<()> {
        let mut len = self.len();
        for (address, stored) in chunks {
            let bytes = stored.as_ref().len();
            if bytes == 0 || bytes > MAX_CHUNK {
                return Err(Error::failed(format!("chunk {address} cannot be {bytes} bytes long")));
            }
            len += bytes;
        }
        if len as u64 > MAX_PACK / 2 {
            return Err(Error::failed("a pack cannot grow that long"));
        }
        Ok(())
    }

    fn append(&mut self, address: Address, stored: &[u8]) -> PackEntry {
        self.bytes.resize(self.len(), 0);
        let entry = PackEntry { address, offset: self.bytes.len() as u32, len: stored.len() as u32 };
        self.bytes.extend_from_slice(stored);
        self.entries.push(entry);
        entry
    }

    /// Where the chunks are, in the order in which they stand.
    pub fn entries(&self) -> &[PackEntry] {
        &self.entries
    }

    /// Puts what stays together into an order that the seed decides, each as likely as any other: whoever does not know
    /// the seed learns nothing from where a chunk stands (TRUST.md 5). For this moment it takes twice the memory.
    pub fn shuffle(&mut self, seed: &[u8; 32]) {
        let mut groups = std::mem::take(&mut self.groups);
        shuffle(&mut groups, seed);
        let old = std::mem::take(self);
        self.bytes.reserve_exact(old.bytes.len());
        for group in groups {
            let first = self.entries.len();
            for e in &old.entries[group] {
                self.append(e.address, &old.bytes[e.offset as usize..][..e.len as usize]);
            }
            self.groups.push(first..self.entries.len());
        }
    }

    /// A chunk that was pushed.
    pub fn chunk(&self, offset: u32, len: u32) -> Option<&[u8]> {
        self.bytes.get(offset as usize..)?.get(..len as usize)
    }

    /// Adds padding, footer and trailer.
    pub fn seal(mut self, keys: &IndexKeys) -> Result<SealedPack> {
        let key = keys.of(keys.epoch())?;
        self.bytes.resize(self.len(), 0);
        self.bytes[..HEADER].copy_from_slice(&header(MAGIC, keys.epoch()));
        self.entries.sort_unstable();
        let mut footer = Writer::new();
        footer.u32(self.entries.len() as u32);
        for e in &self.entries {
            footer.raw(&e.address.0).u32(e.offset).u32(e.len);
        }
        let mut footer = footer.into_vec();
        pad(&mut footer);
        let sealed_len = footer.len() + crate::crypt::seal::OVERHEAD;
        let total = padme(self.bytes.len() + sealed_len + TRAILER);
        let body = total - sealed_len - TRAILER;
        let end_of_chunks = self.bytes.len();
        self.bytes.resize(body, 0);
        // Pseudo-random, so that its length stays unknown; derived, so that a pack made again is the same.
        let padding_key = domains::PACK_PADDING.derive(&[&key.0]);
        let mut padding = blake3::Hasher::new_keyed(&padding_key.0).update(&footer).finalize_xof();
        padding.fill(&mut self.bytes[end_of_chunks..]);
        let sealed = seal(Seal::Footer, key, keys.realm(), &binding(&self.bytes, body as u64), &footer)?;
        self.bytes.extend_from_slice(&sealed);
        self.bytes.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(END);
        let id = PackId(*blake3::hash(&self.bytes).as_bytes());
        let info = PackInfo { id, bytes: self.bytes.len() as u64, chunks: self.entries.len() as u32 };
        Ok(SealedPack { info, bytes: self.bytes.into() })
    }
}

/// Shuffles as Fisher and Yates do (Durstenfeld, "Algorithm 235: Random permutation", CACM 1964). Drawn by multiplying
/// and shifting, no place is likelier than another by more than the number of items over 2^64.
fn shuffle<T>(items: &mut [T], seed: &[u8; 32]) {
    let mut draws = blake3::Hasher::new_keyed(seed).finalize_xof();
    for last in (1..items.len()).rev() {
        let mut draw = [0; 8];
        draws.fill(&mut draw);
        let at = (u128::from(u64::from_le_bytes(draw)) * (last as u128 + 1)) >> 64;
        items.swap(at as usize, last);
    }
}

/// What a footer's seal is bound to: the header, and where the footer begins.
fn binding(start: &[u8], body: u64) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(&start[..HEADER.min(start.len())]).u64(body);
    w.into_vec()
}

/// Where a pack's sealed footer begins and how long it is, from the pack's last bytes.
fn footer_place(trailer: &[u8], size: u64) -> Result<(u64, usize)> {
    let mut r = Reader::new(trailer, "pack trailer");
    let len = r.u32()?;
    if r.array()? != *END {
        return Err(r.bad("is not ours"));
    }
    match size.checked_sub(u64::from(len) + TRAILER as u64) {
        Some(body) if body >= HEADER as u64 => Ok((body, len as usize)),
        _ => Err(r.bad("tells of a footer longer than the pack")),
    }
}

fn open_footer(keys: &IndexKeys, start: &[u8], body: u64, sealed: &[u8]) -> Result<Vec<PackEntry>> {
    let epoch = read_header(start, MAGIC, "pack header")?;
    let footer = open(Seal::Footer, keys.of(epoch)?, keys.realm(), &binding(start, body), sealed)?;
    let mut r = Reader::new(&footer, "pack footer");
    let count = r.u32()? as usize;
    if count > r.rest().len() / ENTRY || padme(4 + count * ENTRY) != footer.len() {
        return Err(r.bad("counts more chunks than it lists"));
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(PackEntry { address: Address(r.array()?), offset: r.u32()?, len: r.u32()? });
    }
    if r.rest().iter().any(|b| *b != 0) {
        return Err(r.bad("is not padded with zeros"));
    }
    if !entries.is_sorted_by(|a, b| a.address < b.address) {
        return Err(r.bad("is not sorted"));
    }
    let mut places: Vec<(u32, u32)> = entries.iter().map(|e| (e.offset, e.len)).collect();
    places.sort_unstable();
    let mut end = HEADER as u64;
    for (offset, len) in places {
        if u64::from(offset) != end || len == 0 || len as usize > MAX_CHUNK {
            return Err(r.bad("does not list chunks back to back"));
        }
        end += u64::from(len);
    }
    if end > body {
        return Err(r.bad("lists chunks beyond the pack"));
    }
    Ok(entries)
}

/// Reads which chunks a pack holds, sorted by address, without reading the chunks. Returns its size too.
pub fn read_footer(objects: &dyn Objects, name: &str, keys: &IndexKeys) -> Result<(u64, Vec<PackEntry>)> {
    let size = objects.size(name)?;
    let read = || -> Result<Vec<PackEntry>> {
        if !((HEADER + TRAILER) as u64..=MAX_PACK).contains(&size) {
            return Err(Error::damage(format!("it cannot be {size} bytes long")));
        }
        let start = objects.get_range(name, 0, HEADER)?;
        let tail_at = size - size.min(TAIL);
        let mut tail = objects.get_range(name, tail_at, (size - tail_at) as usize)?;
        let (body, len) = footer_place(&tail[tail.len() - TRAILER..], size)?;
        if body < tail_at {
            tail = objects.get_range(name, body, len)?;
        } else {
            let from = (body - tail_at) as usize;
            tail = tail.slice(from..from + len);
        }
        open_footer(keys, &start, body, &tail)
    };
    read().map(|entries| (size, entries)).context(|| format!("cannot read the footer of pack {name}"))
}

/// Whether all bytes of a pack, padding included, are what its name says. Reads it in pieces.
pub fn is_whole(objects: &dyn Objects, name: &str, id: &PackId, size: u64) -> Result<bool> {
    const PIECE: u64 = 4 << 20;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < size {
        let len = PIECE.min(size - at);
        hasher.update(&objects.get_range(name, at, len as usize)?);
        at += len;
    }
    Ok(hasher.finalize() == id.0)
}

/// Checks a whole pack: its name, its footer, every chunk. Returns its chunks, sorted by address.
pub fn verify(id: &PackId, bytes: &[u8], keys: &IndexKeys) -> Result<Vec<PackEntry>> {
    let check = || -> Result<Vec<PackEntry>> {
        if blake3::hash(bytes) != id.0 {
            return Err(Error::damage("its bytes are not what its name says"));
        }
        let (Some(start), Some(trailer)) = (bytes.first_chunk::<HEADER>(), bytes.last_chunk::<TRAILER>())
        else {
            return Err(Error::damage("it is too short"));
        };
        let (body, len) = footer_place(trailer, bytes.len() as u64)?;
        let entries = open_footer(keys, start, body, &bytes[body as usize..][..len])?;
        for e in &entries {
            if Address::of(&bytes[e.offset as usize..][..e.len as usize]) != e.address {
                return Err(Error::damage(format!("chunk {} is not what its address says", e.address)));
            }
        }
        Ok(entries)
    };
    check().context(|| format!("pack {id} is damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::store::memory::Memory;
    use crate::types::{Key, RealmId};
    use proptest::prelude::*;

    fn keys() -> IndexKeys {
        IndexKeys::new(RealmId([1; 16]), 3, Key([2; 32]))
    }

    fn packed(chunks: &[Vec<u8>]) -> (SealedPack, Vec<PackEntry>) {
        let mut pack = PackBuilder::new();
        let mut entries: Vec<_> = chunks.iter().map(|c| pack.push(Address::of(c), c).unwrap()).collect();
        entries.sort_unstable();
        (pack.seal(&keys()).unwrap(), entries)
    }

    fn chunk_sets() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let chunk = proptest::collection::vec(any::<u8>(), 1..200);
        proptest::collection::btree_set(chunk, 1..20).prop_map(|s| s.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_pack_tells_what_it_holds(chunks in chunk_sets()) {
            let (pack, entries) = packed(&chunks);
            prop_assert_eq!(pack.info.bytes as usize, padme(pack.info.bytes as usize));
            prop_assert_eq!(&verify(&pack.info.id, &pack.bytes, &keys())?, &entries);
            let store = Memory::new();
            store.put("p", pack.bytes.clone())?;
            prop_assert_eq!(read_footer(&store, "p", &keys())?, (pack.info.bytes, entries));
            let other = IndexKeys::new(RealmId([1; 16]), 3, Key([3; 32]));
            prop_assert!(read_footer(&store, "p", &other).is_err());
            prop_assert_eq!(packed(&chunks).0.info.id, pack.info.id);
        }

        #[test]
        fn a_bent_pack_is_damage(chunks in chunk_sets(), at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
            let (pack, entries) = packed(&chunks);
            let mut bent = pack.bytes.to_vec();
            bent[at.index(pack.bytes.len())] ^= 1 << bit;
            let store = Memory::new();
            for bytes in [&bent[..], &pack.bytes[..cut.index(pack.bytes.len())]] {
                prop_assert_eq!(verify(&pack.info.id, bytes, &keys()).unwrap_err().kind(), Kind::Damage);
                // With its own hash for a name, what is not a footer is still no footer.
                if let Ok(listed) = verify(&PackId(*blake3::hash(bytes).as_bytes()), bytes, &keys()) {
                    prop_assert_eq!(&listed, &entries);
                }
                store.put("p", bytes.to_vec().into())?;
                match read_footer(&store, "p", &keys()) {
                    Ok((_, listed)) => prop_assert_eq!(&listed, &entries),
                    Err(e) => prop_assert_eq!(e.kind(), Kind::Damage),
                }
            }
        }
    }

    /// Six things of one chunk, and a set of three.
    fn shuffled(seed: u8) -> Vec<u8> {
        let stored = |n: u8| vec![n; 50 + usize::from(n)];
        let chunk = |n: u8| (Address::of(&stored(n)), stored(n));
        let mut pack = PackBuilder::new();
        for n in 0..6 {
            pack.push(chunk(n).0, &chunk(n).1).unwrap();
            if n == 3 {
                pack.push_together(&[chunk(100), chunk(101), chunk(102)]).unwrap();
            }
        }
        pack.shuffle(&[seed; 32]);
        for e in pack.entries() {
            assert_eq!(Address::of(pack.chunk(e.offset, e.len).unwrap()), e.address);
        }
        let order = pack.entries().iter().map(|e| pack.chunk(e.offset, 1).unwrap()[0]).collect();
        let sealed = pack.seal(&keys()).unwrap();
        assert_eq!(verify(&sealed.info.id, &sealed.bytes, &keys()).unwrap().len(), 9);
        order
    }

    /// TRUST 5: where something stands in a pack says nothing of what it is; but the chunks of one set stay together.
    #[test]
    fn what_is_in_a_pack_stands_anywhere_and_sets_stay_together() {
        let mut seen = [[0u32; 7]; 7];
        for seed in 0..=255 {
            let mut order = shuffled(seed);
            assert_eq!(order, shuffled(seed), "one seed, one order");
            let set = order.iter().position(|n| *n == 100).unwrap();
            assert_eq!(order.drain(set..set + 3).collect::<Vec<_>>(), [100, 101, 102]);
            order.insert(set, 6);
            order.iter().enumerate().for_each(|(at, n)| seen[usize::from(*n)][at] += 1);
        }
        // Each in each place about 37 times: less than 14 or more than 60 is four standard deviations off.
        assert!(seen.iter().flatten().all(|n| (14..=60).contains(n)), "{seen:?}");
    }

    #[test]
    fn of_chunks_that_stay_together_all_are_taken_or_none() {
        let mut pack = PackBuilder::new();
        assert!(pack.push_together(&[(Address([1; 32]), vec![1]), (Address([2; 32]), vec![])]).is_err());
        assert!(pack.is_empty() && pack.len() == HEADER);
    }

    #[test]
    fn a_footer_longer_than_one_read_is_read() {
        let chunks: Vec<Vec<u8>> = (0..3000u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let (pack, entries) = packed(&chunks);
        let store = Memory::new();
        store.put("p", pack.bytes).unwrap();
        assert_eq!(read_footer(&store, "p", &keys()).unwrap().1, entries);
    }

    #[test]
    fn a_small_pack_is_small() {
        let (pack, _) = packed(&[vec![7; 4096]]);
        assert!(pack.bytes.len() < 4700, "{}", pack.bytes.len());
    }

    #[test]
    fn chunks_of_impossible_sizes_are_refused() {
        let mut pack = PackBuilder::new();
        assert!(pack.push(Address([0; 32]), &[]).is_err());
        assert!(pack.push(Address([0; 32]), &vec![0; MAX_CHUNK + 1]).is_err());
    }
}
