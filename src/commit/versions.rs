//! The versions of a drive in its store: finding them, opening them, adding one.
//!
//! A version is made in three steps. [`build`](super::build()) puts its chunks into a batch.
//! [`Versions::prepare`] makes the batch durable, with index runs, and the commit in a pack of its own.
//! [`Versions::publish`] creates the head: only then does anybody see the version. Each step can be taken
//! again after an error; a version is given up by dropping it.

mod payload;

pub use payload::{CommitAt, Payload};

use super::inode::{Content, StoredXattrs};
use super::object::{Commit, Parent};
use super::packs;
use super::when::When;
use crate::chunk::Chunks;
use crate::crypt::{DriveSecrets, RealmKeys, Signature, Signed, SigningKey};
use crate::error::{Context, Error, Kind, Result};
use crate::store::pack::PackBuilder;
use crate::store::{
    Batch, ChunkStore, Head, HeadLink, Heads, IndexKeys, Layout, NewHead, Objects, PackInfo, Race, Settings,
    Written,
};
use crate::types::{Address, DeviceId, Epoch, Time, Version};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// The versions of a drive.
pub struct Versions {
    objects: Arc<dyn Objects>,
    layout: Layout,
    heads: Heads,
    index_keys: IndexKeys,
    ring: Arc<Keyring>,
    /// Where a scratch file may be made.
    scratch: OnceLock<PathBuf>,
}

/// A version that was opened: its head has a valid signature, its commit is the one that the head names.
#[derive(Clone, Debug)]
pub struct Opened {
    pub head: Head,
    pub commit: Arc<Commit>,
    pub at: CommitAt,
}

/// The newest version, and the number of the next.
#[derive(Clone)]
pub struct Newest {
    /// None in a drive that has no version yet.
    pub opened: Option<Opened>,
    pub next: Version,
    /// A newer version that was there, and cannot be read.
    pub lost: Option<Version>,
    /// The chunks of the version, where it was looked whether it can be read: what that showed of the index is known.
    pub store: Option<Arc<ChunkStore>>,
}

impl Newest {
    /// To go on from a version that is known to be the newest, or to be wanted in its place.
    pub fn after(opened: Opened, next: Version) -> Newest {
        Newest { opened: Some(opened), next, lost: None, store: None }
    }

    /// Whether there was a newer version than the newest that can be read.
    pub fn is_short(&self) -> bool {
        self.opened.is_some() && self.lost.is_some()
    }
}

/// A version that is in the store, and that nobody sees yet. Its chunks can be read while it lives.
pub struct Prepared {
    opened: Opened,
    head: Bytes,
    _written: Written,
}

/// What became of a head.
#[derive(Debug)]
pub enum Published {
    /// It is the newest version. The store of chunks may adopt its runs.
    Won(Box<Opened>),
    /// Another version has the number.
    Lost,
}

/// Signs heads for a device.
pub struct Signer {
    device: DeviceId,
    key: SigningKey,
    certificate: Signature,
}

/// The keys of all epochs.
struct Keyring {
    secrets: Arc<DriveSecrets>,
    keys: Mutex<HashMap<Epoch, Arc<RealmKeys>>>,
}

impl Keyring {
    fn of(&self, epoch: Epoch) -> Result<Arc<RealmKeys>> {
        if let Some(keys) = self.keys.lock().get(&epoch) {
            return Ok(keys.clone());
        }
        let keys = Arc::new(self.secrets.realm_keys_of(epoch).map_err(|e| {
            let what = "a version was written under a key that is not among those opened: the key was rotated; \
                        open the drive again with its passphrase or key file";
            Error::new(Kind::Secret, what).with_source(e)
        })?);
        self.keys.lock().insert(epoch, keys.clone());
        Ok(keys)
    }

    fn payload(&self, head: &Head) -> Result<Payload> {
        Payload::open(head, &*self.of(head.epoch)?)
    }
}

/// A time for people, in UTC.
fn rfc3339(t: Time) -> Option<String> {
    let at = time::OffsetDateTime::from_unix_timestamp(t.sec).ok()?;
    at.format(&time::format_description::well_known::Rfc3339).ok()
}

impl Signer {
    /// Certifies the device with the admin key.
    pub fn new(secrets: &DriveSecrets, device: DeviceId, key: SigningKey) -> Signer {
        let certified =
            payload::certificate_bytes(secrets.drive, secrets.realm, device, &key.public().to_bytes());
        let certificate = secrets.admin.sign(Signed::Device, &certified);
        Signer { device, key, certificate }
    }
}

impl Opened {
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// What a version that goes on from this one names.
    pub fn as_parent(&self) -> Parent {
        let HeadLink { version, hash } = self.head.link();
        Parent { version, hash }
    }

    /// All packs that this version alone adds to those in its Map.
    pub fn fresh_packs(&self) -> impl Iterator<Item = &PackInfo> {
        self.commit.fresh.iter().chain([&self.at.pack])
    }
}

impl Prepared {
    pub fn opened(&self) -> &Opened {
        &self.opened
    }
}

impl Versions {
    /// `index_keys`: what packs are sealed under. Reads nothing.
    pub fn new(objects: Arc<dyn Objects>, secrets: Arc<DriveSecrets>, index_keys: IndexKeys) -> Versions {
        let (drive, realm, admin) = (secrets.drive, secrets.realm, secrets.admin.public());
        let hint_key = *secrets.realm_keys().hint_key();
        let ring = Arc::new(Keyring { secrets, keys: Mutex::default() });
        let verifier = ring.clone();
        let verify = move |head: &Head, signed: &[u8]| {
            let vouched = verifier.payload(head).and_then(|p| p.vouches_for(head, signed, &admin));
            match vouched {
                Ok(()) => Ok(true),
                // Nobody vouches for the number of a key epoch that is not known: anybody may have put it there.
                Err(e) if matches!(e.kind(), Kind::Damage | Kind::Secret) => {
                    tracing::warn!("head {} by device {}: {}", head.version, head.device, e.chain());
                    Ok(false)
                }
                Err(e) => Err(e),
            }
        };
        let reader = ring.clone();
        let told = move |head: &Head| {
            let time = reader.payload(head).ok().and_then(|p| rfc3339(p.time));
            let time = time.unwrap_or_else(|| "an unknown time".into());
            format!(" (by device {}, of {time})", head.device)
        };
        let heads = Heads::new(objects.clone(), drive, realm, verify).telling(told).with_hint_key(hint_key);
        Versions { objects, layout: Layout::new(&realm), heads, index_keys, ring, scratch: OnceLock::new() }
    }

    /// Says in which directory a scratch file may be made, where an index must be made anew; once.
    pub fn scratch_in(&self, dir: PathBuf) {
        self.scratch.get_or_init(|| dir);
    }

    /// The keys that everything new is sealed under.
    pub fn keys(&self) -> Result<Arc<RealmKeys>> {
        self.ring.of(self.ring.secrets.epoch())
    }

    /// The newest version. `known`: the newest that this machine has seen, from which it must descend
    /// (`Conflict` otherwise: a rollback or a fork). Where it cannot be read (see [`Versions::readable`]) it is
    /// `lost`, and the newest is the one before it; where that one's head is missing or damaged as well, the newest head
    /// below it whose version can be read.
    pub fn open_newest(&self, known: Option<HeadLink>) -> Result<Newest> {
        let known = known.filter(|known| known.version != 0);
        let newest = self.heads.newest(known)?;
        let (mut lost, mut wanted) = (newest.lost, newest.head);
        let (mut store, mut opened) = (None, None::<Opened>);
        let mut broken = newest.broken;
        while let Some(head) = wanted.take() {
            let read = self.open_head(head.clone()).and_then(|found| Ok((self.readable(&found)?, found)));
            match read {
                Ok((chunks, found)) => (store, opened) = (Some(chunks), Some(found)),
                Err(e) if e.kind() == Kind::Damage => {
                    tracing::warn!("{}", e.chain());
                    lost = lost.or(Some(head.version));
                    let before = self.before(&head)?.ok_or_else(|| {
                        let e = e.chain();
                        Error::damage(format!(
                            "no version can be read ({e}): bring the store's packs and heads back, from a backup"
                        ))
                    })?;
                    broken = match known {
                        Some(known) if known.version <= before.version => {
                            self.heads.descent(&before, known)?
                        }
                        _ => None,
                    };
                    wanted = Some(before);
                }
                Err(e) => return Err(e),
            }
        }
        // Of a version that is lost it need not be shown: nothing of it is believed.
        if let (Some(opened), Some(known), Some(broken)) = (&opened, known, broken) {
            return Err(self.heads.unproven(&opened.head, known, broken));
        }
        Ok(Newest { opened, next: newest.next, lost, store })
    }

    /// The valid head before another. Numbers that the other passes over were given up, or were never versions.
    fn before(&self, head: &Head) -> Result<Option<Head>> {
        match self.linked(&head.before) {
            Ok(Some(before)) => return Ok(Some(before)),
            Ok(None) => {}
            Err(e) if e.kind() == Kind::Damage => tracing::warn!("{}", e.chain()),
            Err(e) => return Err(e),
        }
        for version in self.heads.versions()?.into_iter().rev().filter(|v| *v < head.before.version) {
            match self.heads.get(version) {
                Ok(head) => return Ok(Some(head)),
                Err(e) if matches!(e.kind(), Kind::Damage | Kind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Reads what no version can be worked on without: the root directory's first node and its extended attributes, and
    /// the first node of the shells. `Damage` where one of them is damaged or missing. Gives the chunks that it is read
    /// from.
    pub(super) fn readable(&self, opened: &Opened) -> Result<Arc<ChunkStore>> {
        let commit = &opened.commit;
        let directory = match &commit.root.content {
            Content::Directory(names) => names.root().map(|node| node.address),
            _ => None,
        };
        let xattrs = match commit.root.xattrs {
            StoredXattrs::Chunk { address, .. } => Some(address),
            _ => None,
        };
        let shells = commit.shells.root().map(|node| node.address);
        let store = ChunkStore::open(
            self.objects.clone(),
            self.index_keys.clone(),
            commit.runs.clone(),
            Settings::default(),
            None,
        );
        if let Some(dir) = self.scratch.get() {
            store.index().scratch_in(dir.clone());
        }
        let needed = [("root directory", directory), ("root directory", xattrs), ("Map of shells", shells)];
        for (what, chunk) in needed {
            let Some(address) = chunk else { continue };
            store.fetch(&address).map_err(|e| {
                let kind = if e.kind() == Kind::NotFound { Kind::Damage } else { e.kind() };
                let what =
                    format!("version {} cannot be opened: its {what} cannot be read", opened.version());
                Error::new(kind, what).with_source(e)
            })?;
        }
        Ok(store)
    }

    /// Where the history of a version parts from that of another head, and which devices made the other's versions from
    /// there on. None where that cannot be told, because heads between them are not in the store.
    pub fn parting(&self, newest: &Opened, other: HeadLink) -> Result<Option<(HeadLink, HashSet<DeviceId>)>> {
        let (mut here, mut there, mut by) = (newest.head.link(), other, HashSet::new());
        while here != there {
            let ours = here.version > there.version;
            let back = if ours { &mut here } else { &mut there };
            let head = match self.linked(back) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(None),
                Err(e) if e.kind() == Kind::Damage => return Ok(None),
                Err(e) => return Err(e),
            };
            *back = head.before;
            if !ours {
                by.insert(head.device);
            }
        }
        Ok((here.version != 0).then_some((here, by)))
    }

    /// A version by its number. `NotFound` where there is none.
    pub fn open(&self, version: Version) -> Result<Opened> {
        match self.heads.get(version) {
            Ok(head) => self.open_head(head),
            Err(e) if e.kind() == Kind::NotFound => {
                Err(Error::new(Kind::NotFound, format!("there is no version {version}")).with_source(e))
            }
            Err(e) => Err(e),
        }
    }

    /// The versions from one on, newest first. Read as it goes; ends after an error.
    pub fn iter(&self, from: &Opened) -> impl Iterator<Item = Result<Opened>> {
        let mut next = Some(Ok(from.clone()));
        std::iter::from_fn(move || {
            let here = next.take()?;
            if let Ok(opened) = &here {
                let before = self.linked(&opened.head.before).transpose();
                next = before.map(|head| head.and_then(|head| self.open_head(head)));
            }
            Some(here)
        })
    }

    /// The version that a moment names, seen from the newest: that of the number, or the newest that is not
    /// after the time. `NotFound` where there is none.
    pub fn at(&self, when: When, newest: &Opened) -> Result<Opened> {
        let time = match when {
            When::Version(version) if version == newest.version() => return Ok(newest.clone()),
            When::Version(version) if version < newest.version() => {
                return self.open(version).map_err(|e| match e.kind() {
                    Kind::NotFound if self.is_named(version).unwrap_or(true) => {
                        Error::damage(format!("the head of version {version} is missing")).with_source(e)
                    }
                    _ => e,
                });
            }
            When::Version(version) => {
                let newest = newest.version();
                let what = format!("there is no version {version}: the newest is {newest}");
                return Err(Error::new(Kind::NotFound, what));
            }
            When::Until(time) => time,
        };
        if newest.commit.time <= time {
            return Ok(newest.clone());
        }
        // Back along the skip links while they lead to what is too new as well; but not to what is newer than where they
        // come from: its clock ran ahead, and says nothing of what lies between.
        let mut here = newest.head.clone();
        loop {
            let skip = match self.linked(&here.skip) {
                Ok(Some(skip)) => {
                    let made = self.time(&skip)?;
                    (made > time && made <= self.time(&here)?).then_some(skip)
                }
                Ok(None) => None,
                // What is asked for may lie before it.
                Err(e) if e.kind() == Kind::Damage => None,
                Err(e) => return Err(e),
            };
            here = match skip {
                Some(skip) => skip,
                None => match self.linked(&here.before)? {
                    Some(before) if self.time(&before)? <= time => return self.open_head(before),
                    Some(before) => before,
                    None => {
                        let what = format!("the oldest version, {}, is newer than that", here.version);
                        return Err(Error::new(Kind::NotFound, what));
                    }
                },
            };
        }
    }

    /// Whether a version whose head is not there has been one: the head above it tells of it, or is not there either.
    fn is_named(&self, version: Version) -> Result<bool> {
        match self.heads.versions()?.into_iter().filter(|v| *v > version).min() {
            // There is no version 0: the first one names it as the one before.
            Some(above) => Ok(version > 0 && self.heads.get(above)?.before.version >= version),
            None => Ok(false),
        }
    }

    fn time(&self, head: &Head) -> Result<Time> {
        Ok(self.ring.payload(head)?.time)
    }

    /// The head that another links to. None where there is no link. One that is gone is damage: nothing takes a version.
    fn linked(&self, link: &HeadLink) -> Result<Option<Head>> {
        if link.version == 0 {
            return Ok(None);
        }
        match self.heads.get(link.version) {
            Ok(head) if head.link() == *link => Ok(Some(head)),
            Ok(_) => {
                let what = format!("version {} is not the one that the versions after it name", link.version);
                Err(Error::damage(what))
            }
            Err(e) if e.kind() == Kind::NotFound => {
                Err(Error::damage(format!("the head of version {} is missing", link.version)).with_source(e))
            }
            Err(e) => Err(e),
        }
    }

    fn open_head(&self, head: Head) -> Result<Opened> {
        let version = head.version;
        let open = || -> Result<Opened> {
            let Payload { commit: at, time, .. } = self.ring.payload(&head)?;
            at.check()?;
            let pack = self.layout.pack(&at.pack.id);
            let stored = match self.objects.get_range(&pack, at.offset.into(), at.len as usize) {
                Err(e) if e.kind() == Kind::NotFound => {
                    return Err(Error::damage(format!("{pack} is missing")).with_source(e));
                }
                read => read?,
            };
            if Address::of(&stored) != at.address {
                return Err(Error::damage(format!(
                    "what {pack} holds is not the commit that its head names"
                )));
            }
            let bytes = self.ring.of(head.epoch)?.open_commit(version, &at.key, &stored)?;
            let commit = Commit::from_bytes(&bytes)?;
            let parent = commit.parents.first().map(|p| HeadLink { version: p.version, hash: p.hash });
            if commit.version != version
                || commit.time != time
                || commit.device != head.device
                || parent.unwrap_or_default() != head.before
            {
                return Err(Error::damage("the commit does not say the same as its head"));
            }
            Ok(Opened { head: head.clone(), commit: Arc::new(commit), at })
        };
        open().context(|| format!("version {version} cannot be opened"))
    }

    /// The heads, for those who check them.
    pub(super) fn heads(&self) -> &Heads {
        &self.heads
    }

    pub(super) fn objects(&self) -> &dyn Objects {
        &*self.objects
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn index_keys(&self) -> &IndexKeys {
        &self.index_keys
    }

    /// Makes a version durable that was built on the newest: what is left of its batch, the index, the
    /// commit. After an error it can be tried again with the same arguments.
    ///
    /// `Conflict`: chunks that the version shares with others are gone from the index; build it anew.
    pub fn prepare(
        &self,
        newest: &Newest,
        mut commit: Commit,
        batch: &mut Batch,
        chunks: &dyn Chunks,
        signer: &Signer,
    ) -> Result<Prepared> {
        let keys = &*self.keys()?;
        let version = commit.version;
        let parent = newest.opened.as_ref().map(Opened::as_parent);
        if version != newest.next
            || commit.parents.first() != parent.as_ref()
            || commit.device != signer.device
        {
            return Err(Error::failed(format!(
                "version {version} does not go on from the newest (a bug in nacrefs)"
            )));
        }
        if let Some(base) = &newest.opened {
            // The packs of a version are known when its chunks are stored: the next version enters them.
            commit.packs = packs::enter(&base.commit.packs, base.fresh_packs(), keys, chunks, batch)?;
        }
        if batch.index_is_damaged() {
            match packs::list(&commit.packs, chunks).map(|pack| Ok(pack?.id)).collect::<Result<_>>() {
                Ok(listed) => batch.heal(listed),
                Err(e) if e.kind() == Kind::Damage => {
                    tracing::error!("the index of chunks cannot be healed: {}", e.chain());
                }
                Err(e) => return Err(e),
            }
        }
        let written = batch.finish()?;
        commit.fresh = written.packs.clone();
        commit.fresh.sort_unstable_by_key(|pack| pack.id);
        commit.runs = written.runs.clone();

        let (chunk, stored) = keys.seal_commit(version, &commit.to_bytes()?)?;
        let crate::chunk::Opening::Sealed { key, .. } = chunk.opening else {
            return Err(Error::failed("a commit was not sealed as one chunk"));
        };
        let mut pack = PackBuilder::new();
        let place = pack.push(chunk.address, &stored)?;
        let pack = pack.seal(&self.index_keys)?;
        self.objects
            .put(&self.layout.pack(&pack.info.id), pack.bytes)
            .context(|| format!("commit {version} cannot be stored"))?;

        let at =
            CommitAt { address: chunk.address, key, pack: pack.info, offset: place.offset, len: place.len };
        let head = self.head(newest, keys, &at, commit.time, signer)?;
        let opened = Opened { head, commit: Arc::new(commit), at };
        Ok(Prepared { head: opened.head.encode(), opened, _written: written })
    }

    /// The signed head of a version. The payload is bound to the head's links, so these come first.
    fn head(
        &self,
        newest: &Newest,
        keys: &RealmKeys,
        at: &CommitAt,
        time: Time,
        signer: &Signer,
    ) -> Result<Head> {
        let after = crate::store::Newest {
            head: newest.opened.as_ref().map(|o| o.head.clone()),
            next: newest.next,
            lost: None,
            broken: None,
        };
        let unsigned = |_: &[u8]| [0; 64];
        let new =
            NewHead { epoch: keys.epoch(), device: signer.device, payload: Bytes::new(), sign: &unsigned };
        let mut head = Head::decode(&self.heads.compose(&after, new)?)?;
        let payload = Payload {
            commit: at.clone(),
            time,
            device_key: signer.key.public().to_bytes(),
            certificate: signer.certificate,
        };
        head.payload = payload.seal(&head, keys)?.into();
        head.signature = signer.key.sign(Signed::Head, &head.signed_bytes());
        Ok(head)
    }

    /// That a version which was opened is in the store still: a store that was rolled back while somebody worked on it
    /// must not be written to as if nothing were. `Conflict` where its head is gone or another one, `Damage` where it is
    /// damaged.
    pub fn is_there(&self, link: &HeadLink) -> Result<()> {
        let HeadLink { version, hash } = link;
        let what = match self.heads.get(*version) {
            _ if *version == 0 => return Ok(()),
            Ok(head) if head.link().hash == *hash => return Ok(()),
            Ok(head) => format!("its version {version} is another one now, by device {}", head.device),
            Err(e) if e.kind() == Kind::NotFound => format!("its version {version} is gone"),
            Err(e) => return Err(e),
        };
        let what = format!("the store was rolled back or exchanged while it was in use: {what}");
        Err(Error::new(Kind::Conflict, what))
    }

    /// Makes a prepared version the newest. After an error it is unknown whether it is: try again with the
    /// same one.
    pub fn publish(&self, prepared: &Prepared) -> Result<Published> {
        self.is_there(&prepared.opened.head.before)?;
        Ok(match self.heads.create(prepared.opened.version(), &prepared.head)? {
            Race::Won => Published::Won(Box::new(prepared.opened.clone())),
            Race::Lost => Published::Lost,
        })
    }
}
