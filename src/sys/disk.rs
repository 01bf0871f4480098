//! A directory of files, as the journal uses it: positioned reads and writes, and explicit durability.

use super::dirs::{make_dir, sync_dir};
use crate::error::{Context, Error, Result};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

/// A flat directory of files. Names are plain ASCII.
pub trait Disk: Send + Sync {
    /// Opens a file for reading and writing; makes it, empty, where there is none.
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>>;
    /// The names of all files, in any order.
    fn list(&self) -> Result<Vec<String>>;
    fn remove(&self, name: &str) -> Result<()>;
    /// Renames over whatever was there.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Makes creations, removals and renames durable.
    fn sync_names(&self) -> Result<()>;
    /// Whether the path still leads to this directory: it may have been removed, moved or exchanged since it was opened.
    fn is_in_place(&self) -> Result<bool>;
    /// What is noted, beside the directory, of what is in it, so that its loss can be told: the number of the newest file,
    /// or 0 for anything at all.
    fn noted(&self) -> Result<Option<u64>>;
    /// Notes that, durably.
    fn note(&self, newest: u64) -> Result<()>;
    /// Takes the note away, durably.
    fn unnote(&self) -> Result<()>;
}

/// A file on a [`Disk`]. What is written survives a power cut only after `sync_data`.
#[allow(clippy::len_without_is_empty)] // nobody asks
pub trait DiskFile: Send + Sync {
    fn len(&self) -> Result<u64>;
    fn read_at(&self, out: &mut [u8], at: u64) -> Result<()>;
    fn write_at(&self, bytes: &[u8], at: u64) -> Result<()>;
    /// Makes the bytes and the size durable (fdatasync).
    fn sync_data(&self) -> Result<()>;
    /// Whether the file has a name. What is made durable in one without is gone when the file is closed.
    fn has_name(&self) -> Result<bool>;
    /// Asks for the range to be written soon, without waiting. A hint.
    fn write_back(&self, _at: u64, _len: u64) {}
}

/// A directory of the host.
pub struct HostDisk {
    dir: PathBuf,
    /// Kept open, so that no other directory gets its inode number. None where it is missing and must not be made.
    opened: Option<File>,
    read_only: bool,
}

impl HostDisk {
    /// Makes the directory durably ([`make_dir`]) where there is none.
    pub fn open(dir: impl Into<PathBuf>) -> Result<HostDisk> {
        let dir = dir.into();
        make_dir(&dir).context(|| format!("cannot make the directory {}", dir.display()))?;
        let opened = File::open(&dir).context(|| format!("cannot open the directory {}", dir.display()))?;
        Ok(HostDisk { dir, opened: Some(opened), read_only: false })
    }

    /// A directory of which nothing is changed, for its file system is read-only. One that is missing is empty.
    pub fn read_only(dir: impl Into<PathBuf>) -> Result<HostDisk> {
        let dir = dir.into();
        let opened = match File::open(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            opened => Some(opened.context(|| format!("cannot open the directory {}", dir.display()))?),
        };
        Ok(HostDisk { dir, opened, read_only: true })
    }

    /// Beside the directory, so that it outlives that.
    fn note_path(&self) -> PathBuf {
        self.dir.with_extension("begun")
    }

    fn sync_note(&self) -> io::Result<()> {
        self.dir.parent().map_or(Ok(()), sync_dir)
    }
}

impl Disk for HostDisk {
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.dir.join(name);
        let file = File::options()
            .read(true)
            .write(!self.read_only)
            .create(!self.read_only)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .context(|| format!("cannot open {}", path.display()))?;
        Ok(Arc::new(HostFile { file, path }))
    }

    fn list(&self) -> Result<Vec<String>> {
        if self.opened.is_none() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.dir).context(|| format!("cannot list {}", self.dir.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) =
                entry.context(|| format!("cannot list {}", self.dir.display()))?.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::remove_file(&path).context(|| format!("cannot remove {}", path.display()))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
            .context(|| format!("cannot rename {from} to {to} in {}", self.dir.display()))
    }

    fn sync_names(&self) -> Result<()> {
        sync_dir(&self.dir).context(|| format!("cannot sync {}", self.dir.display()))
    }

    fn is_in_place(&self) -> Result<bool> {
        let failed = || format!("cannot stat {}", self.dir.display());
        let Some(opened) = &self.opened else { return Ok(false) };
        let opened = opened.metadata().context(failed)?;
        match fs::metadata(&self.dir) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            found => found.map(|f| (f.dev(), f.ino()) == (opened.dev(), opened.ino())).context(failed),
        }
    }

    fn noted(&self) -> Result<Option<u64>> {
        let note = self.note_path();
        match fs::read(&note) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            // One that says nothing stands for anything at all.
            read => {
                let text = read.context(|| format!("cannot read {}", note.display()))?;
                let digits = std::str::from_utf8(&text).unwrap_or_default().trim_end();
                Ok(Some(u64::from_str_radix(digits, 16).unwrap_or(0)))
            }
        }
    }

    fn note(&self, newest: u64) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let note = self.note_path();
        let write = || -> io::Result<()> {
            let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&note)?;
            let is_new = file.metadata()?.len() == 0;
            // In place, within a sector: there is no moment without it, and no need of room.
            file.write_all_at(format!("{newest:016x}\n").as_bytes(), 0)?;
            file.sync_all()?;
            if is_new { self.sync_note() } else { Ok(()) }
        };
        write().context(|| format!("cannot write {}", note.display()))
    }

    fn unnote(&self) -> Result<()> {
        let note = self.note_path();
        match fs::remove_file(&note) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed
                .and_then(|()| self.sync_note())
                .context(|| format!("cannot remove {}", note.display())),
        }
    }
}

struct HostFile {
    file: File,
    path: PathBuf,
}

impl DiskFile for HostFile {
    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().context(|| format!("cannot stat {}", self.path.display()))?.len())
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(out, at).context(|| format!("cannot read {}", self.path.display()))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        let told = |e: io::Error| {
            match e.raw_os_error() {
            // Not what POSIX calls it: no file here is too large for anything but this.
            Some(libc::EFBIG) => Error::failed(
                "the process was started with a limit of the size of files (ulimit -f, LimitFSIZE=): raise it",
            )
            .with_source(e),
            _ => Error::from(e),
        }
        };
        let written = self.file.write_all_at(bytes, at).map_err(told);
        written.map_err(|e| e.context(format!("cannot write {}", self.path.display())))
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data().context(|| format!("cannot sync {}", self.path.display()))
    }

    fn has_name(&self) -> Result<bool> {
        let found = self.file.metadata().context(|| format!("cannot stat {}", self.path.display()))?;
        Ok(found.nlink() > 0)
    }

    fn write_back(&self, at: u64, len: u64) {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open for as long as `self`; the call touches no memory of ours.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), at as i64, len as i64, libc::SYNC_FILE_RANGE_WRITE);
        }
    }
}
