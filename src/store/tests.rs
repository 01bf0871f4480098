//! Chunks over stores that fail, lie and forget.

use super::chunks::{ChunkStore, Settings};
use super::faulty::{Fault, Faulty, Op};
use super::index::Shape;
use super::keys::IndexKeys;
use super::layout::Layout;
use super::local::Local;
use super::local_index::LocalPlace;
use super::memory::Memory;
use super::objects::Objects;
use super::runs::RunSet;
use crate::chunk::ChunkSink;
use crate::error::{Kind, Result};
use crate::types::{Address, Key, RealmId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(super) const REALM: RealmId = RealmId([1; 16]);
pub(super) const SMALL: Settings =
    Settings { pack: 2000, index_cache: 1 << 20, shape: Shape { block: 8, part: 40 } };

pub(super) fn keys() -> IndexKeys {
    IndexKeys::new(REALM, 0, Key([2; 32]))
}

pub(super) fn open(objects: Arc<dyn Objects>, runs: RunSet) -> Arc<ChunkStore> {
    ChunkStore::open(objects, keys(), runs, SMALL, None)
}

/// A chunk of some hundred bytes that its number decides.
pub(super) fn chunk(n: u32) -> (Address, Vec<u8>) {
    let mut bytes = vec![0; 100 + (n % 300) as usize];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    (Address::of(&bytes), bytes)
}

/// Writes and adopts chunks.
pub(super) fn write(store: &Arc<ChunkStore>, chunks: impl IntoIterator<Item = u32>) -> Result<usize> {
    let mut batch = store.begin([0; 32]);
    for n in chunks {
        let (address, bytes) = chunk(n);
        batch.put(address, bytes)?;
    }
    let written = batch.finish()?;
    store.adopt(written.runs.clone());
    Ok(written.packs.len())
}

pub(super) fn holds(store: &ChunkStore, n: u32) {
    let (address, bytes) = chunk(n);
    assert_eq!(store.fetch(&address).unwrap(), bytes, "chunk {n}");
}

#[test]
fn chunks_come_back_by_their_address() {
    let objects = Arc::new(Memory::new());
    let store = open(objects.clone(), RunSet::default());
    let mut batch = store.begin([0; 32]);
    for n in 0..50 {
        let (address, bytes) = chunk(n);
        batch.put(address, bytes.clone()).unwrap();
        batch.put(address, bytes).unwrap();
        // The batch itself is read before it is finished, whether in memory or in packs.
        (0..=n).for_each(|n| holds(&store, n));
        assert!(!store.contains(&address).unwrap());
    }
    let written = batch.finish().unwrap();
    assert!(written.packs.len() > 3);
    assert_eq!(written.packs.iter().map(|p| p.chunks).sum::<u32>(), 50);
    for pack in &written.packs {
        assert!(pack.bytes <= 4000, "{pack:?}");
        assert_eq!(objects.size(&Layout::new(&REALM).pack(&pack.id)).unwrap(), pack.bytes);
    }
    drop(batch);
    (0..50).for_each(|n| holds(&store, n));
    // Nobody else sees it, and nobody at all once it is dropped.
    let other = open(objects.clone(), RunSet::default());
    assert_eq!(other.fetch(&chunk(3).0).unwrap_err().kind(), Kind::Damage);
    let runs = written.runs.clone();
    drop(written);
    assert_eq!(store.fetch(&chunk(3).0).unwrap_err().kind(), Kind::Damage);
    other.adopt(runs);
    (0..50).for_each(|n| holds(&other, n));
    assert!(other.contains(&chunk(3).0).unwrap());
    // What is held is not stored again, and a batch of nothing new writes nothing.
    let before = objects.list("").unwrap().len();
    assert_eq!(write(&other, 0..50).unwrap(), 0);
    assert_eq!(objects.list("").unwrap().len(), before);
}

#[test]
fn a_commit_of_one_chunk_adds_little() {
    let objects = Arc::new(Memory::new());
    let settings = Settings::default();
    let store = ChunkStore::open(objects.clone(), keys(), RunSet::default(), settings, None);
    let mut batch = store.begin([0; 32]);
    let bytes = vec![7; 4096];
    batch.put(Address::of(&bytes), bytes).unwrap();
    let written = batch.finish().unwrap();
    let total: u64 = objects.list("").unwrap().iter().map(|n| objects.size(n).unwrap()).sum();
    assert!(total + (written.runs.encode().len() as u64) < 5000, "{total}");
}

#[test]
fn a_batch_survives_a_store_that_comes_and_goes() {
    let inner = Arc::new(Memory::new());
    let puts = AtomicU64::new(0);
    let flaky = Faulty::new(inner.clone(), move |call| match call.op {
        Op::Put => match puts.fetch_add(1, Ordering::Relaxed) % 5 {
            0 => Fault::FailBefore(Kind::Away),
            1 => Fault::FailAfter(Kind::Away),
            _ => Fault::Pass,
        },
        _ => Fault::Pass,
    });
    let store = open(Arc::new(flaky), RunSet::default());
    let mut batch = store.begin([0; 32]);
    let mut failures = 0;
    let mut again = |result: Result<()>| match result {
        Ok(()) => true,
        Err(e) => {
            assert_eq!(e.kind(), Kind::Away);
            failures += 1;
            assert!(failures < 1000, "{e:?}");
            false
        }
    };
    for n in 0..60 {
        let (address, bytes) = chunk(n);
        while !again(batch.put(address, bytes.clone())) {}
        (0..=n).for_each(|n| holds(&store, n));
    }
    let written = loop {
        match batch.finish() {
            Ok(written) => break written,
            Err(e) => drop(again(Err(e))),
        }
    };
    assert!(failures > 5);
    let other = open(inner, written.runs.clone());
    (0..60).for_each(|n| holds(&other, n));
}

#[test]
fn a_full_store_is_said_to_be_full() {
    let full = Faulty::new(Arc::new(Memory::new()), |call| match call.op {
        Op::Put => Fault::FailBefore(Kind::NoSpace),
        _ => Fault::Pass,
    });
    let store = open(Arc::new(full), RunSet::default());
    assert_eq!(write(&store, 0..3).unwrap_err().kind(), Kind::NoSpace);
    // The failed batch was dropped, and left nothing behind.
    assert_eq!(store.fetch(&chunk(0).0).unwrap_err().kind(), Kind::Damage);
}

#[test]
fn what_is_damaged_says_so_and_is_stored_again() {
    let objects = Arc::new(Memory::new());
    let store = open(objects.clone(), RunSet::default());
    write(&store, 0..3).unwrap();
    let layout = Layout::new(&REALM);
    let place = store.index().lookup(&store.runs(), &chunk(1).0).unwrap().unwrap();
    let name = layout.pack(&place.pack);
    let mut bytes = objects.get(&name).unwrap().to_vec();
    bytes[place.offset as usize] ^= 1;
    objects.put(&name, bytes.into()).unwrap();
    let e = store.fetch(&chunk(1).0).unwrap_err();
    assert_eq!(e.kind(), Kind::Damage);
    assert!(e.chain().contains(&place.pack.to_string()) && e.chain().contains(&chunk(1).0.to_string()));
    holds(&store, 0);
    // A store opened later has not written the chunk itself: it looks before it deduplicates.
    let later = open(objects.clone(), RunSet::clone(&store.runs()));
    assert!(!later.contains(&chunk(1).0).unwrap());
    assert_eq!(write(&later, 0..3).unwrap(), 1);
    (0..3).for_each(|n| holds(&later, n));
    objects.delete(&name).unwrap();
    let e = open(objects, RunSet::clone(&store.runs())).fetch(&chunk(0).0).unwrap_err();
    assert_eq!(e.kind(), Kind::Damage);
    assert!(e.chain().contains("missing"), "{e:?}");
}

/// What this process had written itself was taken for stored, whatever a read had found since: what was written again
/// as its repair was lost.
#[test]
fn what_is_found_damaged_and_its_neighbours_are_stored_again_by_whoever_wrote_them() {
    let objects = Arc::new(Memory::new());
    let store = open(objects.clone(), RunSet::default());
    write(&store, 0..3).unwrap();
    let pack = store.index().lookup(&store.runs(), &chunk(1).0).unwrap().unwrap().pack;
    let mut early = store.begin([0; 32]);
    early.put(chunk(2).0, chunk(2).1).unwrap();
    objects.delete(&Layout::new(&REALM).pack(&pack)).unwrap();
    assert_eq!(store.fetch(&chunk(1).0).unwrap_err().kind(), Kind::Damage);
    // A batch that has relied on it must be made anew.
    assert_eq!(early.finish().err().map(|e| e.kind()), Some(Kind::Conflict));
    drop(early);
    assert_eq!(write(&store, 0..3).unwrap(), 1, "they are stored again");
    (0..3).for_each(|n| holds(&store, n));
    (0..3).for_each(|n| holds(&open(objects.clone(), RunSet::clone(&store.runs())), n));
}

/// A pack that is removed can be read as long as its file is open; what was written again was taken for stored in it.
#[test]
fn what_is_in_a_pack_that_was_removed_is_stored_again_though_it_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Arc::new(Local::open(dir.path(), false, true).unwrap());
    let store = open(objects.clone(), RunSet::default());
    write(&store, 0..3).unwrap();
    (0..3).for_each(|n| holds(&store, n));
    let written = || write(&store, 0..3).unwrap();
    let remove = || {
        let pack = store.index().lookup(&store.runs(), &chunk(1).0).unwrap().unwrap().pack;
        std::fs::remove_file(dir.path().join(Layout::new(&REALM).pack(&pack))).unwrap();
    };
    assert_eq!(written(), 0);
    // A batch that cannot be finished for long looks again.
    let mut early = store.begin([0; 32]);
    early.put(chunk(2).0, chunk(2).1).unwrap();
    drop(early.finish().unwrap());
    remove();
    holds(&store, 1);
    assert_eq!(early.finish().err().map(|e| e.kind()), Some(Kind::Conflict));
    drop(early);
    assert_eq!(written(), 1, "they are stored again");
    (0..3).for_each(|n| holds(&open(objects.clone(), RunSet::clone(&store.runs())), n));
    // In the newer pack, which is listed first.
    (0..3).for_each(|n| holds(&store, n));
    remove();
    assert_eq!(written(), 1, "nor is it taken for stored by the next batch");
    (0..3).for_each(|n| holds(&open(objects.clone(), RunSet::clone(&store.runs())), n));
}

#[test]
fn a_store_that_is_away_is_not_damaged() {
    let inner = Arc::new(Memory::new());
    let away = Arc::new(AtomicBool::new(false));
    let flag = away.clone();
    let faulty = Faulty::new(inner, move |_| match flag.load(Ordering::Relaxed) {
        true => Fault::FailBefore(Kind::Away),
        false => Fault::Pass,
    });
    let faulty: Arc<dyn Objects> = Arc::new(faulty);
    let store = open(faulty.clone(), RunSet::default());
    write(&store, 0..3).unwrap();
    away.store(true, Ordering::Relaxed);
    assert_eq!(store.fetch(&chunk(1).0).unwrap_err().kind(), Kind::Away);
    let later = open(faulty, RunSet::clone(&store.runs()));
    assert_eq!(later.fetch(&chunk(1).0).unwrap_err().kind(), Kind::Away);
    assert_eq!(later.contains(&chunk(1).0).unwrap_err().kind(), Kind::Away);
    away.store(false, Ordering::Relaxed);
    holds(&later, 1);
}

#[test]
fn a_batch_can_come_on_top_of_somebody_elses_runs() {
    let objects = Arc::new(Memory::new());
    let (ours, theirs) = (open(objects.clone(), RunSet::default()), open(objects, RunSet::default()));
    write(&ours, 0..10).unwrap();
    let mut batch = ours.begin([0; 32]);
    for n in 5..15 {
        let (address, bytes) = chunk(n);
        batch.put(address, bytes).unwrap();
    }
    drop(batch.finish().unwrap());
    theirs.adopt(RunSet::clone(&ours.runs()));
    write(&theirs, 20..30).unwrap();
    // We lost the race for the head: theirs first, then ours on top.
    ours.adopt(RunSet::clone(&theirs.runs()));
    let written = batch.finish().unwrap();
    ours.adopt(written.runs.clone());
    drop((batch, written));
    (0..15).chain(20..30).for_each(|n| holds(&ours, n));
    // Runs without what was taken for a duplicate: the batch has to be made again.
    let mut batch = ours.begin([0; 32]);
    for n in 14..16 {
        let (address, bytes) = chunk(n);
        batch.put(address, bytes).unwrap();
    }
    ours.adopt(RunSet::default());
    assert_eq!(batch.finish().err().unwrap().kind(), Kind::Conflict);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_bit_flipped_anywhere_gives_damage_or_the_right_bytes(
        commits in proptest::collection::vec(proptest::collection::vec(0u32..60, 1..15), 1..8),
        which: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8, cut: bool,
    ) {
        let objects = Arc::new(Memory::new());
        let store = open(objects.clone(), RunSet::default());
        let mut all = BTreeMap::new();
        for commit in commits {
            all.extend(commit.iter().map(|n| chunk(*n)));
            write(&store, commit)?;
        }
        let names = objects.list("")?;
        let name = which.get(&names);
        let mut bytes = objects.get(name)?.to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        objects.put(name, bytes.into())?;
        let store = open(objects.clone(), RunSet::clone(&store.runs()));
        for (address, bytes) in &all {
            match store.fetch(address) {
                Ok(got) => prop_assert_eq!(&got, bytes),
                Err(e) => prop_assert_eq!(e.kind(), Kind::Damage),
            }
        }
        // Whatever is lost can be stored again.
        let mut batch = store.begin([0; 32]);
        for (address, bytes) in &all {
            batch.put(*address, bytes.clone())?;
        }
        let written = batch.finish()?;
        store.adopt(written.runs.clone());
        for (address, bytes) in &all {
            prop_assert_eq!(&store.fetch(address)?, bytes);
        }
    }
}

/// Chunks behind a store that counts reads of index runs, with a local index.
struct WithLocal {
    objects: Arc<Memory>,
    index_reads: Arc<AtomicBool>,
    dir: tempfile::TempDir,
}

impl WithLocal {
    fn new() -> WithLocal {
        WithLocal {
            objects: Arc::new(Memory::new()),
            index_reads: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self, runs: RunSet, key: u8) -> Arc<ChunkStore> {
        let reads = self.index_reads.clone();
        let counting = Faulty::new(self.objects.clone(), move |call| {
            if call.op == Op::Range && call.name.contains("/index/") {
                reads.store(true, Ordering::Relaxed);
            }
            Fault::Pass
        });
        let local = LocalPlace { dir: self.dir.path().join("index"), key: Key([key; 32]) };
        let settings = Settings { index_cache: 0, ..SMALL };
        ChunkStore::open(Arc::new(counting), keys(), runs, settings, Some(local))
    }

    /// Waits until the chunks are read without a look at the index runs.
    fn wait_until_local(&self, store: &ChunkStore, chunks: std::ops::Range<u32>) {
        let began = Instant::now();
        loop {
            self.index_reads.store(false, Ordering::Relaxed);
            chunks.clone().for_each(|n| holds(store, n));
            if !self.index_reads.load(Ordering::Relaxed) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the local index never came");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn the_local_index_follows_and_comes_back_however_it_was_lost() {
    let t = WithLocal::new();
    let store = t.open(RunSet::default(), 1);
    write(&store, 0..30).unwrap();
    holds(&store, 7);
    write(&store, 30..60).unwrap();
    t.wait_until_local(&store, 0..60);
    let runs = RunSet::clone(&store.runs());
    drop(store);
    // There already.
    t.wait_until_local(&t.open(runs.clone(), 1), 0..60);
    // Stale: another machine wrote.
    let other = open(t.objects.clone(), runs.clone());
    for n in 6..12 {
        write(&other, n * 10..n * 10 + 10).unwrap();
    }
    let newer = RunSet::clone(&other.runs());
    let store = t.open(newer.clone(), 1);
    t.wait_until_local(&store, 0..120);
    drop(store);
    // Under another key; missing; damaged.
    t.wait_until_local(&t.open(newer.clone(), 2), 0..120);
    std::fs::remove_dir_all(t.dir.path().join("index")).unwrap();
    t.wait_until_local(&t.open(newer.clone(), 1), 0..120);
    let db = t.dir.path().join("index/db/db");
    let len = std::fs::metadata(&db).unwrap().len() as usize;
    std::fs::write(&db, vec![0x5a; len]).unwrap();
    let store = t.open(newer.clone(), 1);
    (0..120).for_each(|n| holds(&store, n));
    drop(store);
    // In use, and where no directory can be: chunks are read all the same.
    let first = t.open(newer.clone(), 1);
    let second = t.open(newer.clone(), 1);
    (0..120).for_each(|n| holds(&first, n));
    (0..120).for_each(|n| holds(&second, n));
    drop((first, second));
    std::fs::remove_dir_all(t.dir.path().join("index")).unwrap();
    std::fs::write(t.dir.path().join("index"), "a file").unwrap();
    let store = t.open(newer, 1);
    (0..120).for_each(|n| holds(&store, n));
}

#[test]
fn a_local_index_that_is_wrong_is_overruled() {
    let t = WithLocal::new();
    let store = t.open(RunSet::default(), 1);
    write(&store, 0..10).unwrap();
    t.wait_until_local(&store, 0..10);
    // The packs move: new packs, old ones gone.
    let fresh = open(t.objects.clone(), RunSet::default());
    let old = t.objects.list(&Layout::new(&REALM).packs()).unwrap();
    write(&fresh, (0..20).rev()).unwrap();
    old.iter().for_each(|name| t.objects.delete(name).unwrap());
    store.adopt(RunSet::clone(&fresh.runs()));
    (0..20).for_each(|n| holds(&store, n));
    drop(store);
    let plain: Vec<u8> = (0..10).flat_map(|n| chunk(n).0.0).collect();
    for entry in std::fs::read_dir(t.dir.path().join("index/db")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(path).unwrap();
            for address in plain.chunks(32) {
                assert!(!bytes.windows(8).any(|w| w == &address[..8]), "an address in the clear");
            }
        }
    }
}
