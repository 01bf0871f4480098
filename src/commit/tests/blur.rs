//! What the store is not told (TRUST.md 5): in what order things were made, and how large they are.

use super::super::testing::Body;
use super::super::{FileKind, ROOT};
use super::published::{Rig, index_keys};
use super::{everything, noise};
use crate::chunk::{ChunkRef, Opening};
use crate::crypt::pad::padme;
use crate::crypt::seal::OVERHEAD;
use crate::crypt::{DriveSecrets, Seal};
use crate::error::Result;
use crate::store::Objects;
use crate::store::pack::{PackEntry, read_footer};
use crate::sys::Random;
use crate::tree::Map;
use crate::types::{Address, Ino};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

/// The same bytes in each run.
struct Seeded(AtomicU64);

impl Random for Seeded {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(out);
        Ok(())
    }
}

/// A drive whose commits are the same, but for the order in packs.
fn rig(order: u8) -> Rig {
    let mut rig = Rig::of(DriveSecrets::generate(&Seeded(AtomicU64::new(0))).unwrap());
    (rig.order, rig.workers) = ([order; 32], 1);
    rig
}

/// The chunks of all packs, each in the order in which they stand; the longest pack first.
fn packs(rig: &Rig) -> Vec<Vec<PackEntry>> {
    let names = rig.objects.list(&rig.versions.layout().packs()).unwrap();
    let read = |name: &String| {
        let (size, mut entries) = read_footer(&*rig.objects, name, &index_keys(&rig.secrets)).unwrap();
        assert_eq!(padme(size as usize) as u64, size, "a pack is padded");
        entries.sort_unstable_by_key(|e| e.offset);
        entries
    };
    let mut packs: Vec<_> = names.iter().map(read).collect();
    packs.sort_by_key(|entries| std::cmp::Reverse(entries.len()));
    packs
}

/// The chunks of a file's content, without the nodes of its Map.
fn content(rig: &Rig, ino: Ino) -> Vec<ChunkRef> {
    let Body::File { base, .. } = &rig.mini.nodes[&ino].body else { panic!() };
    let mut refs = Vec::new();
    let visit = &mut |chunk: ChunkRef| {
        refs.push(chunk);
        Ok(())
    };
    base.chunk_refs(rig.mini.chunks(), visit).unwrap();
    refs.retain(|chunk| !matches!(chunk.opening, Opening::Sealed { seal: Seal::Node, .. }));
    refs
}

/// Spearman's rank correlation of places and ranks, both 0..n: 0 on average where they have nothing to do with each
/// other, with a variance of 1 / (n - 1).
fn correlation(pairs: &[(usize, usize)]) -> f64 {
    let n = pairs.len() as f64;
    let squares: f64 = pairs.iter().map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    1.0 - 6.0 * squares / (n * (n * n - 1.0))
}

/// TRUST 5: the small objects and segments of a commit are shuffled. (By fixed seeds: it fails always or never.)
#[test]
fn one_tree_stands_in_another_order_each_time_and_none_tells_of_names_sizes_or_directories() {
    const FILES: usize = 60;
    const TIMES: u8 = 60;
    let mut orders = BTreeSet::new();
    let (mut by_name, mut by_size, mut neighbours, mut segments) = (0.0, 0.0, 0, [0; 3]);
    for order in 0..TIMES {
        let mut rig = rig(order);
        let dirs = [0, 1, 2].map(|d| rig.mini.make(ROOT, &[b'a' + d], FileKind::Directory));
        // The sizes are in another order than the names.
        let size = |n: usize| 300 + (n * 23 % FILES) * 100;
        let files: Vec<Ino> = (0..FILES)
            .map(|n| rig.mini.file(dirs[n / 20], format!("{n:02}").as_bytes(), &noise(size(n), n as u8)))
            .collect();
        let large = rig.mini.file(ROOT, b"large", &noise(600_000 + (2 << 20), 99));
        rig.publish();
        let entries = packs(&rig).swap_remove(0);
        let place: HashMap<Address, usize> =
            entries.iter().enumerate().map(|(n, e)| (e.address, n)).collect();

        // Which of the small files stands first, second, …
        let mut places: Vec<(usize, usize)> = Vec::new();
        for (n, ino) in files.iter().enumerate() {
            let [chunk] = &content(&rig, *ino)[..] else { panic!("file {n} is not one chunk") };
            places.push((place[&chunk.address], n));
        }
        places.sort_unstable();
        let files: Vec<usize> = places.into_iter().map(|(_, n)| n).collect();
        let ranked = |rank: &dyn Fn(usize) -> usize| {
            correlation(&files.iter().enumerate().map(|(at, n)| (at, rank(*n))).collect::<Vec<_>>())
        };
        let (name, size) = (ranked(&|n| n), ranked(&|n| n * 23 % FILES));
        // Six standard deviations.
        assert!(name.abs() < 0.78 && size.abs() < 0.78, "{name} by name, {size} by size");
        by_name += name / f64::from(TIMES);
        by_size += size / f64::from(TIMES);
        neighbours += files.windows(2).filter(|two| two[0] / 20 == two[1] / 20).count();

        // The chunks of each segment stand in order, side by side; the segments anywhere.
        let refs = content(&rig, large);
        let starts: Vec<usize> = refs
            .chunks(16)
            .map(|segment| {
                let first = place[&segment[0].address];
                let found = segment.iter().map(|chunk| place[&chunk.address]);
                assert!(found.eq(first..first + segment.len()));
                first
            })
            .collect();
        assert_eq!(starts.len(), 3);
        segments[starts.iter().filter(|at| **at < starts[0]).count()] += 1;
        assert!(orders.insert(files), "the same order twice");
    }
    // Four standard deviations each: 1 in 16,000.
    let bound = 4.0 / ((FILES - 1) as f64 * f64::from(TIMES)).sqrt();
    assert!(by_name.abs() < bound && by_size.abs() < bound, "{by_name} by name, {by_size} by size");
    let share = neighbours as f64 / (59.0 * f64::from(TIMES));
    assert!((share - 19.0 / 59.0).abs() < 0.04, "{share} of the neighbours are of one directory");
    assert!(segments.iter().all(|n| *n > 8), "the first segment stands first, second, last: {segments:?}");
}

/// Puts the nodes of a Map among the kinds.
fn nodes(rig: &Rig, kinds: &mut BTreeMap<Address, &'static str>, kind: &'static str, map: &Map) {
    kinds.extend(map.nodes(rig.mini.chunks()).map(|node| (node.unwrap().address, kind)));
}

/// TRUST 5: whatever is sealed as one object is padded inside its seal; packs and parts of the index as a whole. What a
/// head shows by its size the store sees anyway.
#[test]
fn objects_of_every_kind_have_padded_sizes() {
    let mut rig = rig(7);
    let dir = everything(&mut rig.mini);
    let tail = rig.mini.file(dir, b"tail", &noise(5000, 3));
    let middle = rig.mini.file(dir, b"middle", &noise(100_001, 4));
    let laid_over = rig.mini.file(dir, b"laid over", &noise(900_000, 5));
    rig.mini.link(tail, ROOT, b"again");
    for n in 0..300 {
        rig.mini.file(dir, format!("inline {n}").as_bytes(), &noise(n % 250 + 1, 6));
    }
    rig.publish();
    rig.mini.write(laid_over, 333_333, &noise(777, 7));
    let second = rig.publish();
    rig.mini.file(ROOT, b"one more", b"1");
    let third = rig.publish();
    rig.mini.verify();

    let mut kinds = BTreeMap::new();
    let commit = &third.commit;
    nodes(&rig, &mut kinds, "history", &commit.history);
    nodes(&rig, &mut kinds, "shells", &commit.shells);
    nodes(&rig, &mut kinds, "packs", &commit.packs);
    for opened in [&second, &third] {
        kinds.insert(opened.at.address, "commit");
    }
    let Body::Directory { base, .. } = &rig.mini.nodes[&dir].body else { panic!() };
    nodes(&rig, &mut kinds, "directory", base);
    for (kind, ino) in [("tail", tail), ("middle", middle), ("laid over", laid_over)] {
        for chunk in content(&rig, ino) {
            let is_member = matches!(chunk.opening, Opening::Member { .. });
            kinds.insert(chunk.address, if is_member { "member" } else { kind });
        }
    }
    let large = rig.mini.names(dir)[&b"large"[..]];
    kinds.extend(content(&rig, large).iter().map(|chunk| (chunk.address, "member")));

    let mut seen = BTreeMap::<&str, usize>::new();
    for entry in packs(&rig).concat() {
        // The other chunks are of earlier versions, or hold extended attributes.
        let kind = kinds.get(&entry.address).copied().unwrap_or("other");
        *seen.entry(kind).or_default() += 1;
        let inner = entry.len as usize - OVERHEAD.min(entry.len as usize);
        assert!(kind == "member" || padme(inner) == inner, "{kind}: {} bytes", entry.len);
    }
    let all = [
        "commit",
        "directory",
        "history",
        "laid over",
        "member",
        "middle",
        "other",
        "packs",
        "shells",
        "tail",
    ];
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), all, "{seen:?}");

    let sizes = |dir: &str| -> Vec<u64> {
        let names = rig.objects.list(dir).unwrap();
        assert!(names.len() >= 3, "{dir}: {names:?}");
        names.iter().map(|name| rig.objects.size(name).unwrap()).collect()
    };
    assert!(sizes(&rig.versions.layout().index()).iter().all(|size| padme(*size as usize) as u64 == *size));
    // Three commits, one of nearly everything: the heads are of one size.
    let heads = sizes(&rig.versions.layout().heads());
    assert!(heads.iter().max().unwrap() - heads.iter().min().unwrap() <= 2, "{heads:?}");
}
