//! Objects for as long as a process needs them: in a file that has no name, so that nothing is left of it.

use super::memory::Memory;
use super::objects::{Created, MAX_OBJECT, Objects, check_name};
use crate::error::{Context, Error, Kind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// A file of objects back to back.
struct Scratch {
    file: File,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Where each object begins, and how long it is, in bytes.
    places: HashMap<String, (u64, usize)>,
    end: u64,
}

/// A scratch store in a directory, else in the one for temporary files, else in memory.
pub(super) fn open(dir: Option<&Path>) -> Arc<dyn Objects> {
    let temporary = std::env::temp_dir();
    for dir in dir.into_iter().chain([&*temporary]) {
        match nameless(dir) {
            Ok(file) => return Arc::new(Scratch { file, table: Mutex::default() }),
            Err(e) => tracing::debug!("no scratch file in {}: {e}", dir.display()),
        }
    }
    Arc::new(Memory::new())
}

/// open(2), O_TMPFILE.
fn nameless(dir: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(dir)?;
    File::options().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(dir)
}

impl Scratch {
    fn place(&self, name: &str) -> Result<(u64, usize)> {
        let missing = || Error::new(Kind::NotFound, format!("there is no {name} in the scratch file"));
        self.table.lock().places.get(name).copied().ok_or_else(missing)
    }
}

impl Objects for Scratch {
    fn get(&self, name: &str) -> Result<Bytes> {
        let (_, len) = self.place(name)?;
        self.get_range(name, 0, len)
    }

    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
        let (at, size) = self.place(name)?;
        if start.checked_add(len as u64).is_none_or(|end| end > size as u64) {
            return Err(Error::damage(format!("{name} is only {size} bytes long")));
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at + start).context(|| "cannot read the scratch file")?;
        Ok(bytes.into())
    }

    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        check_name(name)?;
        self.delete(name)?;
        if bytes.len() as u64 > MAX_OBJECT {
            return Err(Error::failed(format!("{name} cannot be {} bytes long", bytes.len())));
        }
        let mut table = self.table.lock();
        let at = table.end;
        self.file.write_all_at(&bytes, at).context(|| "cannot write the scratch file")?;
        table.end += bytes.len() as u64;
        table.places.insert(name.to_owned(), (at, bytes.len()));
        Ok(())
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        if self.place(name).is_ok() {
            return Ok(Created::Exists);
        }
        self.put(name, bytes).map(|()| Created::Created)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let below = |name: &&String| {
            dir.is_empty() || name.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
        };
        Ok(self.table.lock().places.keys().filter(below).cloned().collect())
    }

    /// Gives its room on the disk back.
    fn delete(&self, name: &str) -> Result<()> {
        let Some((at, len)) = self.table.lock().places.remove(name) else { return Ok(()) };
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if len > 0
            && let Err(e) = fallocate(&self.file, punch, at, len as u64)
        {
            tracing::debug!("the scratch file keeps its size: {e}");
        }
        Ok(())
    }

    fn size(&self, name: &str) -> Result<u64> {
        Ok(self.place(name)?.1 as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_store_does_what_one_in_memory_does_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = nameless(dir.path()).unwrap();
        let scratch = Scratch { file, table: Mutex::default() };
        let memory = Memory::new();
        let both: [&dyn Objects; 2] = [&scratch, &memory];
        let said = both.map(|o| {
            o.put("a/one", Bytes::from_static(b"first")).unwrap();
            o.put("a/two", Bytes::from_static(b"second")).unwrap();
            o.put("a/one", Bytes::from_static(b"again, and longer")).unwrap();
            assert_eq!(o.create("a/two", Bytes::new()).unwrap(), Created::Exists);
            o.delete("a/two").unwrap();
            o.delete("a/two").unwrap();
            let short = o.get_range("a/one", 10, 8).unwrap_err().kind();
            let gone = o.get("a/two").unwrap_err().kind();
            let (got, part) = (o.get("a/one").unwrap(), o.get_range("a/one", 7, 10).unwrap());
            (short, gone, got, part, o.list("a").unwrap(), o.list("b").unwrap(), o.size("a/one").unwrap())
        });
        assert_eq!(said[0], said[1]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
