//! A drive of a few lines, for tests: a model of the tree in memory, which notes what changed and commits it.

use super::build::{Making, Tools, build};
use super::change::{Ancestors, BodyChange, Change, Committed, DirKey};
use super::inode::{Attr, Content, FileKind, InodeRecord, Name, ROOT, Xattrs};
use super::object::{Commit, Parent, make_ino};
use super::params::Parameters;
use super::view::View;
use crate::chunk::{ChunkSink, Chunks};
use crate::content::testing::World;
use crate::content::{Blob, Edit, Fetch};
use crate::crypt::RealmKeys;
use crate::error::{Error, Result};
use crate::tree::Map;
use crate::types::{DeviceId, Incarnation, Ino, Time, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub const DEVICE: DeviceId = DeviceId([0xd1; 16]);

/// What an inode holds, and what it held in the last version.
#[derive(Clone)]
pub enum Body {
    File { bytes: Vec<u8>, base: Blob, cut: Option<u64>, edits: Vec<(u64, Vec<u8>)> },
    Directory { names: BTreeMap<Vec<u8>, Ino>, base: Map, touched: BTreeSet<Vec<u8>> },
    Symlink(Vec<u8>),
    Special,
}

#[derive(Clone)]
pub struct Node {
    pub attr: Attr,
    pub xattrs: Xattrs,
    pub names: BTreeSet<Name>,
    pub shell: bool,
    pub was_shell: bool,
    pub body: Body,
}

pub struct Mini {
    pub keys: Arc<RealmKeys>,
    chunks: Arc<dyn Chunks>,
    fetch: Arc<dyn Fetch>,
    pub nodes: BTreeMap<Ino, Node>,
    pub dirty: BTreeSet<Ino>,
    pub commit: Option<Arc<Commit>>,
    next: u64,
    pub now: i64,
}

struct Places<'a>(&'a Mini);

impl Ancestors for Places<'_> {
    fn place(&self, dir: Ino) -> Result<(Ino, u64)> {
        let node = self.0.nodes.get(&dir).ok_or_else(|| Error::failed("no such directory"))?;
        let name = node.names.first().ok_or_else(|| Error::failed("no name"))?;
        Ok((name.parent, self.0.keys.name_hash(&name.name)))
    }

    fn known(&self, dir: Ino) -> Option<(Name, InodeRecord)> {
        let node = self.0.nodes.get(&dir)?;
        let Body::Directory { base, .. } = &node.body else { return None };
        let attr = Attr { size: base.len(), ..node.attr.clone() };
        let xattrs = (!node.xattrs.is_empty()).then(|| Arc::new(node.xattrs.clone()));
        let record = InodeRecord { ino: dir, attr, xattrs, content: Content::Directory(base.clone()) };
        Some((node.names.first()?.clone(), record))
    }
}

impl Mini {
    /// A drive whose chunks are in memory.
    pub fn in_memory() -> (Mini, World) {
        let world = World::default();
        let keys = Arc::new(crate::content::testing::keys());
        (Mini::new(keys, Arc::new(world.clone()), Arc::new(world.clone())), world)
    }

    pub fn new(keys: Arc<RealmKeys>, chunks: Arc<dyn Chunks>, fetch: Arc<dyn Fetch>) -> Mini {
        let (nodes, dirty) = Default::default();
        let mut mini = Mini { keys, chunks, fetch, nodes, dirty, commit: None, next: 1, now: 1000 };
        let mut root = mini.node(FileKind::Directory);
        root.names.insert(Name { parent: ROOT, name: b"".as_slice().into() });
        mini.nodes.insert(ROOT, root);
        mini.dirty.insert(ROOT);
        mini
    }

    fn tick(&mut self) -> Time {
        self.now += 1;
        Time { sec: self.now, nsec: 5 }
    }

    fn node(&mut self, kind: FileKind) -> Node {
        let t = self.tick();
        let attr = Attr {
            kind,
            perm: 0o640,
            uid: 1000,
            gid: 100,
            rdev: if kind == FileKind::CharDevice { 0x105 } else { 0 },
            nlink: if kind == FileKind::Directory { 2 } else { 0 },
            size: 0,
            allocated: 0,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
        };
        let body = match kind {
            FileKind::File => {
                Body::File { bytes: Vec::new(), base: Blob::default(), cut: None, edits: Vec::new() }
            }
            FileKind::Directory => {
                Body::Directory { names: BTreeMap::new(), base: Map::default(), touched: BTreeSet::new() }
            }
            FileKind::Symlink => Body::Symlink(b"a target".to_vec()),
            _ => Body::Special,
        };
        let size = if let Body::Symlink(target) = &body { target.len() as u64 } else { 0 };
        let attr = Attr { size, ..attr };
        let (names, shell, was_shell) = (BTreeSet::new(), false, false);
        Node { attr, xattrs: Xattrs::new(), names, shell, was_shell, body }
    }

    /// The inode of a node, noted as changed.
    pub fn edit(&mut self, ino: Ino) -> &mut Node {
        let t = self.tick();
        self.dirty.insert(ino);
        let node = self.nodes.get_mut(&ino).expect("an inode that lives");
        node.attr.ctime = t;
        node
    }

    pub fn names(&self, dir: Ino) -> &BTreeMap<Vec<u8>, Ino> {
        match &self.nodes[&dir].body {
            Body::Directory { names, .. } => names,
            _ => panic!("{dir} is no directory"),
        }
    }

    fn set_name(&mut self, dir: Ino, name: &[u8], to: Option<Ino>) {
        let t = self.tick();
        let node = self.edit(dir);
        node.attr.mtime = t;
        let Body::Directory { names, touched, .. } = &mut node.body else { panic!() };
        touched.insert(name.to_vec());
        match to {
            Some(ino) => names.insert(name.to_vec(), ino),
            None => names.remove(name),
        };
        node.attr.size = names.len() as u64;
    }

    pub fn make(&mut self, dir: Ino, name: &[u8], kind: FileKind) -> Ino {
        let ino = make_ino(1, self.next).expect("a number");
        self.next += 1;
        let node = self.node(kind);
        self.nodes.insert(ino, node);
        self.link(ino, dir, name);
        ino
    }

    pub fn file(&mut self, dir: Ino, name: &[u8], content: &[u8]) -> Ino {
        let ino = self.make(dir, name, FileKind::File);
        self.write(ino, 0, content);
        ino
    }

    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) {
        self.set_name(dir, name, Some(ino));
        let node = self.edit(ino);
        node.names.insert(Name { parent: dir, name: name.into() });
        if node.attr.kind != FileKind::Directory {
            node.attr.nlink = node.names.len() as u32;
            node.shell |= node.names.len() > 1;
        } else {
            self.edit(dir).attr.nlink += 1;
        }
    }

    /// Takes a name away; the inode goes with its last one.
    pub fn unlink(&mut self, dir: Ino, name: &[u8]) {
        let ino = self.names(dir)[name];
        self.set_name(dir, name, None);
        let node = self.edit(ino);
        node.names.remove(&Name { parent: dir, name: name.into() });
        if node.attr.kind == FileKind::Directory {
            self.edit(dir).attr.nlink -= 1;
        } else {
            node.attr.nlink = node.names.len() as u32;
        }
    }

    pub fn rename(&mut self, dir: Ino, name: &[u8], to_dir: Ino, to: &[u8]) {
        let ino = self.names(dir)[name];
        if self.names(to_dir).contains_key(to) {
            self.unlink(to_dir, to);
        }
        self.unlink(dir, name);
        self.link(ino, to_dir, to);
    }

    pub fn write(&mut self, ino: Ino, at: u64, data: &[u8]) {
        let t = self.tick();
        let node = self.edit(ino);
        node.attr.mtime = t;
        let Body::File { bytes, edits, .. } = &mut node.body else { panic!() };
        let end = at as usize + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[at as usize..end].copy_from_slice(data);
        edits.push((at, data.to_vec()));
        node.attr.size = bytes.len() as u64;
    }

    pub fn truncate(&mut self, ino: Ino, to: u64) {
        let node = self.edit(ino);
        let Body::File { bytes, cut, edits, .. } = &mut node.body else { panic!() };
        bytes.resize(to as usize, 0);
        *cut = Some(cut.map_or(to, |c| c.min(to)));
        edits.retain_mut(|(at, data)| {
            data.truncate(to.saturating_sub(*at) as usize);
            !data.is_empty()
        });
        node.attr.size = to;
    }

    /// Whether `ino` is `dir` or above it.
    pub fn is_above(&self, ino: Ino, mut dir: Ino) -> bool {
        loop {
            if dir == ino {
                return true;
            }
            match self.nodes[&dir].names.first() {
                Some(name) if dir != ROOT => dir = name.parent,
                _ => return false,
            }
        }
    }

    /// What reads chunks.
    pub fn chunks(&self) -> &dyn Chunks {
        &*self.chunks
    }

    pub fn version(&self) -> Version {
        self.commit.as_ref().map_or(0, |c| c.version)
    }

    pub fn making(&self) -> Making {
        Making {
            version: self.version() + 1,
            parents: self.commit.iter().map(|c| Parent { version: c.version, hash: [7; 32] }).collect(),
            time: Time { sec: self.now, nsec: 0 },
            device: DEVICE,
            incarnation: Incarnation([3; 16]),
            lsn: self.now as u64,
            next_ino: self.next,
            parameters: Parameters::default(),
            workers: 2,
        }
    }

    /// What changed since the last version.
    pub fn changes(&self) -> Vec<Change> {
        self.dirty.iter().map(|ino| self.change(*ino)).collect()
    }

    fn change(&self, ino: Ino) -> Change {
        let node = &self.nodes[&ino];
        let body = match &node.body {
            Body::File { bytes, base, cut, edits } => {
                // As the drive does: sorted, not overlapping, the newest on top.
                let mut flat: BTreeMap<u64, u64> = BTreeMap::new();
                let mut touched: Vec<(u64, u64)> =
                    edits.iter().map(|(at, d)| (*at, *at + d.len() as u64)).collect();
                touched.sort_unstable();
                for (from, to) in touched {
                    match flat.last_entry() {
                        Some(mut last) if *last.get() >= from => {
                            let end = (*last.get()).max(to);
                            last.insert(end);
                        }
                        _ => {
                            flat.insert(from, to);
                        }
                    }
                }
                let edit =
                    |(from, to): (u64, u64)| Edit::data(from, bytes[from as usize..to as usize].to_vec());
                let edits = flat.into_iter().filter(|(from, to)| from < to).map(edit).collect();
                BodyChange::File { base: base.clone(), cut: *cut, edits }
            }
            Body::Directory { names, base, touched } => {
                let change = |name: &Vec<u8>| {
                    let key = DirKey { hash: self.keys.name_hash(name), name: name[..].into() };
                    (key, names.get(name).map(|ino| (*ino, self.nodes[ino].attr.kind)))
                };
                BodyChange::Directory { base: base.clone(), names: touched.iter().map(change).collect() }
            }
            Body::Symlink(target) => BodyChange::Symlink(target[..].into()),
            Body::Special => BodyChange::Special,
        };
        Change {
            ino,
            attr: node.attr.clone(),
            xattrs: (!node.xattrs.is_empty()).then(|| Arc::new(node.xattrs.clone())),
            names: node.names.iter().cloned().collect(),
            shell: node.shell,
            was_shell: node.was_shell,
            body,
        }
    }

    /// Makes a version of what changed, and goes on as if it had not.
    pub fn try_build(
        &self,
        making: &Making,
        sink: &mut (dyn ChunkSink + Send),
    ) -> Result<(Commit, Committed)> {
        let tools =
            Tools { keys: &self.keys, directories: &*self.keys, chunks: &*self.chunks, fetch: &*self.fetch };
        build(self.commit.as_deref(), self.changes(), &Places(self), making, tools, sink)
    }

    /// Makes a version of what changed.
    pub fn build(&mut self, making: &Making, sink: &mut (dyn ChunkSink + Send)) -> Result<Commit> {
        let (commit, committed) = self.try_build(making, sink)?;
        for inode in committed.inodes {
            let node = self.nodes.get_mut(&inode.ino).expect("an inode that lives");
            node.attr.allocated = inode.attr.allocated;
            assert_eq!(node.attr, inode.attr);
            match (&mut node.body, inode.content) {
                (Body::File { base, cut, edits, .. }, Content::File(blob)) => {
                    (*base, *cut) = (blob, None);
                    edits.clear();
                }
                (Body::Directory { base, touched, .. }, Content::Directory(map)) => {
                    *base = map;
                    touched.clear();
                }
                (Body::Symlink(_) | Body::Special, _) => {}
                _ => panic!("inode {} became something else", inode.ino),
            }
            node.was_shell = node.shell;
        }
        self.nodes.retain(|_, node| !node.names.is_empty());
        self.dirty.clear();
        Ok(commit)
    }

    /// Makes the next version in memory. What is read afterwards is what was stored.
    pub fn commit(&mut self, world: &World) -> Arc<Commit> {
        let commit = self.build(&self.making(), &mut world.clone()).unwrap();
        let commit = Arc::new(Commit::from_bytes(&commit.to_bytes().unwrap()).unwrap());
        self.commit = Some(commit.clone());
        commit
    }

    pub fn view(&self) -> View {
        let commit = self.commit.clone().expect("a version");
        View::new(commit, self.keys.clone(), self.chunks.clone())
    }

    /// Holds the last version to the model.
    pub fn verify(&self) {
        let view = self.view();
        let mut counts = super::object::Counts::default();
        let mut stack = vec![view.root().unwrap()];
        let mut shells = BTreeSet::new();
        while let Some(inode) = stack.pop() {
            let ino = inode.ino;
            let node = &self.nodes[&ino];
            assert_eq!(inode.attr, node.attr, "inode {ino}");
            assert_eq!(inode.xattrs.as_deref().cloned().unwrap_or_default(), node.xattrs, "inode {ino}");
            if shells.contains(&ino) {
                continue;
            }
            match (&node.body, &inode.content) {
                (Body::Directory { names, .. }, Content::Directory(dir)) => {
                    counts.directories += 1;
                    let entries: Vec<_> = view.list(dir, None).map(|e| e.unwrap()).collect();
                    assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
                    let found: BTreeMap<_, _> =
                        entries.iter().map(|(k, e)| (k.name.to_vec(), e.ino())).collect();
                    assert_eq!(&found, names, "directory {ino}");
                    stack.extend(entries.into_iter().map(|(_, entry)| view.inode(entry).unwrap()));
                }
                (Body::File { bytes, .. }, Content::File(_)) => {
                    counts.files += 1;
                    counts.bytes += bytes.len() as u64;
                    let mut out = vec![0xee; bytes.len() + 3];
                    assert_eq!(view.read(&inode, 0, &mut out).unwrap(), bytes.len());
                    assert!(out[..bytes.len()] == bytes[..], "content of inode {ino}");
                }
                (Body::Symlink(target), Content::Symlink(found)) => {
                    counts.files += 1;
                    assert_eq!(target[..], found[..]);
                }
                (Body::Special, Content::Special) => counts.files += 1,
                _ => panic!("inode {ino} is something else"),
            }
            let names = view.names(ino).unwrap();
            assert_eq!(view.shell(ino).unwrap().is_some(), node.shell);
            if node.shell {
                shells.insert(ino);
                assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), node.names);
            } else {
                assert!(names.is_empty());
            }
        }
        assert_eq!(view.commit().counts, counts);
        let records = shells.iter().map(|ino| 1 + self.nodes[ino].names.len() as u64).sum::<u64>();
        assert_eq!(view.commit().shells.len(), records, "shells that nothing leads to");
    }
}
