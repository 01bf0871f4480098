//! The journal's files: made of zeros ahead of need, begun with a header, recycled.
//!
//! A file has its journal name only while its header is whole and durable; before and after its life it is
//! a spare. So a header that does not read is damage, whenever the power went.

use super::format::{BLOCK, FileHeader, FrameCipher, Keys};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::{Disk, DiskFile, Random, random};
use crate::types::Lsn;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub(super) const LOG: &str = "journal-";
const SPARE: &str = "spare-";
/// A spare beside which there is no journal file: shows that the last one was not lost.
const IDLE: &str = "idle-";
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
    /// The highest file that the disk may have noted; none is noted that is not there.
    noted: Mutex<Option<u64>>,
}

/// What is there, by its name.
#[derive(Default)]
pub struct Listing {
    /// The ids of the journal's files in ascending order.
    pub logs: Vec<u64>,
    /// Names.
    pub spares: Vec<String>,
    /// Names.
    pub idle: Vec<String>,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>, keys: Keys, random: Arc<dyn Random>) -> Files {
        Files { disk, keys, random, noted: Mutex::new(None) }
    }

    /// Lists the directory. Other names are left alone.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for name in self.disk.list()? {
            if let Some(id) = parse_name(&name, LOG) {
                listing.logs.push(id);
            } else if parse_name(&name, SPARE).is_some() {
                listing.spares.push(name);
            } else if parse_name(&name, IDLE).is_some() {
                listing.idle.push(name);
            }
        }
        listing.logs.sort_unstable();
        Ok(listing)
    }

    /// Opens a file that has its journal name. Its size is that of its header, if it is not shorter.
    pub fn open(&self, id: u64) -> Result<LogFile> {
        let name = format!("{LOG}{id:016x}");
        let file = self.disk.open(&name)?;
        let size = file.len()?;
        let mut block = vec![0; BLOCK as usize];
        if size < BLOCK {
            return Err(refused(&format!("journal file {name}, offset 0: no header")));
        }
        file.read_at(&mut block, 0)?;
        let header = self.keys.decode_header(&block).map_err(|e| match e.kind() {
            Kind::Damage => refused(&format!("journal file {name}, offset 0: {e}")),
            kind => Error::new(kind, format!("journal file {name}, offset 0: {e}; nothing was changed")),
        })?;
        if header.id != id {
            return Err(refused(&format!("journal file {name}, offset 0: header of file {:x}", header.id)));
        }
        let told = if header.size == 0 { size } else { header.size };
        Ok(self.log_file(name, header, file, size.min(told)))
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
        let id = plan.id;
        let begun = self.try_begin(plan, &name, &spare_name).map(Arc::new).inspect_err(|_| {
            // Under either name it shows that no journal file was lost.
            if spare_name.starts_with(IDLE) {
                return;
            }
            // Gives the space back. What cannot be removed is a spare, or has no frames: harmless.
            let _ = self.disk.remove(&spare_name);
            // A note that failed may be there all the same, and then the file is missed.
            if self.noted.lock().is_none_or(|noted| noted < id) {
                let _ = self.disk.remove(&name);
            }
        })?;
        // Once there is a file there always is one; and no record is in any before that is noted. Where it is not noted, it
        // stays, without records: harmless.
        let mut noted = self.noted.lock();
        *noted = (*noted).max(Some(id));
        self.disk.note(id)?;
        Ok(begun)
    }

    /// Sees to it that no file is noted but those that stay when these go.
    fn renote(&self, going: &[Arc<LogFile>]) -> Result<()> {
        let mut noted = self.noted.lock();
        let known = match *noted {
            Some(known) => known,
            None => self.disk.noted()?.unwrap_or(0),
        };
        if !going.iter().any(|log| log.header.id == known) {
            return Ok(());
        }
        let stays = |id: &u64| going.iter().all(|log| log.header.id != *id);
        let newest = self.list()?.logs.into_iter().filter(stays).max().unwrap_or(0);
        if newest < known {
            self.disk.note(newest)?;
            *noted = Some(newest);
        }
        Ok(())
    }

    fn try_begin(&self, plan: Plan, name: &str, spare_name: &str) -> Result<LogFile> {
        // Nothing is begun where no later opening would look for it.
        self.in_place()?;
        let salt = random(&*self.random)?;
        let (file, size) = match plan.spare {
            Some(spare) => (spare.file, spare.size),
            None => {
                let file = self.disk.open(spare_name)?;
                fill(&*file, plan.size)
                    .context(|| format!("cannot make a journal file of {} KiB", plan.size >> 10))?;
                (file, plan.size)
            }
        };
        let Plan { id, durable, supersedes, .. } = plan;
        let header = FileHeader { id, durable, supersedes, salt, size };
        file.write_at(&self.keys.encode_header(&header), 0)?;
        file.sync_data()?;
        self.disk.rename(spare_name, name)?;
        self.disk.sync_names()?;
        Ok(self.log_file(name.into(), header, file, size))
    }

    /// An error where the next opening would look for the files elsewhere.
    pub fn in_place(&self) -> Result<()> {
        match self.disk.is_in_place()? {
            true => Ok(()),
            false => Err(Error::failed("the directory of the journal was removed, moved or exchanged")),
        }
    }

    /// An error where a file would be gone when it is closed.
    pub fn named(&self, log: &LogFile) -> Result<()> {
        match log.file.has_name()? {
            true => Ok(()),
            false => Err(Error::failed(format!("the journal file {} was removed", log.name))),
        }
    }

    /// Ends the life of files, given in ascending order; nothing in them is needed any more.
    /// Keeps up to `keep` of them as spares and removes the others; but where there is no journal file without them,
    /// one stays at least.
    pub fn retire(&self, files: Vec<Arc<LogFile>>, keep: usize, others: bool) -> Result<Vec<Spare>> {
        self.renote(&files)?;
        let mut spares = Vec::new();
        let mut pending = false;
        let newest = files.last().filter(|_| !others).map(|log| log.header.id);
        for log in files {
            // A file that voids records of older ones must outlive them, on the disk too.
            if log.header.supersedes && pending {
                self.disk.sync_names()?;
            }
            pending = true;
            let (idle, sound) = (newest == Some(log.header.id), !log.suspect.load(Ordering::Relaxed));
            if idle || spares.len() < keep && sound {
                let name = format!("{}{:016x}", if idle { IDLE } else { SPARE }, log.header.id);
                self.disk.rename(&log.name, &name)?;
                if sound {
                    spares.push(Spare { name, file: log.file.clone(), size: log.size });
                }
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

/// Damage, with what can be done about it.
pub(super) fn refused(what: &str) -> Error {
    Error::damage(format!(
        "{what}; nothing was changed: bring the journal back from a backup, or go on without what only it holds, with \
         'nacrefs accept STORE' (it is kept aside); -o ro shows what is there"
    ))
}

fn parse_name(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let id = u64::from_str_radix(digits, 16).ok()?;
    (format!("{id:016x}") == digits).then_some(id)
}
