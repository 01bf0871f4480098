use super::blob::numbered;
use super::testing::World;
use super::*;
use crate::chunk::{ChunkRef, Opening};
use crate::crypt::set::tests::{noise, text};
use crate::error::Kind;
use crate::wire::{Reader, Writer};
use proptest::prelude::*;
use self_encryption::EncryptedChunk;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

const MIB: u64 = SEGMENT as u64;
const KIB: u64 = 1024;

/// A Blob, and what it must be: bytes, and which pages hold data.
struct Model {
    world: World,
    blob: Blob,
    bytes: Vec<u8>,
    pages: BTreeSet<u64>,
}

impl Model {
    fn new() -> Model {
        Model { world: World::default(), blob: Blob::Empty, bytes: Vec::new(), pages: BTreeSet::new() }
    }

    fn update(&mut self, cut: Option<u64>, edits: &[Edit]) {
        self.blob = self.blob.update(&self.world.ctx(), &mut self.world.clone(), cut, edits).unwrap();
        if let Some(cut) = cut {
            self.bytes.truncate(cut as usize);
            self.pages.retain(|page| page * 4096 < cut);
        }
        let data_end = self.bytes.len() as u64;
        for edit in edits.iter().filter(|edit| edit.len > 0) {
            let end = edit.at + edit.len;
            match &edit.what {
                What::Hole => {
                    let to = end.min(self.bytes.len() as u64) as usize;
                    self.bytes.get_mut(edit.at as usize..to).unwrap_or_default().fill(0);
                    for page in edit.at.div_ceil(4096)..=end / 4096 {
                        if ((page + 1) * 4096).min(data_end.max(page * 4096)) <= end {
                            self.pages.remove(&page);
                        }
                    }
                }
                What::Data(datum, at) => {
                    self.bytes.resize(self.bytes.len().max(end as usize), 0);
                    let data = datum.read(*at..at + edit.len).unwrap();
                    self.bytes[edit.at as usize..end as usize].copy_from_slice(&data);
                    self.pages.extend(edit.at / 4096..end.div_ceil(4096));
                }
            }
        }
    }

    fn write(&mut self, at: u64, bytes: Vec<u8>) {
        self.update(None, &[Edit::data(at, bytes)]);
    }

    fn check(&self) {
        let mut out = vec![0xee; self.bytes.len() + 5000];
        self.blob.read(&self.world, 0, &mut out).unwrap();
        let (data, beyond) = out.split_at(self.bytes.len());
        if let Some(at) = data.iter().zip(&self.bytes).position(|(a, b)| a != b) {
            panic!("byte {at} is wrong: {:?}", self.blob);
        }
        assert!(beyond.iter().all(|&b| b == 0), "zeros lie beyond the data");
        check_form(&self.blob, &self.world);
        check_oracle(&self.blob, &self.world);
        self.check_holes();
    }

    /// Whatever is not data reads as zeros.
    fn check_holes(&self) {
        let size = self.bytes.len() as u64;
        let seek = |what, from| self.blob.seek(&self.world, what, from, size).unwrap();
        let mut hole = Some(0);
        while let Some(from) = hole.and_then(|at| seek(Seek::Hole, at)).filter(|&at| at < size) {
            let to = seek(Seek::Data, from);
            let bytes = &self.bytes[from as usize..to.unwrap_or(size) as usize];
            assert!(bytes.iter().all(|&b| b == 0), "data in the hole at {from}");
            hole = to;
        }
    }

    /// Holes are where they must be; only where edits leave data in whole pages.
    fn check_pages(&self) {
        let size = self.bytes.len() as u64 + 10_000;
        assert_eq!(self.blob.allocated(), self.pages.len() as u64 * 4096);
        let seek = |what, from| self.blob.seek(&self.world, what, from, size).unwrap();
        let mut data = BTreeSet::new();
        let mut at = 0;
        while let Some(start) = seek(Seek::Data, at) {
            let end = seek(Seek::Hole, start).unwrap();
            assert!(start < end && end <= size);
            data.extend(start / 4096..end.div_ceil(4096));
            at = end;
        }
        assert_eq!(data, self.pages);
        assert_eq!((seek(Seek::Data, size), seek(Seek::Hole, size)), (None, None));
    }
}

fn segments(blob: &Blob, world: &World) -> BTreeMap<u64, Segment> {
    match blob {
        Blob::One(segment) => [(0, segment.clone())].into(),
        Blob::Segments { map, .. } => {
            map.range(world, Bound::Unbounded).map(|e| numbered(e.unwrap()).unwrap()).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// The form is the least that can hold the content, and what is at rest comes back the same, and is small.
fn check_form(blob: &Blob, world: &World) {
    let mut w = Writer::new();
    blob.put(&mut w);
    assert!(w.len() <= 400, "{} bytes", w.len());
    let mut r = Reader::new(w.as_slice(), "blob");
    assert_eq!(Blob::get(&mut r).unwrap(), *blob);
    r.end().unwrap();
    let segments = segments(blob, world);
    for segment in segments.values() {
        let entry = segment.encode();
        assert!(entry.len() <= 16 << 10);
        assert_eq!(Segment::decode(&entry).unwrap(), *segment);
        assert!(segment.parts.len() <= 64);
        assert!(segment.end() > SHORT || segment.base.is_none());
    }
    match blob {
        Blob::Segments { pages, .. } => {
            let is_one = segments.len() == 1 && segments.get(&0).is_some_and(|s| s.encode().len() <= EMBED);
            assert!(!is_one && !segments.is_empty());
            assert_eq!(*pages, segments.values().map(|s| u64::from(s.pages().count())).sum::<u64>());
        }
        Blob::One(segment) => assert!(segment.end() > INLINE),
        Blob::Inline(bytes) => assert!(!bytes.is_empty()),
        Blob::Empty => {}
    }
    let mut refs = 0;
    blob.chunk_refs(world, &mut |chunk: ChunkRef| {
        refs += 1;
        world.fetch(&chunk.address).map(drop)
    })
    .unwrap();
    let in_segments: usize = segments.values().map(|s| s.chunks().count()).sum();
    assert!(refs >= in_segments && (refs > 0) != segments.is_empty());
}

/// The stock crate reads every set.
fn check_oracle(blob: &Blob, world: &World) {
    for base in segments(blob, world).values().filter_map(|segment| segment.base.as_ref()) {
        let stored =
            |m: &crate::crypt::set::Member| EncryptedChunk { content: world.fetch(&m.address).unwrap() };
        let chunks: Vec<_> = base.set.members().iter().map(stored).collect();
        let theirs = self_encryption::decrypt(&base.set.to_data_map(), &chunks).unwrap();
        let ours: Vec<u8> = base.set.chunks().flat_map(|chunk| world.get(&chunk).unwrap()).collect();
        assert_eq!(theirs.len(), base.set.size() as usize);
        assert!(theirs == ours);
    }
}

#[test]
fn content_takes_the_least_form_that_holds_it() {
    let mut m = Model::new();
    let form = |blob: &Blob| match blob {
        Blob::Empty => 0,
        Blob::Inline(_) => 1,
        Blob::One(s) if s.base.is_none() => 2,
        Blob::One(_) => 3,
        Blob::Segments { .. } => 4,
    };
    for (size, expected) in
        [(0, 0), (1, 1), (256, 1), (257, 2), (128 * KIB, 2), (128 * KIB + 1, 3), (MIB, 4), (3 * MIB + 1, 4)]
    {
        for _ in 0..2 {
            // Growing to it, and shrinking to it.
            m.update(Some(size), &[Edit::data(0, noise(size as usize, size))]);
            assert_eq!(form(&m.blob), expected, "{size}");
            m.check();
            m.check_pages();
            m.write(4 * MIB, vec![1]);
            m.check();
            m.update(Some(size), &[]);
            assert_eq!(form(&m.blob), expected, "{size} after a cut");
            m.check();
        }
    }
    for size in [3 * MIB, MIB, 200 * KIB, 128 * KIB, 1000, 256, 1, 0] {
        m.update(Some(size), &[]);
        m.check();
        m.check_pages();
    }
    assert_eq!(m.blob, Blob::Empty);
}

#[test]
fn one_byte_in_a_large_file_costs_little() {
    let mut m = Model::new();
    // 1 GiB, of which only the Map is ours to write: equal segments have equal chunks.
    let block: Bytes = noise(MIB as usize, 1).into();
    let edits: Vec<_> = (0..1024).map(|n| Edit::data(n * MIB, block.clone())).collect();
    m.blob = Blob::Empty.update(&m.world.ctx(), &mut m.world.clone(), None, &edits).unwrap();
    assert_eq!(m.blob.allocated(), 1024 * MIB);
    m.world.added();
    for (at, len, most) in [(500 * MIB + 77, 1, 64 * KIB), (0, 1, 64 * KIB), (1024 * MIB, 100, 64 * KIB)] {
        let blob = m
            .blob
            .update(&m.world.ctx(), &mut m.world.clone(), None, &[Edit::data(at, noise(len, 2))])
            .unwrap();
        let (_, bytes) = m.world.added();
        assert!(bytes as u64 <= most, "{bytes} bytes for a write at {at}");
        let mut out = [0];
        blob.read(&m.world, at, &mut out).unwrap();
        assert_eq!(out, noise(1, 2)[..]);
    }
}

#[test]
fn random_writes_cost_what_was_written() {
    for random in [false, true] {
        let m = Model::new();
        let ctx = Ctx { random, ..m.world.ctx() };
        let block: Bytes = noise(MIB as usize, 1).into();
        let edits: Vec<_> = (0..256).map(|n| Edit::data(n * MIB, block.clone())).collect();
        let blob = Blob::Empty.update(&ctx, &mut m.world.clone(), None, &edits).unwrap();
        m.world.added();
        let ats: BTreeSet<u64> =
            noise(500, 3).chunks(2).map(|b| u64::from(b[0]) << 8 | u64::from(b[1])).collect();
        let writes: Vec<_> = ats.iter().map(|&at| Edit::data(at * 4096, noise(4096, at))).collect();
        blob.update(&ctx, &mut m.world.clone(), None, &writes).unwrap();
        let (_, bytes) = m.world.added();
        println!("{} writes of 4 KiB in 256 MiB, random {random}: {} KiB", ats.len(), bytes >> 10);
        assert!(bytes < ats.len() * (8 << 10), "{bytes}");
    }
}

#[test]
fn three_bytes_in_a_sparse_tebibyte_are_three_segments() {
    let m = Model::new();
    let ats = [5, 1 << 39, (1 << 40) - 1];
    let edits: Vec<_> = ats.iter().map(|&at| Edit::data(at, vec![7])).collect();
    let mut blob = Blob::Empty.update(&m.world.ctx(), &mut m.world.clone(), None, &edits).unwrap();
    assert_eq!(segments(&blob, &m.world).len(), 3);
    assert_eq!(blob.allocated(), 3 * 4096);
    assert!(m.world.added().1 < 2000);
    for (i, &at) in ats.iter().enumerate() {
        let from = if i == 0 { 0 } else { ats[i - 1] / 4096 * 4096 + 4096 };
        assert_eq!(blob.seek(&m.world, Seek::Data, from, 1 << 40).unwrap(), Some(at / 4096 * 4096));
        assert_eq!(
            blob.seek(&m.world, Seek::Hole, from, 1 << 40).unwrap(),
            Some(if i == 0 { 4096 } else { from })
        );
    }
    // Holes over all of it, and the far end of offsets.
    blob =
        blob.update(&m.world.ctx(), &mut m.world.clone(), None, &[Edit::hole(100, u64::MAX - 100)]).unwrap();
    assert_eq!((blob.allocated(), segments(&blob, &m.world).len()), (4096, 0));
    blob = blob
        .update(&m.world.ctx(), &mut m.world.clone(), None, &[Edit::data(u64::MAX - 3, vec![1; 3])])
        .unwrap();
    let mut out = [9; 8];
    blob.read(&m.world, u64::MAX - 4, &mut out).unwrap();
    assert_eq!(out, [0, 1, 1, 1, 0, 0, 0, 0]);
    let past = [Edit::data(u64::MAX - 1, vec![1; 3])];
    assert!(blob.update(&m.world.ctx(), &mut m.world.clone(), None, &past).is_err());
}

#[test]
fn a_thousand_appends_stay_cheap() {
    for start in [0, 120 * KIB, 900 * KIB, 2 * MIB + 300 * KIB] {
        let mut m = Model::new();
        m.write(0, text(start as usize, 1));
        m.world.added();
        for n in 0..1000 {
            let end = m.bytes.len() as u64;
            m.write(end, noise(100, n));
            let most =
                16 + segments(&m.blob, &m.world).values().map(|s| s.base.iter().count()).sum::<usize>();
            assert!(segments(&m.blob, &m.world).values().all(|s| s.parts.len() <= most), "{:?}", m.blob);
        }
        let (chunks, bytes) = m.world.added();
        println!("1,000 appends of 100 bytes to {start}: {chunks} chunks, {} KiB", bytes >> 10);
        assert!(bytes < 16 << 20);
        m.check();
        m.check_pages();
    }
}

#[test]
fn folding_encodes_and_seals_only_what_changed() {
    let mut m = Model::new();
    m.write(0, noise(2 * MIB as usize, 1));
    m.check();
    m.world.added();
    // 3 runs of 80 KiB stay extents; a fourth makes more than a quarter: 2 pieces each, and the 2 after.
    for n in 0..3 {
        m.write(n * 256 * KIB, noise(80 << 10, n));
    }
    assert_eq!(segments(&m.blob, &m.world)[&0].parts.len(), 6);
    m.check();
    m.world.added();
    m.world.fetched();
    m.write(3 * 256 * KIB, noise(80 << 10, 9));
    let (chunks, _) = m.world.added();
    assert!(segments(&m.blob, &m.world)[&0].parts.is_empty());
    assert!(
        (16..18).contains(&chunks),
        "{chunks}: all 16 members, as every piece is at most 2 after a touched one"
    );
    m.check();
    // One run in the middle: 5 touched pieces, 2 more sealed, and the Map's node.
    m.write(256 * KIB, noise(257 << 10, 10));
    let (chunks, _) = m.world.added();
    assert_eq!(chunks, 5 + 2 + 1);
    m.check();
}

#[test]
fn what_is_punched_or_cut_off_gives_its_space_back() {
    let stored = |m: &Model| {
        let mut bytes = BTreeMap::new();
        m.blob
            .chunk_refs(&m.world, &mut |chunk: ChunkRef| {
                bytes.insert(chunk.address, m.world.fetch(&chunk.address)?.len() as u64);
                Ok(())
            })
            .unwrap();
        bytes.values().sum::<u64>()
    };
    let mut m = Model::new();
    m.write(0, noise(MIB as usize, 1));
    // Page by page: hidden first, then folded away.
    for page in 20..200 {
        m.update(None, &[Edit::hole(page * 4096, 4096)]);
        assert!(stored(&m) <= (MIB - (page - 19) * 4096) + 260 * KIB + 64 * KIB, "page {page}");
    }
    m.check();
    m.check_pages();
    let mut m = Model::new();
    m.write(0, noise(MIB as usize, 2));
    for size in (200..1000).rev().step_by(50) {
        m.update(Some(size * KIB), &[]);
        assert!(stored(&m) <= size * KIB + 260 * KIB, "cut to {size} KiB");
    }
    m.check();
    // A chunk of which little is left is not kept.
    let mut m = Model::new();
    m.write(0, noise(100 << 10, 3));
    m.update(Some(20 * KIB), &[]);
    assert!(stored(&m) < 24 * KIB);
}

#[test]
fn a_segment_that_fills_becomes_one_set() {
    let mut m = Model::new();
    m.write(0, noise(900 << 10, 1));
    while (m.bytes.len() as u64) < MIB {
        let end = m.bytes.len() as u64;
        m.write(end, noise((30 << 10).min((MIB - end) as usize), end));
        let first = &segments(&m.blob, &m.world)[&0];
        assert_eq!(first.parts.is_empty(), first.end() == SEGMENT);
    }
    m.check();
    // And as it is a set of its content alone, it is the one that a single write makes.
    let whole = [Edit::data(0, m.bytes.clone())];
    assert_eq!(Blob::Empty.update(&m.world.ctx(), &mut m.world.clone(), None, &whole).unwrap(), m.blob);
}

#[test]
fn damage_spoils_only_what_needs_it() {
    let mut m = Model::new();
    m.write(0, noise(2 * MIB as usize, 1));
    let lost = segments(&m.blob, &m.world)[&0].base.as_ref().unwrap().set.members()[5].address;
    m.world.remove(&lost);
    let read = |m: &Model, at: u64| m.blob.read(&m.world, at, &mut [0; 4096]).map_err(|e| e.kind());
    assert_eq!((read(&m, 319 * KIB), read(&m, 320 * KIB - 4096)), (Err(Kind::NotFound), Ok(())));
    assert_eq!((read(&m, 384 * KIB), read(&m, 384 * KIB - 4096)), (Ok(()), Err(Kind::NotFound)));
    // New data goes over it, much or little, and makes it whole where it covers.
    m.write(300 * KIB, noise(50 << 10, 2));
    m.write(330 * KIB, noise(300 << 10, 3));
    assert_eq!((read(&m, 320 * KIB), read(&m, 340 * KIB), read(&m, MIB - 4096)), (Ok(()), Ok(()), Ok(())));
    m.write(0, noise(MIB as usize, 4));
    m.check();
    // It can be cut to a few bytes, which are then no easier to read.
    let mut m = Model::new();
    m.write(0, noise(100 << 10, 5));
    let all = segments(&m.blob, &m.world)[&0].clone();
    all.chunks().for_each(|chunk| m.world.remove(&chunk.address));
    m.update(Some(100), &[]);
    assert!(m.blob.read(&m.world, 0, &mut [0; 100]).is_err());
    m.blob.read(&m.world, 100, &mut [0; 4096]).unwrap();
    m.write(0, noise(100, 6));
    m.check();
}

/// Such a file kept every commit of the drive back.
#[test]
fn a_file_whose_map_cannot_be_read_can_be_cut_and_punched() {
    const SEGMENTS: u64 = 400;
    let small = |n: u64| Edit::data(n * MIB + 7, noise(3000, n));
    let mut whole = Model::new();
    whole.update(None, &(0..SEGMENTS).map(small).collect::<Vec<_>>());
    let Blob::Segments { map, .. } = &whole.blob else { panic!("one segment") };
    let nodes: Vec<_> = map.nodes(&whole.world).map(|node| node.unwrap().address).collect();
    assert!(map.height() > 1 && nodes.len() > 3);
    for bad in nodes {
        for (cut, hole, late) in [
            (Some(100 * MIB + 8), None, None),
            (Some(100 * MIB), None, Some(350)),
            (Some(0), None, None),
            (Some(9), None, None),
            (None, Some((0, SEGMENTS * MIB)), None),
            (None, Some((0, 399 * MIB)), None),
            (None, Some((50 * MIB + 9, 300 * MIB)), Some(355)),
            (Some(300 * MIB), Some((10 * MIB, 100 * MIB)), Some(310)),
        ] {
            let mut m = Model { bytes: whole.bytes.clone(), pages: whole.pages.clone(), ..Model::new() };
            (m.world, m.blob) = (whole.world.clone(), whole.blob.clone());
            m.world.bend(&bad);
            let hole = hole.map(|(at, len)| Edit::hole(at, len));
            m.update(cut, &hole.into_iter().chain(late.map(small)).collect::<Vec<_>>());
            let mut unread = 0;
            for number in 0..=SEGMENTS {
                let mut bytes = [0; 4096];
                let Ok(()) = m.blob.read(&m.world, number * MIB, &mut bytes) else {
                    unread += 1;
                    continue;
                };
                let at = ((number * MIB) as usize).min(m.bytes.len());
                let wanted = &m.bytes[at..(at + 4096).min(m.bytes.len())];
                assert!(bytes.starts_with(wanted) && bytes[wanted.len()..] == vec![0; 4096 - wanted.len()]);
            }
            // What went is known to have gone.
            let gone = if cut == Some(0) { 0 } else { SEGMENTS - 1 };
            if cut.is_some() {
                m.blob.read(&m.world, gone * MIB, &mut [0; 4096]).unwrap();
            }
            let kept = m.bytes.len().div_ceil(MIB as usize) as u64;
            assert!(unread <= kept, "{unread} of {kept} cannot be read");
            assert!(m.blob.allocated() >= 4096 * m.pages.len() as u64);
            m.world.bend(&bad);
        }
    }
}

#[test]
fn equal_content_has_equal_chunks() {
    let m = Model::new();
    let data = text(3 * MIB as usize + 5000, 1);
    let put =
        || Blob::Empty.update(&m.world.ctx(), &mut m.world.clone(), None, &[Edit::data(0, data.clone())]);
    let first = put().unwrap();
    m.world.added();
    assert_eq!(put().unwrap(), first);
    let again =
        first.update(&m.world.ctx(), &mut m.world.clone(), None, &[Edit::data(0, data.clone())]).unwrap();
    assert_eq!(again, first);
    assert_eq!(m.world.added().0, 0);
}

/// A chunk of something else under the address of an extent: the size must be the declared one.
#[test]
fn a_chunk_of_another_size_is_damage() {
    struct Short(World);
    impl crate::chunk::Chunks for Short {
        fn get(&self, chunk: &ChunkRef) -> Result<Bytes> {
            let content = self.0.get(chunk)?;
            let is_node = matches!(chunk.opening, Opening::Sealed { seal: crate::crypt::Seal::Node, .. });
            Ok(if is_node { content } else { content.slice(..content.len() - 1) })
        }
    }
    for size in [5000, MIB as usize] {
        let mut m = Model::new();
        m.write(0, text(size, 1));
        let short = Short(m.world.clone());
        assert_eq!(m.blob.read(&short, 0, &mut [0; 10]).unwrap_err().kind(), Kind::Damage);
    }
}

#[test]
fn edits_out_of_order_are_refused() {
    let m = Model::new();
    let update = |edits: &[Edit]| Blob::Empty.update(&m.world.ctx(), &mut m.world.clone(), None, edits);
    assert!(update(&[Edit::data(10, vec![1; 5]), Edit::data(14, vec![1; 5])]).is_err());
    assert!(update(&[Edit::data(10, vec![1; 5]), Edit::hole(0, 5)]).is_err());
    assert!(update(&[Edit::data(10, vec![]), Edit::data(10, vec![1; 5]), Edit::hole(15, 0)]).is_ok());
}

/// A long life of small changes: extents pile up, are folded, cut and punched.
#[test]
fn a_long_life_reads_back() {
    for (seed, size) in [(1, 100 * KIB), (2, 700 * KIB), (3, MIB + 200 * KIB)] {
        let mut m = Model::new();
        m.write(0, text(size as usize, seed));
        for (n, dice) in noise(600 * 8, seed).chunks(8).enumerate() {
            let at = u64::from(u32::from_le_bytes([dice[0], dice[1], dice[2], 0])) % size;
            let len = 1 + u64::from(u16::from_le_bytes([dice[3], dice[4]]))
                % if dice[5] < 40 { 50_000 } else { 3000 };
            match dice[6] {
                0..10 => m.update(Some(size - at / 8), &[]),
                10..70 => m.update(None, &[Edit::hole(at / 4096 * 4096, len * 4)]),
                70..90 => m.update(None, &[Edit::hole(at, len)]),
                90..160 => m.write(at / 4096 * 4096, noise(4096, n as u64)),
                160..200 => m.write(m.bytes.len() as u64, noise(len as usize, n as u64)),
                _ => m.write(at, text(len as usize, n as u64)),
            }
            m.bytes.truncate(2 * size as usize);
            if m.bytes.len() as u64 == 2 * size {
                m.update(Some(2 * size), &[]);
            }
            if n % 25 == 0 {
                m.check();
            }
        }
        m.check();
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, len: usize, random: bool },
    Hole { at: u64, len: u64 },
}

/// Offsets and lengths that like boundaries.
fn offset() -> impl Strategy<Value = u64> {
    let near = prop::sample::select(vec![0, 4096, 16 * KIB, 128 * KIB, 256 * KIB, MIB, 2 * MIB]);
    prop_oneof![3 => (near, 0u64..200).prop_map(|(a, b)| (a + b).saturating_sub(100)), 2 => 0..3 * MIB,
        2 => (0u64..600).prop_map(|p| p * 4096), 2 => 0..20_000u64]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1u64..300, 4 => 1u64..20_000, 2 => (1u64..80).prop_map(|p| p * 4096), 1 => 1..2 * MIB]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (offset(), length(), any::<bool>())
            .prop_map(|(at, len, random)| Op::Write { at, len: len as usize, random }),
        1 => (offset(), length()).prop_map(|(at, len)| Op::Hole { at, len }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// DESIGN 4, "The oracle".
    #[test]
    fn any_edits_read_back(
        updates in proptest::collection::vec(
            (proptest::option::weighted(0.25, offset()), proptest::collection::vec(op(), 0..6)), 1..10),
        random: bool,
    ) {
        let mut m = Model::new();
        for (n, (cut, mut ops)) in updates.into_iter().enumerate() {
            ops.sort_by_key(|op| match op { Op::Write { at, .. } | Op::Hole { at, .. } => *at });
            let mut edits: Vec<Edit> = Vec::new();
            for op in ops {
                let edit = match op {
                    Op::Write { at, len, random: true } => Edit::data(at, noise(len, n as u64)),
                    Op::Write { at, len, random: false } => Edit::data(at, text(len, n as u64)),
                    Op::Hole { at, len } => Edit::hole(at, len),
                };
                if edits.last().is_none_or(|last| last.at + last.len <= edit.at) {
                    edits.push(edit);
                }
            }
            let ctx = Ctx { random, ..m.world.ctx() };
            let alone = m.blob.update(&ctx, &mut m.world.clone(), cut, &edits).unwrap();
            m.update(cut, &edits);
            if !random {
                prop_assert_eq!(&alone, &m.blob);
            }
            m.blob = alone;
            m.check();
        }
    }

    #[test]
    fn holes_are_exactly_where_no_data_is(
        updates in proptest::collection::vec(proptest::collection::vec(
            (0u64..80, 1u64..40, any::<bool>()), 1..6), 1..8),
    ) {
        let mut m = Model::new();
        for (n, mut ops) in updates.into_iter().enumerate() {
            ops.sort_unstable();
            let mut edits: Vec<Edit> = Vec::new();
            for (page, len, hole) in ops {
                let (at, len) = (page * 8192, len * 8192);
                let edit = if hole { Edit::hole(at, len) } else { Edit::data(at, noise(len as usize, n as u64)) };
                if edits.last().is_none_or(|last| last.at + last.len <= at) {
                    edits.push(edit);
                }
            }
            m.update(None, &edits);
            m.check();
            m.check_pages();
        }
    }

    #[test]
    fn any_bytes_are_a_blob_or_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400), form in 0u8..5, flags in 0u8..4,
    ) {
        if let [a, b, c, ..] = &mut bytes[..] {
            (*a, *b, *c) = (form, flags, 16);
        }
        let mut r = Reader::new(&bytes, "blob");
        if let Ok(blob) = Blob::get(&mut r) {
            let mut w = Writer::new();
            blob.put(&mut w);
            prop_assert_eq!(w.as_slice(), &bytes[..bytes.len() - r.rest().len()]);
            let world = World::default();
            let _ = blob.read(&world, 0, &mut [0; 100]);
            let _ = (blob.allocated(), blob.seek(&world, Seek::Hole, 0, 1000));
        }
    }
}
