//! The journal's files: made of zeros ahead of need, begun with a header, recycled.
//!
//! A file has its journal name only while its header is whole and durable; before and after its life it is
//! a spare. So a header that does not read is damage, whenever the power went.

use super::format::{BLOCK, FileHeader, FrameCipher, Keys};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::{Disk, DiskFile, Random, random};
use crate::types::Lsn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

const LOG: &str = "journal-";
const SPARE: &str = "spare-";
/// How much is written at once when a file is made, in bytes.
const ZEROS: usize = 1 << 20;

/// A file with frames, or ready for them.
pub struct LogFile {
    pub name: String,
    pub header: FileHeader,
    pub file: Arc<dyn DiskFile>,
    pub size: u64,
    pub cipher: FrameCipher,
    /// How many frames of the index are in it.
    pub live: AtomicUsize,
    /// A write or a sync failed here: never to be used again.
    pub suspect: AtomicBool,
}

/// A file of zeros, or of frames that nothing can open any more.
pub struct Spare {
    name: String,
    file: Arc<dyn DiskFile>,
    size: u64,
}

/// What a file is begun with.
pub struct Plan {
    pub id: u64,
    /// For a file that must be made, in bytes.
    pub size: u64,
    pub durable: Lsn,
    pub supersedes: bool,
    pub spare: Option<Spare>,
}

/// Makes, finds and removes files.
pub struct Files {
    pub disk: Arc<dyn Disk>,
    pub keys: Keys,
    pub random: Arc<dyn Random>,
}

impl Files {
    /// The ids of the journal's files in ascending order, and the names of its spares.
    /// Other names are left alone.
    pub fn list(&self) -> Result<(Vec<u64>, Vec<String>)> {
        let (mut logs, mut spares) = (Vec::new(), Vec::new());
        for name in self.disk.list()? {
            if let Some(id) = parse_name(&name, LOG) {
                logs.push(id);
            } else if parse_name(&name, SPARE).is_some() {
                spares.push(name);
            }
        }
        logs.sort_unstable();
        Ok((logs, spares))
    }

    /// Opens a file that has its journal name.
    pub fn open(&self, id: u64) -> Result<LogFile> {
        let name = format!("{LOG}{id:016x}");
        let file = self.disk.open(&name)?;
        let size = file.len()?;
        let mut block = vec![0; BLOCK as usize];
        if size < BLOCK {
            return Err(Error::damage(format!("journal file {name}, offset 0: no header")));
        }
        file.read_at(&mut block, 0)?;
        let header = self.keys.decode_header(&block).map_err(|e| {
            Error::new(e.kind(), format!("journal file {name}, offset 0: {e}; nothing was changed"))
        })?;
        if header.id != id {
            return Err(Error::damage(format!(
                "journal file {name}, offset 0: header of file {:x}",
                header.id
            )));
        }
        Ok(self.log_file(name, header, file, size))
    }

    fn log_file(&self, name: String, header: FileHeader, file: Arc<dyn DiskFile>, size: u64) -> LogFile {
        let cipher = self.keys.cipher(&header);
        LogFile {
            name,
            header,
            file,
            size,
            cipher,
            live: AtomicUsize::new(0),
            suspect: AtomicBool::new(false),
        }
    }

    /// Begins a file: when it returns, the file is durable under its name and frames may be written.
    /// Where it fails nothing is left behind.
    pub fn begin(&self, plan: Plan) -> Result<Arc<LogFile>> {
        let name = format!("{LOG}{:016x}", plan.id);
        let spare_name =
            plan.spare.as_ref().map_or_else(|| format!("{SPARE}{:016x}", plan.id), |s| s.name.clone());
        self.try_begin(plan, &name, &spare_name).map(Arc::new).inspect_err(|_| {
            // Gives the space back. What cannot be removed is a spare, or has no frames: harmless.
            let _ = self.disk.remove(&spare_name);
            let _ = self.disk.remove(&name);
        })
    }

    fn try_begin(&self, plan: Plan, name: &str, spare_name: &str) -> Result<LogFile> {
        let salt = random(&*self.random)?;
        let header = FileHeader { id: plan.id, durable: plan.durable, supersedes: plan.supersedes, salt };
        let (file, size) = match plan.spare {
            Some(spare) => (spare.file, spare.size),
            None => {
                let file = self.disk.open(spare_name)?;
                fill(&*file, plan.size).context(|| {
                    format!("cannot make a journal file of {} KiB; is the disk full?", plan.size >> 10)
                })?;
                (file, plan.size)
            }
        };
        file.write_at(&self.keys.encode_header(&header), 0)?;
        file.sync_data()?;
        self.disk.rename(spare_name, name)?;
        self.disk.sync_names()?;
        Ok(self.log_file(name.into(), header, file, size))
    }

    /// Ends the life of files, given in ascending order; nothing in them is needed any more.
    /// Keeps up to `keep` of them as spares and removes the others.
    pub fn retire(&self, files: Vec<Arc<LogFile>>, keep: usize) -> Result<Vec<Spare>> {
        let mut spares = Vec::new();
        let mut pending = false;
        for log in files {
            // A file that voids records of older ones must outlive them, on the disk too.
            if log.header.supersedes && pending {
                self.disk.sync_names()?;
            }
            pending = true;
            if spares.len() < keep && !log.suspect.load(std::sync::atomic::Ordering::Relaxed) {
                let name = format!("{SPARE}{:016x}", log.header.id);
                self.disk.rename(&log.name, &name)?;
                spares.push(Spare { name, file: log.file.clone(), size: log.size });
            } else {
                self.disk.remove(&log.name)?;
            }
        }
        // A header is never written over while the file may still have its journal name.
        if pending {
            self.disk.sync_names()?;
        }
        Ok(spares)
    }

    pub fn discard(&self, spare: Spare) -> Result<()> {
        self.disk.remove(&spare.name)
    }

    /// Removes a spare that an earlier run left; it may be half made.
    pub fn discard_name(&self, name: &str) -> Result<()> {
        match self.disk.remove(name) {
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Writes zeros, so that later writes allocate nothing and change no metadata.
fn fill(file: &dyn DiskFile, size: u64) -> Result<()> {
    let zeros = vec![0; ZEROS.min(size as usize)];
    let mut at = 0;
    while at < size {
        let len = (size - at).min(zeros.len() as u64);
        file.write_at(&zeros[..len as usize], at)?;
        file.write_back(at, len);
        at += len;
    }
    Ok(())
}

fn parse_name(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let id = u64::from_str_radix(digits, 16).ok()?;
    (format!("{id:016x}") == digits).then_some(id)
}
