//! Opening a drive to work on it: the state directory, the newest version, the journal.

use super::assemble::{Machine, assemble};
use super::site::{Site, unfinished};
use super::state::StateDir;
use crate::commit::{Newest, Opened};
use crate::content::DiskCache;
use crate::crypt::{DeviceRecord, LocalKeys, Memory, SigningKey};
use crate::drive::types::Space;
use crate::drive::{Drive, Replayed, Settings};
use crate::error::{Error, Kind, Result};
use crate::journal::{self, Journal};
use crate::store::{HeadLink, LocalPlace};
use crate::sys::{SystemClock, SystemRandom, random};
use crate::types::{Incarnation, Version};
use std::path::PathBuf;
use std::sync::Arc;

/// The memory that a replay may take that is only to show whether it can be done, in bytes.
const REPLAY_MEMORY: usize = 256 << 20;

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
    if let Some(aside) = &state.resumed {
        tracing::warn!(
            "an accept that was interrupted is finished: the journal before it is in {}",
            aside.display()
        );
    }
    let state = Arc::new(state);
    let keys: LocalKeys = state.keys(&site.secrets, &SystemRandom)?;
    let (memory, forgotten) = match state.memory(&keys) {
        // The drive is shown all the same, and this left as it is.
        Err(e) if e.kind() == Kind::Damage && settings.read_only => {
            tracing::warn!("{}", e.chain());
            (None, Some(e))
        }
        memory => (memory?, None),
    };
    let known = memory.map(|m| HeadLink { version: m.version, hash: m.head });
    let writable = !state.is_read_only();
    let local = LocalPlace { dir: state.path().join("index"), key: keys.index_key().clone() };
    let local = writable.then_some(local);
    if let Some(local) = &local {
        site.versions.scratch_in(local.dir.clone());
    }
    let mut newest = site.newest_after(known, state.path())?;
    let short = newest.is_short();
    let lost = site.lost(&newest);
    if let Some(lost) = lost.as_ref().filter(|_| settings.read_only) {
        tracing::warn!("{lost}");
    } else if let Some(lost) = lost {
        return Err(lost);
    }
    let (mut device, fresh) = match state.device(&keys)? {
        Some(device) => (device, false),
        None => match lost_device(&site, &state, &keys)? {
            Some(lost) => return Err(lost),
            None => (StateDir::new_device(&SystemRandom)?, true),
        },
    };
    let mut over = None;
    let path = state.path().display().to_string();
    if let (Some(known), Some(opened), false) = (known, &newest.opened, fresh)
        && was_copied(&site, opened, known, &device)?
    {
        match divide(&site, &state, &keys, known, &device, settings.read_only)? {
            Divided::Renamed(new) => device = new,
            Divided::Unread => {}
            Divided::Alone(base) => newest = Newest::after(*base, newest.next),
        }
    } else if let (Some(memory), Some(opened)) = (memory, &newest.opened)
        && others_wrote(&site, opened, memory.base.0, &device)
    {
        over = Some(memory.base.0);
        // Where nothing is to be changed, there is no need to bring the two together.
        if settings.read_only {
            match remembered(&site, memory.base.0)? {
                Some(base) if unstored(&site, &state, &keys, Some(&base), &device)? > 0 => {
                    tracing::warn!(
                        "this is version {} with what the journal holds: not the newest",
                        base.version()
                    );
                    (newest, over) = (Newest::after(base, newest.next), None);
                }
                Some(_) => over = None,
                // As a mount that writes does it.
                None => {}
            }
        }
    } else if let (Some(_), Some(opened), false) = (&forgotten, &newest.opened, fresh) {
        let base = site.versions.open(stands_on(&site, opened, &device)?.version)?;
        over = others_wrote(&site, opened, base.version(), &device).then_some(base.version());
        if try_replay(&site, &state, &keys, &device, &newest, over)?.is_some() {
            tracing::warn!("this is version {} with what the journal holds: not the newest", base.version());
            (newest, over) = (Newest::after(base, newest.next), None);
        }
    }
    let opened = newest.opened.as_ref().ok_or_else(unfinished)?;
    let head = opened.head.link();
    if let Some(mark) = opened.commit.device(&device.device) {
        device.number = mark.number;
    }
    let last = std::mem::replace(&mut device.incarnation, Incarnation(random(&SystemRandom)?));
    let remember = || -> Result<()> {
        // Where no version is remembered that was seen, no device is either.
        if !writable || forgotten.is_some() || short && memory.is_none() {
            return Ok(());
        }
        // Before the new incarnation: a version of the last one that is newer than the memory is then known as ours.
        // One that is only shown because a newer one is lost is not what this machine has seen last.
        if !short && known.is_none_or(|known| head.version > known.version) {
            let base = memory.map_or((head.version, head.hash), |m| m.base);
            state.put_memory(&keys, &Memory { version: head.version, head: head.hash, base })?;
        }
        state.put_device(&keys, &device)
    };
    match remember() {
        // A drive must open on a full disk. What it makes then is known as the last incarnation's.
        Err(e) if e.kind() == Kind::NoSpace && !fresh => {
            tracing::warn!("this start is not remembered: {}", e.chain());
            device.incarnation = last;
        }
        done => done?,
    }

    let disk_cache = match (&store_dir, cache) {
        (Some(_), _) | (None, 0) => None,
        (None, _) if !writable => None,
        (None, limit) => Some(DiskCache::open(&state.path().join("cache"), &keys, limit)?),
    };
    let journal_disk = Arc::new(state.journal()?);
    let journal_key = keys.journal_key().clone();
    let read_only = settings.read_only;
    let remember = Arc::new(move |version, head| {
        state.put_memory(&keys, &Memory { version, head, base: (version, head) })
    });
    let settle = remember.clone();
    let machine = Machine {
        newest,
        over,
        device: device.device,
        signing: device.signing,
        incarnation: device.incarnation,
        journal_disk,
        journal_key,
        index: local,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        remember: Box::new(move |version, head| remember(version, head)),
        disk_cache,
        space: Box::new(move || room_of(store_dir.as_deref())),
    };
    let opened = assemble(&site, machine, settings).map_err(|e| match (over, e.kind()) {
        (Some(_), Kind::Conflict) => e.context(way_on(&path)),
        _ => e,
    })?;
    // Whoever looks at an older version, or at one that may be, is to know.
    for trouble in lost.into_iter().chain(forgotten).filter(|_| opened.1.left_out.is_none()) {
        opened.0.note_error(&trouble);
    }
    // What the journal holds stands on the newest version now.
    if !read_only && memory.is_none_or(|m| m.base != (head.version, head.hash)) {
        match settle(head.version, head.hash) {
            Err(e) if e.kind() == Kind::NoSpace => {
                tracing::warn!("this start is not remembered: {}", e.chain());
            }
            done => done?,
        }
    }
    Ok(opened)
}

/// What can be done where the newest version is sound, and the journal does not go with it.
fn way_on(state_dir: &str) -> String {
    format!(
        "cannot go on from the newest version: -o ro shows the drive as this machine left it, and 'nacrefs accept STORE' \
         goes on without what it has not stored, which is kept aside (state directory {state_dir})"
    )
}

/// Why a machine cannot go on from the newest version, which descends from what it has seen: what its journal holds does
/// not go with it. None where a mount would succeed. It is as [`open`] does it, and changes nothing.
pub(super) fn refusal(
    site: &Site,
    state: &StateDir,
    keys: &LocalKeys,
    memory: Memory,
    newest: &Newest,
) -> Result<Option<Error>> {
    let (Some(opened), Some(device)) = (&newest.opened, state.device(keys)?) else { return Ok(None) };
    let known = HeadLink { version: memory.version, hash: memory.head };
    if was_copied(site, opened, known, &device)? {
        let base = remembered(site, known.version)?;
        let changes = unstored(site, state, keys, base.as_ref(), &device)?;
        return Ok((changes > 0).then(|| match base {
            Some(_) => copied(state, changes),
            None => baseless(state, known.version),
        }));
    }
    let floor = opened.commit.device(&device.device).map_or(0, |mark| mark.lsn);
    if let Some(damage) = state.journal_damage(keys, site.keys.realm(), floor)? {
        return Ok(Some(damage.context("the journal is damaged")));
    }
    let over = others_wrote(site, opened, memory.base.0, &device).then_some(memory.base.0);
    try_replay(site, state, keys, &device, newest, over)
}

/// Why a journal that was written on top of `base` cannot be replayed over the newest version, if it cannot. Changes
/// nothing.
pub(super) fn replays(
    site: &Site,
    state: &StateDir,
    keys: &LocalKeys,
    device: &DeviceRecord,
    newest: &Newest,
    base: &Opened,
) -> Result<Option<Error>> {
    let over = newest
        .opened
        .as_ref()
        .is_some_and(|opened| others_wrote(site, opened, base.version(), device))
        .then_some(base.version());
    match try_replay(site, state, keys, device, newest, over) {
        Err(e) if e.kind() != Kind::Away => Ok(Some(e)),
        tried => tried,
    }
}

/// Replays the journal, to see whether it can be. A conflict with what others have made is no error of its own.
fn try_replay(
    site: &Site,
    state: &StateDir,
    keys: &LocalKeys,
    device: &DeviceRecord,
    newest: &Newest,
    over: Option<Version>,
) -> Result<Option<Error>> {
    let machine = Machine {
        newest: newest.clone(),
        over,
        device: device.device,
        signing: SigningKey::from_bytes(&device.signing.to_bytes()),
        incarnation: device.incarnation,
        journal_disk: Arc::new(state.journal()?),
        journal_key: keys.journal_key().clone(),
        index: None,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        remember: Box::new(|_, _| Ok(())),
        disk_cache: None,
        space: Box::new(|| room_of(None)),
    };
    let settings = Settings { read_only: true, ..Settings::within(REPLAY_MEMORY) };
    match assemble(site, machine, settings) {
        Err(e) if e.kind() == Kind::Conflict => Ok(Some(e)),
        replayed => Ok(replayed?.1.left_out.map(Error::damage)),
    }
}

/// That the record of who this machine is has gone, while its journal holds something: what is in there cannot be added
/// to the drive without it.
pub(super) fn lost_device(site: &Site, state: &StateDir, keys: &LocalKeys) -> Result<Option<Error>> {
    let options = journal::Options { before_damage: true, ..journal::Options::default() };
    let (disk, key) = (Arc::new(state.journal()?), keys.journal_key().clone());
    let (_, replay) = Journal::open(disk, key, site.keys.realm(), Arc::new(SystemRandom), options)?;
    if replay.count() == 0 && replay.damage().is_none() {
        return Ok(None);
    }
    let gone = Error::damage(
        "it is missing, and the journal beside it holds changes, or held some and is damaged, and only it can tell whose they are",
    );
    Ok(Some(state.unreadable("device", gone)))
}

/// A journal whose numbers another machine has used as well.
fn copied(state: &StateDir, changes: u64) -> Error {
    let path = state.path().display();
    let what = format!(
        "the state directory {path} was copied, and its twin has written to the drive; the journal here holds {changes} \
         changes that are not in the store"
    );
    Error::new(Kind::Conflict, what)
}

/// A journal of a copied state directory that stands on a version that is not there any more.
fn baseless(state: &StateDir, version: Version) -> Error {
    let path = state.path().display();
    Error::damage(format!(
        "the state directory {path} was copied, and its twin has written to the drive; version {version}, on which the \
         journal here stands, is gone or damaged, so nothing tells what of the journal is stored: bring that version back \
         from a backup of the store, or go on without the journal, which is kept aside, with 'nacrefs accept STORE'"
    ))
}

/// Whether other machines have made versions after this one, or may have: not every version can be read for ever.
fn others_wrote(site: &Site, newest: &Opened, since: Version, device: &DeviceRecord) -> bool {
    let mut between = site.versions.iter(newest);
    let ours = |v: &Result<Opened>| {
        v.as_ref().is_ok_and(|v| v.version() > since && v.commit.device == device.device)
    };
    let end = between.find(|v| !ours(v));
    !end.is_some_and(|v| v.is_ok_and(|v| v.version() <= since))
}

/// A version that a journal certainly stands on, or on one that goes on from it, where it is not known on which: the last
/// that this machine has made, or the first of all.
pub(super) fn stands_on(site: &Site, newest: &Opened, device: &DeviceRecord) -> Result<HeadLink> {
    let mut base = newest.head.link();
    for version in site.versions.iter(newest) {
        let version = version?;
        base = version.head.link();
        if version.commit.device == device.device {
            break;
        }
    }
    Ok(base)
}

/// A version that this machine has seen. None where the store has lost it since.
fn remembered(site: &Site, version: Version) -> Result<Option<Opened>> {
    match site.versions.open(version) {
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damage) => {
            tracing::warn!("version {version}, which this machine has seen, cannot be read: {}", e.chain());
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// How many changes are in the journal that a version does not have, or at all where the version is not known; at
/// least one where it is damaged.
fn unstored(
    site: &Site,
    state: &StateDir,
    keys: &LocalKeys,
    base: Option<&Opened>,
    device: &DeviceRecord,
) -> Result<u64> {
    let floor = base.and_then(|base| base.commit.device(&device.device)).map_or(0, |mark| mark.lsn);
    let options = journal::Options { floor, before_damage: true, ..journal::Options::default() };
    let disk = Arc::new(state.journal()?);
    let (_, replay) =
        Journal::open(disk, keys.journal_key().clone(), site.keys.realm(), Arc::new(SystemRandom), options)?;
    Ok(replay.count().max(u64::from(replay.damage().is_some())))
}

/// Whether somebody else has made versions in this device's name, with a copy of the state directory: one that is
/// newer than our memory, and of an incarnation that is not our last. (Our own last one may be newer than the
/// memory, after a crash between the two.)
fn was_copied(site: &Site, newest: &Opened, known: HeadLink, device: &DeviceRecord) -> Result<bool> {
    // The device's last version goes on from the one that it had seen, and so is no newer than our memory where that
    // one is older.
    let seen = newest.commit.device(&device.device).and_then(|mark| mark.seen.as_ref());
    if newest.version() <= known.version || seen.is_none_or(|seen| seen.version < known.version) {
        return Ok(false);
    }
    for version in site.versions.iter(newest) {
        let version = version?;
        if version.version() <= known.version {
            break;
        }
        if version.commit.device == device.device && version.commit.incarnation != device.incarnation {
            return Ok(true);
        }
        // The one that was seen need not be there any more.
        if version.commit.parents.first().is_none_or(|parent| parent.version <= known.version) {
            break;
        }
    }
    Ok(false)
}

/// What becomes of a copied state directory.
enum Divided {
    /// It goes on as another device.
    Renamed(DeviceRecord),
    /// It shows what it last knew, and changes nothing.
    Alone(Box<Opened>),
    /// It shows the newest version, which has all that is in its journal; it is read-only, and stays as it is.
    Unread,
}

/// Parts a copied state directory from its twin. Its journal's numbers are the twin's as well, so what is in it and
/// not in the version that it knew can neither be told from what the twin committed nor go on top of that.
fn divide(
    site: &Site,
    state: &StateDir,
    keys: &LocalKeys,
    known: HeadLink,
    device: &DeviceRecord,
    read_only: bool,
) -> Result<Divided> {
    let base = remembered(site, known.version)?;
    let changes = unstored(site, state, keys, base.as_ref(), device)?;
    let path = state.path().display();
    if changes > 0 {
        let base = base.ok_or_else(|| baseless(state, known.version))?;
        if read_only {
            tracing::warn!(
                "{path} was copied: this shows version {}, and what its journal holds",
                known.version
            );
            return Ok(Divided::Alone(Box::new(base)));
        }
        return Err(copied(state, changes).context(way_on(&path.to_string())));
    }
    if state.is_read_only() {
        return Ok(Divided::Unread);
    }
    tracing::warn!("{path} was copied, and its twin has written to the drive: going on here as a new device");
    state.clear_journal()?;
    let new = StateDir::new_device(&SystemRandom)?;
    state.put_device(keys, &new)?;
    Ok(Divided::Renamed(new))
}

/// How much room the file system of a directory has. A store that is not a directory has no end.
fn room_of(dir: Option<&std::path::Path>) -> Space {
    const ENDLESS: u64 = 1 << 60;
    let Some(stat) = dir.and_then(|d| rustix::fs::statvfs(d).ok()) else {
        return Space { total: ENDLESS, free: ENDLESS, files: 0 };
    };
    Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize, files: 0 }
}
