//! Decoders, given bytes that no encoder wrote.

use super::super::testing::Mini;
use super::super::{Commit, Entry, Event, StoredInode, shells};
use super::{everything, noise};
use crate::content::testing::World;
use crate::error::{Kind, Result};
use crate::tree::Map;
use crate::wire::{Reader, Writer};
use proptest::prelude::*;
use std::ops::Bound;
use std::sync::LazyLock;

fn values(map: &Map, world: &World) -> Vec<Vec<u8>> {
    map.range(world, Bound::Unbounded).map(|e| e.unwrap().1.to_vec()).collect()
}

/// Real bytes of each kind: entries, shells, events, a commit.
struct Samples {
    entries: Vec<Vec<u8>>,
    shells: Vec<Vec<u8>>,
    events: Vec<Vec<u8>>,
    commit: Vec<u8>,
}

static SAMPLES: LazyLock<Samples> = LazyLock::new(|| {
    let (mut mini, world) = Mini::in_memory();
    let dir = everything(&mut mini);
    let linked = mini.file(dir, b"linked", &noise(400, 3));
    mini.link(linked, dir, b"again");
    mini.commit(&world);
    mini.write(linked, 3, b"x");
    mini.unlink(dir, b"file");
    let commit = mini.commit(&world);
    let view = mini.view();
    let mut entries = Vec::new();
    for path in [&b"/"[..], b"/dir"] {
        let super::Content::Directory(map) = view.resolve(path).unwrap().content else { panic!() };
        entries.extend(values(&map, &world));
    }
    let shells = values(&commit.shells, &world).into_iter().filter(|v| !v.is_empty()).collect();
    Samples { entries, shells, events: values(&commit.history, &world), commit: commit.to_bytes().unwrap() }
});

fn shell(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut r = Reader::new(bytes, "shell");
    let inode = StoredInode::get_from(&mut r)?;
    r.end()?;
    let mut w = Writer::new();
    inode.put(&mut w);
    assert_eq!(w.as_slice(), shells::record_bytes(&inode));
    Ok(w.into_vec())
}

/// Decodes and encodes again.
fn again(kind: usize, bytes: &[u8]) -> Result<Vec<u8>> {
    match kind {
        0 => Entry::from_bytes(bytes).map(|e| e.to_bytes()),
        1 => shell(bytes),
        2 => Event::from_bytes(bytes).map(|e| e.to_bytes()),
        _ => Commit::from_bytes(bytes).and_then(|c| c.to_bytes()),
    }
}

fn sample(kind: usize, pick: prop::sample::Index) -> Vec<u8> {
    match kind {
        0 => pick.get(&SAMPLES.entries).clone(),
        1 => pick.get(&SAMPLES.shells).clone(),
        2 => pick.get(&SAMPLES.events).clone(),
        _ => SAMPLES.commit.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn bent_bytes_are_refused_or_canonical(
        kind in 0usize..4,
        pick: prop::sample::Index,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..3),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        longer in 0usize..2,
    ) {
        let mut bytes = sample(kind, pick);
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.resize(bytes.len() + longer, 0);
        match again(kind, &bytes) {
            Ok(encoded) => prop_assert_eq!(encoded, bytes),
            Err(e) => prop_assert!(matches!(e.kind(), Kind::Damage | Kind::Failed), "{:?}", e),
        }
    }

    #[test]
    fn noise_never_panics(kind in 0usize..4, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(encoded) = again(kind, &bytes) {
            prop_assert_eq!(encoded, bytes);
        }
    }
}

#[test]
fn real_bytes_come_back() {
    for (kind, list) in [&SAMPLES.entries, &SAMPLES.shells, &SAMPLES.events].into_iter().enumerate() {
        assert!(!list.is_empty());
        for bytes in list {
            assert_eq!(again(kind, bytes).unwrap(), *bytes);
        }
    }
    assert_eq!(again(3, &SAMPLES.commit).unwrap(), SAMPLES.commit);
}

#[test]
fn a_commit_of_a_newer_version_says_so() {
    let mut commit = Commit::from_bytes(&SAMPLES.commit).unwrap();
    commit.parameters.incompatible = 1 << 9;
    // Even if nothing after the flags can be understood.
    let mut bytes = commit.to_bytes().unwrap();
    bytes.truncate(6);
    let e = Commit::from_bytes(&bytes).unwrap_err();
    assert!(e.to_string().contains("upgrade nacrefs"), "{e}");
    bytes[0] = 2;
    assert!(Commit::from_bytes(&bytes).unwrap_err().to_string().contains("upgrade nacrefs"));
    commit.parameters.incompatible = 0;
    commit.parents[0].version = commit.version;
    assert!(Commit::from_bytes(&commit.to_bytes().unwrap()).is_err(), "a commit is no parent of itself");
}
