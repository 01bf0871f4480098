//! The commit object: one version of the drive (docs/FORMAT.md, "The commit object").

use super::inode::{FileKind, ROOT, StoredInode};
use super::params::Parameters;
use crate::error::{Error, Result};
use crate::store::{PackId, PackInfo, RunSet};
use crate::tree::Map;
use crate::types::{DeviceId, Incarnation, Ino, Lsn, MAX_LSN, Time, Version};
use crate::wire::{Reader, Writer};
use std::collections::BTreeSet;

const FORMAT: u8 = 1;
/// The largest encoding of a commit: all that grows with the drive is in Maps and runs of their own.
pub const MAX_COMMIT: usize = 1 << 20;
/// Device numbers have 20 bits, counters of inodes 43.
pub const MAX_DEVICE_NUMBER: u32 = (1 << 20) - 1;
const COUNTER_BITS: u32 = 43;

/// A version of the drive: one moment of all of it.
#[derive(Clone, Debug)]
pub struct Commit {
    pub version: Version,
    /// What it goes on from; none of the first. The newest first.
    pub parents: Vec<Parent>,
    pub time: Time,
    /// Who made it, and in which start of the mount.
    pub device: DeviceId,
    pub incarnation: Incarnation,
    pub parameters: Parameters,
    /// All devices that ever wrote, by number.
    pub devices: Vec<Device>,
    pub counts: Counts,
    pub root: StoredInode,
    /// See [`super::shells`].
    pub shells: Map,
    /// See [`super::history`].
    pub history: Map,
    /// The packs of earlier versions: see [`super::packs`].
    pub packs: Map,
    /// The packs of this version, by id; the pack of the commit itself is named by the head.
    pub fresh: Vec<PackInfo>,
    /// Where the chunks are: the runs of the index.
    pub runs: RunSet,
}

/// A version that another goes on from, and the hash of its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub version: Version,
    pub hash: [u8; 32],
}

/// How far a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    pub id: DeviceId,
    /// The upper 20 bits of the inode numbers that it gives; from 1 on.
    pub number: u32,
    /// The last of its journal records that is contained in the version.
    pub lsn: Lsn,
    /// The next counter of its inode numbers.
    pub next_ino: u64,
    /// The newest version that it had seen when it last made one, which is that one's parent. It tells a copied
    /// state directory; with merges it will also tell a fork. None of the device that made the first version,
    /// until it makes another.
    pub seen: Option<Parent>,
}

/// How much there is in the drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All inodes but directories.
    pub files: u64,
    pub directories: u64,
    /// The sizes of all regular files, added up, modulo 2^64.
    pub bytes: u64,
}

/// The inode number of a device's counter; None where one of them is out of range.
pub fn make_ino(number: u32, counter: u64) -> Option<Ino> {
    (number <= MAX_DEVICE_NUMBER && counter >> COUNTER_BITS == 0)
        .then_some(u64::from(number) << COUNTER_BITS | counter)
        .filter(|ino| *ino != 0)
}

/// The device's number and the counter of an inode number.
pub fn split_ino(ino: Ino) -> (u32, u64) {
    ((ino >> COUNTER_BITS) as u32, ino & ((1 << COUNTER_BITS) - 1))
}

impl Commit {
    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.iter().find(|d| d.id == *id)
    }

    /// Whether nothing was changed between the two: no commit of changes leaves root and history as they are.
    pub fn has_content_of(&self, other: &Commit) -> bool {
        self.history == other.history && self.shells == other.shells && self.root == other.root
    }

    /// The number that a device gets which this version does not know.
    pub fn next_device_number(&self) -> u32 {
        self.devices.last().map_or(1, |d| d.number.saturating_add(1))
    }

    /// Notes how far a device has come; gives it a number when it is new. Neither mark ever goes back.
    pub fn mark(&mut self, id: DeviceId, lsn: Lsn, next_ino: u64) -> Result<()> {
        let number = self.next_device_number();
        let seen = self.parents.first().copied();
        if next_ino > 1 << COUNTER_BITS {
            return Err(Error::failed("this device has given out all of its inode numbers"));
        }
        if let Some(device) = self.devices.iter_mut().find(|d| d.id == id) {
            device.lsn = device.lsn.max(lsn);
            device.next_ino = device.next_ino.max(next_ino);
            device.seen = seen;
            return Ok(());
        }
        if number > MAX_DEVICE_NUMBER {
            return Err(Error::failed("this drive has had all the devices that it can have"));
        }
        self.devices.push(Device { id, number, lsn, next_ino, seen });
        Ok(())
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut w = Writer::with_capacity(1 << 10);
        w.u8(FORMAT);
        self.parameters.put(&mut w);
        w.var(self.version).var(self.parents.len() as u64);
        for parent in &self.parents {
            w.var(parent.version).raw(&parent.hash);
        }
        self.time.put(&mut w);
        w.raw(&self.device.0).raw(&self.incarnation.0);
        w.var(self.devices.len() as u64);
        for d in &self.devices {
            w.raw(&d.id.0).var(d.number.into()).var(d.lsn).var(d.next_ino);
            w.var(d.seen.map_or(0, |seen| seen.version));
            if let Some(seen) = &d.seen {
                w.raw(&seen.hash);
            }
        }
        w.var(self.counts.files).var(self.counts.directories).var(self.counts.bytes);
        self.root.put(&mut w);
        for map in [&self.shells, &self.history, &self.packs] {
            map.put(&mut w);
        }
        w.var(self.fresh.len() as u64);
        for pack in &self.fresh {
            w.raw(&pack.id.0).var(pack.bytes).var(pack.chunks.into());
        }
        self.runs.put(&mut w);
        if w.len() > MAX_COMMIT {
            return Err(Error::failed(format!("commit {} would be {} bytes large", self.version, w.len())));
        }
        Ok(w.into_vec())
    }

    /// Reads a commit. One that needs features unknown to this build is refused before anything else of it
    /// is looked at.
    pub fn from_bytes(bytes: &[u8]) -> Result<Commit> {
        let mut r = Reader::new(bytes, "commit");
        if bytes.len() > MAX_COMMIT {
            return Err(r.bad("is larger than 1 MiB"));
        }
        if r.u8()? != FORMAT {
            return Err(Error::failed(
                "this drive has a format of a newer version of nacrefs: upgrade nacrefs",
            ));
        }
        let parameters = Parameters::get_from(&mut r)?;
        let version = r.var()?;
        let mut parents: Vec<Parent> = Vec::new();
        for _ in 0..r.count(33)? {
            let parent = Parent { version: r.var()?, hash: r.array()? };
            let last = parents.last().map_or(version, |p| p.version);
            if parent.version >= last {
                return Err(r.bad("has parents that are not older, or out of order"));
            }
            parents.push(parent);
        }
        let time = Time::get(&mut r)?;
        let (device, incarnation) = (DeviceId(r.array()?), Incarnation(r.array()?));
        let devices = get_devices(&mut r)?;
        let counts = Counts { files: r.var()?, directories: r.var()?, bytes: r.var()? };
        let root = StoredInode::get_from(&mut r)?;
        if root.ino != ROOT || root.attr.kind != FileKind::Directory {
            return Err(r.bad("has a root that is none"));
        }
        let [shells, history, packs] =
            [Map::get_from(&mut r)?, Map::get_from(&mut r)?, Map::get_from(&mut r)?];
        let fresh = get_packs(&mut r)?;
        let runs = RunSet::get(&mut r)?;
        r.end()?;
        Ok(Commit {
            version,
            parents,
            time,
            device,
            incarnation,
            parameters,
            devices,
            counts,
            root,
            shells,
            history,
            packs,
            fresh,
            runs,
        })
    }
}

fn get_packs(r: &mut Reader) -> Result<Vec<PackInfo>> {
    let mut packs: Vec<PackInfo> = Vec::new();
    for _ in 0..r.count(34)? {
        let pack = PackInfo { id: PackId(r.array()?), bytes: r.var()?, chunks: r.var32()? };
        if packs.last().is_some_and(|last| last.id >= pack.id) {
            return Err(r.bad("has packs out of order"));
        }
        packs.push(pack);
    }
    Ok(packs)
}

fn get_devices(r: &mut Reader) -> Result<Vec<Device>> {
    let mut devices: Vec<Device> = Vec::new();
    let mut ids = BTreeSet::new();
    for _ in 0..r.count(20)? {
        let (id, number, lsn, next_ino) = (DeviceId(r.array()?), r.var32()?, r.var()?, r.var()?);
        let seen = match r.var()? {
            0 => None,
            version => Some(Parent { version, hash: r.array()? }),
        };
        let d = Device { id, number, lsn, next_ino, seen };
        let after = devices.last().map_or(0, |last| last.number);
        if d.number <= after || d.number > MAX_DEVICE_NUMBER || !ids.insert(d.id) {
            return Err(r.bad("has devices out of order, or one of them twice"));
        }
        if d.next_ino > 1 << COUNTER_BITS || d.lsn > MAX_LSN {
            return Err(r.bad("has a device whose inode numbers, or journal's numbers, are out of range"));
        }
        devices.push(d);
    }
    Ok(devices)
}
