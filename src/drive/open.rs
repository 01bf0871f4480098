//! Opening a drive: the newest version, and the journal's records on top of it.

use super::ahead::Ahead;
use super::committer::{Committing, Progress};
use super::inode::Inode;
use super::others::{LeftOut, Others};
use super::pressure::Pressure;
use super::record::{Op, Record};
use super::table::{Place, Table};
use super::types::{Space, Wait};
use super::written::Resident;
use super::{Drive, Gens};
use crate::chunk::{ChunkRef, Chunks, Sealer};
use crate::commit::inode::{InodeRecord, Name, ROOT};
use crate::commit::{Newest, Opened, Signer, Versions, make_ino, split_ino};
use crate::content::{Cached, ContentCache, DiskCache, Fetch, Opener};
use crate::crypt::{RealmKeys, Seal};
use crate::error::{Context, Error, Kind, Result};
use crate::journal::{Journal, Options};
use crate::store::ChunkStore;
use crate::sys::ranked::{Mutex, RwLock};
use crate::sys::{Clock, Disk, Random};
use crate::types::{Address, DeviceId, Incarnation, Ino, Key, Lsn, Version};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What a loaded inode takes, about, with the changes of a file that was just made. Measured, in bytes.
pub(super) const INODE_BYTES: usize = 1600;

/// How an open drive works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of opened chunks kept in memory, fewer where many inodes are remembered; and of written bytes that
    /// are not committed.
    pub cache: usize,
    pub written: usize,
    /// How many clean inodes may be loaded, and how many may have changes (others count as well, see
    /// [`super::pressure`]), before something is done about it.
    pub loaded_inodes: usize,
    pub dirty_inodes: usize,
    /// How many inodes the kernel may remember before it is told to forget some.
    pub remembered: usize,
    /// How long a writer waits for room.
    pub timeout: Duration,
    pub journal: Options,
    pub read_only: bool,
    /// Reading leaves the access time of files as it is.
    pub noatime: bool,
    /// A sync returns once the changes are in the store.
    pub sync_store: bool,
    /// How many threads a commit encodes with.
    pub workers: usize,
}

impl Settings {
    /// Shares a budget of memory, in bytes, out: three eighths to chunks and remembered inodes, three eighths
    /// to changed inodes, an eighth to written bytes, a sixteenth to clean inodes. What does not grow (a pack in
    /// the making, the index's cache, buffers) comes on top: about 48 MiB.
    pub fn within(memory: usize) -> Settings {
        Settings {
            cache: memory * 3 / 8,
            written: memory / 8,
            loaded_inodes: memory / 16 / INODE_BYTES,
            dirty_inodes: memory * 3 / 8 / INODE_BYTES,
            remembered: memory / 4 / super::table::SLOT_BYTES,
            timeout: Duration::from_secs(120),
            journal: Options::default(),
            read_only: false,
            noatime: false,
            sync_store: false,
            workers: 2,
        }
    }
}

/// What a drive is opened from.
pub struct Parts {
    pub versions: Arc<Versions>,
    pub store: Arc<ChunkStore>,
    pub newest: Newest,
    /// The version that the journal's changes were made on, where other machines have written since.
    pub over: Option<Version>,
    pub keys: Arc<RealmKeys>,
    pub signer: Signer,
    pub device: DeviceId,
    pub incarnation: Incarnation,
    pub journal_disk: Arc<dyn Disk>,
    pub journal_key: Key,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    /// Remembers the newest head durably.
    pub remember: Box<dyn Fn(Version, [u8; 32]) -> Result<()> + Send>,
    /// Stored chunks on the local disk, where the store is far away.
    pub disk_cache: Option<Arc<DiskCache>>,
    /// How much room there is.
    pub space: Box<dyn Fn() -> Space + Send + Sync>,
}

/// Opened chunks that are in memory; never waits.
struct Quick(Arc<ContentCache>);

impl Chunks for Quick {
    fn get(&self, chunk: &ChunkRef) -> Result<Bytes> {
        self.0.get(chunk).ok_or(Error::new(Kind::Miss, "a chunk is not in memory"))
    }
}

/// Stored chunks, from the store.
pub struct FromStore(pub Arc<ChunkStore>);

impl Fetch for FromStore {
    fn fetch(&self, address: &Address) -> Result<Bytes> {
        self.0.fetch(address)
    }
}

/// The keys, where a value of its own is wanted.
pub struct Keys(pub Arc<RealmKeys>);

impl crate::content::OpenSealed for Keys {
    fn open_sealed(&self, kind: Seal, key: &Key, stored: &[u8]) -> Result<Vec<u8>> {
        self.0.open_sealed(kind, key, stored)
    }
}

/// Seals the nodes of directories, and keeps them among the opened chunks: the directories that a commit writes are
/// what the next operations look into, also while the store is away.
pub(super) struct Keeping<'a> {
    pub keys: &'a RealmKeys,
    pub cache: &'a ContentCache,
}

impl Sealer for Keeping<'_> {
    fn seal(&self, kind: Seal, content: &[u8]) -> Result<(ChunkRef, Vec<u8>)> {
        let sealed = self.keys.seal(kind, content)?;
        if kind == Seal::Node {
            self.cache.put(&sealed.0, Bytes::copy_from_slice(content));
        }
        Ok(sealed)
    }

    fn source_hash(&self, encoded: &[u8]) -> [u8; 32] {
        self.keys.source_hash(encoded)
    }

    fn boundary_key(&self) -> &[u8; 32] {
        self.keys.boundary_key()
    }
}

/// A change whose file or directory cannot be read any more, with what can be done about it.
fn unreplayed(lsn: Lsn, e: &Error) -> Error {
    Error::damage(format!(
        "journal record {lsn} cannot be replayed: {}; nothing was changed: bring back what is damaged in the store from a \
         backup, or go on without what only the journal holds, with 'nacrefs accept STORE' (it is kept aside); -o ro \
         shows the rest",
        e.chain()
    ))
}

/// A journal that stands on a version that is lost.
fn beyond(lost: Version, first: Lsn, shown: Version) -> Error {
    Error::damage(format!(
        "the journal is whole from record {first} on, and stands on a newer version than {shown}: what it holds is not \
         shown; once version {lost} is back, from a backup of the store, the next mount has it all again, while 'nacrefs \
         accept STORE' goes on without it (it is kept aside)"
    ))
}

/// What was found in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    pub records: u64,
    pub last: Lsn,
    /// That a drive that is only looked at shows less than the journal holds, and why.
    pub left_out: Option<String>,
}

impl Drive {
    /// Opens a drive on its newest version, replays the journal, and is ready.
    pub fn start(parts: Parts, settings: Settings) -> Result<(Arc<Drive>, Replayed)> {
        let base: Opened = parts.newest.opened.clone().ok_or_else(|| {
            Error::damage("the drive has no version: was it never finished? run nacrefs init again")
        })?;
        let mark = base.commit.device(&parts.device).copied();
        let (floor, counter, number) =
            mark.map_or((0, 1, base.commit.next_device_number()), |d| (d.lsn, d.next_ino, d.number));
        let first =
            make_ino(number, counter.max(1)).ok_or_else(|| Error::failed("inode numbers are used up"))?;
        let journal = Options { floor, before_damage: settings.read_only, ..settings.journal.clone() };
        let (journal, replay) = Journal::open(
            parts.journal_disk,
            parts.journal_key,
            parts.keys.realm(),
            parts.random.clone(),
            journal,
        )
        .context(|| "cannot open the journal")?;

        let cache = Arc::new(ContentCache::new(settings.cache));
        let source = Cached { cache: parts.disk_cache, source: FromStore(parts.store.clone()) };
        let opener = Opener::new(cache.clone(), source, Keys(parts.keys.clone()));
        let chunks: Arc<dyn Chunks> = Arc::new(opener);
        let root: InodeRecord = base.commit.root.clone().load(&*chunks)?;
        let name = Name { parent: ROOT, name: b""[..].into() };
        let xattr_bytes = Arc::<AtomicUsize>::default();
        let root = Inode::load(root, vec![name], false, &xattr_bytes);
        let history = base.commit.history.clone();
        let (lost, shown) = (parts.newest.lost.filter(|_| settings.read_only), base.version());
        let table = Table::new();
        table.insert(root.clone(), Place { parent: ROOT, hash: 0 }, 1, || true);
        let progress = Progress {
            version: base.version(),
            last_commit: base.commit.time,
            stored: floor,
            ..Progress::default()
        };
        let drive = Drive {
            table,
            root,
            gate: RwLock::new(Gens { now: 1, closed: None, oldest: 1 }),
            dirty: Mutex::default(),
            placed: Mutex::default(),
            renames: Mutex::default(),
            epoch: AtomicU64::new(0),
            adopting: RwLock::default(),
            shells: RwLock::new(base.commit.shells.clone()),
            journal: Arc::new(journal),
            keys: parts.keys,
            quick: Arc::new(Quick(cache.clone())),
            cache,
            chunks,
            clock: parts.clock,
            random: parts.random,
            next_ino: AtomicU64::new(first),
            resident: Resident::new(settings.written),
            committing: Mutex::new(Committing {
                versions: parts.versions,
                next: parts.newest.next,
                signer: parts.signer,
                device: parts.device,
                incarnation: parts.incarnation,
                remember: parts.remember,
                closed: None,
            }),
            newest: RwLock::new(base),
            store: parts.store,
            closing: AtomicUsize::new(0),
            closing_bytes: AtomicU64::new(0),
            xattr_bytes,
            next_shard: AtomicUsize::new(0),
            pressure: Pressure::default(),
            ahead: Ahead::default(),
            facts: Mutex::new(progress),
            read_only: AtomicBool::new(false),
            space: parts.space,
            control: std::sync::OnceLock::new(),
            settings,
        };
        let mut others = parts.over.map(|since| Others::new(since, history));
        let mut done = Replayed { last: floor, ..Replayed::default() };
        let (mut left_out, mut unread) = (LeftOut::default(), None);
        let damage = replay.damage().map(|e| e.chain());
        let beyond = lost.zip(replay.begins()).map(|(lost, first)| beyond(lost, first, shown));
        replay.for_each(&mut |lsn, bytes| {
            match (drive.replay(lsn, bytes, others.as_mut(), &mut left_out), &others) {
                // Told at the end, which another trouble is.
                (Err(e), Some(others)) if others.has_met() => {
                    if e.kind() != Kind::Conflict {
                        return Err(others.refusal().unwrap_or(e));
                    }
                }
                (Err(e), None) if e.kind() == Kind::Damage => {
                    let e = unreplayed(lsn, &e);
                    if !drive.settings.read_only {
                        return Err(e);
                    }
                    unread.get_or_insert(e);
                }
                // Made since the lost version gave this machine its number.
                (Err(e), None) if e.kind() == Kind::Conflict && lost.is_some() => {
                    unread.get_or_insert(unreplayed(lsn, &e));
                }
                (replayed, _) => {
                    replayed.context(|| format!("journal record {lsn} cannot be replayed"))?;
                }
            }
            (done.records, done.last) = (done.records + 1, lsn);
            Ok(())
        })?;
        if let Some(refusal) = others.and_then(|others| others.refusal()) {
            return Err(refusal);
        }
        if let Some(e) = beyond {
            tracing::error!("{e}");
            drive.note_error(&e);
            done.left_out = Some(e.to_string());
        } else if let Some(damage) = damage {
            tracing::error!("the journal is damaged; this is the state before the damage: {damage}");
            drive.note_error(&Error::damage(damage));
        }
        if let Some(e) = unread {
            let left_out = format!("{} changes in the journal are not shown: {e}", left_out.count);
            tracing::error!("{left_out}");
            drive.note_error(&e);
            done.left_out = Some(left_out);
        }
        drive.read_only.store(drive.settings.read_only, Ordering::Relaxed);
        Ok((Arc::new(drive), done))
    }

    /// Does again what a record says; over what others have made, if they have.
    fn replay(
        &self,
        lsn: Lsn,
        bytes: &[u8],
        others: Option<&mut Others>,
        left_out: &mut LeftOut,
    ) -> Result<()> {
        let record = Record::decode(bytes)?;
        let generation = self.generation();
        for (ino, place) in &record.places {
            // A place that was told in an earlier generation is older than what the replay did since.
            if self.table.loaded_inode(*ino).is_none() {
                self.table.place(*ino, *place, generation);
                self.placed.lock().push(*ino);
            }
        }
        let Some(others) = others else {
            if left_out.bears(&record.op) {
                left_out.add(&record.op);
                return Ok(());
            }
            return self.redo(lsn, bytes, &record, None).inspect_err(|_| left_out.add(&record.op));
        };
        if others.is_left_out(&record.op) {
            others.leave_out(&record.op);
            return Ok(());
        }
        let done = self.redo(lsn, bytes, &record, Some(others));
        if done.is_err() {
            others.leave_out(&record.op);
        }
        done
    }

    fn redo(&self, lsn: Lsn, bytes: &[u8], record: &Record, mut others: Option<&mut Others>) -> Result<()> {
        let inos = record.op.inodes();
        let mut inodes: Vec<Arc<Inode>> = Vec::with_capacity(inos.len());
        for ino in inos {
            if matches!(self.table.find(ino), Some((None, Place::NOWHERE))) {
                // A file without a name, whose bytes died with the daemon.
                return Ok(());
            }
            let loaded = self.load(ino, Wait::yes()).map_err(|e| match (&mut others, e.kind()) {
                // Where the base has it there is something else, or nothing.
                (Some(others), Kind::Damage | Kind::Errno(_)) => self.meet(others, ino, None).with_source(e),
                _ => e,
            });
            inodes.push(loaded?);
        }
        if let Some(others) = others {
            self.check_over(others, &record.op)?;
        }
        let refs: Vec<&Arc<Inode>> = inodes.iter().collect();
        let mut held = self.lock(&refs);
        let data_at = bytes.len() - record.data().len();
        self.check_new_inodes(&record.op)?;
        if let Op::Create { ino, .. } = &record.op
            && self.table.with(*ino, |_| ()).is_some()
        {
            return Err(Error::damage(format!("inode {ino} is made twice")));
        }
        self.apply(&mut held, lsn, record.time, &record.op, data_at)
    }

    /// Refuses an operation that makes an inode whose number another machine may have given to another one: a
    /// device that is new to the drive takes the next number of a device, and two may take the same.
    fn check_new_inodes(&self, op: &Op) -> Result<()> {
        let made = match op {
            Op::Create { ino, .. } => Some(*ino),
            Op::Rename { whiteout, .. } => whiteout.map(|(ino, _, _)| ino),
            _ => None,
        };
        let ours = split_ino(self.next_ino.load(Ordering::Relaxed)).0;
        match made.map(|ino| split_ino(ino).0) {
            Some(number) if number != ours => Err(Error::new(
                Kind::Conflict,
                format!(
                    "this machine made files here as device {number} of the drive, which another machine has become \
                     since: what it had not committed cannot be added to the newest version"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The root directory's inode number.
    pub fn root(&self) -> Ino {
        self.root.ino
    }
}
