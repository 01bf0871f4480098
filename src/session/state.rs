//! The state directory: what a machine keeps of a drive. `key`, `device` and `memory` are small sealed files,
//! `journal/` holds what is not yet committed, `cache/` and `index/` can be deleted at any time.

use super::aside::DECIDED;
use crate::crypt::local::{DeviceRecord, LocalKeys, Memory, drive_of};
use crate::crypt::{DriveSecrets, SigningKey};
use crate::error::{Context, Error, Kind, Result};
use crate::journal::{Journal, Options};
use crate::store::HeadLink;
use crate::sys::dirs::sync_dir;
use crate::sys::{Disk, HostDisk, Random, SystemRandom, random};
use crate::types::{DeviceId, DriveId, Incarnation, Lsn, RealmId, Time};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A state directory, locked by this process.
pub struct StateDir {
    pub(super) path: PathBuf,
    read_only: bool,
    _locks: Vec<File>,
    /// Where the journal was moved, if an accept was interrupted and is finished now.
    pub resumed: Option<PathBuf>,
}

impl StateDir {
    /// Makes the directory (mode 0700) durably where there is none, and locks it; finishes an accept that was
    /// interrupted. Another process that holds it is a `Conflict`.
    pub fn open(path: &Path) -> Result<StateDir> {
        HostDisk::open(path)?;
        let locks = vec![lock_in(path, path)?];
        let mut state = StateDir { path: path.into(), read_only: false, _locks: locks, resumed: None };
        state.resumed = state.finish_switch()?;
        Ok(state)
    }

    /// Takes a directory on a read-only file system, of which nothing is changed; it may be missing, and is empty then.
    /// It is locked as far as that can be done there, and in `run_dir`, which belongs to it alone and can be written to.
    pub fn open_read_only(path: &Path, run_dir: &Path) -> Result<StateDir> {
        let mut locks = vec![lock_in(run_dir, path)?];
        match File::open(path.join("lock")) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            lock => {
                let lock = lock.context(|| format!("cannot open the lock of {}", path.display()))?;
                match hold(&lock, path) {
                    // NFS locks for writing only what is open for writing.
                    Err(e) if e.kind() != Kind::Conflict => tracing::warn!("{}", e.chain()),
                    held => held?,
                }
                locks.push(lock);
            }
        }
        let state = StateDir { path: path.into(), read_only: true, _locks: locks, resumed: None };
        state.refuse_unfinished()?;
        Ok(state)
    }

    /// Takes a directory to look at what it holds, and changes nothing in it. Another process that holds it is a
    /// `Conflict`.
    pub fn look(path: &Path) -> Result<StateDir> {
        let lock = File::open(path.join("lock"))
            .context(|| format!("cannot open the lock of {}", path.display()))?;
        hold(&lock, path)?;
        if path.join(DECIDED).exists() {
            let what = "an accept that was interrupted is not finished: the next mount, or 'nacrefs accept', finishes it";
            return Err(Error::failed(format!("{}: {what}", path.display())));
        }
        Ok(StateDir { path: path.into(), read_only: true, _locks: vec![lock], resumed: None })
    }

    /// The process that holds a state directory, where one does that can be seen.
    pub fn holder(path: &Path) -> Option<i32> {
        holder_of_file(&fs::metadata(path.join("lock")).ok()?)
    }

    /// The drive that a state directory says it is of; nothing vouches for it.
    pub fn drive_of(path: &Path) -> Option<DriveId> {
        drive_of(&fs::read(path.join("key")).ok()?)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing can be written here.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub fn journal(&self) -> Result<HostDisk> {
        let dir = self.path.join("journal");
        if self.read_only { HostDisk::read_only(dir) } else { HostDisk::open(dir) }
    }

    /// Removes the journal's files, of which nothing is needed any more.
    pub fn clear_journal(&self) -> Result<()> {
        let disk = self.journal()?;
        disk.unnote()?;
        for name in disk.list()? {
            disk.remove(&name)?;
        }
        disk.sync_names()
    }

    /// Whether the journal can be read to its end: what is wrong with it, if not. Changes nothing.
    pub fn journal_damage(&self, keys: &LocalKeys, realm: RealmId, floor: Lsn) -> Result<Option<Error>> {
        let options = Options { floor, before_damage: true, ..Options::default() };
        let (disk, key) = (Arc::new(self.journal()?), keys.journal_key().clone());
        let (_, replay) = Journal::open(disk, key, realm, Arc::new(SystemRandom), options)?;
        Ok(replay.into_damage())
    }

    /// Removes the local index, which the next start makes anew.
    pub fn clear_index(&self) -> Result<()> {
        let index = self.path.join("index");
        match fs::remove_dir_all(&index) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).context(|| format!("cannot remove {}", index.display()))
            }
            _ => Ok(()),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from(e).context(format!("cannot read {}", path.display()))),
        }
    }

    /// Replaces a file, durably: after a crash it is the old one or the new one.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            write_synced(&new, bytes)?;
            fs::rename(&new, &path)?;
            sync_dir(&self.path)
        };
        write().context(|| format!("cannot write {}", path.display()))
    }

    /// The keys of this directory; new ones, where it is a new one. Those of a read-only one are of this process alone.
    pub fn keys(&self, secrets: &DriveSecrets, random: &dyn Random) -> Result<LocalKeys> {
        if let Some(bytes) = self.read("key")? {
            return LocalKeys::unwrap(secrets, &bytes).map_err(|e| self.locked(e));
        }
        if self.read("device")?.is_some() || self.read("memory")?.is_some() {
            return Err(self.locked(Error::damage("it is missing")));
        }
        let keys = LocalKeys::generate(secrets, random)?;
        if !self.read_only {
            self.write("key", &keys.wrap(secrets)?)?;
        }
        Ok(keys)
    }

    /// Who this machine is to the drive, as of the last start; None in a new directory.
    pub fn device(&self, keys: &LocalKeys) -> Result<Option<DeviceRecord>> {
        let device = self.read("device")?.map(|bytes| DeviceRecord::open(keys, &bytes));
        device.transpose().map_err(|e| self.unreadable("device", e))
    }

    /// A key that does not open: nothing else here can be read without it.
    fn locked(&self, e: Error) -> Error {
        let path = self.path.display();
        // Another drive's: what it holds is not ours to be moved.
        if e.kind() == Kind::Failed {
            return e.context(format!("cannot use {path}"));
        }
        e.context(format!(
            "cannot open {path}/key: bring it back from a backup; or, to go on without what was not stored from here, move \
             {path} away"
        ))
    }

    /// A file of this directory that is damaged, and what can be done.
    pub(super) fn unreadable(&self, name: &str, e: Error) -> Error {
        let path = self.path.join(name);
        let kept = match name {
            "memory" => "with what is not stored yet, where that can be; -o ro shows the drive",
            _ => "what is not stored yet is kept aside",
        };
        e.context(format!(
            "cannot open {}: bring it back from a backup; or go on from what the store shows, with 'nacrefs accept STORE' \
             ({kept})",
            path.display()
        ))
    }

    /// A device that the drive has not heard of. Its number is 0 until a commit gives it one.
    pub fn new_device(source: &dyn Random) -> Result<DeviceRecord> {
        Ok(DeviceRecord {
            device: DeviceId(random(source)?),
            signing: SigningKey::generate(source)?,
            number: 0,
            incarnation: Incarnation(random(source)?),
        })
    }

    pub fn put_device(&self, keys: &LocalKeys, device: &DeviceRecord) -> Result<()> {
        self.write("device", &device.seal(keys)?)
    }

    /// The newest head that a state directory remembers, without locking it. None where there is no such directory,
    /// or it is another drive's.
    pub fn peek(path: &Path, secrets: &DriveSecrets) -> Option<HeadLink> {
        let read = |name: &str| match fs::read(path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from(e)),
        };
        let remembered = || -> Result<Option<Memory>> {
            let Some(key) = read("key")? else { return Ok(None) };
            let keys = LocalKeys::unwrap(secrets, &key)?;
            read("memory")?.map(|bytes| Memory::open(&keys, &bytes)).transpose()
        };
        match remembered() {
            Ok(memory) => memory.map(|m| HeadLink { version: m.version, hash: m.head }),
            Err(e) => {
                let path = path.display();
                tracing::warn!("{path} does not tell what this machine has seen of the drive: {}", e.chain());
                None
            }
        }
    }

    /// The newest head that this machine has seen; None in a new directory.
    pub fn memory(&self, keys: &LocalKeys) -> Result<Option<Memory>> {
        let memory = match self.read("memory")? {
            Some(bytes) => Memory::open(keys, &bytes).map(Some),
            // It is written before the device is.
            None if self.read("device")?.is_some() => Err(Error::damage("it is missing")),
            None => Ok(None),
        };
        memory.map_err(|e| self.unreadable("memory", e))
    }

    /// When the memory was last written.
    pub fn remembered_at(&self) -> Option<Time> {
        use std::os::unix::fs::MetadataExt;
        let at = fs::metadata(self.path.join("memory")).ok()?;
        Some(Time { sec: at.mtime(), nsec: 0 })
    }

    pub fn put_memory(&self, keys: &LocalKeys, memory: &Memory) -> Result<()> {
        self.write("memory", &memory.seal(keys)?)
    }
}

/// Takes the lock in `dir`, of the state directory `path`.
fn lock_in(dir: &Path, path: &Path) -> Result<File> {
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock"));
    let lock = lock.context(|| format!("cannot lock the state directory {}", path.display()))?;
    hold(&lock, path).map(|()| lock)
}

/// Locks an open file, of the state directory `path`. `Conflict` where another process holds it.
fn hold(lock: &File, path: &Path) -> Result<()> {
    let path = path.display();
    match rustix::fs::flock(lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = lock.metadata().ok().and_then(|file| holder_of_file(&file));
            let who = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
            let said = format!(
                "the drive is in use: {who} holds its state directory {path} (is it mounted already?)"
            );
            Err(Error::new(Kind::Conflict, said))
        }
        done => {
            done.map_err(std::io::Error::from).context(|| format!("cannot lock the state directory {path}"))
        }
    }
}

/// Writes a new file, readable by its owner alone, and waits until it is durable; its name is not yet.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn holder_of_file(file: &fs::Metadata) -> Option<i32> {
    holder_of(&fs::read_to_string("/proc/locks").ok()?, file.dev(), file.ino())
}

/// Who holds the flock of a file: a line of `/proc/locks` such as `1: FLOCK ADVISORY WRITE 1234 fe:00:131 0 EOF`.
fn holder_of(locks: &str, device: u64, inode: u64) -> Option<i32> {
    let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        if words.next()? != "FLOCK" {
            return None;
        }
        let (pid, at) = (words.nth(2)?, words.next()?);
        (at == file).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::dirs::witness::is_durable;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 77 fe:00:131 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 1234 fe:00:131 0 EOF\n3: -> FLOCK ADVISORY WRITE 9 fe:00:7 0 EOF\n";
        let device = rustix::fs::makedev(0xfe, 0);
        assert_eq!(holder_of(locks, device, 131), Some(1234));
        assert_eq!(holder_of(locks, device, 13), None);
        assert_eq!(holder_of("", device, 131), None);
    }

    /// The journal used to be synced, and not that there is one: after a power cut at the first mount all of it was gone.
    #[test]
    fn a_new_state_directory_and_its_journal_are_durable_before_anything_is_written_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("drives/state");
        let state = StateDir::open(&path).unwrap();
        assert!(is_durable(path.parent().unwrap()) && is_durable(&path));
        state.journal().unwrap();
        assert!(is_durable(&path.join("journal")));
    }

    /// The directory is writable here, so that a write would be seen.
    #[test]
    fn a_read_only_state_directory_is_locked_and_read_and_nothing_in_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let (path, run) = (dir.path().join("state"), dir.path().join("run"));
        fs::create_dir(&run).unwrap();
        let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        let missing = StateDir::open_read_only(&path, &run).unwrap();
        assert_eq!(StateDir::open_read_only(&path, &run).err().map(|e| e.kind()), Some(Kind::Conflict));
        missing.keys(&secrets, &SystemRandom).unwrap();
        assert!(missing.journal().unwrap().list().unwrap().is_empty() && !path.exists());
        drop(missing);

        let written = StateDir::open(&path).unwrap();
        let keys = written.keys(&secrets, &SystemRandom).unwrap();
        written.put_memory(&keys, &Memory { version: 7, head: [1; 32], base: (6, [2; 32]) }).unwrap();
        assert_eq!(StateDir::open_read_only(&path, &run).err().map(|e| e.kind()), Some(Kind::Conflict));
        drop(written);
        let seen = StateDir::open_read_only(&path, &run).unwrap();
        assert_eq!(StateDir::open(&path).err().map(|e| e.kind()), Some(Kind::Conflict));
        let keys = seen.keys(&secrets, &SystemRandom).unwrap();
        assert_eq!(seen.memory(&keys).unwrap().map(|m| m.version), Some(7));
        assert!(seen.journal().unwrap().list().unwrap().is_empty() && !path.join("journal").exists());
        drop(seen);
        fs::create_dir(path.join("accepting")).unwrap();
        let e = StateDir::open_read_only(&path, &run).err().unwrap().to_string();
        assert!(e.contains("accept") && path.join("accepting").exists(), "{e}");
    }

    #[test]
    fn one_process_holds_a_state_directory_and_finds_its_identity_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        let first = StateDir::open(&path).unwrap();
        assert_eq!(StateDir::open(&path).err().map(|e| e.kind()), Some(Kind::Conflict));
        let keys = first.keys(&secrets, &SystemRandom).unwrap();
        assert!(first.device(&keys).unwrap().is_none());
        let device = StateDir::new_device(&SystemRandom).unwrap();
        first.put_device(&keys, &device).unwrap();
        let memory = Memory { version: 7, head: [1; 32], base: (6, [2; 32]) };
        first.put_memory(&keys, &memory).unwrap();
        drop(first);

        let again = StateDir::open(&path).unwrap();
        let keys = again.keys(&secrets, &SystemRandom).unwrap();
        let same = again.device(&keys).unwrap().unwrap();
        assert_eq!((same.device, same.incarnation), (device.device, device.incarnation));
        assert_eq!(StateDir::peek(&path, &secrets).map(|l| l.version), Some(7));
        assert_eq!(again.memory(&keys).unwrap(), Some(memory));
        let other = DriveSecrets::generate(&SystemRandom).unwrap();
        assert!(again.keys(&other, &SystemRandom).is_err());
        assert_eq!(StateDir::peek(&path, &other), None);
        assert_eq!(StateDir::peek(&dir.path().join("none"), &secrets), None);
    }
}
