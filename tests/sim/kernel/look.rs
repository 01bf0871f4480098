//! Looking at a drive from outside: all of it, and how two looks differ.

use crate::model::{Model, Node, Seen, describe};
use nacrefs::commit::{Attr, FileKind};
use nacrefs::drive::Drive;
use nacrefs::drive::types::Wait;
use nacrefs::error::Result;
use nacrefs::types::Ino;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An inode of the drive as the model would have it.
pub fn observe(drive: &Drive, ino: Ino, attr: &Attr) -> Result<Node> {
    let mut n = Model::node(attr.kind, attr.perm, attr.btime);
    (n.uid, n.gid, n.rdev, n.mtime, n.ctime) = (attr.uid, attr.gid, attr.rdev, attr.mtime, attr.ctime);
    match attr.kind {
        FileKind::File => {
            let mut bytes = Vec::new();
            while bytes.len() < attr.size as usize {
                let part = drive.read(Wait::yes(), ino, bytes.len() as u64, 60_000)?;
                assert!(!part.is_empty(), "inode {ino} ends at {} of {}", bytes.len(), attr.size);
                bytes.extend(part);
            }
            n.bytes = Arc::new(bytes);
        }
        FileKind::Symlink => n.target = drive.read_link(Wait::yes(), ino)?.to_vec(),
        _ => {}
    }
    for name in drive.list_xattr(Wait::yes(), ino)?.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        n.xattrs.insert(name.to_vec(), drive.get_xattr(Wait::yes(), ino, name)?);
    }
    Ok(n)
}

/// Looks at a whole tree; leaves no lookup behind.
pub fn look(drive: &Drive, root: Ino) -> Result<Seen> {
    let mut all: BTreeMap<String, (Ino, Attr)> = BTreeMap::new();
    let mut todo = vec![(String::new(), root)];
    all.insert(String::new(), (root, drive.stat(Wait::yes(), root)?.attr));
    while let Some((path, dir)) = todo.pop() {
        let mut names = Vec::new();
        drive.read_dir(Wait::yes(), dir, 2, false, &mut |item| {
            names.push((item.name.to_vec(), item.ino, item.kind));
            true
        })?;
        for (name, ino, kind) in names {
            let path = format!("{path}/{}", name.escape_ascii());
            let stat = drive.lookup(Wait::yes(), dir, &name)?.expect("a listed name leads somewhere");
            assert_eq!((stat.ino, stat.attr.kind), (ino, kind), "{path}: lookup and listing differ");
            assert!(all.insert(path.clone(), (ino, stat.attr)).is_none(), "{path} is listed twice");
            if kind == FileKind::Directory {
                todo.push((path, ino));
            }
        }
    }
    let mut first: BTreeMap<Ino, String> = BTreeMap::new();
    let mut seen = Seen::new();
    for (path, (ino, attr)) in &all {
        let same = first.entry(*ino).or_insert_with(|| path.clone()).clone();
        let node = observe(drive, *ino, attr)?;
        seen.insert(path.clone(), describe(&node, attr.nlink, attr.size, &same));
    }
    // Children before their directories, as the kernel does.
    for (path, (ino, _)) in all.iter().rev() {
        if !path.is_empty() {
            drive.forget(*ino, 1);
        }
    }
    Ok(seen)
}

/// The first difference of two trees, for people.
pub fn differ(is: &Seen, must: &Seen) -> Option<String> {
    let mut paths: BTreeSet<&String> = is.keys().collect();
    paths.extend(must.keys());
    let path = paths.into_iter().find(|p| is.get(*p) != must.get(*p))?;
    Some(format!("{path:?}\n  is   {:?}\n  must {:?}", is.get(path), must.get(path)))
}
