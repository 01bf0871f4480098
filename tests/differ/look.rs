//! What can be seen of a tree, and of the files that users have open, whether they have a name or not.

use rustix::fs::{CWD, Mode, OFlags, SeekFrom, openat, seek};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Seconds since 1970, and nanoseconds.
pub type Time = (i64, i64);

/// What is known of one inode from its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub ino: u64,
    /// The first path that leads there: equal for names of one file.
    pub first: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub rdev: u64,
    pub size: u64,
    pub blocks: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    /// Where all was looked at.
    pub inside: Option<Inside>,
}

/// What has to be opened to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    pub target: Option<Vec<u8>>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Of a file: a hash of its blocks that are not all zero and where they lie, and how many bytes are not zero.
    pub content: Option<([u8; 32], u64)>,
}

/// By path below the root, or by `user:slot` for open files.
pub type Look = BTreeMap<String, Facts>;

/// Targets of symbolic links by (inode, ctime): to read one again would move its access time.
pub type Targets = HashMap<(u64, Time), Vec<u8>>;

/// Looks at everything; `deep`: also at contents, targets and attributes. What is looked at is not changed by it:
/// access times stay, by O_NOATIME.
pub fn look(
    root: &Path,
    open: &[(String, PathBuf)],
    deep: bool,
    targets: &mut Targets,
) -> std::io::Result<Look> {
    let mut paths = BTreeSet::from([(String::new(), root.to_owned())]);
    let mut todo = vec![(String::new(), root.to_owned())];
    while let Some((below, dir)) = todo.pop() {
        let fd = openat(CWD, &dir, OFlags::RDONLY | OFlags::NOATIME | OFlags::DIRECTORY, Mode::empty())?;
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = dir.join(std::ffi::OsStr::from_bytes(name));
            let shown = format!("{below}/{}", name.escape_ascii());
            if entry.file_type() == rustix::fs::FileType::Directory {
                todo.push((shown.clone(), path.clone()));
            }
            paths.insert((shown, path));
        }
    }
    let (mut out, mut first) = (Look::new(), HashMap::new());
    for (named, (shown, path)) in
        paths.into_iter().map(|p| (true, p)).chain(open.iter().cloned().map(|p| (false, p)))
    {
        let stat = if named { fs::symlink_metadata(&path) } else { fs::metadata(&path) };
        let stat = match stat {
            Ok(stat) => stat,
            // An empty slot.
            Err(e) if !named && e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(std::io::Error::new(e.kind(), format!("{shown}: {e}"))),
        };
        let again = first.contains_key(&stat.ino());
        let first = first.entry(stat.ino()).or_insert_with(|| shown.clone()).clone();
        let inside = if deep && !again {
            let context = |e: std::io::Error| std::io::Error::new(e.kind(), format!("inside {shown}: {e}"));
            Some(inside(&path, &stat, named, targets).map_err(context)?)
        } else {
            None
        };
        out.insert(
            shown,
            Facts {
                ino: stat.ino(),
                first,
                mode: stat.mode(),
                uid: stat.uid(),
                gid: stat.gid(),
                nlink: stat.nlink(),
                rdev: stat.rdev(),
                size: stat.size(),
                blocks: stat.blocks(),
                atime: (stat.atime(), stat.atime_nsec()),
                mtime: (stat.mtime(), stat.mtime_nsec()),
                ctime: (stat.ctime(), stat.ctime_nsec()),
                inside,
            },
        );
    }
    Ok(out)
}

fn inside(path: &Path, stat: &Metadata, named: bool, targets: &mut Targets) -> std::io::Result<Inside> {
    let kind = stat.file_type();
    let target = if kind.is_symlink() && named {
        let key = (stat.ino(), (stat.ctime(), stat.ctime_nsec()));
        let known = targets.get(&key).cloned();
        let target = known
            .map_or_else(|| Ok::<_, std::io::Error>(rustix::fs::readlink(path, vec![])?.into_bytes()), Ok)?;
        targets.insert(key, target.clone());
        Some(target)
    } else {
        None
    };
    let (mut names, mut value) = (vec![0; 65_536], vec![0; 65_536]);
    let mut xattrs = BTreeMap::new();
    // An open symbolic link (O_PATH) leads nowhere by way of /proc.
    let list = |names: &mut Vec<u8>| match named {
        true => rustix::fs::llistxattr(path, &mut names[..]),
        false => rustix::fs::listxattr(path, &mut names[..]),
    };
    let n = if named || !kind.is_symlink() { list(&mut names)? } else { 0 };
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let n = match named {
            true => rustix::fs::lgetxattr(path, name, &mut value[..])?,
            false => rustix::fs::getxattr(path, name, &mut value[..])?,
        };
        xattrs.insert(name.escape_ascii().to_string(), value[..n].to_vec());
    }
    let content = if kind.is_file() { Some(content(path)?) } else { None };
    Ok(Inside { target, xattrs, content })
}

/// Opens a file to look at it without its access time being moved, or a fifo without waiting for who writes.
pub fn quietly(path: &Path) -> std::io::Result<File> {
    Ok(openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?
    .into())
}

fn content(path: &Path) -> std::io::Result<([u8; 32], u64)> {
    let (mut hash, mut bytes) = (blake3::Hasher::new(), 0);
    each_block(&quietly(path)?, 0, |at, block| {
        let n = block.iter().filter(|b| **b != 0).count() as u64;
        if n > 0 {
            bytes += n;
            hash.update(&at.to_le_bytes()).update(block);
        }
        true
    })?;
    Ok((*hash.finalize().as_bytes(), bytes))
}

/// The first byte that is not zero, from a place on.
pub fn first_byte(file: &File, from: u64) -> std::io::Result<Option<u64>> {
    let mut found = None;
    each_block(file, from, |at, block| {
        let skip = from.saturating_sub(at) as usize;
        found = (skip..block.len()).find(|i| block[*i] != 0).map(|i| at + i as u64);
        found.is_none()
    })?;
    Ok(found)
}

/// Gives each block of 4 KiB that is not in a hole, from the one that holds a place on, until `take` has enough.
fn each_block(file: &File, from: u64, mut take: impl FnMut(u64, &[u8]) -> bool) -> std::io::Result<()> {
    const BLOCK: u64 = 4096;
    let mut at = from / BLOCK * BLOCK;
    while let Ok(data) = seek(file, SeekFrom::Data(at)) {
        let end = seek(file, SeekFrom::Hole(data))?;
        at = data / BLOCK * BLOCK;
        while at < end {
            let mut block = [0; BLOCK as usize];
            let n = file.read_at(&mut block, at)?;
            if n == 0 || !take(at, &block[..n]) {
                return Ok(());
            }
            at += BLOCK;
        }
    }
    Ok(())
}
