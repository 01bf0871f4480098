//! Answers about a mounted drive as it is now, committed or not.

use super::answers::named;
use crate::cli::control::{MAX_DATA, Reply};
use crate::cli::values::DrivePath;
use crate::commit::FileKind;
use crate::drive::Drive;
use crate::drive::types::{Stat, Wait};
use crate::error::{Error, Kind, Result};
use crate::types::Ino;

/// Inodes that were looked up on the way to a file, and are remembered until this is dropped.
struct Way<'a> {
    drive: &'a Drive,
    inos: Vec<Ino>,
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        // What is below goes first, as the kernel does it.
        for ino in self.inos.iter().rev() {
            self.drive.forget(*ino, 1);
        }
    }
}

impl Way<'_> {
    fn walk(&mut self, path: &[u8]) -> Result<Stat> {
        let mut at = self.drive.stat(Wait::yes(), self.drive.root())?;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            let found = self.drive.lookup(Wait::yes(), at.ino, name)?;
            at = found.ok_or(Error::errno_of(libc::ENOENT))?;
            self.inos.push(at.ino);
        }
        Ok(at)
    }
}

/// The bytes of a file. What is not committed is there as well; nothing waits for a commit, and the store is asked
/// only for what is in no cache.
pub(super) fn cat(drive: &Drive, path: &DrivePath, out: &mut dyn Reply) -> Result<()> {
    let mut way = Way { drive, inos: Vec::new() };
    let file = way.walk(path.as_bytes()).map_err(|e| named(path, e))?;
    match file.attr.kind {
        FileKind::File => {}
        FileKind::Symlink => return out.data(&drive.read_link(Wait::yes(), file.ino)?),
        FileKind::Directory => return Err(Error::new(Kind::Usage, format!("{path} is a directory"))),
        _ => return Err(Error::new(Kind::Usage, format!("{path} is no regular file"))),
    }
    let mut done = 0;
    loop {
        let bytes = drive.read(Wait::yes(), file.ino, done, MAX_DATA).map_err(|e| named(path, e))?;
        if bytes.is_empty() {
            return Ok(());
        }
        out.data(&bytes)?;
        done += bytes.len() as u64;
    }
}
