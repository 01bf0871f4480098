//! A directory of files, as the journal uses it: positioned reads and writes, and explicit durability.

use super::dirs::{make_dir, sync_dir};
use crate::error::{Context, Result};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
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
}

/// A file on a [`Disk`]. What is written survives a power cut only after `sync_data`.
#[allow(clippy::len_without_is_empty)] // nobody asks
pub trait DiskFile: Send + Sync {
    fn len(&self) -> Result<u64>;
    fn read_at(&self, out: &mut [u8], at: u64) -> Result<()>;
    fn write_at(&self, bytes: &[u8], at: u64) -> Result<()>;
    /// Makes the bytes and the size durable (fdatasync).
    fn sync_data(&self) -> Result<()>;
    /// Asks for the range to be written soon, without waiting. A hint.
    fn write_back(&self, _at: u64, _len: u64) {}
}

/// A directory of the host.
pub struct HostDisk {
    dir: PathBuf,
}

impl HostDisk {
    /// Makes the directory durably ([`make_dir`]) where there is none.
    pub fn open(dir: impl Into<PathBuf>) -> Result<HostDisk> {
        let dir = dir.into();
        make_dir(&dir).context(|| format!("cannot make the directory {}", dir.display()))?;
        Ok(HostDisk { dir })
    }
}

impl Disk for HostDisk {
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.dir.join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .context(|| format!("cannot open {}", path.display()))?;
        Ok(Arc::new(HostFile { file, path }))
    }

    fn list(&self) -> Result<Vec<String>> {
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
        self.file.write_all_at(bytes, at).context(|| format!("cannot write {}", self.path.display()))
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data().context(|| format!("cannot sync {}", self.path.display()))
    }

    fn write_back(&self, at: u64, len: u64) {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open for as long as `self`; the call touches no memory of ours.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), at as i64, len as i64, libc::SYNC_FILE_RANGE_WRITE);
        }
    }
}
