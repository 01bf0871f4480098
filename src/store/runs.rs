//! The set of live index runs, and how runs are merged.
//!
//! Runs are tiered by size, with a fan-out of 4: a run of n entries is of tier log4(n), runs are of ever
//! higher tiers from the newest to the oldest, and four of one tier become one. So there are at most
//! 3·log4(n) runs, and an entry is written about log4(n) times. (O'Neil et al., "The log-structured
//! merge-tree", 1996.) Only neighbours in age are merged: where two runs list one chunk, the newer wins.

use super::index::{Entry, Index, Part, Scan};
use super::part::PartWriter;
use crate::error::{Kind, Result};
use crate::wire::{Reader, Writer};
use std::ops::RangeInclusive;

/// How many runs of one tier become one.
const FAN_OUT: usize = 4;

/// A sorted run: one or more parts, in the order of their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub(super) parts: Vec<Part>,
}

impl Run {
    fn entries(&self) -> u64 {
        self.parts.iter().fold(0, |n, p| n.saturating_add(p.entries))
    }

    /// The parts that may list addresses which begin with these 8 bytes, big-endian. One that begins within the
    /// range's first prefix may go on from the part before.
    pub(super) fn overlapping(&self, range: &RangeInclusive<u64>) -> &[Part] {
        let from = self.parts.partition_point(|p| p.first < *range.start()).saturating_sub(1);
        let to = self.parts.partition_point(|p| p.first <= *range.end());
        self.parts.get(from..to).unwrap_or_default()
    }
}

/// The live runs, newest first. A commit keeps it: it is the truth about where the chunks of a drive are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSet {
    pub(super) runs: Vec<Run>,
}

impl RunSet {
    /// How many chunks the runs list; a chunk in two runs counts twice.
    pub fn entries(&self) -> u64 {
        self.runs.iter().fold(0, |n, r| n.saturating_add(r.entries()))
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The objects that the runs are made of.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.runs.iter().flat_map(|r| &r.parts)
    }

    pub fn put(&self, w: &mut Writer) {
        w.var(self.runs.len() as u64);
        for run in &self.runs {
            w.var(run.parts.len() as u64);
            run.parts.iter().for_each(|p| p.put(w));
        }
    }

    pub fn get(r: &mut Reader) -> Result<RunSet> {
        // A part takes at least 32 + 4 + 8 bytes.
        const PART: usize = 44;
        let n = r.count(1 + PART)?;
        let mut runs = Vec::with_capacity(n);
        for _ in 0..n {
            let n = r.count(PART)?;
            let parts = (0..n).map(|_| Part::get(r)).collect::<Result<Vec<_>>>()?;
            if parts.is_empty() || !parts.is_sorted_by_key(|p| p.first) {
                return Err(r.bad("an index run has no parts, or not in order"));
            }
            runs.push(Run { parts });
        }
        Ok(RunSet { runs })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.put(&mut w);
        w.into_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<RunSet> {
        let mut r = Reader::new(bytes, "set of index runs");
        let runs = RunSet::get(&mut r)?;
        r.end()?;
        Ok(runs)
    }
}

fn tier(entries: u64) -> u32 {
    entries.max(1).ilog2() / FAN_OUT.ilog2()
}

/// How many of the newest runs (given by their entries) a new one of `new` entries is merged with.
fn due(runs: &[u64], new: u64) -> usize {
    let (mut merged, mut total) = (0, new);
    loop {
        let older = &runs[merged..];
        // Smaller ones would be out of order; and a tier that is full becomes one run.
        let smaller = older.iter().take_while(|n| tier(**n) < tier(total)).count();
        let same = older.iter().take_while(|n| tier(**n) == tier(total)).count();
        let more = match smaller {
            0 if same >= FAN_OUT - 1 => same,
            n => n,
        };
        if more == 0 {
            return merged;
        }
        total = older[..more].iter().fold(total, |t, n| t.saturating_add(*n));
        merged += more;
    }
}

impl Index {
    /// Adds chunks to the index: writes one run, merged with those that are due, save what is damaged: such a run
    /// stays where it is, until it is written anew. The store has the new run, durably, when this returns; nobody
    /// sees it before the returned set is committed.
    pub fn add(&self, base: &RunSet, entries: Vec<Entry>) -> Result<RunSet> {
        self.add_noting(base, entries, &mut |_| {})
    }

    /// As [`Self::add`]. `passed_over` is told of entries that are left out for others of the same address.
    pub(super) fn add_noting(
        &self,
        base: &RunSet,
        mut entries: Vec<Entry>,
        passed_over: &mut dyn FnMut(Entry),
    ) -> Result<RunSet> {
        if entries.is_empty() {
            return Ok(base.clone());
        }
        entries.sort_by_key(|e| e.address);
        entries.dedup_by(|next, kept| {
            let same = next.address == kept.address;
            if same {
                passed_over(*next);
            }
            same
        });
        loop {
            // Only neighbours in age are merged: a damaged run ends what can be.
            let whole = base.runs.iter().take_while(|run| !run.parts.iter().any(|p| self.is_damaged(p)));
            let sizes: Vec<u64> = whole.map(Run::entries).collect();
            let (merged, kept) = base.runs.split_at(due(&sizes, entries.len() as u64));
            let parts = match self.merge(&entries, merged, passed_over) {
                Err(e) if e.kind() == Kind::Damage && self.find_damaged(merged) => {
                    tracing::debug!("an index run is left out of merging: {}", e.chain());
                    continue;
                }
                parts => parts?,
            };
            let mut runs = vec![Run { parts }];
            runs.extend_from_slice(kept);
            return Ok(RunSet { runs });
        }
    }

    /// Writes sorted entries and the entries of runs as one run.
    pub(super) fn merge(
        &self,
        entries: &[Entry],
        runs: &[Run],
        passed_over: &mut dyn FnMut(Entry),
    ) -> Result<Vec<Part>> {
        let mut sources: Vec<Source> = vec![Box::new(entries.iter().copied().map(Ok))];
        for run in runs {
            sources.push(Box::new(run.parts.iter().flat_map(|p| -> Scan { self.scan(p) })));
        }
        self.write(Merge::new(sources, Box::new(passed_over))?)
    }

    /// Takes note of the damaged parts of runs; false where there are none.
    fn find_damaged(&self, runs: &[Run]) -> bool {
        let mut any = false;
        for part in runs.iter().flat_map(|run| &run.parts) {
            let damage = self.scan(part).filter_map(Result::err).find(|e| e.kind() == Kind::Damage);
            if let Some(e) = damage {
                self.note_damaged(part, &e);
                any = true;
            }
        }
        any
    }

    /// Writes sorted entries.
    pub(super) fn write(&self, entries: impl Iterator<Item = Result<Entry>>) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut writer = PartWriter::new(&self.keys, self.shape);
        for entry in entries {
            if writer.is_full() {
                let full = std::mem::replace(&mut writer, PartWriter::new(&self.keys, self.shape));
                parts.push(self.put_part(full)?);
            }
            writer.push(&entry?)?;
        }
        if !writer.is_empty() {
            parts.push(self.put_part(writer)?);
        }
        Ok(parts)
    }

    fn put_part(&self, writer: PartWriter) -> Result<Part> {
        let (part, bytes) = writer.finish()?;
        self.objects.put(&self.layout.part(&part.id), bytes.into())?;
        Ok(part)
    }
}

pub(super) type Source<'a> = Box<dyn Iterator<Item = Result<Entry>> + 'a>;

/// Merges sorted sources; where several have an address, the first source wins.
pub(super) struct Merge<'a> {
    sources: Vec<(Option<Entry>, Source<'a>)>,
    /// Told of the entries that did not win.
    passed_over: Box<dyn FnMut(Entry) + 'a>,
    failed: bool,
}

impl<'a> Merge<'a> {
    pub fn new(sources: Vec<Source<'a>>, passed_over: Box<dyn FnMut(Entry) + 'a>) -> Result<Merge<'a>> {
        let sources = sources.into_iter().map(|mut s| Ok((s.next().transpose()?, s)));
        Ok(Merge { sources: sources.collect::<Result<_>>()?, passed_over, failed: false })
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.failed {
            return None;
        }
        let heads = self.sources.iter().filter_map(|(head, _)| *head);
        // The first of equals, which is the newest.
        let least = heads.min_by_key(|e| e.address)?;
        for (head, source) in &mut self.sources {
            if let Some(e) = head.filter(|e| e.address == least.address) {
                if e != least {
                    (self.passed_over)(e);
                }
                match source.next().transpose() {
                    Ok(next) => *head = next,
                    Err(e) => {
                        self.failed = true;
                        return Some(Err(e));
                    }
                }
            }
        }
        Some(Ok(least))
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::Shape;
    use super::super::keys::IndexKeys;
    use super::super::memory::Memory;
    use super::super::objects::Objects;
    use super::super::pack::PackId;
    use super::super::part::Place;
    use super::*;
    use crate::types::{Address, Key, RealmId};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn index(store: &Arc<Memory>, budget: usize) -> Index {
        let keys = IndexKeys::new(RealmId([1; 16]), 0, Key([2; 32]));
        Index::new(store.clone(), keys, Shape { block: 4, part: 20 }, budget)
    }

    /// The sum of its sizes overflowed.
    #[test]
    fn a_part_of_impossible_sizes_is_refused() {
        for entries in [0, 1, u64::MAX / 44, u64::MAX / 44 + 1, u64::MAX] {
            let mut w = Writer::new();
            w.var(1).var(1).raw(&[7; 32]).var(1).var(59).var(0).var(entries).u64(0);
            let e = RunSet::decode(w.as_slice()).unwrap_err();
            assert!(e.to_string().contains("impossible sizes"), "{entries}: {e}");
        }
    }

    fn address(n: u16) -> Address {
        Address::of(&n.to_le_bytes())
    }

    fn entry(n: u16, pack: u8, offset: u32) -> Entry {
        Entry {
            address: address(n),
            place: Place { pack: PackId([pack; 32]), offset, len: 1 + u32::from(n) },
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn runs_answer_as_a_map_does(
            batches in proptest::collection::vec(proptest::collection::vec((0u16..300, any::<u8>(), any::<u32>()), 1..30), 1..25),
            budget in prop::sample::select(vec![0usize, 5_000, 1 << 20]),
        ) {
            let store = Arc::new(Memory::new());
            let index = index(&store, budget);
            let mut model = BTreeMap::new();
            let mut runs = RunSet::default();
            for batch in batches {
                let mut entries: Vec<Entry> = Vec::new();
                for (n, pack, offset) in batch {
                    if !entries.iter().any(|e| e.address == address(n)) {
                        entries.push(entry(n, pack, offset));
                    }
                }
                model.extend(entries.iter().map(|e| (e.address, e.place)));
                runs = index.add(&runs, entries)?;
                prop_assert_eq!(&RunSet::decode(&runs.encode())?, &runs);
            }
            for n in 0..320 {
                prop_assert_eq!(index.lookup(&runs, &address(n))?, model.get(&address(n)).copied());
            }
            let sizes: Vec<u64> = runs.runs.iter().map(Run::entries).collect();
            prop_assert!(sizes.is_sorted_by_key(|n| tier(*n)), "{:?}", sizes);
        }

        #[test]
        fn tiers_keep_runs_few_and_writing_little(news in proptest::collection::vec(prop_oneof![4 => 1u64..3, 1 => 1u64..5000], 1..600)) {
            let (mut runs, mut written, mut total) = (Vec::new(), 0, 0);
            for new in news {
                let merged = due(&runs, new);
                let sum = new + runs.drain(..merged).sum::<u64>();
                runs.insert(0, sum);
                written += sum;
                total += new;
                prop_assert!(runs.is_sorted_by_key(|n| tier(*n)));
                prop_assert!(runs.len() <= 3 * (tier(total) as usize + 1), "{:?}", runs);
            }
            prop_assert!(written <= total * (2 * u64::from(tier(total)) + 2), "{} of {}", written, total);
        }

        #[test]
        fn a_bent_run_is_damage_or_right(n in 1u16..60, at: prop::sample::Index, bit in 0u8..8, cut: bool) {
            let store = Arc::new(Memory::new());
            let entries: Vec<Entry> = (0..n).map(|n| entry(n, n as u8, 7)).collect();
            let runs = index(&store, 1 << 20).add(&RunSet::default(), entries.clone())?;
            let part = *runs.parts().next().unwrap();
            let name = index(&store, 0).layout.part(&part.id);
            let mut bytes = store.get(&name)?.to_vec();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            store.put(&name, bytes.into())?;
            let index = index(&store, 1 << 20);
            for e in &entries {
                match index.lookup(&runs, &e.address) {
                    Ok(found) => prop_assert_eq!(found, Some(e.place)),
                    Err(e) => prop_assert_eq!(e.kind(), Kind::Damage),
                }
            }
            match runs.parts().flat_map(|p| index.scan(p)).collect::<Result<Vec<_>>>() {
                Ok(all) => prop_assert_eq!(all.len(), entries.len()),
                Err(e) => prop_assert_eq!(e.kind(), Kind::Damage),
            }
            store.delete(&name)?;
            prop_assert_eq!(index.scan(&part).next().unwrap().unwrap_err().kind(), Kind::Damage);
        }

        #[test]
        fn any_bytes_decode_canonically_or_not_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(runs) = RunSet::decode(&bytes) {
                prop_assert_eq!(runs.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_damaged_run_is_left_out_of_merging_and_keeps_nothing_from_being_added() {
        let store = Arc::new(Memory::new());
        let index = index(&store, 0);
        let mut runs = RunSet::default();
        for n in 0..2 * FAN_OUT as u16 {
            runs = index.add(&runs, vec![entry(n, 1, n.into())]).unwrap();
        }
        // The oldest run is the largest; the others are merged before its turn comes.
        let (oldest, before) = (runs.runs.last().unwrap().clone(), runs.len());
        assert!(before > 1 && oldest.entries() >= FAN_OUT as u64);
        let name = index.layout.part(&oldest.parts[0].id);
        let good = store.get(&name).unwrap();
        let mut bent = good.to_vec();
        bent[good.len() / 2] ^= 1;
        store.put(&name, bent.into()).unwrap();
        for n in 100..400 {
            runs = index.add(&runs, vec![entry(n, 2, n.into())]).unwrap();
            assert_eq!(runs.runs.last(), Some(&oldest), "it stays, at its place");
        }
        assert!(runs.len() < 20, "what is whole is merged as ever: {} runs", runs.len());
        for n in 100..400 {
            assert_eq!(index.lookup(&runs, &address(n)).unwrap(), Some(entry(n, 2, n.into()).place));
        }
        // Repaired, it is read again; and merged by the next who opens the store.
        store.put(&name, good).unwrap();
        let index = self::index(&store, 0);
        for n in 400..2000 {
            runs = index.add(&runs, vec![entry(n, 3, n.into())]).unwrap();
        }
        assert_ne!(runs.runs.last(), Some(&oldest));
        assert!((0..2 * FAN_OUT as u16).all(|n| index.lookup(&runs, &address(n)).unwrap().is_some()));
    }

    #[test]
    fn a_store_that_is_away_is_no_damage_to_merging() {
        use super::super::faulty::{Fault, Faulty, Op};
        let store = Arc::new(Memory::new());
        let mut runs = RunSet::default();
        for n in 0..FAN_OUT as u16 - 1 {
            runs = index(&store, 0).add(&runs, vec![entry(n, 1, 1)]).unwrap();
        }
        let away = Faulty::new(store.clone(), |call| match call.op {
            Op::Get | Op::Range => Fault::FailBefore(Kind::Away),
            _ => Fault::Pass,
        });
        let keys = IndexKeys::new(RealmId([1; 16]), 0, Key([2; 32]));
        let index = Index::new(Arc::new(away), keys, Shape { block: 4, part: 20 }, 0);
        assert_eq!(index.add(&runs, vec![entry(99, 1, 1)]).unwrap_err().kind(), Kind::Away);
        assert!(!index.any_damaged(&runs));
    }

    #[test]
    fn a_run_of_one_chunk_is_small() {
        let store = Arc::new(Memory::new());
        let runs = index(&store, 0).add(&RunSet::default(), vec![entry(1, 1, 1)]).unwrap();
        assert!(runs.parts().next().unwrap().bytes < 400, "{runs:?}");
        assert!(runs.encode().len() < 64);
    }

    #[test]
    fn many_packs_take_many_tables() {
        let store = Arc::new(Memory::new());
        let keys = IndexKeys::new(RealmId([1; 16]), 0, Key([2; 32]));
        let index = Index::new(store, keys, Shape::default(), 1 << 20);
        let pack = |n: u16| PackId(address(n).0);
        let entry = |n| Entry { address: address(n), place: Place { pack: pack(n), offset: 1, len: 1 } };
        let runs = index.add(&RunSet::default(), (0..2000).map(entry).collect()).unwrap();
        for n in 0..2000 {
            assert_eq!(index.lookup(&runs, &address(n)).unwrap().map(|p| p.pack), Some(pack(n)));
        }
    }
}
