//! Index runs that are damaged or missing, over packs that are whole.

use super::chunks::ChunkStore;
use super::faulty::{Fault, Faulty, Op};
use super::layout::Layout;
use super::local_index::LocalPlace;
use super::memory::Memory;
use super::objects::Objects;
use super::pack::PackId;
use super::runs::RunSet;
use super::tests::{REALM, SMALL, chunk, holds, keys, open, write};
use crate::chunk::ChunkSink;
use crate::error::Kind;
use crate::types::Key;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn layout() -> Layout {
    Layout::new(&REALM)
}

fn packs(objects: &Memory) -> HashSet<PackId> {
    objects.list(&layout().packs()).unwrap().iter().map(|n| layout().pack_of(n).unwrap()).collect()
}

/// A store of several runs: chunks 0 to 74, and which runs find them.
fn several_runs() -> (Arc<Memory>, RunSet) {
    let objects = Arc::new(Memory::new());
    let store = open(objects.clone(), RunSet::default());
    for n in 0..10 {
        write(&store, n * 7..n * 7 + 12).unwrap();
    }
    (objects, RunSet::clone(&store.runs()))
}

fn is_whole(store: &ChunkStore, runs: &RunSet) -> bool {
    runs.parts().all(|part| store.index().verify(part).is_ok())
}

/// Commits a chunk, and what there is to heal.
fn commit(store: &Arc<ChunkStore>, n: u32, listed: HashSet<PackId>) {
    let mut batch = store.begin([0; 32]);
    let (address, bytes) = chunk(n);
    batch.put(address, bytes).unwrap();
    if batch.index_is_damaged() {
        batch.heal(listed);
    }
    let written = batch.finish().unwrap();
    store.adopt(written.runs.clone());
}

/// A store that counts how often the packs are listed.
fn counting(inner: Arc<Memory>) -> (Arc<dyn Objects>, Arc<AtomicUsize>) {
    let lists = Arc::new(AtomicUsize::new(0));
    let count = lists.clone();
    let counting = Faulty::new(inner, move |call| {
        if call.op == Op::List {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Fault::Pass
    });
    (Arc::new(counting), lists)
}

#[test]
fn the_index_is_made_anew_from_packs_alone() {
    let (objects, runs) = several_runs();
    assert!(runs.len() > 1);
    for name in objects.list(&layout().index()).unwrap() {
        objects.delete(&name).unwrap();
    }
    let (counted, lists) = counting(objects.clone());
    let store = open(counted, runs);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| (0..75).for_each(|n| holds(&store, n)));
        }
    });
    assert_eq!(lists.load(Ordering::Relaxed), 1, "the packs are read once for all");
    let listed = packs(&objects);
    commit(&store, 1000, listed);
    let healed = RunSet::clone(&store.runs());
    // Whoever comes next needs no packs to find what it reads.
    let (counted, lists) = counting(objects);
    let later = open(counted, healed.clone());
    assert!(is_whole(&later, &healed));
    (0..75).chain([1000]).for_each(|n| holds(&later, n));
    assert_eq!(lists.load(Ordering::Relaxed), 0);
}

#[test]
fn each_damaged_part_is_written_anew_however_it_was_damaged() {
    let (objects, runs) = several_runs();
    let parts: Vec<_> = runs.parts().copied().collect();
    for (n, part) in parts.iter().enumerate() {
        for fault in 0..5 {
            let store = Arc::new(objects.copy());
            let name = layout().part(&part.id);
            let mut bytes = store.get(&name).unwrap().to_vec();
            let middle = bytes.len() / 2;
            match fault {
                0 => store.delete(&name).unwrap(),
                1 => bytes.clear(),
                2 => bytes.truncate(middle),
                3 => bytes[middle] ^= 1,
                _ => bytes[3] ^= 1,
            }
            if fault > 0 {
                store.put(&name, bytes.into()).unwrap();
            }
            let listed = packs(&store);
            let chunks = open(store.clone(), runs.clone());
            (0..75).for_each(|n| holds(&chunks, n));
            chunks.index().look_over(&runs).unwrap();
            assert!(chunks.index().any_damaged(&runs), "part {n} fault {fault}");
            commit(&chunks, 1000, listed);
            let healed = RunSet::clone(&chunks.runs());
            assert!(!chunks.index().any_damaged(&healed));
            let later = open(store, healed.clone());
            assert!(is_whole(&later, &healed), "part {n} fault {fault}");
            for n in (0..75).chain([1000]) {
                assert!(later.index().lookup(&healed, &chunk(n).0).unwrap().is_some(), "chunk {n}");
                holds(&later, n);
            }
            assert!(healed.entries() < runs.entries() + 10, "what is whole is not listed again");
        }
    }
}

#[test]
fn packs_that_no_version_lists_do_not_come_into_the_index() {
    let objects = Arc::new(Memory::new());
    let store = open(objects.clone(), RunSet::default());
    let mut cut_off = store.begin([0; 32]);
    for n in (0..60).rev() {
        let (address, bytes) = chunk(n);
        cut_off.put(address, bytes).unwrap();
    }
    drop(cut_off);
    let leftover = packs(&objects);
    assert!(leftover.len() > 3);
    write(&store, 0..60).unwrap();
    let listed: HashSet<PackId> = packs(&objects).difference(&leftover).copied().collect();
    for name in objects.list(&layout().index()).unwrap() {
        objects.delete(&name).unwrap();
    }
    let later = open(objects.clone(), RunSet::clone(&store.runs()));
    (0..60).for_each(|n| holds(&later, n));
    assert!(!later.contains(&chunk(59).0).unwrap(), "what a leftover may hold is stored again");
    commit(&later, 1000, listed.clone());
    for n in 0..60 {
        let places = later.index().places(&later.runs(), &chunk(n).0).unwrap();
        assert!(places.iter().all(|p| listed.contains(&p.pack)), "chunk {n}");
    }
}

#[test]
fn of_two_packs_with_a_chunk_the_one_that_can_be_read_comes_into_the_index() {
    for first in [true, false] {
        let objects = Arc::new(Memory::new());
        write(&open(objects.clone(), RunSet::default()), [1, 2, 3]).unwrap();
        let one = objects.list(&layout().packs()).unwrap();
        let store = open(objects.clone(), RunSet::default());
        write(&store, [1, 2, 3, 4]).unwrap();
        let both = objects.list(&layout().packs()).unwrap();
        let two = both.iter().find(|n| !one.contains(n)).unwrap();
        // All its chunks are bent, whatever their order; its list is whole.
        let victim = if first { &one[0] } else { two };
        let mut bytes = objects.get(victim).unwrap().to_vec();
        bytes[16..if first { 300 } else { 400 }].fill(0);
        objects.put(victim, bytes.into()).unwrap();
        for name in objects.list(&layout().index()).unwrap() {
            objects.delete(&name).unwrap();
        }
        let later = open(objects.clone(), RunSet::clone(&store.runs()));
        (1..4).for_each(|n| holds(&later, n));
        let listed = packs(&objects);
        commit(&later, 1000, listed);
        let place = later.index().lookup(&later.runs(), &chunk(1).0).unwrap().unwrap();
        assert_ne!(&layout().pack(&place.pack), victim);
    }
}

#[test]
fn a_store_that_is_away_while_packs_are_read_is_asked_again() {
    let (objects, runs) = several_runs();
    for name in objects.list(&layout().index()).unwrap() {
        objects.delete(&name).unwrap();
    }
    let away = Arc::new(AtomicBool::new(true));
    let flag = away.clone();
    let flaky = Faulty::new(objects, move |call| match call.op {
        Op::List if flag.load(Ordering::Relaxed) => Fault::FailBefore(Kind::Away),
        _ => Fault::Pass,
    });
    let store = open(Arc::new(flaky), runs);
    assert_eq!(store.fetch(&chunk(1).0).unwrap_err().kind(), Kind::Away);
    away.store(false, Ordering::Relaxed);
    holds(&store, 1);
}

#[test]
fn the_local_index_takes_what_the_packs_say() {
    let (objects, runs) = several_runs();
    for name in objects.list(&layout().index()).unwrap() {
        objects.delete(&name).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let reads = Arc::new(AtomicUsize::new(0));
    let with_local = || {
        let count = reads.clone();
        let counted = Faulty::new(objects.clone(), move |call| {
            if call.name.contains("/packs") && call.op == Op::List {
                count.fetch_add(1, Ordering::Relaxed);
            }
            Fault::Pass
        });
        let local = LocalPlace { dir: dir.path().join("index"), key: Key([1; 32]) };
        ChunkStore::open(Arc::new(counted), keys(), runs.clone(), SMALL, Some(local))
    };
    let store = with_local();
    (0..75).for_each(|n| holds(&store, n));
    // Its thread is done with what was begun when it ends.
    let began = std::time::Instant::now();
    while !store.index().any_damaged(&runs) || !all_local(&store) {
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "the local index never came");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop(store);
    assert_eq!(reads.swap(0, Ordering::Relaxed), 1);
    // A later start reads no packs' lists for it; the next one does where its thread was stopped before it was done.
    let store = loop {
        let store = with_local();
        while !all_local(&store) || !store.index().any_damaged(&runs) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        (0..75).for_each(|n| holds(&store, n));
        std::thread::sleep(std::time::Duration::from_millis(100));
        if reads.swap(0, Ordering::Relaxed) == 0 {
            break store;
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "the local index does not keep it");
    };
    // Healing does not need what nobody asked for.
    let listed = packs(&objects);
    while !store.index().any_damaged(&runs) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    commit(&store, 1000, listed);
    assert!(is_whole(&store, &store.runs()));
}

fn all_local(store: &ChunkStore) -> bool {
    (0..75).all(|n| store.is_local(&chunk(n).0))
}
