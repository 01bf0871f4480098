//! Heads by counter: one object for each version, created only if absent, so that a name is a
//! compare-and-swap and rollback shows.

pub use super::head::{Head, HeadLink, MAX_PAYLOAD, SIGNATURE};

use super::head::MAX_HEAD;
use super::layout::Layout;
use super::objects::{Objects, Race, create_verified};
use crate::error::{Error, Kind, Result};
use crate::types::{DeviceId, DriveId, Epoch, RealmId, Version};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of the hint.
const HINT: usize = 20 + 1 + 64 + 1;

/// Whether a head's signature is that of its device: given the head, and the bytes that are signed.
/// An error says that it cannot be told (the store is away); `false` makes the head count as absent.
pub type Verify = dyn Fn(&Head, &[u8]) -> Result<bool> + Send + Sync;

/// Who made a head, and when, for people: ` (by device …, of …)`.
pub type Told = dyn Fn(&Head) -> String + Send + Sync;

/// The heads of a realm.
pub struct Heads {
    objects: Arc<dyn Objects>,
    layout: Layout,
    drive: DriveId,
    realm: RealmId,
    verify: Box<Verify>,
    told: Box<Told>,
    /// What vouches for the hint.
    hint_key: [u8; 32],
}

/// What the newest version is, and which number comes next.
#[derive(Clone, Debug)]
pub struct Newest {
    /// Nothing in a realm that has no version yet.
    pub head: Option<Head>,
    /// The least number above it that no object has.
    pub next: Version,
    /// A number above it that was a version, by the hint or by what this machine has seen, and whose object is none, or
    /// is gone.
    pub lost: Option<Version>,
    /// Where the way from it to what this machine has seen ends too early, so that it cannot be told whether it descends
    /// from that: see [`Heads::unproven`].
    pub broken: Option<Broken>,
}

/// A head that the way from one version back to another leads through, and that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    at: Version,
    /// There is nothing; else what is there is damaged.
    gone: bool,
}

/// What a new head is to say, besides its place in the chain.
pub struct NewHead<'a> {
    pub epoch: Epoch,
    pub device: DeviceId,
    /// Sealed by the caller; at most [`MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
    /// Signs with the device's key.
    pub sign: &'a dyn Fn(&[u8]) -> [u8; SIGNATURE],
}

/// An object at a counter: a valid head, or something that counts as absent but has taken the number.
type Found = Option<Head>;

impl Heads {
    pub fn new(
        objects: Arc<dyn Objects>,
        drive: DriveId,
        realm: RealmId,
        verify: impl Fn(&Head, &[u8]) -> Result<bool> + Send + Sync + 'static,
    ) -> Heads {
        let told = |head: &Head| format!(" (by device {})", head.device);
        Heads {
            objects,
            layout: Layout::new(&realm),
            drive,
            realm,
            verify: Box::new(verify),
            told: Box::new(told),
            hint_key: [0; 32],
        }
    }

    /// The key under which the hint is vouched for.
    pub fn with_hint_key(mut self, key: [u8; 32]) -> Heads {
        self.hint_key = key;
        self
    }

    /// Tells of heads, in errors, in other words: only who can open a payload knows its time.
    pub fn telling(mut self, told: impl Fn(&Head) -> String + Send + Sync + 'static) -> Heads {
        self.told = Box::new(told);
        self
    }

    /// The newest head. `known`: the newest that this machine has seen; a store whose newest does not
    /// descend from it shows a rollback or a fork, which is a `Conflict`. One that is damaged, or that the hint names and
    /// is gone, is `lost`. A machine with a memory lists what comes after the head that the hint names; where that is not the
    /// newest, and without a memory, all heads are listed.
    pub fn newest(&self, known: Option<HeadLink>) -> Result<Newest> {
        let known = known.filter(|k| k.version != 0);
        let mut found = BTreeMap::new();
        // Before any head: what it names was there by then.
        let hint = self.hint()?.filter(|hint| *hint != Version::MAX);
        if !self.probe(known, hint, &mut found)? || found.values().all(Option::is_none) {
            self.list_heads(&mut found)?;
        }
        let head = found.values().rev().flatten().next().cloned();
        let older = |h: &Head| known.is_some_and(|known| h.version < known.version);
        let missed = match (known, &head) {
            (Some(known), head) if head.as_ref().is_none_or(older) => match found.get(&known.version) {
                Some(bad) => bad.is_none(),
                // In a store that was rolled back as a whole, the hint was as well.
                None => head.is_some() && hint.is_some_and(|hint| hint >= known.version),
            },
            _ => false,
        };
        let mut next = head.as_ref().map_or(0, |h| h.version) + 1;
        while found.contains_key(&next) {
            next += 1;
        }
        if next == Version::MAX {
            return Err(Error::failed("this drive has had all the versions that it can have"));
        }
        let above = head.as_ref().map_or(0, |h| h.version) + 1;
        // Nobody but a writer that had won the number names it in the hint, unless somebody wants us to stop.
        let mut lost = hint.filter(|hint| *hint >= above);
        let mut broken = None;
        match (&head, known) {
            // The head that was seen is damaged or gone: the one before it is the newest that there is.
            (_, Some(known)) if missed => lost = lost.max(Some(known.version)),
            (Some(head), Some(known)) => broken = self.descent(head, known)?,
            (None, Some(known)) => {
                return Err(conflict(format!(
                    "the store was rolled back or emptied: it shows no version at all, but this machine has seen \
                     version {}",
                    known.version
                )));
            }
            (_, None) => {}
        }
        Ok(Newest { head, next, lost, broken })
    }

    /// The head of a version. `NotFound` where there is none, `Damage` where it is no valid head.
    pub fn get(&self, version: Version) -> Result<Head> {
        let name = self.layout.head(version);
        let invalid = || Error::damage(format!("{name} is not a head of this drive with a valid signature"));
        self.load(version)?.ok_or_else(invalid)
    }

    /// The counters that have an object, valid or not, in ascending order.
    pub fn versions(&self) -> Result<Vec<Version>> {
        let names = self.objects.list(&self.layout.heads())?;
        let mut versions: Vec<Version> = names.iter().filter_map(|n| self.layout.version_of(n)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// The bytes of the head that is to follow `newest`.
    pub fn compose(&self, newest: &Newest, new: NewHead) -> Result<Bytes> {
        if new.payload.len() > MAX_PAYLOAD {
            return Err(Error::failed(format!("a head cannot carry {} bytes", new.payload.len())));
        }
        let mut head = Head {
            drive: self.drive,
            realm: self.realm,
            epoch: new.epoch,
            device: new.device,
            version: newest.next,
            before: HeadLink::default(),
            skip: HeadLink::default(),
            payload: new.payload,
            signature: [0; SIGNATURE],
        };
        if let Some(before) = &newest.head {
            head.before = before.link();
            head.skip = self.skip_link(head.version, before)?;
        }
        head.signature = (new.sign)(&head.signed_bytes());
        let bytes = head.encode();
        Head::decode(&bytes)?;
        Ok(bytes)
    }

    /// Makes a head the one of its version, if that number is free, and then the hint point to it.
    /// After an error it is unknown whether the head will come to be: try again with the same bytes.
    pub fn create(&self, version: Version, bytes: &Bytes) -> Result<Race> {
        let race = create_verified(&*self.objects, &self.layout.head(version), bytes)?;
        if race == Race::Won
            && let Err(e) = self.objects.put(&self.layout.latest(), self.hint_bytes(version))
        {
            tracing::debug!("the hint to the newest version was not written: {}", e.chain());
        }
        Ok(race)
    }

    /// What `latest` is to say: the version, and what vouches for it. Without that, whoever bends a bit of it, or the
    /// store, could have us believe in a version that never was.
    pub fn hint_bytes(&self, version: Version) -> Bytes {
        let mac = blake3::keyed_hash(&self.hint_key, &version.to_le_bytes());
        Bytes::from(format!("{version:020} {}\n", mac.to_hex()))
    }

    /// What `latest` says; nothing where it says nothing that is vouched for.
    pub fn hint(&self) -> Result<Option<Version>> {
        match self.objects.get_range(&self.layout.latest(), 0, HINT) {
            Ok(bytes) => {
                let digits = bytes.get(..20).filter(|d| d.iter().all(u8::is_ascii_digit));
                let version = digits.and_then(|d| std::str::from_utf8(d).ok()?.parse().ok());
                Ok(version.filter(|version| self.hint_bytes(*version) == bytes))
            }
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damage) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads what is at a counter.
    fn load(&self, version: Version) -> Result<Found> {
        let name = self.layout.head(version);
        if self.objects.size(&name)? > MAX_HEAD as u64 {
            return Ok(None);
        }
        let bytes = self.objects.get(&name)?;
        let invalid = |why: &str| {
            tracing::warn!("{name} counts as absent: {why}");
            Ok(None)
        };
        let head = match Head::decode(&bytes) {
            Ok(head) => head,
            Err(e) => return invalid(&e.chain()),
        };
        if (head.version, head.drive, head.realm) != (version, self.drive, self.realm) {
            return invalid("it is the head of something else");
        }
        let (signed, _) = bytes.split_at(bytes.len() - SIGNATURE);
        if !(self.verify)(&head, signed)? {
            return invalid("its signature is not valid");
        }
        Ok(Some(head))
    }

    /// Reads what is at a counter into `found`; says whether anything is.
    fn look(&self, version: Version, found: &mut BTreeMap<Version, Found>) -> Result<bool> {
        match self.load(version) {
            Ok(head) => {
                found.insert(version, head);
                Ok(true)
            }
            Err(e) if e.kind() == Kind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reads the head that the hint names, and looks for any after it; says whether it is the newest. Numbers that are free
    /// say nothing: a hint may be old, and heads be gone with newer ones above them.
    fn probe(
        &self,
        known: Option<HeadLink>,
        hint: Option<Version>,
        found: &mut BTreeMap<Version, Found>,
    ) -> Result<bool> {
        let (Some(known), Some(hint)) = (known, hint) else { return Ok(false) };
        if hint < known.version || !self.look(hint, found)? {
            return Ok(false);
        }
        let newer = self.objects.list_after(&self.layout.heads(), &self.layout.head(hint))?;
        Ok(newer.iter().all(|name| self.layout.version_of(name).is_none_or(|v| v == Version::MAX)))
    }

    /// Lists all heads, and reads them from the newest down to the first valid one.
    fn list_heads(&self, found: &mut BTreeMap<Version, Found>) -> Result<()> {
        // Of the last number there can be no next.
        for version in self.versions()?.into_iter().rev().filter(|v| !matches!(*v, 0 | Version::MAX)) {
            // One that goes away meanwhile was never the newest.
            self.look(version, found)?;
            if found.get(&version).is_some_and(Option::is_some) {
                break;
            }
        }
        Ok(())
    }

    /// Demands that a head descends from the one that this machine has seen: `Conflict` where it does not. Where that
    /// cannot be told, the head that it would have to be told by.
    pub fn descent(&self, head: &Head, known: HeadLink) -> Result<Option<Broken>> {
        let newest = head.link();
        if newest.version < known.version {
            return Err(conflict(format!(
                "the store was rolled back: its newest is version {}{}, but this machine has seen version {}",
                newest.version,
                (self.told)(head),
                known.version
            )));
        }
        let fork = |at: &HeadLink| {
            conflict(format!(
                "version {}{} in the store does not descend from version {} that this machine has seen: the \
                 histories part at or before version {}",
                newest.version,
                (self.told)(head),
                known.version,
                at.version
            ))
        };
        let mut at = newest;
        let mut here = Some(head.clone());
        while at.version > known.version {
            let step = match here.take() {
                Some(head) => head,
                // The link's hash vouches for it.
                None => match self.load(at.version) {
                    Ok(Some(head)) if head.link() == at => head,
                    Ok(Some(_)) => {
                        return Err(conflict(no_proof(
                            &newest,
                            &known,
                            at.version,
                            "is not the one that it was",
                        )));
                    }
                    Ok(None) => return Ok(Some(Broken { at: at.version, gone: false })),
                    Err(e) if e.kind() == Kind::NotFound => {
                        return Ok(Some(Broken { at: at.version, gone: true }));
                    }
                    Err(e) => return Err(e),
                },
            };
            at = if step.skip.version >= known.version { step.skip } else { step.before };
        }
        if at == known { Ok(None) } else { Err(fork(&at)) }
    }

    /// That a version cannot be shown to descend from what this machine has seen: `Damage` where what would show it is
    /// damaged, `Conflict` where it is gone, as it is in a store that hides a fork.
    pub fn unproven(&self, head: &Head, known: HeadLink, broken: Broken) -> Error {
        let Broken { at, gone } = broken;
        if gone {
            return conflict(no_proof(&head.link(), &known, at, "is gone"));
        }
        let what = no_proof(&head.link(), &known, at, "is damaged");
        Error::damage(format!(
            "{what}: bring its head back from a backup of the store, or go on from what the store shows with \
             'nacrefs accept'"
        ))
    }

    /// The skip link of a version that follows `before`: in the manner of a skip list, from number n to the
    /// newest at or below n without its lowest set bit.
    fn skip_link(&self, version: Version, before: &Head) -> Result<HeadLink> {
        let target = version & (version - 1);
        if target == 0 {
            return Ok(HeadLink::default());
        }
        let mut at = before.link();
        let mut here = Some(before.clone());
        while at.version > target {
            let step = match here.take() {
                Some(head) => head,
                None => match self.load(at.version) {
                    Ok(Some(head)) if head.link() == at => head,
                    // Retention may have taken it: then there is no shorter way than the chain itself.
                    Ok(_) => return Ok(HeadLink::default()),
                    Err(e) if e.kind() == Kind::NotFound => return Ok(HeadLink::default()),
                    Err(e) => return Err(e),
                },
            };
            at = if step.skip.version >= target { step.skip } else { step.before };
        }
        Ok(at)
    }
}

fn conflict(message: String) -> Error {
    Error::new(Kind::Conflict, message)
}

fn no_proof(newest: &HeadLink, known: &HeadLink, at: Version, why: &str) -> String {
    format!(
        "version {} in the store cannot be shown to descend from version {} that this machine has seen: version {at} \
         between them {why}",
        newest.version, known.version
    )
}
