//! Maps against a model, and what their updates cost.

use super::testing::Memory;
use super::*;
use crate::types::Address;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn update(map: &Map, memory: &Memory, edits: &[Edit]) -> Result<Map> {
    map.update(memory, memory, &mut memory.clone(), edits)
}

fn apply(model: &mut Model, edits: &[Edit]) {
    for (key, value) in edits {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

fn build(memory: &Memory, model: &Model) -> Result<Map> {
    let all: Vec<Edit> = model.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    update(&Map::default(), memory, &all)
}

fn entries(range: Range) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    range.map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect()
}

fn pairs<'a>(model: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    model.map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn addresses(nodes: Nodes) -> Result<HashSet<Address>> {
    let list: Vec<Address> = nodes.map(|node| node.map(|n| n.address)).collect::<Result<_>>()?;
    let set: HashSet<Address> = list.iter().copied().collect();
    assert_eq!(set.len(), list.len(), "a node was named twice");
    Ok(set)
}

/// Few enough keys that edits meet, of lengths that make the order of bytes matter, some of them long.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (0u16..600).prop_map(|n| n.to_be_bytes().to_vec()),
        2 => (0u16..600).prop_map(|n| n.to_string().into_bytes()),
        1 => (0u8..40).prop_map(|n| vec![n; 1 + usize::from(n) * 26]),
        1 => Just(Vec::new()),
    ]
}

/// Values from nothing to the largest, so that some hundreds of entries make three levels of nodes.
fn value() -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![8 => 0usize..400, 3 => 400usize..3000, 1 => 3000usize..=MAX_VALUE], any::<u8>())
        .prop_map(|(len, byte)| vec![byte; len])
}

/// Edits of some keys, and of a run of keys (which may delete whole nodes).
fn batch() -> impl Strategy<Value = Vec<Edit>> {
    let edits = btree_map(key(), proptest::option::weighted(0.7, value()), 0..40);
    let run = (0u16..600, 0u16..200, proptest::option::of(value()), 0u8..3);
    (edits, run).prop_map(|(mut edits, (from, len, value, kind))| {
        for n in (from..from + len).filter(|_| kind > 0) {
            let value = value.clone().filter(|_| kind > 1);
            edits.entry(n.to_be_bytes().to_vec()).or_insert(value);
        }
        edits.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn edits_in_any_batches_give_the_map_of_the_final_entries(batches in vec(batch(), 1..8)) {
        let memory = Memory::new();
        let (mut map, mut model) = (Map::default(), Model::new());
        for edits in &batches {
            let before = map.clone();
            map = update(&before, &memory, edits)?;
            apply(&mut model, edits);
            let puts = memory.tally().puts;
            prop_assert_eq!(&build(&Memory::new(), &model)?, &map);
            prop_assert_eq!(map.len(), model.len() as u64);
            // the update made the nodes that are new, and no others
            let new = addresses(map.nodes_not_in(&before, &memory))?;
            prop_assert_eq!(puts, new.len());
            let (old, all) = (addresses(before.nodes(&memory))?, addresses(map.nodes(&memory))?);
            prop_assert_eq!(new, all.difference(&old).copied().collect::<HashSet<_>>());
            prop_assert!(all.iter().all(|a| memory.holds(*a)));
        }
        prop_assert_eq!(entries(map.range(&memory, Bound::Unbounded))?, pairs(model.iter()));
        for edits in &batches {
            for (key, _) in edits {
                prop_assert_eq!(map.get(&memory, key)?.map(|v| v.to_vec()), model.get(key).cloned());
            }
        }
        let mut w = Writer::new();
        map.put(&mut w);
        prop_assert!(w.len() <= 75);
        let mut r = Reader::new(w.as_slice(), "map");
        prop_assert_eq!(Map::get_from(&mut r)?, map);
        r.end()?;
    }

    #[test]
    fn ranges_begin_at_any_bound(edits in vec(batch(), 1..3), keys in vec(key(), 1..20)) {
        let memory = Memory::new();
        let mut model = Model::new();
        edits.iter().for_each(|edits| apply(&mut model, edits));
        let map = build(&memory, &model)?;
        let some = |range| entries(range).map(|all| all.into_iter().take(50).collect::<Vec<_>>());
        for key in keys {
            for from in [Bound::Included(&key[..]), Bound::Excluded(&key[..])] {
                let expected = pairs(model.range::<[u8], _>((from, Bound::Unbounded)).take(50));
                prop_assert_eq!(some(map.range(&memory, from))?, expected);
            }
        }
    }

    #[test]
    fn differences_are_those_of_the_models(a in vec(batch(), 0..4), b in vec(batch(), 0..3), apart: bool) {
        let memory = Memory::new();
        let (mut old, mut new) = (Model::new(), Model::new());
        a.iter().for_each(|edits| apply(&mut old, edits));
        if !apart {
            new = old.clone();
        }
        b.iter().for_each(|edits| apply(&mut new, edits));
        let (from, to) = (build(&memory, &old)?, build(&memory, &new)?);
        let changes: Vec<_> = from.diff(&to, &memory).collect::<Result<_>>()?;
        let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let expected: Vec<_> = keys
            .into_iter()
            .filter(|key| old.get(*key) != new.get(*key))
            .map(|key| {
                let bytes = |model: &Model| model.get(key).cloned().map(Bytes::from);
                Change { key: key.clone().into(), old: bytes(&old), new: bytes(&new) }
            })
            .collect();
        prop_assert_eq!(changes, expected);
    }

    #[test]
    fn a_root_pointer_has_one_encoding(bytes in vec(any::<u8>(), 0..80), height in 0u8..70) {
        let mut framed = vec![height];
        framed.extend_from_slice(&bytes);
        let mut r = Reader::new(&framed, "map");
        if let Ok(map) = Map::get_from(&mut r) {
            let mut w = Writer::new();
            map.put(&mut w);
            prop_assert_eq!(w.as_slice(), &framed[..framed.len() - r.rest().len()]);
        }
    }
}

/// Long keys make inner nodes of few children, so that a few hundred entries make a deep tree.
fn deep(n: u16) -> (Vec<u8>, Vec<u8>) {
    ([&[9; 900][..], &n.to_be_bytes()].concat(), vec![0; 1500])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn deep_trees_grow_and_shrink(runs in vec((0u16..500, 0u16..500, 1u16..5, any::<bool>()), 1..8)) {
        let memory = Memory::new();
        let (mut map, mut model) = (Map::default(), Model::new());
        for (from, len, step, put) in runs {
            let edits: Vec<Edit> = (from..from + len)
                .step_by(step.into())
                .map(|n| (deep(n).0, put.then_some(deep(n).1)))
                .collect();
            let before = map.clone();
            map = update(&before, &memory, &edits)?;
            apply(&mut model, &edits);
            let puts = memory.tally().puts;
            prop_assert_eq!(&build(&Memory::new(), &model)?, &map);
            prop_assert_eq!(map.nodes_not_in(&before, &memory).count(), puts);
            prop_assert_eq!(map.diff(&before, &memory).count(), before.diff(&map, &memory).count());
        }
    }
}

#[test]
fn what_is_left_of_a_deep_tree_is_the_map_of_it() {
    let mut lone = 0;
    for n in 1..300 {
        let memory = Memory::new();
        let map = build(&memory, &(0..n).map(deep).collect()).unwrap();
        // all but the last leaf is deleted: the nodes above it may then have one child, each unread till now
        let nodes: Vec<ChunkRef> = map.nodes(&memory).collect::<Result<_>>().unwrap();
        let open = |node: &ChunkRef| node::Node::open(memory.get(node).unwrap()).unwrap();
        let leaf = open(nodes.last().unwrap());
        let is_lone = nodes.len() > 1 && open(&nodes[nodes.len() - 2]).len() == 1;
        lone += usize::from(is_lone && map.height() > 3);
        let edits: Vec<Edit> =
            (0..n).map(|n| (deep(n).0, None)).filter(|(key, _)| key.as_slice() < leaf.key(0)).collect();
        memory.tally();
        let left = update(&map, &memory, &edits).unwrap();
        assert_eq!(left.len() as usize, leaf.len());
        assert_eq!((left.height(), memory.tally().puts), (1, 0));
        assert_eq!(left, build(&memory, &(n - leaf.len() as u16..n).map(deep).collect()).unwrap());
        let none: Vec<Edit> = (0..n).map(|n| (deep(n).0, None)).collect();
        assert_eq!(update(&map, &memory, &none).unwrap(), Map::default());
    }
    assert!(lone > 5, "{lone} trees had a last inner node of one child");
}

/// Key and value of about 180 bytes together.
fn entry(n: u64, version: u64) -> (Vec<u8>, Vec<u8>) {
    let name = blake3::hash(&n.to_le_bytes());
    let mut value = vec![0; 150];
    value[..16].copy_from_slice(&[n.to_le_bytes(), version.to_le_bytes()].concat());
    (name.as_bytes()[..28].to_vec(), value)
}

fn many(memory: &Memory, count: u64) -> Map {
    let model: Model = (0..count).map(|n| entry(n, 0)).collect();
    build(memory, &model).unwrap()
}

#[test]
fn one_edit_of_many_entries_is_cheap() {
    let memory = Memory::new();
    let map = many(&memory, 100_000);
    let built = memory.tally();
    assert!(built.put_bytes < 100_000 * 200, "{built:?}");
    let mut costs = Vec::new();
    for i in 0..51u64 {
        let (key, value) = entry(if i % 3 == 0 { 200_000 + i } else { i * 1_999 }, 1);
        let edited = update(&map, &memory, &[(key, (i % 3 < 2).then_some(value))]).unwrap();
        let tally = memory.tally();
        assert!(tally.gets <= tally.puts + 2, "{tally:?}");
        costs.push((tally.put_bytes, tally.puts));

        assert_eq!(map.diff(&edited, &memory).count(), 1);
        let read = memory.tally().gets;
        assert!(read <= 2 * (tally.puts + 2), "diff read {read} nodes, where {} are new", tally.puts);

        assert_eq!(edited.nodes_not_in(&map, &memory).count(), tally.puts);
        let read = memory.tally().gets;
        assert!(read <= 2 * tally.puts, "walk read {read} nodes, where {} are new", tally.puts);
    }
    costs.sort();
    let (median, worst) = (costs[costs.len() / 2], costs[costs.len() - 1]);
    println!("built {built:?}; median {median:?}; worst {worst:?}");
    assert!(median.0 <= 48 << 10 && median.1 <= 4, "median {median:?}");
    assert!(worst.0 <= 160 << 10, "worst {worst:?}");
}

#[test]
fn reading_an_entry_reads_one_node_of_each_level() {
    let memory = Memory::new();
    let map = many(&memory, 20_000);
    memory.tally();
    let (key, value) = entry(777, 0);
    assert_eq!(map.get(&memory, &key).unwrap().unwrap(), value);
    assert_eq!(memory.tally().gets, usize::from(map.height()));
    assert_eq!(map.range(&memory, Bound::Included(&key)).take(3).count(), 3);
    assert!(memory.tally().gets <= usize::from(map.height()) + 2);
}

#[test]
fn a_million_appended_in_batches_are_written_about_once() {
    let memory = Memory::new();
    let (mut map, mut half) = (Map::default(), Map::default());
    let entry = |n: u32| (n.to_be_bytes().to_vec(), Some(n.to_le_bytes().to_vec()));
    for batch in 0..100u32 {
        let edits: Vec<Edit> = (batch * 10_000..(batch + 1) * 10_000).map(entry).collect();
        map = update(&map, &memory, &edits).unwrap();
        if batch == 49 {
            half = map.clone();
        }
    }
    let written = memory.tally();
    assert_eq!((map.len(), written.repeats), (1_000_000, 0));
    assert!(written.gets <= 99 * usize::from(map.height()), "an append reads the right edge once");
    let new = map.nodes_not_in(&half, &memory).count();
    let read = memory.tally().gets;
    assert!(new > 600 && read < 30, "{read} nodes read for {new} that are new");
    let all: Vec<Edit> = (0..1_000_000).map(entry).collect();
    let once = Memory::new();
    assert_eq!(update(&Map::default(), &once, &all).unwrap(), map);
    let at_once = once.tally();
    println!("batches {written:?}; at once {at_once:?}");
    assert_eq!(at_once.gets, 0);
    assert!(written.put_bytes * 10 < at_once.put_bytes * 13, "{written:?} against {at_once:?}");
}

#[test]
fn edits_that_change_nothing_write_nothing() {
    let memory = Memory::new();
    let map = many(&memory, 5_000);
    memory.tally();
    let mut edits = vec![(vec![], None), (vec![255; 40], None)];
    edits.extend((0..50).map(|n| entry(n * 99, 0)).map(|(key, value)| (key, Some(value))));
    edits.sort();
    assert_eq!(update(&map, &memory, &edits).unwrap(), map);
    assert_eq!(memory.tally().puts, 0);
    assert_eq!(update(&map, &memory, &[]).unwrap(), map);
    assert_eq!(memory.tally().gets, 0);
}

#[test]
fn wrong_edits_are_refused_before_anything_is_written() {
    let memory = Memory::new();
    let edit = |key: &[u8], len: usize| (key.to_vec(), Some(vec![0; len]));
    for edits in [
        vec![edit(b"b", 1), edit(b"a", 1)],
        vec![edit(b"a", 1), edit(b"a", 1)],
        vec![edit(b"a", 1), edit(b"b", MAX_VALUE + 1)],
        vec![edit(&[1; MAX_KEY + 1], 0)],
    ] {
        update(&Map::default(), &memory, &edits).unwrap_err();
        assert_eq!(memory.tally().puts, 0);
    }
    let largest = [edit(&[1; MAX_KEY], MAX_VALUE)];
    assert_eq!(update(&Map::default(), &memory, &largest).unwrap().len(), 1);
}

#[test]
fn a_damaged_node_is_an_error_of_its_range_and_nothing_more() {
    let memory = Memory::new();
    let map = many(&memory, 20_000);
    let nodes: Vec<ChunkRef> = map.nodes(&memory).collect::<Result<_>>().unwrap();
    let inner = nodes[1].address;
    let leaf = nodes[nodes.len() - 1].address;

    memory.damage(leaf);
    let mut range = map.range(&memory, Bound::Unbounded);
    let before = range.by_ref().take_while(Result::is_ok).count();
    assert!(before > 19_000 && range.next().is_none(), "{before}");
    assert_eq!(map.nodes(&memory).filter(Result::is_ok).count(), nodes.len());
    memory.damage(leaf);

    memory.damage(inner);
    let (good, bad): (Vec<_>, Vec<_>) = map.nodes(&memory).partition(Result::is_ok);
    assert_eq!(bad.len(), 1);
    assert!(good.len() > 1 && good.len() < nodes.len());
}

/// Updates next to damaged nodes failed, and those whose edits fall into one: one flipped bit stopped all commits.
mod around {
    use super::*;
    use crate::error::Kind;

    /// What a Map says of a key: its value, that it is not there, or that nobody can tell.
    fn told(map: &Map, memory: &Memory, key: &[u8]) -> Option<Option<Vec<u8>>> {
        match map.get(memory, key) {
            Ok(value) => Some(value.map(|v| v.to_vec())),
            Err(e) => {
                assert_eq!(e.kind(), Kind::Damage, "{e:?}");
                None
            }
        }
    }

    /// Holds a Map to the model, where the keys that were edited since the damage, and those that could be read at it,
    /// must be right, and nothing is ever wrong.
    fn hold(
        map: &Map,
        memory: &Memory,
        model: &Model,
        sure: &HashSet<Vec<u8>>,
        asked: &[Vec<u8>],
        what: &str,
    ) {
        for key in asked.iter().chain(model.keys()) {
            match told(map, memory, key) {
                Some(value) => assert_eq!(value.as_ref(), model.get(key), "{what}: {key:?}"),
                None => assert!(!sure.contains(key), "{what}: {key:?} cannot be read"),
            }
        }
        // Listing shows what comes before the first damage.
        let listed: Vec<_> = map.range(memory, Bound::Unbounded).map_while(Result::ok).collect();
        let wanted: Vec<_> = model.iter().take(listed.len()).collect();
        assert!(
            listed.iter().zip(&wanted).all(|((k, v), (a, b))| k[..] == a[..] && v[..] == b[..]),
            "{what}"
        );
        assert_eq!(listed.len(), wanted.len(), "{what}");
    }

    fn one_history(start: &Model, hurt: usize, batches: &[Vec<Edit>], healed: &[Vec<Edit>]) {
        let memory = Memory::new();
        let mut model = start.clone();
        let mut map = build(&memory, start).unwrap();
        let nodes: Vec<Address> = map.nodes(&memory).map(|n| n.unwrap().address).collect();
        let mut asked: Vec<Vec<u8>> =
            batches.iter().chain(healed).flatten().map(|(k, _)| k.clone()).collect();
        asked.sort();
        asked.dedup();
        let bad = nodes.get(hurt % nodes.len().max(1)).copied();
        bad.inspect(|bad| memory.damage(*bad));
        let readable = |map: &Map, key: &Vec<u8>| told(map, &memory, key).is_some();
        let mut sure: HashSet<Vec<u8>> =
            asked.iter().chain(start.keys()).filter(|key| readable(&map, key)).cloned().collect();
        for (n, edits) in batches.iter().enumerate() {
            map = update(&map, &memory, edits).unwrap();
            apply(&mut model, edits);
            sure.extend(edits.iter().map(|(key, _)| key.clone()));
            hold(&map, &memory, &model, &sure, &asked, &format!("batch {n}"));
            map.nodes(&memory).for_each(drop);
        }
        // It comes back: all is there again, as edited.
        bad.inspect(|bad| memory.damage(*bad));
        let all = |map: &Map, model: &Model, what: &str| {
            assert_eq!(entries(map.range(&memory, Bound::Unbounded)).unwrap(), pairs(model.iter()), "{what}");
            for key in &asked {
                assert_eq!(told(map, &memory, key), Some(model.get(key).cloned()), "{what}: {key:?}");
            }
            assert!(map.nodes(&memory).all(|n| n.is_ok_and(|n| memory.holds(n.address))), "{what}");
        };
        all(&map, &model, "healed");
        for edits in healed {
            let before = (map.clone(), model.clone());
            map = update(&map, &memory, edits).unwrap();
            apply(&mut model, edits);
            all(&map, &model, "edited when healed");
            let keys: std::collections::BTreeSet<_> = before.1.keys().chain(model.keys()).collect();
            let differ = keys.into_iter().filter(|key| before.1.get(*key) != model.get(*key)).count();
            assert_eq!(before.0.diff(&map, &memory).map(Result::unwrap).count(), differ);
        }
        // What is edited all over is as if nothing had been: no part is left.
        let none: Vec<Edit> = model.keys().chain(&asked).map(|key| (key.clone(), None)).collect();
        let none: BTreeMap<_, _> = none.into_iter().collect();
        let none = update(&map, &memory, &none.into_iter().collect::<Vec<_>>()).unwrap();
        assert!(entries(none.range(&memory, Bound::Unbounded)).unwrap().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 1000 }))]

        #[test]
        fn edits_go_around_a_damaged_node_and_it_can_come_back(
            start in vec(batch(), 1..4),
            hurt in 0usize..400,
            batches in vec(batch(), 1..5),
            healed in vec(batch(), 0..3),
        ) {
            let mut model = Model::new();
            start.iter().for_each(|edits| apply(&mut model, edits));
            one_history(&model, hurt, &batches, &healed);
        }

        #[test]
        fn edits_go_around_the_damaged_nodes_of_a_deep_tree(
            hurt in 0usize..400,
            runs in vec((0u16..500, 0u16..40, 1u16..9, any::<bool>()), 1..6),
            healed in vec((0u16..500, 0u16..40, 1u16..9, any::<bool>()), 0..3),
        ) {
            let edits = |runs: Vec<(u16, u16, u16, bool)>| -> Vec<Vec<Edit>> {
                let run = |(from, len, step, put): (u16, u16, u16, bool)| {
                    let numbers = (from..from + len).step_by(step.into());
                    numbers.map(|n| (deep(n).0, put.then(|| vec![7; 900]))).collect()
                };
                runs.into_iter().map(run).collect()
            };
            let start: Model = (0..300).map(|n| deep(2 * n)).collect();
            one_history(&start, hurt, &edits(runs), &edits(healed));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 1000 }))]

        /// A file whose Map was damaged could not be cut: nothing of the drive was stored any more.
        #[test]
        fn a_range_of_keys_goes_whoever_can_read_it(
            hurt in vec(0usize..400, 0..5),
            ranges in vec((0u16..620, 0u16..400, any::<bool>()), 1..4),
            run in (0u16..500, 0u16..40),
        ) {
            let memory = Memory::new();
            let mut model: Model = (0..300).map(|n| deep(2 * n)).collect();
            let mut map = build(&memory, &model).unwrap();
            let nodes: Vec<Address> = map.nodes(&memory).map(|n| n.unwrap().address).collect();
            let hurt: HashSet<Address> = hurt.iter().map(|n| nodes[n % nodes.len()]).collect();
            hurt.iter().for_each(|bad| memory.damage(*bad));
            let asked: Vec<Vec<u8>> = (0..620).map(|n| deep(n).0).collect();
            let mut sure: HashSet<Vec<u8>> =
                asked.iter().filter(|key| told(&map, &memory, key).is_some()).cloned().collect();
            for (from, len, ends) in ranges {
                let (from, to) = (deep(from).0, ends.then(|| deep(from + len).0));
                map = map.without(&memory, &memory, &mut memory.clone(), &from, to.as_deref()).unwrap();
                let goes = |key: &Vec<u8>| *key >= from && to.as_ref().is_none_or(|to| key < to);
                model.retain(|key, _| !goes(key));
                sure.extend(asked.iter().filter(|key| goes(key)).cloned());
                hold(&map, &memory, &model, &sure, &asked, "cleared");
            }
            let edits: Vec<Edit> = (run.0..run.0 + run.1).map(|n| (deep(n).0, Some(vec![7; 900]))).collect();
            map = update(&map, &memory, &edits).unwrap();
            apply(&mut model, &edits);
            sure.extend(edits.iter().map(|(key, _)| key.clone()));
            hold(&map, &memory, &model, &sure, &asked, "edited");
            hurt.iter().for_each(|bad| memory.damage(*bad));
            assert_eq!(entries(map.range(&memory, Bound::Unbounded)).unwrap(), pairs(model.iter()));
            if hurt.is_empty() {
                assert_eq!(map, build(&memory, &model).unwrap());
            }
        }
    }

    #[test]
    fn an_edit_beside_a_damaged_node_writes_no_more_than_others() {
        let memory = Memory::new();
        let map = many(&memory, 20_000);
        let nodes: Vec<ChunkRef> = map.nodes(&memory).collect::<Result<_>>().unwrap();
        let bad = nodes[nodes.len() / 2].address;
        memory.damage(bad);
        memory.tally();
        for n in 0..2_000 {
            let (key, value) = entry(30_000 + n, 0);
            update(&map, &memory, &[(key, Some(value))]).unwrap();
            let tally = memory.tally();
            assert!(tally.puts < 12 && tally.put_bytes < 200 << 10, "{tally:?}");
        }
    }
}

/// Seals nodes that no update would make.
mod hostile {
    use super::*;
    use crate::chunk::Opening;
    use crate::crypt::Seal;
    use crate::error::Kind;
    use crate::tree::node::Cutter;

    fn node(memory: &Memory, level: u8, entries: &[(&[u8], Vec<u8>)], count: u64) -> Root {
        let mut cutter = Cutter::new(level, *memory.boundary_key());
        for (key, value) in entries {
            assert!(cutter.push(key, value).unwrap().is_none());
        }
        let (chunk, stored) = memory.seal(Seal::Node, &cutter.finish().unwrap().bytes).unwrap();
        memory.clone().put(chunk.address, stored).unwrap();
        let Opening::Sealed { key, .. } = chunk.opening else { unreachable!() };
        Root { node: Child { address: chunk.address, key, count, shown: node::Shown::All }, level }
    }

    fn refused(memory: &Memory, root: Root, why: &str) {
        let map = Map { root: Some(root) };
        let error = map.range(memory, Bound::Unbounded).find_map(Result::err).expect(why);
        assert!(error.kind() == Kind::Damage && error.chain().contains(why), "{error:?}");
        assert!(error.chain().starts_with("map node "), "{error:?}");
        // Edits go around it.
        let edits = vec![(b"a".to_vec(), None), (b"z".to_vec(), Some(vec![]))];
        let edited = update(&map, memory, &edits).unwrap();
        assert_eq!(edited.get(memory, b"a").unwrap(), None);
        assert!(edited.get(memory, b"z").unwrap().is_some());
    }

    #[test]
    fn children_are_held_to_what_their_parents_say() {
        let memory = Memory::new();
        let leaf = |keys: &[&[u8]], count| {
            let entries: Vec<_> = keys.iter().map(|key| (*key, vec![0; 10])).collect();
            node(&memory, 0, &entries, count).node.to_vec()
        };
        let good = || leaf(&[b"a", b"b"], 2);
        let inner = |entries: &[(&[u8], Vec<u8>)], count| node(&memory, 1, entries, count);

        let whole = Map { root: Some(inner(&[(b"b", good()), (b"d", leaf(&[b"c", b"d"], 2))], 4)) };
        assert_eq!(entries(whole.range(&memory, Bound::Unbounded)).unwrap().len(), 4);

        refused(&memory, inner(&[(b"b", good())], 3), "entries below it");
        refused(&memory, inner(&[(b"b", leaf(&[b"a", b"b"], 1))], 1), "entries below it");
        refused(&memory, inner(&[(b"c", good())], 2), "keys that its parent does not say");
        let overlap = inner(&[(b"b", good()), (b"d", leaf(&[b"b", b"d"], 2))], 4);
        refused(&memory, overlap, "keys that its parent does not say");
        let below = inner(&[(b"b", good())], 2).node.to_vec();
        refused(&memory, inner(&[(b"b", below.clone())], 2), "has level 1");
        refused(&memory, node(&memory, 3, &[(b"b", below)], 2), "has level 1");
    }

    #[test]
    fn the_left_neighbour_of_a_parent_bounds_its_children() {
        let memory = Memory::new();
        let leaf = |keys: &[&[u8]]| {
            let entries: Vec<_> = keys.iter().map(|key| (*key, vec![0; 10])).collect();
            node(&memory, 0, &entries, keys.len() as u64).node.to_vec()
        };
        let left = node(&memory, 1, &[(b"b", leaf(&[b"a", b"b"]))], 2).node.to_vec();
        let right = node(&memory, 1, &[(b"d", leaf(&[b"a", b"d"]))], 2).node.to_vec();
        let root = node(&memory, 2, &[(b"b", left), (b"d", right)], 4);
        refused(&memory, root, "keys that its parent does not say");
    }
}
