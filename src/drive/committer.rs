//! Turning what changed into a version of the drive, while operations go on.
//!
//! A commit closes the current generation in an instant, gathers what changed in it, has it encoded and
//! published, and then lets the inodes take over the committed content. Until that has succeeded the closed
//! generation stays as it is: a failed commit is tried again with the same changes and loses nothing.

use super::Drive;
use super::inode::{Body, Generation, Inode};
use super::table::Place;
use crate::commit::build::{Making, build};
use crate::commit::change::{Ancestors, BodyChange, Change};
use crate::commit::inode::{Content, InodeRecord};
use crate::commit::versions::{Opened, Publish, Versions};
use crate::content::{Blob, Ctx};
use crate::error::{Error, Kind, Result};
use crate::types::{DeviceId, Ino, Lsn, Time, Version};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What commits need, and the one that is under way.
pub struct Committing {
    pub(super) versions: Arc<Versions>,
    /// The newest version.
    pub(super) base: Opened,
    pub(super) device: DeviceId,
    pub(super) incarnation: [u8; 16],
    /// How many threads encode.
    pub(super) workers: usize,
    /// Remembers the newest head durably.
    pub(super) remember: Box<dyn Fn(Version, [u8; 32]) -> Result<()> + Send>,
    closed: Option<Closed>,
}

impl Committing {
    pub(super) fn new(
        versions: Arc<Versions>,
        base: Opened,
        device: DeviceId,
        incarnation: [u8; 16],
        workers: usize,
        remember: Box<dyn Fn(Version, [u8; 32]) -> Result<()> + Send>,
    ) -> Committing {
        Committing { versions, base, device, incarnation, workers, remember, closed: None }
    }
}

/// A closed generation.
struct Closed {
    generation: Generation,
    /// The last record that belongs to it.
    mark: Lsn,
    inodes: Vec<Arc<Inode>>,
    placed: Vec<Ino>,
    next_ino: u64,
    time: Time,
}

/// What `status` tells of commits.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub version: Version,
    pub last_commit: Time,
    /// The last record that is in the store.
    pub stored: Lsn,
    pub last_error: Option<String>,
    /// The store could not be reached by the last commit.
    pub away: bool,
}

/// The progress, where everybody can look at it.
pub type Facts = Mutex<Progress>;

/// The directories as they were when a generation was closed.
struct AsClosed<'a>(&'a Drive, Generation);

impl Ancestors for AsClosed<'_> {
    fn place(&self, dir: Ino) -> Result<(Ino, u64)> {
        let Self(drive, closed) = self;
        let found = drive.table.with(dir, |s| (s.inode.clone(), s.place));
        let (inode, place) =
            found.ok_or_else(|| Error::failed(format!("directory {dir} has changes below it but is not known")))?;
        if let Some(inode) = inode {
            let node = inode.node.read();
            if let Some(name) = node.name_at(*closed) {
                return Ok((name.parent, drive.name_hash(&name.name)));
            }
        }
        match place {
            Place::SHELLS | Place::NOWHERE => Err(Error::failed(format!("directory {dir} stands nowhere"))),
            Place { parent, hash } => Ok((parent, hash)),
        }
    }
}

impl Drive {
    pub fn version(&self) -> Version {
        self.facts.lock().version
    }

    pub fn progress(&self) -> Progress {
        self.facts.lock().clone()
    }

    /// Takes note of trouble, for `status`.
    pub fn note_error(&self, e: &Error) {
        let mut facts = self.facts.lock();
        facts.last_error = Some(e.chain());
        facts.away = e.kind() == Kind::Away;
    }

    pub fn wait_for_work(&self, at_most: Duration) -> bool {
        self.pressure.wait_for_work(at_most)
    }

    pub fn stop_waiting(&self) {
        self.pressure.stop();
    }

    /// Commits until everything that was acknowledged before the call is in the store. Returns the version.
    pub fn commit_all(&self) -> Result<Version> {
        let upto = self.journal.last();
        while self.facts.lock().stored < upto {
            if self.commit()?.is_none() {
                break;
            }
        }
        Ok(self.version())
    }

    /// Commits what has changed; None where nothing has.
    pub fn commit(&self) -> Result<Option<Version>> {
        let mut committing = self.committing.lock();
        if committing.closed.is_none() {
            committing.closed = self.close_generation();
        }
        let c = &mut *committing;
        let Some(closed) = &c.closed else { return Ok(None) };
        let (opened, inodes) = self.publish(c, closed)?;
        let version = opened.commit.version;
        // The version is published, whatever becomes of our memory of it: only a rollback would go unnoticed.
        if let Err(e) = (c.remember)(version, opened.hash) {
            tracing::error!("cannot remember version {version}: {}", e.chain());
        }
        self.adopt(closed, &opened, inodes);
        c.base = opened;
        let Some(closed) = c.closed.take() else { return Ok(None) };
        *self.facts.lock() = Progress {
            version,
            last_commit: closed.time,
            stored: closed.mark,
            last_error: None,
            away: false,
        };
        drop(committing);
        self.journal.trim(closed.mark)?;
        self.let_go(closed);
        self.resident.sweep();
        self.pressure.made_room();
        Ok(Some(version))
    }

    /// Unloads what a generation needed and nobody else does.
    fn let_go(&self, closed: Closed) {
        let mut inos: Vec<Ino> = closed.inodes.iter().map(|i| i.ino).collect();
        drop(closed.inodes);
        inos.extend(closed.placed);
        for ino in inos {
            let unknown = self.table.with(ino, |s| s.lookups == 0).unwrap_or(false);
            if unknown || self.table.loaded() > self.settings.loaded_inodes {
                self.release_if_idle(ino);
            }
        }
    }

    /// Closes the current generation, if anything changed in it.
    fn close_generation(&self) -> Option<Closed> {
        let mut gens = self.gate.write();
        let inodes = std::mem::take(&mut *self.dirty.lock());
        if inodes.is_empty() {
            return None;
        }
        let generation = gens.now;
        gens.closed = Some(generation);
        gens.now += 1;
        Some(Closed {
            generation,
            mark: self.journal.last(),
            inodes,
            placed: std::mem::take(&mut *self.placed.lock()),
            next_ino: self.next_ino.load(Ordering::Relaxed),
            time: self.clock.now(),
        })
    }

    fn publish(&self, c: &Committing, closed: &Closed) -> Result<(Opened, Vec<InodeRecord>)> {
        let mut batch = c.versions.begin();
        let mut changes = Vec::with_capacity(closed.inodes.len());
        let mut nameless = Vec::new();
        for inode in &closed.inodes {
            let gens = *self.gate.read();
            let mut node = inode.node.write();
            node.roll(gens.now, gens.closed);
            let Some(change) = node.change(inode.ino, closed.generation) else { continue };
            drop(node);
            if change.names.is_empty() && inode.opens.load(Ordering::Relaxed) > 0 {
                nameless.push(self.nameless(&change, batch.sink())?);
            }
            changes.push(change);
        }
        let base = &c.base.commit;
        let making = Making {
            version: base.version + 1,
            parents: vec![c.base.parent()],
            time: closed.time,
            device: c.device,
            incarnation: c.incarnation,
            lsn: closed.mark,
            next_ino: closed.next_ino & ((1 << 43) - 1),
            parameters: base.parameters.clone(),
            workers: c.workers,
        };
        let (commit, committed) = build(
            Some(base),
            changes,
            &AsClosed(self, closed.generation),
            &making,
            &self.keys,
            &*self.chunks,
            batch.sink(),
        )?;
        match c.versions.publish(&c.base, commit, batch)? {
            Publish::Won(opened) => {
                let mut inodes = committed.inodes;
                inodes.extend(nameless.into_iter().flatten());
                Ok((opened, inodes))
            }
            Publish::Lost => Err(Error::new(
                Kind::Conflict,
                "another machine has written to this drive since it was mounted here: what was changed here is kept in the \
                 journal; unmount with --local and mount again",
            )),
        }
    }

    /// A file that has no name but is open: its bytes leave the journal like any other's, so that the journal can
    /// be trimmed; no version leads to them, and gc frees them.
    fn nameless(&self, change: &Change, sink: &mut dyn crate::chunk::ChunkSink) -> Result<Option<InodeRecord>> {
        let BodyChange::File { base, cut, edits } = &change.body else { return Ok(None) };
        let ctx = Ctx { sealer: &*self.keys, chunks: &*self.chunks };
        let blob: Blob = base.update(&ctx, sink, *cut, edits)?;
        let mut attr = change.attr.clone();
        attr.allocated = blob.allocated();
        Ok(Some(InodeRecord { ino: change.ino, attr, xattrs: None, content: Content::File(blob) }))
    }

    /// Lets the inodes take over what was committed.
    fn adopt(&self, closed: &Closed, opened: &Opened, inodes: Vec<InodeRecord>) {
        let mut contents: HashMap<Ino, (Content, u64)> =
            inodes.into_iter().map(|i| (i.ino, (i.content, i.attr.allocated))).collect();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        *self.shells.write() = opened.commit.shells.clone();
        for inode in &closed.inodes {
            let (content, allocated) = contents.remove(&inode.ino).map_or((None, 0), |(c, a)| (Some(c), a));
            inode.node.write().adopt(closed.generation, content, allocated);
        }
        // The directories above, where they are loaded.
        for (ino, (content, allocated)) in contents {
            if let Some(inode) = self.table.loaded_inode(ino) {
                let mut node = inode.node.write();
                if let (Body::Dir(d), Content::Directory(base)) = (&mut node.body, &content) {
                    d.base = base.clone();
                } else {
                    node.adopt(closed.generation, Some(content), allocated);
                }
            }
        }
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.gate.write().closed = None;
    }
}
