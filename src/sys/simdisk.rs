//! A disk in memory that can lose power, run full and fail at any call: for the simulator and for tests.
//!
//! It keeps apart what a program sees and what a power cut would leave. A crash keeps what was synced and
//! any part of the rest: writes at the grain of a sector, in any combination; changes of names likewise,
//! each whole. A sync that fails loses what it was to make durable and still shows it to readers, as Linux
//! does, so that a later sync that "succeeds" proves nothing.

use super::{Disk, DiskFile};
use crate::error::{Error, Kind, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a device writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// A call that a fault can be put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Open,
    List,
    Remove,
    Rename,
    SyncNames,
    Len,
    Read,
    Write,
    Sync,
    Note,
}

/// One call, as the fault function sees it.
pub struct Call<'a> {
    pub op: Op,
    /// The file's name when it was opened; empty for calls on the directory.
    pub file: &'a str,
    /// How many calls of this kind came before.
    pub nth: u64,
}

/// What becomes of a call.
pub enum Fault {
    Pass,
    /// It does nothing and reports an error of this kind.
    Fail(Kind),
    /// A write: the first so many bytes are written, then it fails.
    Tear(usize),
}

type Names = BTreeMap<String, Arc<Mutex<Contents>>>;
/// A change of names that is durable as a whole or not at all.
type Change = Vec<(String, Option<Arc<Mutex<Contents>>>)>;

#[derive(Default)]
struct Contents {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Default)]
struct State {
    names: Names,
    durable: Names,
    pending: Vec<Change>,
    capacity: Option<u64>,
    /// See [`Disk::noted`]; durable at once.
    noted: Option<u64>,
    /// See [`Disk::is_in_place`].
    displaced: bool,
}

#[derive(Default)]
struct Faults {
    #[allow(clippy::type_complexity)]
    choose: Option<Box<dyn FnMut(&Call) -> Fault + Send>>,
    counts: BTreeMap<Op, u64>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    faults: Mutex<Faults>,
}

/// See the module. Clones are handles of the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

impl SimDisk {
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Limits the sum of the sizes of all files, in bytes.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.lock().capacity = bytes;
    }

    /// From now on the path leads elsewhere, or back.
    pub fn displace(&self, displaced: bool) {
        self.shared.state.lock().displaced = displaced;
    }

    /// Asks `choose` about every call from now on.
    pub fn set_fault(&self, choose: impl FnMut(&Call) -> Fault + Send + 'static) {
        self.shared.faults.lock().choose = Some(Box::new(choose));
    }

    pub fn clear_fault(&self) {
        self.shared.faults.lock().choose = None;
    }

    /// How many calls of a kind there were.
    pub fn count(&self, op: Op) -> u64 {
        self.shared.faults.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// What programs see: every file and its bytes.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.shared.state.lock();
        state.names.iter().map(|(name, file)| (name.clone(), file.lock().current.clone())).collect()
    }

    /// Changes the bits of `mask` in one byte, durably. Says whether the byte exists.
    pub fn corrupt(&self, name: &str, at: usize, mask: u8) -> bool {
        let Some(file) = self.shared.state.lock().names.get(name).cloned() else { return false };
        let mut file = file.lock();
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= mask;
        }
        match file.current.get_mut(at) {
            Some(byte) => *byte ^= mask,
            None => return false,
        }
        true
    }

    /// The disk as a power cut at this moment might leave it: one of many possibilities, by `seed`.
    /// This disk is left as it is; the new one has no faults and the same capacity.
    pub fn crash(&self, seed: u64) -> SimDisk {
        let mut dice = Dice(seed);
        let state = self.shared.state.lock();
        let mut names = state.durable.clone();
        let odds = dice.odds();
        for change in &state.pending {
            if dice.hit(odds) {
                for (name, file) in change {
                    match file {
                        Some(file) => names.insert(name.clone(), file.clone()),
                        None => names.remove(name),
                    };
                }
            }
        }
        let names: Names = names
            .into_iter()
            .map(|(name, file)| (name, Arc::new(Mutex::new(file.lock().survivor(&mut dice)))))
            .collect();
        let state = State {
            durable: names.clone(),
            names,
            pending: Vec::new(),
            capacity: state.capacity,
            noted: state.noted,
            displaced: false,
        };
        SimDisk { shared: Arc::new(Shared { state: Mutex::new(state), faults: Mutex::default() }) }
    }

    /// Counts a call and asks what becomes of it: Ok(None) to do it, Ok(Some(n)) to tear it.
    fn call(&self, op: Op, file: &str) -> Result<Option<usize>> {
        let mut faults = self.shared.faults.lock();
        let count = faults.counts.entry(op).or_insert(0);
        let call = Call { op, file, nth: *count };
        *count += 1;
        match faults.choose.as_mut().map_or(Fault::Pass, |choose| choose(&call)) {
            Fault::Pass => Ok(None),
            Fault::Fail(kind) => Err(Error::new(kind, format!("simulated failure of {op:?} {file}"))),
            Fault::Tear(n) => Ok(Some(n)),
        }
    }
}

impl Contents {
    fn write(&mut self, bytes: &[u8], at: usize) {
        put(&mut self.current, bytes, at);
        self.unsynced.push((at, bytes.to_vec()));
    }

    /// The file after a power cut.
    fn survivor(&self, dice: &mut Dice) -> Contents {
        let mut left = self.durable.clone();
        let odds = dice.odds();
        for (at, bytes) in &self.unsynced {
            let mut from = 0;
            while from < bytes.len() {
                let to = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
                if dice.hit(odds) {
                    put(&mut left, &bytes[from..to], at + from);
                }
                from = to;
            }
        }
        Contents { current: left.clone(), durable: left, unsynced: Vec::new() }
    }
}

fn put(image: &mut Vec<u8>, bytes: &[u8], at: usize) {
    let end = at + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[at..end].copy_from_slice(bytes);
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to choose what survives.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// In quarters: never, sometimes, mostly, always.
    fn odds(&mut self) -> u64 {
        self.next() % 5
    }

    fn hit(&mut self, odds: u64) -> bool {
        self.next() % 4 < odds
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        self.call(Op::Open, name)?;
        let mut state = self.shared.state.lock();
        let contents = match state.names.get(name) {
            Some(file) => file.clone(),
            None => {
                let file = Arc::new(Mutex::new(Contents::default()));
                state.names.insert(name.into(), file.clone());
                state.pending.push(vec![(name.into(), Some(file.clone()))]);
                file
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), name: name.into(), contents }))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.call(Op::List, "")?;
        Ok(self.shared.state.lock().names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.call(Op::Remove, name)?;
        let mut state = self.shared.state.lock();
        state.names.remove(name).ok_or_else(|| missing(name))?;
        state.pending.push(vec![(name.into(), None)]);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.call(Op::Rename, from)?;
        let mut state = self.shared.state.lock();
        let file = state.names.remove(from).ok_or_else(|| missing(from))?;
        state.names.insert(to.into(), file.clone());
        state.pending.push(vec![(from.into(), None), (to.into(), Some(file))]);
        Ok(())
    }

    fn sync_names(&self) -> Result<()> {
        self.call(Op::SyncNames, "")?;
        let mut state = self.shared.state.lock();
        state.durable = state.names.clone();
        state.pending.clear();
        Ok(())
    }

    fn is_in_place(&self) -> Result<bool> {
        Ok(!self.shared.state.lock().displaced)
    }

    fn noted(&self) -> Result<Option<u64>> {
        Ok(self.shared.state.lock().noted)
    }

    fn note(&self, newest: u64) -> Result<()> {
        self.call(Op::Note, "")?;
        self.shared.state.lock().noted = Some(newest);
        Ok(())
    }

    fn unnote(&self) -> Result<()> {
        self.call(Op::Note, "")?;
        self.shared.state.lock().noted = None;
        Ok(())
    }
}

fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("no file {name}"))
}

struct SimFile {
    disk: SimDisk,
    name: String,
    contents: Arc<Mutex<Contents>>,
}

impl SimFile {
    /// Refuses a file growing by so much on a disk that would be over its capacity then.
    fn check_space(&self, growth: u64) -> Result<()> {
        let state = self.disk.shared.state.lock();
        let Some(capacity) = state.capacity else { return Ok(()) };
        let used: u64 = state.names.values().map(|f| f.lock().current.len() as u64).sum();
        match used + growth > capacity {
            true => Err(Error::new(Kind::NoSpace, "simulated disk full")),
            false => Ok(()),
        }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> Result<u64> {
        self.disk.call(Op::Len, &self.name)?;
        Ok(self.contents.lock().current.len() as u64)
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> Result<()> {
        self.disk.call(Op::Read, &self.name)?;
        let contents = self.contents.lock();
        let bytes = usize::try_from(at)
            .ok()
            .and_then(|at| contents.current.get(at..)?.get(..out.len()))
            .ok_or_else(|| Error::failed(format!("{}: read beyond the end", self.name)))?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        let tear = self.disk.call(Op::Write, &self.name)?;
        let end = at + bytes.len() as u64;
        let len = self.contents.lock().current.len() as u64;
        if end > len {
            self.check_space(end - len)?;
        }
        let kept = tear.map_or(bytes, |n| &bytes[..n.min(bytes.len())]);
        self.contents.lock().write(kept, at as usize);
        match tear {
            Some(n) => {
                Err(Error::failed(format!("simulated write of {} cut short after {n} bytes", self.name)))
            }
            None => Ok(()),
        }
    }

    fn sync_data(&self) -> Result<()> {
        let outcome = self.disk.call(Op::Sync, &self.name);
        let contents = &mut *self.contents.lock();
        for (at, bytes) in contents.unsynced.drain(..) {
            if outcome.is_ok() {
                put(&mut contents.durable, &bytes, at);
            }
        }
        outcome.map(drop)
    }

    fn has_name(&self) -> Result<bool> {
        let state = self.disk.shared.state.lock();
        Ok(state.names.values().any(|file| Arc::ptr_eq(file, &self.contents)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_sectors_of_the_rest() {
        let disk = SimDisk::new();
        let file = disk.open("a").unwrap();
        file.write_at(&[1; 4096], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_names().unwrap();
        file.write_at(&[2; 4096], 0).unwrap();
        disk.rename("a", "b").unwrap();
        let (mut torn, mut moved) = (0, 0);
        for seed in 0..200 {
            let left = disk.crash(seed).contents();
            assert_eq!(left.len(), 1, "one file under one of its names");
            moved += left.contains_key("b") as u32;
            let bytes = left.values().next().unwrap();
            assert!(bytes.chunks(SECTOR).all(|s| s.iter().all(|b| *b == s[0])), "sectors are whole");
            torn += (bytes.contains(&1) && bytes.contains(&2)) as u32;
        }
        assert!(torn > 50 && moved > 50 && moved < 150, "{torn} torn, {moved} moved");
        assert_eq!(disk.contents()["b"], [2; 4096]);
    }

    #[test]
    fn a_failed_sync_loses_its_writes_for_good() {
        let disk = SimDisk::new();
        let file = disk.open("a").unwrap();
        disk.sync_names().unwrap();
        file.write_at(b"lost", 0).unwrap();
        disk.set_fault(
            |c| if c.op == Op::Sync && c.nth == 0 { Fault::Fail(Kind::Failed) } else { Fault::Pass },
        );
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.contents()["a"], b"lost");
        assert!((0..50).all(|seed| disk.crash(seed).contents()["a"].is_empty()));
    }

    #[test]
    fn a_full_disk_refuses_growth_and_nothing_else() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(1000));
        let file = disk.open("a").unwrap();
        file.write_at(&[0; 1000], 0).unwrap();
        assert_eq!(file.write_at(&[1], 1000).unwrap_err().kind(), Kind::NoSpace);
        file.write_at(&[1], 999).unwrap();
        disk.set_fault(|_| Fault::Tear(1));
        assert!(file.write_at(&[7; 3], 0).is_err());
        assert_eq!(disk.contents()["a"][..2], [7, 0]);
    }
}
