//! Directories of the host that survive a power cut.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// Makes a directory (mode 0700), and those above it that are missing, and makes their entries durable.
///
/// Which of those that are there were made just before a power cut is not known: all entries on the way are made
/// durable, up to the root of the file system that the directory is on, or to what the caller may not read.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let dir = fs::canonicalize(dir)?;
    let device = fs::metadata(&dir)?.dev();
    for above in dir.ancestors().skip(1) {
        // An entry that leads to another file system was made by nobody who makes directories.
        if fs::metadata(above)?.dev() != device {
            break;
        }
        match sync_dir(above) {
            // One that we may not read, or that cannot be synced, is not one that we have made.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EINVAL | libc::EROFS)) => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// Makes the entries of a directory durable (fsync).
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let synced = File::open(dir)?.sync_all();
    #[cfg(test)]
    witness::note(dir);
    synced
}

/// Which directories this thread has synced, and what was in them, for tests: the kernel does not tell.
#[cfg(test)]
pub(crate) mod witness {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    thread_local! {
        static DURABLE: RefCell<BTreeSet<PathBuf>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub fn note(dir: &Path) {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        DURABLE.with_borrow_mut(|durable| durable.extend(entries));
    }

    /// Whether the entry of a file or directory, by its path without links, would survive a power cut.
    pub fn is_durable(path: &Path) -> bool {
        DURABLE.with_borrow(|durable| durable.contains(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_new_directory_is_durable_in_the_one_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let made = ["a", "a/b", "a/b/c"].map(|name| root.join(name));
        make_dir(&made[2]).unwrap();
        for path in &made {
            assert!(witness::is_durable(path), "{}", path.display());
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
        }
    }

    /// A run that was ended by a power cut may have made directories and not come to syncing them.
    #[test]
    fn directories_of_an_earlier_run_are_made_durable_too() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        make_dir(&root.join("a/b")).unwrap();
        assert!(witness::is_durable(&root.join("a")) && witness::is_durable(&root.join("a/b")));
    }
}
