//! After a rollback or a fork, or where the journal does not go with what other machines have made since: what this
//! machine remembers of a drive, what the store shows, and going on from that.

use super::begin;
use super::site::{Site, unfinished};
use super::state::StateDir;
use crate::commit::Opened;
use crate::crypt::{LocalKeys, Memory};
use crate::error::{Error, Kind, Result};
use crate::journal::{Journal, Options};
use crate::store::{HeadLink, Layout};
use crate::sys::{Clock, SystemRandom};
use crate::types::{DeviceId, Time};
use std::path::PathBuf;
use std::sync::Arc;

/// A store that does not go on from what this machine has seen or done, or whose newest head is damaged. The state
/// directory stays locked while this lives.
pub struct Dispute {
    site: Site,
    state: StateDir,
    keys: LocalKeys,
    /// What the store was refused for.
    pub refusal: Error,
    /// The newest version that this machine has seen; None for one that has seen nothing yet.
    pub remembered: Option<HeadLink>,
    /// When it saw it.
    pub seen: Option<Time>,
    /// This machine, as the drive knows it until now.
    pub device: Option<DeviceId>,
    /// The newest version that the store shows.
    pub shown: Opened,
    pub journal: Unstored,
    /// The store goes on from what this machine has seen: only its journal does not go with it.
    pub descends: bool,
}

/// What the journal of a machine holds that is not in the version that the machine remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstored {
    Nothing,
    Changes(u64),
    /// That version is gone, or the journal is damaged, so it cannot be told.
    Unknown,
}

impl Dispute {
    /// Compares the store with what the state directory remembers. None: there is nothing to accept, for the store goes
    /// on from that.
    pub fn find(site: Site, state: StateDir) -> Result<Option<Dispute>> {
        let keys = state.keys(&site.secrets, &SystemRandom)?;
        let memory = state.memory(&keys)?;
        let remembered = memory.map(|m| HeadLink { version: m.version, hash: m.head });
        let (refusal, descends) = match site.newest(remembered) {
            Ok(newest) => match (site.lost(&newest), memory) {
                (Some(lost), _) => (lost, false),
                (None, None) => return Ok(None),
                (None, Some(memory)) => match begin::refusal(&site, &state, &keys, memory, &newest)? {
                    Some(refusal) => (refusal, true),
                    None => return Ok(None),
                },
            },
            // A head that was damaged since: the one before it is the newest.
            Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Damage) => (e, false),
            Err(e) => return Err(e),
        };
        let shown = site.newest(None)?.opened.ok_or_else(unfinished)?;
        let device = state.device(&keys)?.map(|d| d.device);
        let base = memory.map(|m| HeadLink { version: m.base.0, hash: m.base.1 });
        let journal = unstored(&site, &state, &keys, [remembered, base], device)?;
        let seen = state.remembered_at();
        Ok(Some(Dispute { site, state, keys, refusal, remembered, seen, device, shown, journal, descends }))
    }

    /// Makes the version that the store shows the one that this machine goes on from. What the journal holds is to
    /// another version: it is moved aside, into a state directory of its own, which can be mounted with a store that has
    /// that version; which one, is returned. The machine gets another device id and other inode numbers, for those that
    /// it has given since may be given again. An accept that was interrupted can be repeated.
    pub fn accept(self, clock: &dyn Clock) -> Result<Option<PathBuf>> {
        let aside = match self.journal {
            Unstored::Nothing => {
                self.state.clear_journal()?;
                None
            }
            Unstored::Changes(_) | Unstored::Unknown => Some(self.state.set_aside(clock.now().sec)?),
        };
        // It can be made anew, and the new versions may have the numbers of the old ones.
        self.state.clear_index()?;
        self.state.put_device(&self.keys, &StateDir::new_device(&SystemRandom)?)?;
        let head = self.shown.head.link();
        // The hint must not go on to name a version that was given up.
        let latest = Layout::new(&self.site.keys.realm()).latest();
        self.site.objects.put(&latest, format!("{:020}\n", head.version).into())?;
        for version in self.site.versions.give_up_after(head.version)? {
            tracing::warn!("the head of version {version}, whose commit cannot be read, is deleted");
        }
        // Last: only now can the drive be mounted.
        let base = (head.version, head.hash);
        self.state.put_memory(&self.keys, &Memory { version: head.version, head: head.hash, base })?;
        tracing::debug!("drive {}: version {} accepted", self.site.secrets.drive, head.version);
        Ok(aside)
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
