//! `file://`: a directory of the host. Writing goes through `object_store` with fsync on; reading does not.
//!
//! What `object_store`'s backend leaves open is closed here: every directory's own entry is made durable
//! before anything is written into it (the crate does that only for directories that it makes itself, and
//! not for the root), and a directory that has been unmounted is noticed rather than written beside.

use super::layout::{self, DRIVE};
use super::memory::too_short;
use super::objects::{Created, MAX_OBJECT, Objects, check_name};
use super::remote::{Remote, kind_of_io};
use crate::error::{Error, Kind, Result};
use crate::sys::dirs::{make_dir, sync_dir};
use bytes::Bytes;
use lru::LruCache;
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many packs and index runs are kept open for reading.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

/// A store in a directory of the host.
pub struct Local {
    root: PathBuf,
    /// What tells the root from the empty mount point below it.
    identity: Mutex<Identity>,
    writer: Remote,
    /// Directories whose entries are known to be durable.
    durable: Mutex<HashSet<PathBuf>>,
    /// Open files of objects that never change.
    files: Mutex<LruCache<String, Arc<File>>>,
}

/// How the root is known again.
struct Identity {
    /// Its device and inode; others where a disk was mounted anew.
    at: (u64, u64),
    /// Its `nacre.json`, once there is one.
    drive: Option<Vec<u8>>,
    /// Held open while there is none: overlayfs may give a directory another inode number when nobody holds it.
    _held: Option<File>,
}

impl Identity {
    fn of(root: &Path) -> io::Result<Identity> {
        let dir = File::open(root)?;
        let meta = dir.metadata()?;
        let drive = drive_file(root);
        Ok(Identity { at: (meta.dev(), meta.ino()), _held: drive.is_none().then_some(dir), drive })
    }
}

/// `object_store` 0.13 panics where it has to name an object of another path, as for one that exists already.
fn writable_path(dir: &Path) -> Result<()> {
    match dir.to_str() {
        Some(_) => Ok(()),
        None => Err(Error::new(
            Kind::Usage,
            format!(
                "the path of the store, {}, is not UTF-8: give the directory another name",
                dir.display()
            ),
        )),
    }
}

impl Local {
    /// Opens the store in a directory; with `create`, makes the directory (mode 0700) where there is none.
    /// A directory that others may write to is refused, unless `allow_shared`.
    pub fn open(dir: &Path, create: bool, allow_shared: bool) -> Result<Local> {
        let cannot = |e: io::Error| io_error("open the store in", &dir.display().to_string(), e);
        let wanted = std::path::absolute(dir).map_err(cannot)?;
        writable_path(&wanted)?;
        if create {
            make_dir(&wanted).map_err(|e| io_error("make the directory", &dir.display().to_string(), e))?;
        }
        let root = fs::canonicalize(&wanted).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::new(Kind::NotADrive, format!("there is no directory {}", dir.display()))
            }
            _ => cannot(e),
        })?;
        writable_path(&root)?;
        let meta = fs::metadata(&root).map_err(cannot)?;
        if !meta.is_dir() {
            return Err(Error::new(Kind::NotADrive, format!("{} is not a directory", dir.display())));
        }
        if !allow_shared {
            refuse_shared(&root, &meta)?;
            for top in [layout::SLOTS, layout::REMOVING, layout::PROBE.trim_end_matches('/')] {
                refuse_shared_below(&root.join(top), 0)?;
            }
            refuse_shared_below(&root.join(layout::REALMS), REALM_DEPTH)?;
        }
        let durable = HashSet::from([root.clone()]);
        let store = LocalFileSystem::new_with_prefix(&root)
            .map_err(|e| Error::failed(format!("cannot open the store in {}", dir.display())).with_source(e))?
            .with_fsync(true);
        Ok(Local {
            writer: Remote::new(Arc::new(store), root.display().to_string())?,
            identity: Mutex::new(Identity::of(&root).map_err(cannot)?),
            durable: Mutex::new(durable),
            files: Mutex::new(LruCache::new(OPEN_FILES)),
            root,
        })
    }

    /// Fails when the root is no longer the directory that was opened, or another with the same drive.
    fn present(&self) -> Result<()> {
        let found = fs::metadata(&self.root).ok().map(|meta| (meta.dev(), meta.ino()));
        let mut known = self.identity.lock();
        if let Some(found) = found {
            if found == known.at {
                return Ok(());
            }
            if known.drive.is_some() && known.drive == drive_file(&self.root) {
                known.at = found;
                self.files.lock().clear();
                *self.durable.lock() = HashSet::from([self.root.clone()]);
                return Ok(());
            }
        }
        let root = self.root.display();
        let what = match found {
            Some(_) => "is another one now, without this drive; put its own back",
            None => "is gone; mount what holds it again",
        };
        Err(Error::new(Kind::Away, format!("the store's directory {root} {what}")))
    }

    /// Makes the directory of an object, and every entry on the way to it durable.
    fn make_dir(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut dir = self.root.clone();
        let mut durable = self.durable.lock();
        let parts: Vec<&str> = name.split('/').collect();
        for part in &parts[..parts.len() - 1] {
            let above = dir.clone();
            dir.push(part);
            if durable.contains(&dir) {
                continue;
            }
            let cannot = |e| io_error("make the directory", &dir.display().to_string(), e);
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(e)),
                _ => sync_dir(&above).map_err(cannot)?,
            }
            durable.insert(dir.clone());
        }
        Ok(())
    }

    fn open_file(&self, name: &str) -> Result<File> {
        check_name(name)?;
        open_regular(&self.root.join(name)).map_err(|e| self.read_error(name, e))
    }

    /// The open file of an object that never changes, kept open for the next reader.
    fn kept_file(&self, name: &str) -> Result<Arc<File>> {
        if let Some(file) = self.files.lock().get(name) {
            return Ok(file.clone());
        }
        let file = Arc::new(self.open_file(name)?);
        self.files.lock().put(name.to_owned(), file.clone());
        Ok(file)
    }

    fn read_error(&self, name: &str, e: io::Error) -> Error {
        match self.present() {
            Err(away) if e.kind() == io::ErrorKind::NotFound => away,
            _ if e.kind() == io::ErrorKind::IsADirectory => {
                Error::damage(format!("{name} in {} is not a regular file", self.root.display()))
            }
            _ => io_error("read", &format!("{name} in {}", self.root.display()), e),
        }
    }
}

impl Objects for Local {
    fn get(&self, name: &str) -> Result<Bytes> {
        let file = self.open_file(name)?;
        let size = file.metadata().map_err(|e| self.read_error(name, e))?.len();
        let mut bytes = Vec::with_capacity(size.min(MAX_OBJECT) as usize);
        file.take(MAX_OBJECT + 1).read_to_end(&mut bytes).map_err(|e| self.read_error(name, e))?;
        if bytes.len() as u64 > MAX_OBJECT {
            return Err(Error::damage(format!("{name} is longer than any object of ours")));
        }
        Ok(bytes.into())
    }

    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
        let file = self.kept_file(name)?;
        let mut bytes = vec![0; len];
        match file.read_exact_at(&mut bytes, start) {
            Ok(()) => Ok(bytes.into()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(too_short(name, start, len)),
            Err(e) => Err(self.read_error(name, e)),
        }
    }

    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.present()?;
        self.make_dir(name)?;
        let written = self.writer.put(name, bytes);
        self.files.lock().pop(name);
        written
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        self.present()?;
        self.make_dir(name)?;
        self.writer.create(name, bytes)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.present()?;
        self.writer.list(dir)
    }

    /// Reads the names of one directory only, and looks at no object.
    fn list_after(&self, dir: &str, name: &str) -> Result<Vec<String>> {
        self.present()?;
        let failed = |e| io_error("list", &format!("{dir} in {}", self.root.display()), e);
        let entries = match fs::read_dir(self.root.join(dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.present().map(|()| Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let found = entry.map_err(failed)?.file_name();
            // What is no UTF-8 is no object.
            let found = found.to_str().map(|found| format!("{dir}/{found}"));
            names.extend(found.filter(|found| found.as_str() > name));
        }
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.present()?;
        self.files.lock().pop(name);
        self.writer.delete(name)
    }

    fn size(&self, name: &str) -> Result<u64> {
        check_name(name)?;
        match fs::metadata(self.root.join(name)) {
            Ok(meta) if meta.is_file() => Ok(meta.len()),
            Ok(_) => Err(self.read_error(name, io::ErrorKind::IsADirectory.into())),
            Err(e) => Err(self.read_error(name, e)),
        }
    }

    fn is_there(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        let named = match fs::metadata(self.root.join(name)) {
            Ok(meta) => Some((meta.dev(), meta.ino())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.present().map(|()| None)?,
            Err(e) => return Err(self.read_error(name, e)),
        };
        let open = self.files.lock().peek(name).cloned();
        match open {
            Some(open) => {
                let meta = open.metadata().map_err(|e| self.read_error(name, e))?;
                Ok(named == Some((meta.dev(), meta.ino())))
            }
            None => Ok(named.is_some()),
        }
    }

    fn settle(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let path = self.root.join(name);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.present().map(|()| None)?,
            opened => Some(opened.map_err(|e| self.read_error(name, e))?),
        };
        let synced = file.map_or(Ok(()), |f| f.sync_all());
        let synced = synced.and_then(|()| path.parent().map_or(Ok(()), sync_dir));
        synced.map_err(|e| io_error("make durable", &path.display().to_string(), e))
    }
}

/// How deep directories go in `realms`: `<realm>/packs/<first digits>`.
const REALM_DEPTH: usize = 3;

/// Refuses a directory that somebody other than us and root may write to.
fn refuse_shared(root: &Path, meta: &fs::Metadata) -> Result<()> {
    let us = rustix::process::geteuid().as_raw();
    let why = if meta.uid() != us && meta.uid() != 0 {
        format!("belongs to another user (uid {})", meta.uid())
    } else if meta.mode() & 0o022 != 0 {
        format!("may be written to by others (mode {:04o}); `chmod go-w` it", meta.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(Error::failed(format!(
        "the store's directory {} {why}: whoever can write there can delete the drive",
        root.display()
    )))
}

/// The same for a directory of ours in the store, where there is one, and those in it down to a depth.
fn refuse_shared_below(dir: &Path, depth: usize) -> Result<()> {
    let cannot = |e: io::Error| io_error("look at the directory", &dir.display().to_string(), e);
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => refuse_shared(dir, &meta)?,
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(cannot(e)),
    }
    // Heads and parts of the index are many, and no directories.
    if depth == 0 || depth == 1 && !dir.ends_with("packs") {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        // What a link leads to is looked at.
        if !entry.file_type().map_err(cannot)?.is_file() {
            refuse_shared_below(&entry.path(), depth - 1)?;
        }
    }
    Ok(())
}

/// The `nacre.json` of a store, where there is one that can be read.
fn drive_file(root: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(&root.join(DRIVE)).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Opens a file for reading. What is no file must not make anybody wait: a fifo would.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::IsADirectory.into()) }
}

fn io_error(doing: &str, what: &str, e: io::Error) -> Error {
    Error::new(kind_of_io(&e).unwrap_or(Kind::Failed), format!("cannot {doing} {what}")).with_source(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(Local::open(dir.path(), false, false).err().unwrap().chain().contains("chmod"));
        Local::open(dir.path(), false, true).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Local::open(dir.path(), false, false).unwrap();
    }

    #[test]
    fn a_directory_of_ours_in_the_store_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = Local::open(&root, true, false).unwrap();
        for name in
            ["slots/1", "realms/ab/packs/0f/1", "realms/ab/heads/1", "realms/ab/latest", "realms/file"]
        {
            store.put(name, Bytes::new()).unwrap();
        }
        for below in
            ["slots", "realms", "realms/ab", "realms/ab/packs", "realms/ab/packs/0f", "realms/ab/heads"]
        {
            let mode =
                |mode| fs::set_permissions(root.join(below), fs::Permissions::from_mode(mode)).unwrap();
            mode(0o722);
            let said = Local::open(&root, false, false).err().unwrap().chain();
            assert!(said.contains("chmod") && said.contains(&format!("store/{below} ")), "{said}");
            Local::open(&root, false, true).unwrap();
            mode(0o700);
            Local::open(&root, false, false).unwrap();
        }
    }

    #[test]
    fn a_store_whose_directory_is_gone_is_away_and_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/store");
        assert_eq!(Local::open(&root, false, false).err().unwrap().kind(), Kind::NotADrive);
        let store = Local::open(&root, true, false).unwrap();
        store.put("x/y", Bytes::from_static(b"1")).unwrap();
        fs::rename(&root, dir.path().join("elsewhere")).unwrap();
        fs::create_dir(&root).unwrap();
        assert_eq!(store.get("x/y").unwrap_err().kind(), Kind::Away);
        assert_eq!(store.put("x/z", Bytes::new()).unwrap_err().kind(), Kind::Away);
        assert_eq!(store.create("x/z", Bytes::new()).unwrap_err().kind(), Kind::Away);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }

    #[test]
    fn a_store_that_comes_back_as_another_directory_is_known_by_its_drive() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        Local::open(&root, true, false).unwrap().put(DRIVE, Bytes::from_static(b"this")).unwrap();
        let store = Local::open(&root, false, false).unwrap();
        fs::rename(&root, dir.path().join("away")).unwrap();
        fs::create_dir(&root).unwrap();
        for (drive, kind) in [(&b""[..], Some(Kind::Away)), (b"other", Some(Kind::Away)), (b"this", None)] {
            fs::write(root.join(DRIVE), drive).unwrap();
            assert_eq!(store.put("x", Bytes::new()).err().map(|e| e.kind()), kind);
        }
        assert!(root.join("x").exists());
    }

    #[test]
    fn an_object_whose_file_was_removed_or_exchanged_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Local::open(dir.path(), false, true).unwrap();
        let path = dir.path().join("a");
        store.put("a", Bytes::from_static(b"one")).unwrap();
        assert!(store.is_there("a").unwrap() && !store.is_there("b").unwrap());
        assert_eq!(store.get_range("a", 0, 3).unwrap(), &b"one"[..]);
        assert!(store.is_there("a").unwrap());
        // Beside the old one, so that it has another inode.
        fs::write(dir.path().join("new"), b"two").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(store.get_range("a", 0, 3).unwrap(), &b"one"[..], "from the open file");
        assert!(!store.is_there("a").unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!store.is_there("a").unwrap());
        assert_eq!(store.get_range("a", 0, 3).unwrap(), &b"one"[..], "it can still be saved");
    }

    #[test]
    fn an_object_that_was_put_again_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Local::open(dir.path(), false, true).unwrap();
        for text in [&b"one"[..], b"two"] {
            store.put("a", Bytes::from_static(text)).unwrap();
            assert_eq!(store.get_range("a", 0, 3).unwrap(), text);
        }
    }
}
