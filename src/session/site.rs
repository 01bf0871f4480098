//! A store and the secrets that open it.

use super::{StateDir, slots};
use crate::commit::inode::{Attr, FileKind, Name, ROOT};
use crate::commit::{
    Ancestors, BodyChange, Change, Making, Newest, Opened, Parameters, Published, Signer, Tools, Versions,
    build,
};
use crate::content::{ContentCache, Opener};
use crate::crypt::protect::overwrite_stack;
use crate::crypt::{DriveSecrets, KdfParams, RealmKeys, RecoveryCode, Secret, SigningKey, Slot};
use crate::error::{Context, Error, Kind, Result};
use crate::store::{self, ChunkStore, HeadLink, IndexKeys, LocalPlace, Objects, OpenOptions, RunSet, layout};
use crate::sys::{Clock, Random, random};
use crate::tree::Map;
use crate::types::{DeviceId, DriveId, Incarnation, Ino};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Which drive is in the store of a URL.
pub fn drive_of(objects: &dyn Objects, url: &str) -> Result<DriveId> {
    layout::read_drive(objects).map_err(|e| match e.kind() {
        Kind::NotADrive => e.context(format!("{url} is not a nacrefs drive")),
        _ => e.context(format!("cannot open the drive in {url}")),
    })
}

/// An unlocked store.
#[derive(Clone)]
pub struct Site {
    pub objects: Arc<dyn Objects>,
    pub secrets: Arc<DriveSecrets>,
    pub keys: Arc<RealmKeys>,
    pub versions: Arc<Versions>,
    /// The key slot that was opened, where one was.
    pub slot: Option<Slot>,
    /// What was asked of the store since it was unlocked.
    pub requests: Arc<store::Counts>,
    index_keys: IndexKeys,
}

/// A drive that was made.
pub struct Made {
    pub drive: DriveId,
    /// The recovery code, as it is to be written down, where one was asked for.
    pub recovery: Option<Zeroizing<String>>,
}

impl Site {
    /// Opens a store with a secret.
    pub fn unlock(url: &str, secret: &Secret) -> Result<Site> {
        let objects = store::open(url, OpenOptions::default())?;
        let drive = drive_of(&*objects, url)?;
        let (secrets, slot) =
            slots::unlock(&*objects, secret).context(|| format!("cannot open the drive in {url}"))?;
        if secrets.drive != drive {
            return Err(Error::damage(format!(
                "{url}: nacre.json names drive {drive}, but its key slots open drive {}: restore nacre.json",
                secrets.drive
            )));
        }
        // What is left of the secret below here: nobody knows what the compiler has spilled.
        overwrite_stack();
        Ok(Site { slot: Some(slot), ..Site::new(objects, Arc::new(secrets))? })
    }

    /// A store whose secrets are known.
    pub fn new(objects: Arc<dyn Objects>, secrets: Arc<DriveSecrets>) -> Result<Site> {
        let (objects, requests) = store::Counted::new(objects);
        let objects: Arc<dyn Objects> = Arc::new(objects);
        let keys = Arc::new(secrets.realm_keys());
        let mut index_keys = IndexKeys::new(keys.realm(), keys.epoch(), keys.index_key().clone());
        for epoch in 1..keys.epoch() {
            let earlier = secrets.realm_keys_of(epoch)?;
            index_keys = index_keys.with_earlier(epoch, earlier.index_key().clone());
        }
        let versions = Arc::new(Versions::new(objects.clone(), secrets.clone(), index_keys.clone()));
        Ok(Site { objects, secrets, keys, versions, slot: None, requests, index_keys })
    }

    /// The chunks, as the index runs of a version have them.
    pub fn chunk_store(&self, runs: RunSet, local: Option<LocalPlace>) -> Arc<ChunkStore> {
        ChunkStore::open(
            self.objects.clone(),
            self.index_keys.clone(),
            runs,
            store::Settings::default(),
            local,
        )
    }

    /// The newest version, which must descend from `known`.
    pub fn newest(&self, known: Option<HeadLink>) -> Result<Newest> {
        self.versions.open_newest(known).context(|| "cannot open the newest version of the drive")
    }

    /// The newest version, which must descend from what the state directory remembers. A rollback or a fork is told
    /// with what can be done.
    pub fn newest_after(&self, known: Option<HeadLink>, state_dir: &Path) -> Result<Newest> {
        // Where there is no version at all, nothing can be accepted.
        let shows_none = || self.newest(None).is_ok_and(|newest| newest.opened.is_none());
        self.newest(known).map_err(|e| match e.kind() {
            Kind::Conflict if shows_none() => {
                e.context("cannot go on: bring the heads of the store's versions back, from a backup")
            }
            Kind::Conflict => e.context(format!(
                "cannot go on: bring the store's newest state back; or compare both, and go on from what it shows now, \
                 with 'nacrefs accept STORE' (what this machine has seen is in its state directory {})",
                state_dir.display()
            )),
            _ => e,
        })
    }

    /// The newest version, of a drive that has one; as for a mount with that state directory, if there is one.
    /// `lost` is told of a newer one that is damaged.
    pub fn newest_opened(&self, state_dir: &Path, lost: &mut dyn FnMut(Error)) -> Result<Opened> {
        let known = StateDir::peek(state_dir, &self.secrets);
        let newest = self.newest_after(known, state_dir)?;
        if let Some(e) = self.lost(&newest) {
            lost(e);
        }
        newest.opened.ok_or_else(unfinished)
    }

    /// That there was a newer version than the newest that can be opened. To write to the drive then would be to go on
    /// without it.
    pub(super) fn lost(&self, newest: &Newest) -> Option<Error> {
        let (lost, opened) = (newest.lost?, newest.opened.as_ref()?);
        Some(Error::damage(format!(
            "version {lost} is damaged or gone (its head, or a pack with its commit or its root directory: 'nacrefs check' \
             tells): bring it back from a backup of the store, or give it up with 'nacrefs accept'; the newest version before it is {}, \
             which -o ro shows, and cat --at",
            opened.version()
        )))
    }
}

pub(super) fn unfinished() -> Error {
    Error::damage("the drive has no version: 'nacrefs init' was interrupted, or its heads were deleted")
}

/// There are no directories yet.
struct Nothing;

impl Ancestors for Nothing {
    fn place(&self, dir: Ino) -> Result<(Ino, u64)> {
        Err(Error::failed(format!("directory {dir} is not in an empty drive")))
    }
}

/// Makes an empty drive in a store that has none, or finishes one whose making was interrupted, with the same secret:
/// a key slot for the secret and, if it is wanted, one for a recovery code,
/// and version 1 with an empty root, which belongs to `owner` (uid, gid).
pub fn init(
    url: &str,
    secret: &Secret,
    params: KdfParams,
    owner: (u32, u32),
    with_recovery: bool,
    clock: &dyn Clock,
    source: &dyn Random,
) -> Result<Made> {
    let objects = store::open(url, OpenOptions { create: true, allow_shared: false })?;
    init_in(objects, secret, params, owner, with_recovery, clock, source)
        .context(|| format!("cannot make a drive in {url}"))
}

/// The secrets of a drive whose making was interrupted in this store, if its key slot opens. Nothing of it was used:
/// what makes a store a drive is written last.
fn begun(objects: &dyn Objects, secret: &Secret) -> Result<Option<DriveSecrets>> {
    let conflict = |what: &'static str| Err(Error::new(Kind::Conflict, what));
    let names = objects.list("")?;
    if names.iter().any(|name| !layout::is_of_a_drive(name)) {
        return conflict("the store is not empty, and holds no drive: choose another, or empty it first");
    }
    if names.iter().any(|name| name == layout::DRIVE) {
        return conflict(
            "the store's nacre.json is damaged: restore it from a backup, or delete it and begin again",
        );
    }
    if names.iter().all(|name| name.starts_with(layout::PROBE)) {
        return Ok(None);
    }
    match slots::unlock(objects, secret) {
        Ok((secrets, _)) => Ok(Some(secrets)),
        Err(e) if matches!(e.kind(), Kind::Secret | Kind::Damage) => Err(Error::new(
            Kind::Conflict,
            "the store holds a drive without its nacre.json: if 'nacrefs init' was interrupted here, begin again with \
             the same passphrase or key file, or empty the store first; else restore nacre.json from a backup",
        )
        .with_source(e)),
        Err(e) => Err(e),
    }
}

/// [`init`] in a store that is open.
pub fn init_in(
    objects: Arc<dyn Objects>,
    secret: &Secret,
    params: KdfParams,
    owner: (u32, u32),
    with_recovery: bool,
    clock: &dyn Clock,
    source: &dyn Random,
) -> Result<Made> {
    match layout::read_drive(&*objects) {
        Ok(drive) => {
            return Err(Error::new(Kind::Conflict, format!("the store holds the drive {drive} already")));
        }
        // With key slots: an init that was interrupted.
        Err(e) if matches!(e.kind(), Kind::NotADrive | Kind::Damage) => {}
        Err(e) => return Err(e),
    }
    let begun = begun(&*objects, secret)?;
    store::probe(&*objects, source)?;
    let now = clock.now();
    let secrets = match begun {
        Some(secrets) => secrets,
        None => {
            let secrets = DriveSecrets::generate(source)?;
            slots::add(&*objects, &Slot::create(&secrets, secret, params, "", now, source)?)?;
            secrets
        }
    };
    let drive = secrets.drive;
    let mut recovery = None;
    if with_recovery {
        let code = RecoveryCode::generate(source)?;
        recovery = Some(code.to_text());
        slots::add(&*objects, &Slot::create(&secrets, &Secret::Recovery(code), params, "", now, source)?)?;
    }

    let site = Site::new(objects, Arc::new(secrets))?;
    let device = DeviceId(random(source)?);
    let signer = Signer::new(&site.secrets, device, SigningKey::generate(source)?);
    let attr = Attr {
        kind: FileKind::Directory,
        perm: 0o755,
        uid: owner.0,
        gid: owner.1,
        rdev: 0,
        nlink: 2,
        size: 0,
        allocated: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    let root = Change {
        ino: ROOT,
        attr,
        xattrs: None,
        names: vec![Name { parent: ROOT, name: b""[..].into() }],
        shell: false,
        was_shell: false,
        body: BodyChange::Directory { base: Map::default(), names: BTreeMap::new() },
    };
    let newest = site.newest(None)?;
    if newest.opened.is_some() {
        // The interrupted one had come so far; or it is a drive that has lost its nacre.json.
        layout::write_drive(&*site.objects, drive)?;
        return Ok(Made { drive, recovery });
    }
    let making = Making {
        version: newest.next,
        parents: Vec::new(),
        time: now,
        device,
        incarnation: Incarnation(random(source)?),
        lsn: 0,
        // The root's number is not the first of any device's counter.
        next_ino: 2,
        parameters: Parameters::default(),
        workers: 1,
    };
    let chunks = site.chunk_store(RunSet::default(), None);
    let fetch = chunks.clone();
    let fetch = move |a: &crate::types::Address| fetch.fetch(a);
    let opener = Opener::new(
        Arc::new(ContentCache::new(1 << 20)),
        fetch.clone(),
        crate::drive::Keys(site.keys.clone()),
    );
    let tools = Tools { keys: &site.keys, directories: &*site.keys, chunks: &opener, fetch: &fetch };
    let mut batch = chunks.begin(random(source)?);
    let (commit, _) = build(None, vec![root], &Nothing, &making, tools, &mut batch)?;
    let prepared = site.versions.prepare(&newest, commit, &mut batch, &opener, &signer)?;
    match site.versions.publish(&prepared)? {
        Published::Won(_) => {}
        Published::Lost => {
            return Err(Error::new(Kind::Conflict, "somebody else makes a drive in this store"));
        }
    }
    // Last, for it is what makes the store a drive: an init that was interrupted leaves none.
    layout::write_drive(&*site.objects, drive)?;
    Ok(Made { drive, recovery })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Fault, Faulty};
    use crate::store::memory::Memory;
    use crate::sys::{SystemClock, SystemRandom};
    use crate::types::Key;

    fn make(objects: Arc<dyn Objects>, key: u8) -> Result<Made> {
        let (secret, params) = (Secret::KeyFile(Key([key; 32])), KdfParams::default());
        init_in(objects, &secret, params, (1, 2), false, &SystemClock, &SystemRandom)
    }

    /// What an interrupted making left could be neither finished nor begun again.
    #[test]
    fn a_making_that_was_interrupted_anywhere_is_finished_by_the_next() {
        let mut rounds = 0;
        for last in 0.. {
            let store = Arc::new(Memory::new());
            let dies = Faulty::new(store.clone(), move |call| match call.nth {
                nth if nth < last => Fault::Pass,
                _ => Fault::FailBefore(Kind::Away),
            });
            let done = make(Arc::new(dies), 1).is_ok();
            let was_drive = layout::read_drive(&*store).is_ok();
            if !was_drive && !store.list("slots").unwrap().is_empty() {
                let e = make(store.clone(), 2).err().unwrap();
                assert!(e.kind() == Kind::Conflict && e.to_string().contains("begin again"), "{e}");
            }
            match make(store.clone(), 1) {
                Ok(made) => assert!(!was_drive && layout::read_drive(&*store).unwrap() == made.drive),
                Err(e) => assert!(was_drive && e.kind() == Kind::Conflict, "call {last}: {}", e.chain()),
            }
            let (secrets, _) = slots::unlock(&*store, &Secret::KeyFile(Key([1; 32]))).unwrap();
            let site = Site::new(store, Arc::new(secrets)).unwrap();
            assert_eq!(site.newest(None).unwrap().opened.unwrap().version(), 1, "call {last}");
            rounds += 1;
            if done {
                break;
            }
        }
        assert!(rounds > 15, "{rounds}");
    }

    #[test]
    fn what_is_no_drive_is_left_alone() {
        let store = Arc::new(Memory::new());
        store.put("notes.txt", "mine".into()).unwrap();
        let e = make(store.clone(), 1).err().unwrap();
        assert!(e.kind() == Kind::Conflict && e.to_string().contains("holds no drive"), "{e}");
        assert_eq!(store.list("").unwrap(), ["notes.txt"]);
    }
}
