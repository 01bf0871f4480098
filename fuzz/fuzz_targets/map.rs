#![no_main]
//! Trees of nodes as a hostile device could sign them, walked, compared and edited (src/tree): cycles, wrong counts and
//! levels, keys that parents do not say. Readers end, see keys ascend, and no more entries than the root counts.

use nacrefs::error::Result;
use nacrefs::tree::Map;
use nacrefs::wire::Reader;
use nacrefs_fuzz::chunks::{Forged, Sink};
use nacrefs_fuzz::{bytes, forge, target};
use std::collections::BTreeMap;
use std::ops::Bound;

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// All entries from a bound on; none after an error.
fn read(map: &Map, chunks: &Forged, from: Bound<&[u8]>) -> Result<Entries> {
    let mut entries = Entries::new();
    for entry in map.range(chunks, from) {
        let (key, value) = entry?;
        assert!(entries.last().is_none_or(|(last, _)| last[..] < key[..]), "keys ascend");
        entries.push((key.to_vec(), value.to_vec()));
        assert!(entries.len() as u64 <= map.len(), "more entries than the root counts");
    }
    Ok(entries)
}

fn run(data: &[u8]) -> Result<()> {
    let mut r = Reader::new(data, "script");
    let map = Map::get_from(&mut r)?;
    let other = Map::get_from(&mut r)?;
    let chunks = Forged::read(&mut r)?;
    let whole = read(&map, &chunks, Bound::Unbounded);
    if let Ok(entries) = &whole {
        for (key, value) in entries.iter().take(50) {
            assert_eq!(map.get(&chunks, key)?.as_deref(), Some(&value[..]));
        }
    }
    map.nodes(&chunks).for_each(drop);
    map.nodes_not_in(&other, &chunks).for_each(drop);
    let changes = map.diff(&other, &chunks).collect::<Result<Vec<_>>>();
    if let (Ok(old), Ok(new), Ok(changes)) = (&whole, read(&other, &chunks, Bound::Unbounded), changes) {
        let mut patched: BTreeMap<_, _> = old.iter().cloned().collect();
        for change in changes {
            let key = change.key.to_vec();
            match change.new {
                Some(value) => patched.insert(key, value.to_vec()),
                None => patched.remove(&key),
            };
        }
        assert!(patched.into_iter().eq(new), "the difference leads from one to the other");
    }
    // Edits, of which a script may have any number.
    let mut edits = BTreeMap::new();
    while let Ok(flags) = r.u8() {
        let (Ok(key), Ok(value)) = (bytes(&mut r), bytes(&mut r)) else { break };
        edits.insert(key.to_vec(), (flags & 1 == 0).then(|| value.to_vec()));
    }
    if let Some((key, _)) = edits.first_key_value() {
        let _ = map.get(&chunks, key);
        let _ = read(&map, &chunks, Bound::Included(key));
        let _ = read(&map, &chunks, Bound::Excluded(key));
    }
    let list: Vec<_> = edits.clone().into_iter().collect();
    let edited = map.update(forge::realm_keys(), &chunks, &mut Sink(&chunks), &list)?;
    if let Ok(entries) = whole {
        let mut wanted: BTreeMap<_, _> = entries.into_iter().collect();
        for (key, value) in edits {
            match value {
                Some(value) => wanted.insert(key, value),
                None => wanted.remove(&key),
            };
        }
        assert!(read(&edited, &chunks, Bound::Unbounded)?.into_iter().eq(wanted), "the edits are made");
    }
    Ok(())
}

target!(16, |data| drop(run(data)));
