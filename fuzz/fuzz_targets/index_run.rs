#![no_main]
//! Index runs (src/store/runs.rs, part.rs, index.rs): the set that a commit holds, and parts whose sealed footers and
//! blocks say anything, looked into, scanned, and merged with what is new.

use nacrefs::crypt::Seal;
use nacrefs::error::Result;
use nacrefs::store::index::{Part, Shape};
use nacrefs::store::memory::Memory;
use nacrefs::store::{Entry, Index, Layout, Objects, PackId, PartId, Place, RunSet};
use nacrefs::types::Address;
use nacrefs::wire::{Reader, Writer};
use nacrefs_fuzz::forge::{EPOCH, REALM, index_keys, sealed};
use nacrefs_fuzz::{bytes, choice, same, target};
use std::sync::Arc;

const ENTRY: usize = 44;

fn short(bytes: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    blake3::Hasher::new().update(bytes).finalize_xof().fill(&mut out);
    out
}

fn put(w: &mut Writer, part: &Part) {
    w.raw(&part.id.0)
        .var(part.epoch.into())
        .var(part.bytes)
        .var(part.footer.into())
        .var(part.entries)
        .u64(part.first);
}

/// A part made of a script: blocks, tables, and what the footer says of them, which is right unless a flag says otherwise.
fn part(r: &mut Reader, objects: &Memory) -> Result<Part> {
    let flags = r.u8()?;
    let mut object = Writer::new();
    object.raw(b"nacreidx").u16(1).u8(1).u8(0).u32(if flags & 1 == 0 { EPOCH } else { 9 });
    let mut footer = Writer::new();
    let blocks = r.u8()? % 4;
    footer.var(blocks.into());
    let (mut entries, mut first) = (0, None);
    for n in 0..u32::from(blocks) {
        let plain = bytes(r)?;
        let plain = if flags & 2 == 0 { &plain[..plain.len() / ENTRY * ENTRY] } else { plain };
        let fence = plain.first_chunk().copied().unwrap_or([0; 32]);
        let block = sealed(Seal::Index, &[&b"block"[..], &n.to_le_bytes()].concat(), plain);
        let count = (plain.len() / ENTRY) as u64;
        footer.raw(&fence).var(count).raw(&short(&block));
        object.raw(&block);
        entries += count;
        first = first.or(fence.first_chunk().map(|b| u64::from_be_bytes(*b)));
    }
    let packs = u64::from(r.u8()?);
    let table: Vec<u8> = (0..packs).flat_map(|n| [n as u8; 32]).collect();
    footer.var(packs);
    if packs > 0 {
        let block = sealed(Seal::Index, &[&b"table"[..], &0u32.to_le_bytes()].concat(), &table);
        footer.raw(&short(&block));
        object.raw(&block);
    }
    // A filter that lets everything pass, or anything.
    let words = (entries * 10).div_ceil(64) as usize;
    let filter = if flags & 4 == 0 { vec![0xff; words * 8] } else { bytes(r)?.to_vec() };
    footer.raw(&filter);
    if flags & 8 != 0 {
        footer = Writer::new();
        footer.raw(bytes(r)?);
    }
    let footer = sealed(Seal::Index, b"footer", footer.as_slice());
    object.raw(&footer);
    let part = Part {
        id: PartId(*blake3::hash(&footer).as_bytes()),
        epoch: EPOCH,
        bytes: object.len() as u64,
        footer: footer.len() as u32,
        entries: if flags & 16 == 0 { entries } else { r.u8()?.into() },
        first: first.unwrap_or(0),
    };
    let mut object = object.into_vec();
    if flags & 32 != 0 {
        object.truncate(object.len() - usize::from(r.u8()?).min(object.len()));
    }
    objects.put(&Layout::new(&REALM).part(&part.id), object.into())?;
    Ok(part)
}

fn work(data: &[u8]) -> Result<()> {
    let objects = Arc::new(Memory::new());
    let mut r = Reader::new(data, "script");
    let mut set = Writer::new();
    let runs = r.u8()? % 4;
    set.var(runs.into());
    for _ in 0..runs {
        let parts = 1 + r.u8()? % 2;
        set.var(parts.into());
        for _ in 0..parts {
            put(&mut set, &part(&mut r, &objects)?);
        }
    }
    let runs = RunSet::decode(set.as_slice())?;
    let index = Index::new(objects, index_keys(), Shape { block: 4, part: 10 }, 1 << 20);
    let mut found = Vec::new();
    for part in runs.parts() {
        let entries = index.scan(part).collect::<Result<Vec<_>>>();
        if let Ok(entries) = &entries {
            assert!(entries.is_sorted_by(|a, b| a.address < b.address));
            assert_eq!(entries.len() as u64, part.entries);
            found.extend(entries.iter().copied());
        }
        if index.verify(part).is_ok() {
            entries.expect("a part that is whole can be read");
        }
    }
    for entry in found.iter().take(20) {
        let _ = index.lookup(&runs, &entry.address);
        index.listed(&runs, &entry.address).for_each(drop);
    }
    let mut new = Vec::new();
    while let (Ok(name), Ok(pack)) = (r.u8(), r.u8()) {
        let place = Place { pack: PackId([pack; 32]), offset: 0, len: 1 };
        new.push(Entry { address: Address([name; 32]), place });
    }
    let added = index.add(&runs, new.clone())?;
    for entry in new {
        assert!(index.lookup(&added, &entry.address)?.is_some(), "what was added is listed");
    }
    assert_eq!(RunSet::decode(&added.encode())?, added);
    Ok(())
}

target!(8, |data| {
    let (what, rest) = choice(data);
    match what % 2 {
        0 => same(RunSet::decode(rest).map(|runs| runs.encode()), rest),
        _ => drop(work(rest)),
    }
});
