//! A directory tree as tools see it, to be compared before and after something that must change nothing.

use rustix::fs::{SeekFrom, seek};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// What is known of one name. Access times are left out: relatime moves them when the tree is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub ino: u64,
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub mtime: (i64, i64),
    pub ctime: (i64, i64),
    pub target: Option<Vec<u8>>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a file: a hash of its blocks that are not all zero, and where they lie.
    pub content: Option<[u8; 32]>,
}

/// Everything below a directory, and the directory itself (""), by path.
pub type Tree = BTreeMap<Vec<u8>, Facts>;

pub fn tree(root: &Path) -> Tree {
    let mut out = Tree::new();
    walk(root, &mut Vec::new(), &mut out);
    out
}

/// Panics with the first few differences.
pub fn assert_same(before: &Tree, after: &Tree, when: &str) {
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differ: Vec<String> = paths
        .into_iter()
        .filter(|p| before.get(*p) != after.get(*p))
        .map(|p| format!("{}\n  {:?}\n  {:?}", p.escape_ascii(), before.get(p), after.get(p)))
        .collect();
    assert!(differ.is_empty(), "{} names differ {when}:\n{}", differ.len(), {
        differ[..differ.len().min(5)].join("\n")
    });
}

fn walk(path: &Path, name: &mut Vec<u8>, out: &mut Tree) {
    let m = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kind = m.file_type();
    let mut list = vec![0; 65_536];
    let n = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let mut xattrs = BTreeMap::new();
    for key in list[..n].split(|b| *b == 0).filter(|k| !k.is_empty()) {
        let mut value = vec![0; 65_536];
        let n = rustix::fs::lgetxattr(path, key, &mut value[..]).unwrap();
        xattrs.insert(key.to_vec(), value[..n].to_vec());
    }
    out.insert(
        name.clone(),
        Facts {
            ino: m.ino(),
            mode: m.mode(),
            nlink: m.nlink(),
            uid: m.uid(),
            gid: m.gid(),
            rdev: m.rdev(),
            size: m.size(),
            mtime: (m.mtime(), m.mtime_nsec()),
            ctime: (m.ctime(), m.ctime_nsec()),
            target: kind.is_symlink().then(|| fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()),
            xattrs,
            content: kind.is_file().then(|| content(path)),
        },
    );
    if kind.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let len = name.len();
            name.push(b'/');
            name.extend_from_slice(entry.file_name().as_bytes());
            walk(&entry.path(), name, out);
            name.truncate(len);
        }
    }
}

fn content(path: &Path) -> [u8; 32] {
    const BLOCK: u64 = 4096;
    let f = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut hash = blake3::Hasher::new();
    let mut at = 0;
    while let Ok(data) = seek(&f, SeekFrom::Data(at)) {
        let end = seek(&f, SeekFrom::Hole(data)).unwrap();
        at = data / BLOCK * BLOCK;
        while at < end {
            let mut block = [0; BLOCK as usize];
            // No read may end beyond the greatest offset.
            let len = BLOCK.min(i64::MAX as u64 - at) as usize;
            let n = f.read_at(&mut block[..len], at).unwrap();
            if n == 0 {
                break;
            }
            if block.iter().any(|b| *b != 0) {
                hash.update(&at.to_le_bytes()).update(&block[..n]);
            }
            at += BLOCK;
        }
        at = at.max(end);
    }
    *hash.finalize().as_bytes()
}
