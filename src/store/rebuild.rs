//! Where parts of index runs are damaged or missing: what the packs themselves say stands in for them, until the
//! next commit writes them anew.
//!
//! Each pack ends with a sealed list of its chunks. When a part cannot be read as it should, these lists are read,
//! once for all who ask, and sorted into one run in a scratch file: it takes some 45 bytes of disk for each chunk of
//! the drive, and little memory. It may name packs that no version lists (of commits that were cut off), so it is
//! good for reading, and only what is in listed packs goes back into the store.

use super::index::{Entry, Index, Part, PartId, Place};
use super::pack::{self, PackId};
use super::part::prefix;
use super::runs::{Merge, Run, RunSet, Source};
use super::scratch;
use crate::error::{Context, Error, Kind, Result};
use crate::types::{Address, MAX_CHUNK};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a reader waits for the packs' lists before it is told that they are not there yet.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a failure that is not the store's absence, it is not tried again for so long.
const PAUSE: Duration = Duration::from_secs(60);
/// Memory for what is read back of the scratch file (4 MiB).
const CACHE: usize = 4 << 20;

/// What is known of damaged parts, and what stands in for them.
#[derive(Default)]
pub(super) struct Damaged {
    parts: Mutex<HashSet<PartId>>,
    /// Locked while the packs are read: whoever needs them meanwhile waits here.
    rebuilt: Mutex<Attempt>,
    /// Where the scratch file goes.
    pub dir: OnceLock<PathBuf>,
}

#[derive(Default)]
struct Attempt {
    rebuilt: Option<Arc<Rebuilt>>,
    failed: Option<Instant>,
}

/// The index as the packs tell it.
pub(super) struct Rebuilt {
    /// Over the scratch file.
    index: Index,
    /// One run, or none.
    runs: RunSet,
    /// Further places of chunks that are in several packs.
    repeats: BTreeMap<Address, Vec<Place>>,
    /// The parts that there were when the packs were listed.
    covers: HashSet<PartId>,
}

impl Rebuilt {
    /// Everything, sorted by address.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry>> {
        self.entries_in(&(0..=u64::MAX))
    }

    /// What begins with these 8 bytes, big-endian.
    fn entries_in<'a>(
        &'a self,
        range: &RangeInclusive<u64>,
    ) -> impl Iterator<Item = Result<Entry>> + use<'a> {
        let parts = self.runs.runs.iter().flat_map(|run| run.overlapping(range));
        entries_of(&self.index, parts.copied().collect(), range)
    }

    /// All places of a chunk.
    fn places(&self, address: &Address) -> Result<Vec<Place>> {
        let first = self.index.lookup(&self.runs, address)?;
        Ok(first.into_iter().chain(self.repeats.get(address).into_iter().flatten().copied()).collect())
    }

    fn add(&mut self, entries: Vec<Entry>) -> Result<()> {
        let repeats = &mut self.repeats;
        let mut repeat = |e: Entry| repeats.entry(e.address).or_default().push(e.place);
        let runs = self.index.add_noting(&self.runs, entries, &mut repeat)?;
        self.replace(runs)
    }

    fn merge_all(&mut self) -> Result<()> {
        if self.runs.len() < 2 {
            return Ok(());
        }
        let repeats = &mut self.repeats;
        let mut repeat = |e: Entry| repeats.entry(e.address).or_default().push(e.place);
        let parts = self.index.merge(&[], &self.runs.runs, &mut repeat)?;
        self.replace(RunSet { runs: vec![Run { parts }] })
    }

    /// What was merged leaves the scratch file.
    fn replace(&mut self, runs: RunSet) -> Result<()> {
        let kept: HashSet<PartId> = runs.parts().map(|p| p.id).collect();
        for part in self.runs.parts().filter(|p| !kept.contains(&p.id)) {
            self.index.objects.delete(&self.index.layout.part(&part.id))?;
        }
        self.runs = runs;
        Ok(())
    }
}

/// The entries of parts within a range.
fn entries_of<'i>(
    index: &'i Index,
    parts: Vec<Part>,
    range: &RangeInclusive<u64>,
) -> impl Iterator<Item = Result<Entry>> + use<'i> {
    let range = range.clone();
    let entries = parts.into_iter().flat_map(move |part| index.scan(&part));
    entries.filter(move |e| e.as_ref().map_or(true, |e| range.contains(&prefix(&e.address))))
}

impl Index {
    /// Takes note that a part cannot be read as it should. The first of all is told in the log.
    pub(super) fn note_damaged(&self, part: &Part, e: &Error) {
        let mut parts = self.damaged.parts.lock();
        let first = parts.is_empty();
        if parts.insert(part.id) && first {
            tracing::error!(
                "{}: what it listed is looked up in the packs instead, which takes a while at first; the next commit \
                 of a drive that is mounted for writing writes it anew, and 'nacrefs check' tells what else is damaged",
                e.chain()
            );
        }
    }

    pub(super) fn is_damaged(&self, part: &Part) -> bool {
        self.damaged.parts.lock().contains(&part.id)
    }

    /// Whether any part of these runs is known to be damaged.
    pub(super) fn any_damaged(&self, runs: &RunSet) -> bool {
        let parts = self.damaged.parts.lock();
        !parts.is_empty() && runs.parts().any(|p| parts.contains(&p.id))
    }

    /// Looks whether each part is there, as long as it must be, and begins as it must; takes note of those that are
    /// not. Reads no entries.
    pub(super) fn look_over(&self, runs: &RunSet) -> Result<()> {
        for part in runs.parts() {
            match self.verify_frame(part) {
                Err(e) if e.kind() == Kind::Damage => self.note_damaged(part, &e),
                looked => looked?,
            }
        }
        Ok(())
    }

    /// These runs are read from now on: what stood in for others is let go.
    pub(super) fn let_go(&self, runs: &RunSet) {
        let whole = {
            let mut parts = self.damaged.parts.lock();
            if !parts.is_empty() {
                let named: HashSet<PartId> = runs.parts().map(|p| p.id).collect();
                parts.retain(|id| named.contains(id));
            }
            parts.is_empty()
        };
        // Where somebody is at it, it goes with the next runs.
        if whole && let Some(mut attempt) = self.damaged.rebuilt.try_lock() {
            *attempt = Attempt::default();
        }
    }

    /// Where the packs say that a chunk is: in place of the damaged parts of these runs.
    pub(super) fn places_in_packs(&self, runs: &RunSet, address: &Address) -> Result<Vec<Place>> {
        self.rebuilt(runs)?.places(address)
    }

    /// What the packs list, in place of the damaged parts of these runs. Waits while it is being read.
    pub(super) fn rebuilt(&self, runs: &RunSet) -> Result<Arc<Rebuilt>> {
        let Some(mut attempt) = self.damaged.rebuilt.try_lock_for(PATIENCE) else {
            return Err(Error::failed("the index is still being made anew from the packs: try again later"));
        };
        let covered = |there: &Rebuilt| {
            let damaged = self.damaged.parts.lock();
            runs.parts().all(|p| !damaged.contains(&p.id) || there.covers.contains(&p.id))
        };
        if let Some(there) = attempt.rebuilt.as_ref().filter(|there| covered(there)) {
            return Ok(there.clone());
        }
        if attempt.failed.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(Error::failed(
                "the index could not be made anew from the packs: tried again in a minute",
            ));
        }
        let read = self.read_packs(runs).context(|| "cannot make the index anew from the packs");
        if let Err(e) = &read
            && e.kind() != Kind::Away
        {
            tracing::error!("{}", e.chain());
            attempt.failed = Some(Instant::now());
        }
        let rebuilt = Arc::new(read?);
        attempt.rebuilt = Some(rebuilt.clone());
        Ok(rebuilt)
    }

    fn read_packs(&self, runs: &RunSet) -> Result<Rebuilt> {
        let objects = scratch::open(self.damaged.dir.get().map(PathBuf::as_path));
        let mut rebuilt = Rebuilt {
            index: Index::new(objects, self.keys.clone(), self.shape, CACHE),
            runs: RunSet::default(),
            repeats: BTreeMap::new(),
            covers: runs.parts().map(|p| p.id).collect(),
        };
        let (mut entries, mut packs, mut unread) = (Vec::new(), 0u64, 0u64);
        for name in self.objects.list(&self.layout.packs()).context(|| "cannot list the packs")? {
            let Some(pack) = self.layout.pack_of(&name) else { continue };
            match pack::read_footer(&*self.objects, &name, &self.keys) {
                Ok((_, listed)) => {
                    let place = |e: &pack::PackEntry| Place { pack, offset: e.offset, len: e.len };
                    entries.extend(listed.iter().map(|e| Entry { address: e.address, place: place(e) }));
                    packs += 1;
                }
                Err(e) if e.kind() == Kind::Damage => {
                    unread += 1;
                    tracing::warn!("the index is made anew without a pack: {}", e.chain());
                }
                // Deleted since it was listed.
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
            if entries.len() >= self.shape.part {
                rebuilt.add(std::mem::take(&mut entries))?;
            }
        }
        rebuilt.add(entries)?;
        rebuilt.merge_all()?;
        tracing::info!("the index was made anew from {packs} packs, and {unread} could not be read");
        Ok(rebuilt)
    }

    /// Writes damaged parts anew: with what no other part lists, and packs in `listed` hold. What else is damaged is
    /// found and written anew as well. As with [`Self::add`], nobody sees it before the returned set is committed.
    pub(super) fn heal(&self, base: &RunSet, listed: &HashSet<PackId>) -> Result<RunSet> {
        let rebuilt = self.rebuilt(base)?;
        for part in base.parts().filter(|p| !self.is_damaged(p)) {
            match self.verify(part) {
                Err(e) if e.kind() == Kind::Damage => self.note_damaged(part, &e),
                verified => verified?,
            }
        }
        let mut damaged = self.damaged.parts.lock().clone();
        let mut runs = base.clone();
        // What several have lost goes to the oldest, which is the largest.
        for n in (0..runs.runs.len()).rev() {
            let old = runs.runs[n].parts.clone();
            let mut parts = Vec::with_capacity(old.len());
            for (part, next) in old.iter().zip(old.iter().skip(1).map(Some).chain([None])) {
                if !damaged.contains(&part.id) {
                    parts.push(*part);
                    continue;
                }
                let range = part.first..=next.map_or(u64::MAX, |p| p.first);
                let made = self.write(self.lost(&rebuilt, listed, &runs, &damaged, &range)?)?;
                tracing::info!("index run {} is written anew", self.layout.part(&part.id));
                // The same entries have the same name, and it is whole now.
                for part in &made {
                    damaged.remove(&part.id);
                    self.damaged.parts.lock().remove(&part.id);
                }
                parts.extend(made);
            }
            runs.runs[n].parts = parts;
        }
        runs.runs.retain(|run| !run.parts.is_empty());
        Ok(runs)
    }

    /// What is in a range of addresses, in listed packs, and in no part that is whole.
    fn lost<'a>(
        &'a self,
        rebuilt: &'a Rebuilt,
        listed: &'a HashSet<PackId>,
        runs: &RunSet,
        damaged: &HashSet<PartId>,
        range: &RangeInclusive<u64>,
    ) -> Result<impl Iterator<Item = Result<Entry>> + use<'a>> {
        let whole = runs.runs.iter().map(|run| -> Source {
            let parts = run.overlapping(range).iter().filter(|p| !damaged.contains(&p.id));
            Box::new(entries_of(self, parts.copied().collect(), range))
        });
        let mut there = Merge::new(whole.collect(), Box::new(|_| {}))?.peekable();
        Ok(rebuilt.entries_in(range).filter_map(move |entry| {
            let entry = match entry {
                Ok(entry) => self.best_place(rebuilt, listed, entry)?,
                Err(e) => return Some(Err(e)),
            };
            while there.next_if(|t| t.as_ref().is_ok_and(|t| t.address < entry.address)).is_some() {}
            match there.next_if(|t| t.as_ref().map_or(true, |t| *t == entry)) {
                Some(Ok(_)) => None,
                Some(Err(e)) => Some(Err(e)),
                None => Some(Ok(entry)),
            }
        }))
    }

    /// Of a chunk's places in listed packs one where it can be read, if there are several.
    fn best_place(&self, rebuilt: &Rebuilt, listed: &HashSet<PackId>, entry: Entry) -> Option<Entry> {
        let repeats = rebuilt.repeats.get(&entry.address).into_iter().flatten();
        let places = [entry.place].into_iter().chain(repeats.copied());
        let places: Vec<Place> = places.filter(|p| listed.contains(&p.pack)).collect();
        let place = match places[..] {
            [] => return None,
            [only] => only,
            [first, ..] => *places.iter().find(|p| self.reads(&entry.address, p)).unwrap_or(&first),
        };
        Some(Entry { address: entry.address, place })
    }

    fn reads(&self, address: &Address, place: &Place) -> bool {
        let len = place.len as usize;
        let read = || self.objects.get_range(&self.layout.pack(&place.pack), place.offset.into(), len);
        len <= MAX_CHUNK && read().is_ok_and(|bytes| Address::of(&bytes) == *address)
    }
}
