//! Turning what changed into a version of the drive, while operations go on.
//!
//! A commit closes the current generation in an instant, gathers what changed in it, has it encoded and
//! published, and then lets the inodes take over the committed content. Until that has succeeded the closed
//! generation stays as it is: a failed commit is tried again with the same changes and loses nothing. Only where the store
//! has no room for them and some were undone since does it become one with the next.

use super::Drive;
use super::inode::{Body, Generation, Inode};
use super::locks::FACTS;
use super::open::{FromStore, Keeping};
use super::table::Place;
use crate::chunk::ChunkSink;
use crate::commit::inode::{Attr, Content, InodeRecord, Name};
use crate::commit::{
    Ancestors, BodyChange, Change, Making, Newest, Opened, Parameters, Prepared, Published, Signer, Tools,
    Versions, build,
};
use crate::content::Ctx;
use crate::error::{Error, Kind, Result};
use crate::store::{Batch, ChunkStore};
use crate::sys::random;
use crate::sys::ranked::Mutex;
use crate::types::{DeviceId, Incarnation, Ino, Lsn, Time, Version};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The counter's bits of an inode number.
const COUNTER: u64 = (1 << 43) - 1;

/// What commits need, and the one that is under way.
pub struct Committing {
    pub versions: Arc<Versions>,
    /// The number of the next version.
    pub next: Version,
    pub signer: Signer,
    pub device: DeviceId,
    pub incarnation: Incarnation,
    /// Remembers the newest head durably.
    pub remember: Box<dyn Fn(Version, [u8; 32]) -> Result<()> + Send>,
    /// What was closed and is not published yet.
    pub closed: Option<Closed>,
}

/// A closed generation.
pub struct Closed {
    generation: Generation,
    /// The last record that belongs to it.
    mark: Lsn,
    inodes: Vec<Arc<Inode>>,
    placed: Vec<Ino>,
    next_ino: u64,
    time: Time,
    /// Its chunks on their way into the store: a try that failed has stored some, which the next one need not store
    /// again.
    batch: Option<Batch>,
    /// Its version, once that is in the store; and the inodes as it has them.
    ready: Option<(Prepared, Vec<InodeRecord>)>,
}

/// What `status` tells of commits.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub version: Version,
    pub last_commit: Time,
    /// The last record that is in the store.
    pub stored: Lsn,
    pub last_error: Option<String>,
    pub last_error_time: Option<Time>,
    /// The store could not be reached by the last commit.
    pub away: bool,
    /// Since when `away` is as it is: the first try that told so. None: since the drive was opened.
    pub since: Option<Time>,
    /// What the last commit failed with, as long as none has succeeded since.
    pub failing: Option<Kind>,
    /// Versions made, and tries that failed, since the drive was opened.
    pub commits: u64,
    pub failures: u64,
    /// How long the commits took that made a version.
    pub busy: Duration,
}

/// The progress, where everybody can look at it.
pub type Facts = Mutex<Progress, FACTS>;

/// The directories as they were when a generation was closed.
struct AsClosed<'a>(&'a Drive, Generation);

impl Ancestors for AsClosed<'_> {
    fn place(&self, dir: Ino) -> Result<(Ino, u64)> {
        let Self(drive, closed) = self;
        let found = drive.table.find(dir);
        let (inode, place) = found
            .ok_or_else(|| Error::failed(format!("directory {dir} has changes below it but is not known")))?;
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

    fn known(&self, dir: Ino) -> Option<(Name, InodeRecord)> {
        let Self(drive, closed) = self;
        let inode = drive.table.loaded_inode(dir)?;
        let node = inode.node.read();
        let Body::Dir(d) = &node.body else { return None };
        let attr = Attr { size: d.base.len(), ..node.meta.attr.clone() };
        let (xattrs, content) = (node.meta.xattrs.clone(), Content::Directory(d.base.clone()));
        Some((node.name_at(*closed)?.clone(), InodeRecord { ino: dir, attr, xattrs, content }))
    }
}

/// What to do where the store does not go on from the version that this mount stands on. One message: of an error that
/// others add to, the middle is not shown.
fn way_on(e: Error) -> Error {
    let told = e.chain();
    match e.kind() {
        kind @ (Kind::Conflict | Kind::Damage) => Error::new(
            kind,
            format!(
                "{told}; what was changed here is kept in the journal: bring the store's newest state back, or unmount \
                 with --local and go on from what the store shows with 'nacrefs accept'"
            ),
        ),
        _ => e,
    }
}

fn told_damaged(packs: usize) -> String {
    let (packs, are) =
        if packs == 1 { ("a pack".to_string(), "is") } else { (format!("{packs} packs"), "are") };
    format!(
        "{packs} of the store {are} damaged or gone: all that could be stored is stored; 'nacrefs check' names the damage, \
         and a backup of the store's objects mends it"
    )
}

impl Drive {
    pub fn version(&self) -> Version {
        self.facts.lock().version
    }

    pub fn progress(&self) -> Progress {
        let mut progress = self.facts.lock().clone();
        // A journal that takes nothing more stays so, also where commits succeed.
        if progress.last_error.is_none() {
            progress.last_error = self.journal.poison();
        }
        progress
    }

    /// Bytes of the journal that are not in the store: those that the commit under way has taken count as stored. An
    /// estimate, exact when none is under way.
    pub fn unstored_bytes(&self) -> u64 {
        if self.is_stored() {
            return 0;
        }
        let share = self.closing_bytes.load(Ordering::Relaxed);
        // Never none before all is.
        self.journal.usage().bytes.saturating_sub(self.resident.taken().min(share)).max(1)
    }

    /// Takes note of trouble other than a commit's, for `status`.
    pub fn note_error(&self, e: &Error) {
        let mut facts = self.facts.lock();
        facts.last_error = Some(e.chain());
        facts.last_error_time = Some(self.clock.now());
    }

    /// Takes note of what became of a commit. The log is told when that changes, not at each try.
    fn note_commit(&self, outcome: &Result<Option<Version>>, took: Duration) {
        let (now, damaged) = (self.clock.now(), self.store.damaged_packs());
        let mut facts = self.facts.lock();
        match outcome {
            Ok(version) => {
                if version.is_some() {
                    facts.commits += 1;
                    facts.busy += took;
                } else if facts.failing.is_none() {
                    // Nothing was tried, so nothing is known to be better.
                    return;
                }
                // Commits go around what they cannot read, which must not be the end of it.
                facts.last_error = (damaged > 0).then(|| told_damaged(damaged));
                facts.last_error_time = (damaged > 0).then_some(now);
                if std::mem::take(&mut facts.away) {
                    facts.since = Some(now);
                }
                if facts.failing.take().is_some() {
                    tracing::info!("commits succeed again: the drive is at version {}", facts.version);
                }
            }
            Err(e) => {
                facts.failures += 1;
                facts.last_error = Some(e.chain());
                facts.last_error_time = Some(now);
                let away = e.kind() == Kind::Away;
                if facts.away != away {
                    facts.away = away;
                    facts.since = Some(now);
                }
                if facts.failing.replace(e.kind()) == Some(e.kind()) {
                    tracing::debug!("still cannot commit: {}", e.chain());
                } else {
                    tracing::error!("cannot commit, and will try again: {}", e.chain());
                }
            }
        }
    }

    /// Asks for a commit soon.
    pub fn want_commit(&self) {
        self.pressure.want_commit();
    }

    /// The newest version that is known here, and where its chunks are. Does not wait for a commit that is under way.
    pub fn committed(&self) -> (Opened, Arc<ChunkStore>) {
        (self.newest.read().clone(), self.store.clone())
    }

    pub fn wait_for_work(&self, at_least: Duration, at_most: Duration) -> bool {
        self.pressure.wait_for_work(at_least, at_most)
    }

    pub fn stop_waiting(&self) {
        self.pressure.stop();
    }

    /// Commits until everything that was acknowledged before the call is in the store. Returns the version.
    pub fn commit_all(&self) -> Result<Version> {
        if self.settings.read_only && !self.is_stored() {
            let what = "the mount is read-only, and its journal holds changes that are not in the store: mount it \
                        without 'ro' to store them";
            return Err(Error::failed(what));
        }
        let upto = self.journal.last();
        while self.facts.lock().stored < upto {
            if self.commit()?.is_none() {
                break;
            }
        }
        Ok(self.version())
    }

    /// Commits what has changed; None where nothing has. After an error the next call tries again.
    pub fn commit(&self) -> Result<Option<Version>> {
        let begun = Instant::now();
        let outcome = self.try_commit();
        self.note_commit(&outcome, begun.elapsed());
        outcome
    }

    fn try_commit(&self) -> Result<Option<Version>> {
        let mut committing = self.committing.lock();
        let c = &mut *committing;
        let Some(mut closed) = c.closed.take().or_else(|| self.close_generation()) else { return Ok(None) };
        let opened = match self.publish_as_next(c, &mut closed) {
            Ok(Published::Won(opened)) => *opened,
            // What is made stays as it is: to make it anew with each try would fill the store.
            Ok(Published::Lost) => {
                self.resident.none_taken();
                c.closed = Some(closed);
                return Err(Error::new(
                    Kind::Conflict,
                    "another machine has written to this drive since it was mounted here: what was changed here is \
                     kept in the journal; unmount with --local and mount again",
                ));
            }
            Err(e) => {
                // What it has taken is to be taken again.
                self.resident.none_taken();
                c.closed = match e.kind() {
                    Kind::NoSpace => self.reopen_generation(closed),
                    _ => Some(closed),
                };
                return Err(e);
            }
        };
        self.take_over(c, &mut closed, opened);
        drop(committing);
        self.tidy_up(closed).map(Some)
    }

    /// Publishes a closed generation under the next number; or under a later one, where that is taken by what is no
    /// head of this drive.
    fn publish_as_next(&self, c: &mut Committing, closed: &mut Closed) -> Result<Published> {
        let known = self.newest.read().head.link();
        let tried = self.try_publish(c, closed).map_err(|e| match e.kind() {
            // What is missing may be so because the store is not the one that it was.
            Kind::Damage | Kind::NotFound | Kind::Conflict => match c.versions.is_there(&known) {
                Ok(()) => e,
                Err(gone) => {
                    // What was made is in a store that may be exchanged for another again: it must be made anew then.
                    (closed.ready, closed.batch) = (None, None);
                    way_on(gone)
                }
            },
            _ => e,
        });
        if let won @ Published::Won(_) = tried? {
            return Ok(won);
        }
        let newest = c.versions.open_newest(Some(known)).map_err(way_on)?;
        if newest.lost.is_some()
            || newest.next <= c.next
            || newest.opened.is_none_or(|opened| opened.head.link() != known)
        {
            return Ok(Published::Lost);
        }
        tracing::warn!("number {} of a version is taken by what is none: taking {}", c.next, newest.next);
        c.next = newest.next;
        closed.ready = None;
        self.try_publish(c, closed)
    }

    /// A version was published: it is what everything stands on from here on.
    fn take_over(&self, c: &mut Committing, closed: &mut Closed, opened: Opened) {
        let inodes = closed.ready.take().map(|(_, inodes)| inodes).unwrap_or_default();
        let head = opened.head.link();
        self.store.adopt(opened.commit.runs.clone());
        // The version is published, whatever becomes of our memory of it: only a rollback would go unnoticed.
        if let Err(e) = (c.remember)(head.version, head.hash) {
            tracing::error!("cannot remember version {}: {}", head.version, e.chain());
        }
        self.adopt(closed, &opened, inodes);
        c.next = head.version + 1;
        *self.newest.write() = opened;
        let mut facts = self.facts.lock();
        (facts.version, facts.last_commit, facts.stored) = (head.version, closed.time, closed.mark);
    }

    /// Lets go of what a published generation needed: inodes, memory, the journal's records.
    fn tidy_up(&self, closed: Closed) -> Result<Version> {
        let (version, stored) = (self.version(), closed.mark);
        self.let_go(closed);
        self.closing.store(0, Ordering::Relaxed);
        self.resident.sweep();
        // The version is there even if the journal's files are not given up now: the next commit does it.
        let trimmed = self.journal.trim(stored);
        self.resident.none_taken();
        self.pressure.made_room();
        trimmed.map(|()| version)
    }

    /// Unloads what a generation needed and nobody else does.
    fn let_go(&self, closed: Closed) {
        let mut inos: Vec<Ino> = closed.inodes.iter().map(|i| i.ino).collect();
        drop(closed.inodes);
        inos.extend(closed.placed);
        for ino in inos {
            let unknown = self.table.with(ino, |s| s.lookups == 0).unwrap_or(false);
            if unknown || self.table.loaded() + self.heavy() > self.settings.loaded_inodes {
                self.release_if_idle(ino);
            }
        }
    }

    /// Closes the current generation, if anything changed in it.
    fn close_generation(&self) -> Option<Closed> {
        // What a read-only drive has replayed is only shown: it stays in the journal.
        if self.settings.read_only {
            return None;
        }
        let mut gens = self.gate.write();
        let inodes = std::mem::take(&mut *self.dirty.lock());
        if inodes.is_empty() {
            return None;
        }
        self.closing.store(inodes.len(), Ordering::Relaxed);
        self.closing_bytes.store(self.journal.usage().bytes, Ordering::Relaxed);
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
            batch: None,
            ready: None,
        })
    }

    /// Where there is no room for a closed generation, and something of it has been removed or cut since to make some: one
    /// with the current generation, of which it takes less. As a replay would have it. What the failed tries have stored
    /// is of no use then, and is deleted; so while nothing is removed it stays as it is, and each try stores more of it.
    fn reopen_generation(&self, mut closed: Closed) -> Option<Closed> {
        if closed.ready.is_some() {
            return Some(closed);
        }
        let mut gens = self.gate.write();
        let shrunk = |inode: &Arc<Inode>| {
            inode.node.read().has_shrunk_since(closed.generation, self.is_reachable(inode))
        };
        if !closed.inodes.iter().any(shrunk) {
            return Some(closed);
        }
        let is_new = |inode: &&Arc<Inode>| inode.node.write().reopen(closed.generation, gens.now);
        let reopened: Vec<_> = closed.inodes.iter().filter(is_new).cloned().collect();
        self.dirty.lock().extend(reopened);
        self.placed.lock().extend(closed.placed);
        self.closing.store(0, Ordering::Relaxed);
        gens.closed = None;
        drop(gens);
        closed.inodes.iter().for_each(|inode| self.drop_if_unreachable(inode));
        if let Some(batch) = closed.batch.take() {
            batch.discard();
        }
        tracing::info!("what could not be stored was removed since: the next version is made without it");
        None
    }

    /// Whatever happens in there, a generation that is not published stays the next to be.
    fn try_publish(&self, c: &Committing, closed: &mut Closed) -> Result<Published> {
        let tried = catch_unwind(AssertUnwindSafe(|| self.publish(c, closed)));
        tried.unwrap_or_else(|_| Err(Error::failed("the commit panicked")))
    }

    /// Makes the version of a closed generation, and publishes it. What is done once is not done again.
    fn publish(&self, c: &Committing, closed: &mut Closed) -> Result<Published> {
        if closed.ready.is_none() {
            let made = match self.prepare(c, closed) {
                // Chunks that the batch took for stored are in the index no more: only another batch stores them.
                Err(e) if e.kind() == Kind::Conflict => {
                    tracing::warn!("making version {} anew: {}", c.next, e.chain());
                    closed.batch = None;
                    self.prepare(c, closed)
                }
                made => made,
            };
            closed.ready = Some(made?);
        }
        match &closed.ready {
            Some((prepared, _)) => c.versions.publish(prepared),
            None => Err(Error::failed("a version that was made is lost")),
        }
    }

    /// Makes the version of a closed generation: its chunks, index and commit are in the store then, and nobody sees
    /// them.
    fn prepare(&self, c: &Committing, closed: &mut Closed) -> Result<(Prepared, Vec<InodeRecord>)> {
        self.resident.none_taken();
        let fetch = FromStore(self.store.clone());
        let directories = Keeping { keys: &self.keys, cache: &self.cache };
        let tools =
            Tools { keys: &self.keys, directories: &directories, chunks: &*self.chunks, fetch: &fetch };
        let Closed { generation, inodes, batch, .. } = closed;
        let order = random(&*self.random)?;
        let batch = batch.get_or_insert_with(|| self.store.begin(order));
        let mut changes = Vec::with_capacity(inodes.len());
        let mut nameless = Vec::new();
        let gens = *self.gate.read();
        for inode in inodes {
            let mut node = inode.node.write();
            node.roll(gens.now, gens.closed);
            let change = node.change(inode.ino, *generation);
            drop(node);
            let Some(change) = change else { continue };
            if change.names.is_empty() && self.is_reachable(inode) {
                nameless.extend(Self::nameless(&change, tools, batch)?);
            }
            changes.push(change);
        }
        let newest = self.newest.read().clone();
        let making = Making {
            version: c.next,
            parents: vec![newest.as_parent()],
            time: closed.time,
            device: c.device,
            incarnation: c.incarnation,
            lsn: closed.mark,
            next_ino: closed.next_ino & COUNTER,
            parameters: Parameters::default(),
            workers: self.settings.workers,
        };
        let ancestors = AsClosed(self, *generation);
        let (commit, committed) = build(Some(&*newest.commit), changes, &ancestors, &making, tools, batch)?;
        let newest = Newest::after(newest, c.next);
        let prepared = c.versions.prepare(&newest, commit, batch, &*self.chunks, &c.signer)?;
        let mut made = committed.inodes;
        made.extend(nameless);
        Ok((prepared, made))
    }

    /// A file that has no name but can be reached: its bytes leave the journal like any other's, so that the journal can
    /// be trimmed; no version leads to them, and gc frees them.
    fn nameless(change: &Change, tools: Tools, sink: &mut dyn ChunkSink) -> Result<Option<InodeRecord>> {
        let BodyChange::File { base, cut, edits } = &change.body else { return Ok(None) };
        let ctx = Ctx { sealer: tools.keys, chunks: tools.chunks, fetch: tools.fetch, random: false };
        let blob = base.update(&ctx, sink, *cut, edits)?;
        let mut attr = change.attr.clone();
        attr.allocated = blob.allocated();
        Ok(Some(InodeRecord { ino: change.ino, attr, xattrs: None, content: Content::File(blob) }))
    }

    /// Lets the inodes take over what was committed.
    fn adopt(&self, closed: &Closed, opened: &Opened, inodes: Vec<InodeRecord>) {
        let mut contents: HashMap<Ino, (Content, u64)> =
            inodes.into_iter().map(|i| (i.ino, (i.content, i.attr.allocated))).collect();
        let adopting = self.adopting.write();
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
        drop(adopting);
        let mut gens = self.gate.write();
        (gens.closed, gens.oldest) = (None, closed.generation + 1);
    }
}
