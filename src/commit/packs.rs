//! The index of packs: a Map from pack id to what is known of the pack (docs/FORMAT.md, "Packs of a
//! commit"). It has the packs of all versions before; a version's own stand in its commit, and the pack of
//! the commit in its head.

use crate::chunk::{ChunkSink, Chunks, Sealer};
use crate::error::{Error, Result};
use crate::store::{PackId, PackInfo};
use crate::tree::Map;
use crate::wire::{Reader, Writer};
use std::collections::BTreeMap;
use std::ops::Bound;

pub(super) fn value(pack: &PackInfo) -> Vec<u8> {
    let mut w = Writer::new();
    w.var(pack.bytes).var(pack.chunks.into());
    w.into_vec()
}

pub(super) fn read(key: &[u8], value: &[u8]) -> Result<PackInfo> {
    let id = key.try_into().map_err(|_| Error::damage("index of packs: a key that cannot be one"))?;
    let mut r = Reader::new(value, "index of packs");
    let pack = PackInfo { id: PackId(id), bytes: r.var()?, chunks: r.var32()? };
    r.end()?;
    Ok(pack)
}

/// The Map with these packs entered.
pub(super) fn enter<'p>(
    map: &Map,
    packs: impl Iterator<Item = &'p PackInfo>,
    sealer: &dyn Sealer,
    chunks: &dyn Chunks,
    sink: &mut dyn ChunkSink,
) -> Result<Map> {
    let edits: BTreeMap<_, _> = packs.map(|p| (p.id.0.to_vec(), Some(value(p)))).collect();
    map.update(sealer, chunks, sink, &edits.into_iter().collect::<Vec<_>>())
}

/// The packs of a Map, in the order of their ids. Read as it goes; ends after an error.
pub fn list<'a>(map: &Map, chunks: &'a dyn Chunks) -> impl Iterator<Item = Result<PackInfo>> + use<'a> {
    map.range(chunks, Bound::Unbounded).map(|entry| entry.and_then(|(key, value)| read(&key, &value)))
}
