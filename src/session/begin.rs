//! Opening a drive to work on it: the state directory, the newest version, the journal.

use super::assemble::{Machine, assemble};
use super::site::{Site, unfinished};
use super::state::StateDir;
use crate::content::DiskCache;
use crate::crypt::{DeviceRecord, LocalKeys, Memory};
use crate::drive::types::Space;
use crate::drive::{Drive, Replayed, Settings};
use crate::error::Result;
use crate::store::{HeadLink, LocalPlace};
use crate::sys::{SystemClock, SystemRandom};
use std::path::PathBuf;
use std::sync::Arc;

/// What a drive is opened with.
pub struct Opening {
    pub site: Site,
    pub state: StateDir,
    pub settings: Settings,
    /// The directory of a `file://` store, whose file system's room is the drive's.
    pub store_dir: Option<PathBuf>,
    /// The limit of the disk cache, in bytes; 0 for none. A `file://` store needs none.
    pub cache: u64,
}

/// Opens the drive, and replays its journal. The state directory stays locked as long as the result lives.
pub fn open(opening: Opening) -> Result<(Arc<Drive>, Replayed)> {
    let Opening { site, state, settings, store_dir, cache } = opening;
    let keys: LocalKeys = state.keys(&site.secrets, &SystemRandom)?;
    let known = state.memory(&keys)?.map(|m| HeadLink { version: m.version, hash: m.head });
    let newest = site.newest(known)?;
    let opened = newest.opened.as_ref().ok_or_else(unfinished)?;
    let mut device: DeviceRecord = state.device(&keys, &SystemRandom)?;
    let number = opened.commit.device(&device.device).map(|d| d.number);
    if let Some(number) = number
        && number != device.number
    {
        device.number = number;
        state.put_device(&keys, &device)?;
    }
    let head = opened.head.link();
    let memory = Memory { version: head.version, head: head.hash };
    state.put_memory(&keys, &memory)?;

    let local = LocalPlace { dir: state.path().join("index"), key: keys.index_key().clone() };
    let disk_cache = match (&store_dir, cache) {
        (Some(_), _) | (None, 0) => None,
        (None, limit) => Some(DiskCache::open(&state.path().join("cache"), limit)?),
    };
    let journal_disk = Arc::new(state.journal()?);
    let journal_key = keys.journal_key().clone();
    let machine = Machine {
        newest,
        device: device.device,
        signing: device.signing,
        incarnation: device.incarnation,
        journal_disk,
        journal_key,
        index: Some(local),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        remember: Box::new(move |version, head| state.put_memory(&keys, &Memory { version, head })),
        disk_cache,
        space: Box::new(move || room_of(store_dir.as_deref())),
    };
    assemble(&site, machine, settings)
}

/// How much room the file system of a directory has. A store that is not a directory has no end.
fn room_of(dir: Option<&std::path::Path>) -> Space {
    const ENDLESS: u64 = 1 << 60;
    let Some(stat) = dir.and_then(|d| rustix::fs::statvfs(d).ok()) else {
        return Space { total: ENDLESS, free: ENDLESS, files: 0 };
    };
    Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize, files: 0 }
}
