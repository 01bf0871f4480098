//! After a rollback, a fork or a loss, or where the journal does not go with what other machines have made since: what
//! this machine remembers of a drive, what the store shows, and going on from that.
//!
//! Nothing is deleted, neither in the store nor here. Where newer versions cannot be read, or are gone, a version is
//! published with the content of the one that is kept: it is the newest then, and whoever still works on what was given
//! up loses the race for its number, or finds that the history has parted. Then the state directory changes at one moment (`aside.rs`).

use super::aside::Switch;
use super::begin;
use super::site::{Site, unfinished};
use super::state::StateDir;
use crate::commit::{Commit, Newest, Opened, Published, Signer};
use crate::content::{ContentCache, Opener};
use crate::crypt::{DeviceRecord, LocalKeys, Memory, SigningKey};
use crate::drive::Keys;
use crate::error::{Error, Kind, Result};
use crate::journal::{Journal, Options};
use crate::store::HeadLink;
use crate::sys::{Clock, SystemRandom, random};
use crate::types::{Address, DeviceId, Time};
use std::path::PathBuf;
use std::sync::Arc;

/// The memory for the few nodes that a version with the content of another needs, in bytes.
const NODES: usize = 1 << 20;

/// A store that does not go on from what this machine has seen or done, or whose newest version cannot be read. The state
/// directory stays locked while this lives.
pub struct Dispute {
    site: Site,
    state: StateDir,
    keys: LocalKeys,
    /// What the store was refused for.
    pub refusal: Error,
    /// The newest version that this machine has seen; None for one that has seen nothing yet, or has forgotten it.
    pub remembered: Option<HeadLink>,
    /// The version that is remembered, or one that the journal stands on all the same.
    ground: Option<HeadLink>,
    /// When it saw it.
    pub seen: Option<Time>,
    /// This machine, as the drive knows it until now.
    pub device: Option<DeviceId>,
    /// The newest version that the store shows.
    pub shown: Opened,
    pub journal: Unstored,
    pub fate: Fate,
    /// The store goes on from what this machine has seen: only its journal does not go with it.
    pub descends: bool,
    newest: Newest,
    identity: Option<DeviceRecord>,
}

/// What the journal of a machine holds that is not in the version that the machine remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstored {
    Nothing,
    Changes(u64),
    /// That version is gone, or the journal is damaged, so it cannot be told.
    Unknown,
}

/// What becomes of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reaches back to a version that the kept one goes on from, without a gap, and goes with it: the next mount does
    /// again what is in it. Nothing is lost.
    Replayed { base: HeadLink, changes: u64 },
    /// It is moved aside; with this store, read-only, it shows what it holds on top of a version.
    Aside { base: HeadLink },
    /// It is moved aside, and belongs to a version that this store does not have.
    Elsewhere,
    /// There is nothing in it.
    Dropped,
}

/// What was done.
pub struct Accepted {
    /// What this machine goes on from: the kept version, or a new one with its content.
    pub version: Opened,
    /// The state directory that the journal was moved into.
    pub aside: Option<PathBuf>,
}

impl Dispute {
    /// Compares the store with what the state directory remembers. None: there is nothing to accept, for the store goes
    /// on from that.
    pub fn find(site: Site, state: StateDir) -> Result<Option<Dispute>> {
        let keys = state.keys(&site.secrets, &SystemRandom)?;
        // Of a memory or a device that cannot be read nothing is known; the journal is kept all the same.
        let mut unreadable = None;
        let memory = known(state.memory(&keys), &mut unreadable)?;
        let identity = known(state.device(&keys), &mut unreadable)?;
        if identity.is_none() && unreadable.is_none() {
            unreadable = begin::lost_device(&site, &state, &keys)?;
        }
        let remembered = memory.map(|m| HeadLink { version: m.version, hash: m.head });
        let (refusal, newest, descends) = match (site.newest(remembered), unreadable) {
            (Ok(newest), Some(unreadable)) => (unreadable, newest, false),
            (Ok(newest), None) => match (site.lost(&newest), memory) {
                (Some(lost), _) => (lost, newest, false),
                (None, None) if newest.opened.is_none() => return Err(unfinished()),
                (None, None) => return Ok(None),
                (None, Some(memory)) => match begin::refusal(&site, &state, &keys, memory, &newest)? {
                    Some(refusal) => (refusal, newest, true),
                    None => return Ok(None),
                },
            },
            (Err(e), _) if matches!(e.kind(), Kind::Conflict | Kind::Damage) => {
                (e, site.newest(None)?, false)
            }
            (Err(e), _) => return Err(e),
        };
        let shown = newest.opened.clone().ok_or_else(unfinished)?;
        let device = identity.as_ref().map(|d| d.device);
        let ground = match (remembered, &identity) {
            (None, Some(identity)) => match begin::stands_on(&site, &shown, identity) {
                Err(e) if e.kind() == Kind::Damage => None,
                base => Some(base?),
            },
            (remembered, _) => remembered,
        };
        let journal = match memory {
            Some(m) => {
                let versions = [remembered, Some(HeadLink { version: m.base.0, hash: m.base.1 })];
                unstored(&site, &state, &keys, versions, device)?
            }
            None => unstored(&site, &state, &keys, [None, None], device)?,
        };
        let seen = state.remembered_at();
        let mut dispute = Dispute {
            site,
            state,
            keys,
            refusal,
            remembered,
            ground,
            seen,
            device,
            shown,
            journal,
            fate: Fate::Dropped,
            descends,
            newest,
            identity,
        };
        dispute.fate = dispute.fate()?;
        if let (Unstored::Unknown, Fate::Replayed { changes, .. }) = (dispute.journal, dispute.fate) {
            dispute.journal = Unstored::Changes(changes);
        }
        Ok(Some(dispute))
    }

    /// What can become of the journal.
    fn fate(&self) -> Result<Fate> {
        let (versions, shown) = (&self.site.versions, &self.shown);
        let elsewhere = match self.journal {
            Unstored::Nothing => Fate::Dropped,
            Unstored::Changes(_) | Unstored::Unknown => Fate::Elsewhere,
        };
        let (Some(seen), Some(device), false) = (self.ground, self.device, self.descends) else {
            return Ok(elsewhere);
        };
        let parting = versions.parting(shown, seen)?;
        let base = match &parting {
            Some((base, _)) => *base,
            // The store has something at that number, which cannot be read: it is the store that this machine knows.
            None if self.newest.lost.is_some_and(|lost| lost >= seen.version) => shown.head.link(),
            None => return Ok(elsewhere),
        };
        let opened = match versions.open(base.version) {
            Ok(opened) if opened.head.link() == base => opened,
            Ok(_) => return Ok(elsewhere),
            // Damaged, or gone.
            Err(e) if matches!(e.kind(), Kind::Damage | Kind::NotFound) => return Ok(elsewhere),
            Err(e) => return Err(e),
        };
        let changes = match unstored(&self.site, &self.state, &self.keys, [Some(base), None], Some(device))? {
            Unstored::Changes(changes) => changes,
            _ => return Ok(elsewhere),
        };
        // Only where nobody else has made what was given up does the journal mean the same without it.
        let alone = parting.is_some_and(|(_, by)| by.iter().all(|by| *by == device));
        if let (true, Some(identity)) = (alone, &self.identity)
            && begin::replays(&self.site, &self.state, &self.keys, identity, &self.newest, &opened)?.is_none()
        {
            return Ok(Fate::Replayed { base, changes });
        }
        Ok(Fate::Aside { base })
    }

    /// Makes the version that the store shows the one that this machine goes on from. Where newer ones cannot be
    /// read, or are gone, a version is made that has its content. Where the journal does not go with it, it is moved aside, and the machine
    /// gets another device id and other inode numbers, for those that it has given since may be given again. After an
    /// error or a crash it can be repeated: the state directory is as it was, or as it is to be.
    pub fn accept(self, clock: &dyn Clock) -> Result<Accepted> {
        let device = match (&self.fate, self.identity) {
            (Fate::Replayed { .. }, Some(identity)) => identity,
            _ => StateDir::new_device(&SystemRandom)?,
        };
        let old = |base: HeadLink| Memory {
            version: base.version,
            head: base.hash,
            base: (base.version, base.hash),
        };
        let kept = match self.fate {
            Fate::Aside { base } => Some(old(base).seal(&self.keys)?),
            _ => None,
        };
        let aside = matches!(self.fate, Fate::Aside { .. } | Fate::Elsewhere).then_some(kept.as_deref());
        let (sealed, now) = (device.seal(&self.keys)?, clock.now().sec);
        // What is published cannot be taken back: whether there is room here is found out before.
        let placeholder = old(self.shown.head.link()).seal(&self.keys)?;
        self.state.stage(&Switch { device: &sealed, memory: &placeholder, aside, now })?;
        // After a rollback as well: the store that is accepted is then another one than what is given up, for ever.
        let newer = self.remembered.is_some_and(|seen| seen.version > self.shown.version());
        let published = newer || self.newest.lost.is_some();
        let version = match published {
            true => publish(&self.site, &self.newest, &self.shown, &device, clock).inspect_err(|_| {
                // The error that is told is the one that matters.
                let _ = self.state.unstage();
            })?,
            false => self.shown.clone(),
        };
        let HeadLink { version: number, hash } = version.head.link();
        let memory = |base: HeadLink| Memory { version: number, head: hash, base: (base.version, base.hash) };
        let settle = || -> Result<Option<PathBuf>> {
            // It can be made anew, and the new versions may have the numbers of the old ones.
            self.state.clear_index()?;
            match self.fate {
                Fate::Replayed { base, .. } => {
                    self.state.unstage()?;
                    self.state.put_memory(&self.keys, &memory(base)).map(|()| None)
                }
                _ => self.state.switch(&Switch {
                    device: &sealed,
                    memory: &memory(version.head.link()).seal(&self.keys)?,
                    aside,
                    now,
                }),
            }
        };
        let aside = settle().map_err(|e| match published {
            true => e.context(format!(
                "the store goes on from version {} as version {number} already; say 'nacrefs accept' again",
                self.shown.version()
            )),
            false => e,
        })?;
        tracing::debug!("drive {}: version {number} accepted", self.site.secrets.drive);
        Ok(Accepted { version, aside })
    }
}

/// What is known, or why it cannot be read.
fn known<T>(read: Result<Option<T>>, unreadable: &mut Option<Error>) -> Result<Option<T>> {
    match read {
        Err(e) if e.kind() == Kind::Damage => {
            unreadable.get_or_insert(e);
            Ok(None)
        }
        read => read,
    }
}

/// Publishes a version with the content of another, above all that there are. That one object is the moment from which on
/// what it passes over is given up, for everybody.
fn publish(
    site: &Site,
    newest: &Newest,
    kept: &Opened,
    device: &DeviceRecord,
    clock: &dyn Clock,
) -> Result<Opened> {
    kept.commit.parameters.check_writable()?;
    let mut commit = Commit {
        version: newest.next,
        parents: vec![kept.as_parent()],
        time: clock.now(),
        device: device.device,
        incarnation: device.incarnation,
        fresh: Vec::new(),
        ..Commit::clone(&kept.commit)
    };
    let (lsn, next_ino) = kept.commit.device(&device.device).map_or((0, 1), |mark| (mark.lsn, mark.next_ino));
    commit.mark(device.device, lsn, next_ino)?;
    let chunks = site.chunk_store(kept.commit.runs.clone(), None);
    let from = chunks.clone();
    let fetch = move |address: &Address| from.fetch(address);
    let opener = Opener::new(Arc::new(ContentCache::new(NODES)), fetch, Keys(site.keys.clone()));
    let signing = SigningKey::from_bytes(&device.signing.to_bytes());
    let signer = Signer::new(&site.secrets, device.device, signing);
    let after = Newest::after(kept.clone(), newest.next);
    let mut batch = chunks.begin(random(&SystemRandom)?);
    let prepared = site.versions.prepare(&after, commit, &mut batch, &opener, &signer)?;
    match site.versions.publish(&prepared)? {
        Published::Won(opened) => Ok(*opened),
        Published::Lost => Err(Error::new(
            Kind::Conflict,
            "another machine has written to the drive meanwhile: nothing was changed here; compare again",
        )),
    }
}

/// What is in the journal and not in the remembered version, nor in the one that it stands on: the first of them that the
/// store has still.
fn unstored(
    site: &Site,
    state: &StateDir,
    keys: &LocalKeys,
    versions: [Option<HeadLink>; 2],
    device: Option<DeviceId>,
) -> Result<Unstored> {
    let open = |link: HeadLink| site.versions.open(link.version).ok().filter(|o| o.head.link() == link);
    let base = versions.into_iter().flatten().find_map(open);
    let known = base.is_some();
    let mark = base.zip(device).and_then(|(base, device)| base.commit.device(&device).map(|mark| mark.lsn));
    let options = Options { floor: mark.unwrap_or(0), before_damage: true, ..Options::default() };
    let disk = Arc::new(state.journal()?);
    let (_, replay) =
        Journal::open(disk, keys.journal_key().clone(), site.keys.realm(), Arc::new(SystemRandom), options)?;
    Ok(match (replay.count(), replay.damage()) {
        (0, None) => Unstored::Nothing,
        (count, None) if known => Unstored::Changes(count),
        _ => Unstored::Unknown,
    })
}
