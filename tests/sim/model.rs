//! A reference model of a small drive: what every operation must do, told in the simplest way.

use nacrefs::commit::FileKind;
use nacrefs::types::Time;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The number of an inode of the model; 0 is the root.
pub type Id = usize;

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: FileKind,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub bytes: Arc<Vec<u8>>,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub entries: BTreeMap<Vec<u8>, Id>,
    pub names: Vec<(Id, Vec<u8>)>,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    pub no_replace: bool,
    pub exchange: bool,
    pub whiteout: bool,
}

/// A change of the drive.
#[derive(Clone, Debug)]
pub enum Op {
    Make { dir: Id, name: Vec<u8>, kind: FileKind, perm: u16, target: Vec<u8>, rdev: u32 },
    Link { node: Id, dir: Id, name: Vec<u8> },
    Unlink { dir: Id, name: Vec<u8> },
    Rmdir { dir: Id, name: Vec<u8> },
    Rename { dir: Id, name: Vec<u8>, to: Id, to_name: Vec<u8>, how: How },
    Write { node: Id, at: u64, len: usize, fill: u8, append: bool, kill: bool },
    Truncate { node: Id, size: u64 },
    Punch { node: Id, at: u64, len: u64 },
    Zero { node: Id, at: u64, len: u64, keep: bool },
    Reserve { node: Id, at: u64, len: u64 },
    Copy { from: Id, from_at: u64, to: Id, to_at: u64, len: u64 },
    Chmod { node: Id, perm: u16 },
    Chown { node: Id, uid: u32, gid: u32 },
    Utime { node: Id, mtime: Time },
    SetXattr { node: Id, name: Vec<u8>, len: usize, fill: u8 },
    RemoveXattr { node: Id, name: Vec<u8> },
}

pub fn pattern(fill: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| fill.wrapping_add((i / 7) as u8).wrapping_mul(31)).collect()
}

/// A tree as it looks: each path with all that there is to be seen of it.
pub type Seen = BTreeMap<String, String>;

/// One line with all that can be seen of an inode.
pub fn describe(n: &Node, nlink: u32, size: u64, same: &str) -> String {
    let xattrs: Vec<String> = n
        .xattrs
        .iter()
        .map(|(k, v)| format!("{}={}:{}", k.escape_ascii(), v.len(), &blake3::hash(v).to_hex()[..8]))
        .collect();
    let t = |t: Time| format!("{}.{:09}", t.sec % 1_000_000, t.nsec);
    format!(
        "{:?} {:o} {}:{} dev {} links {nlink} size {size} bytes {} target {} xattrs {xattrs:?} m{} c{} b{} ={same}",
        n.kind,
        n.perm,
        n.uid,
        n.gid,
        n.rdev,
        &blake3::hash(&n.bytes).to_hex()[..12],
        n.target.escape_ascii(),
        t(n.mtime),
        t(n.ctime),
        t(n.btime),
    )
}

/// As Linux takes suid and sgid away.
fn without_suid(perm: u16) -> u16 {
    if perm & 0o010 != 0 { perm & !0o6000 } else { perm & !0o4000 }
}

type Done = Result<(), i32>;

impl Model {
    /// An empty drive, whose root is as given.
    pub fn new(root: Node) -> Model {
        Model { nodes: vec![root] }
    }

    pub fn node(kind: FileKind, perm: u16, time: Time) -> Node {
        Node {
            kind,
            perm,
            uid: 1000,
            gid: 1000,
            rdev: 0,
            bytes: Arc::default(),
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
            names: Vec::new(),
            mtime: time,
            ctime: time,
            btime: time,
        }
    }

    pub fn is_dir(&self, id: Id) -> bool {
        self.nodes[id].kind == FileKind::Directory
    }

    /// No name leads to it.
    pub fn is_gone(&self, id: Id) -> bool {
        id != 0 && self.nodes[id].names.is_empty()
    }

    pub fn nlink(&self, id: Id) -> u32 {
        let n = &self.nodes[id];
        if !self.is_dir(id) {
            return n.names.len() as u32;
        }
        if self.is_gone(id) {
            return 0;
        }
        2 + n.entries.values().filter(|c| self.is_dir(**c)).count() as u32
    }

    pub fn size(&self, id: Id) -> u64 {
        let n = &self.nodes[id];
        match n.kind {
            FileKind::Directory => n.entries.len() as u64,
            FileKind::Symlink => n.target.len() as u64,
            _ => n.bytes.len() as u64,
        }
    }

    /// The inode of a path.
    pub fn find(&self, path: &str) -> Option<Id> {
        path.split('/')
            .filter(|n| !n.is_empty())
            .try_fold(0, |at, name| self.nodes[at].entries.get(name.as_bytes()).copied())
    }

    pub fn above(&self, id: Id) -> Option<Id> {
        self.nodes[id].names.first().map(|n| n.0)
    }

    fn is_below(&self, id: Id, above: Id) -> bool {
        let mut at = id;
        loop {
            if at == above {
                return true;
            }
            match self.above(at) {
                Some(up) if at != 0 => at = up,
                _ => return false,
            }
        }
    }

    fn enter(&mut self, dir: Id, name: &[u8], id: Id, time: Time) {
        self.nodes[dir].entries.insert(name.into(), id);
        self.nodes[id].names.push((dir, name.into()));
        (self.nodes[dir].mtime, self.nodes[dir].ctime) = (time, time);
    }

    fn take(&mut self, dir: Id, name: &[u8], time: Time) -> Id {
        let id = self.nodes[dir].entries.remove(name).unwrap();
        self.nodes[id].names.retain(|(d, n)| *d != dir || n != name);
        self.nodes[id].ctime = time;
        (self.nodes[dir].mtime, self.nodes[dir].ctime) = (time, time);
        id
    }

    fn make(&mut self, dir: Id, name: &[u8], node: Node, time: Time) {
        self.nodes.push(node);
        self.enter(dir, name, self.nodes.len() - 1, time);
    }

    fn file(&mut self, id: Id, time: Time, change: impl FnOnce(&mut Vec<u8>)) {
        let n = &mut self.nodes[id];
        change(Arc::make_mut(&mut n.bytes));
        (n.mtime, n.ctime) = (time, time);
    }

    /// Does an operation at a time, or says which error it must end with.
    pub fn apply(&mut self, op: &Op, time: Time) -> Done {
        match op {
            Op::Make { dir, name, kind, perm, target, rdev } => {
                if self.nodes[*dir].entries.contains_key(name) {
                    return Err(libc::EEXIST);
                }
                let mut perm = if *kind == FileKind::Symlink { 0o777 } else { *perm };
                if *kind == FileKind::Directory {
                    perm |= self.nodes[*dir].perm & 0o2000;
                }
                let node = Node { rdev: *rdev, target: target.clone(), ..Model::node(*kind, perm, time) };
                self.make(*dir, name, node, time);
            }
            Op::Link { node, dir, name } => {
                if self.nodes[*dir].entries.contains_key(name) {
                    return Err(libc::EEXIST);
                }
                if self.is_dir(*node) {
                    return Err(libc::EPERM);
                }
                if self.is_gone(*node) {
                    return Err(libc::ENOENT);
                }
                self.enter(*dir, name, *node, time);
                self.nodes[*node].ctime = time;
            }
            Op::Unlink { dir, name } | Op::Rmdir { dir, name } => {
                let want_dir = matches!(op, Op::Rmdir { .. });
                let id = *self.nodes[*dir].entries.get(name).ok_or(libc::ENOENT)?;
                match (self.is_dir(id), want_dir) {
                    (true, false) => return Err(libc::EISDIR),
                    (false, true) => return Err(libc::ENOTDIR),
                    (true, true) if !self.nodes[id].entries.is_empty() => return Err(libc::ENOTEMPTY),
                    _ => {}
                }
                self.take(*dir, name, time);
            }
            Op::Rename { dir, name, to, to_name, how } => {
                return self.rename((*dir, name), (*to, to_name), *how, time);
            }
            Op::Write { node, at, len, fill, append, kill } => {
                let end = self.nodes[*node].bytes.len();
                let at = if *append { end } else { *at as usize };
                self.file(*node, time, |b| lay(b, at, &pattern(*fill, *len)));
                let n = &mut self.nodes[*node];
                n.perm = if *kill { without_suid(n.perm) } else { n.perm };
            }
            Op::Truncate { node, size } => self.file(*node, time, |b| b.resize(*size as usize, 0)),
            Op::Punch { node, at, len } | Op::Zero { node, at, len, keep: true } => {
                self.file(*node, time, |b| {
                    let (lo, hi) = ((*at as usize).min(b.len()), ((at + len) as usize).min(b.len()));
                    b[lo..hi].fill(0);
                })
            }
            Op::Zero { node, at, len, keep: false } => self.file(*node, time, |b| {
                lay(b, *at as usize, &vec![0; *len as usize]);
            }),
            Op::Reserve { node, at, len } => self.file(*node, time, |b| {
                let end = b.len().max((at + len) as usize);
                b.resize(end, 0);
            }),
            Op::Copy { from, from_at, to, to_at, len } => {
                let source = self.nodes[*from].bytes.clone();
                let lo = (*from_at as usize).min(source.len());
                let hi = ((from_at + len) as usize).min(source.len());
                if lo < hi {
                    self.file(*to, time, |b| lay(b, *to_at as usize, &source[lo..hi]));
                }
            }
            Op::Chmod { node, perm } => {
                let n = &mut self.nodes[*node];
                (n.perm, n.ctime) = (*perm, time);
            }
            Op::Chown { node, uid, gid } => {
                let n = &mut self.nodes[*node];
                (n.uid, n.gid, n.ctime) = (*uid, *gid, time);
                n.perm = if n.kind == FileKind::Directory { n.perm } else { without_suid(n.perm) };
            }
            Op::Utime { node, mtime } => {
                let n = &mut self.nodes[*node];
                (n.mtime, n.ctime) = (*mtime, time);
            }
            Op::SetXattr { node, name, len, fill } => {
                let n = &mut self.nodes[*node];
                let value = pattern(*fill, *len);
                // What it says already is no change.
                if n.xattrs.get(name) != Some(&value) {
                    n.xattrs.insert(name.clone(), value);
                    n.ctime = time;
                }
            }
            Op::RemoveXattr { node, name } => {
                let n = &mut self.nodes[*node];
                n.xattrs.remove(name).ok_or(libc::ENODATA)?;
                n.ctime = time;
            }
        }
        // Before copies and fallocate the kernel asks for suid and sgid to go where they must: they take nothing.
        Ok(())
    }

    fn rename(&mut self, (dir, name): (Id, &[u8]), (to, to_name): (Id, &[u8]), how: How, time: Time) -> Done {
        let id = *self.nodes[dir].entries.get(name).ok_or(libc::ENOENT)?;
        let other = self.nodes[to].entries.get(to_name).copied();
        if dir != to {
            if self.is_dir(id) && self.is_below(to, id) {
                return Err(libc::EINVAL);
            }
            if other.is_some_and(|o| self.is_dir(o) && self.is_below(dir, o)) {
                return Err(if how.exchange { libc::EINVAL } else { libc::ENOTEMPTY });
            }
        }
        match other {
            Some(_) if how.no_replace => return Err(libc::EEXIST),
            Some(o) if o == id => return Ok(()),
            None if how.exchange => return Err(libc::ENOENT),
            Some(o) if !how.exchange => match (self.is_dir(id), self.is_dir(o)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.nodes[o].entries.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            },
            _ => {}
        }
        self.take(dir, name, time);
        if other.is_some() {
            let other = self.take(to, to_name, time);
            if how.exchange {
                self.enter(dir, name, other, time);
            }
        }
        self.enter(to, to_name, id, time);
        if how.whiteout {
            // Of whoever renames, not of what was renamed.
            self.make(dir, name, Model::node(FileKind::CharDevice, 0, time), time);
        }
        Ok(())
    }

    /// What must be seen.
    pub fn seen(&self) -> Seen {
        let mut paths = BTreeMap::new();
        let mut todo = vec![(0, String::new())];
        while let Some((id, path)) = todo.pop() {
            for (name, child) in &self.nodes[id].entries {
                todo.push((*child, format!("{path}/{}", name.escape_ascii())));
            }
            paths.insert(path, id);
        }
        let mut first: BTreeMap<Id, String> = BTreeMap::new();
        paths
            .into_iter()
            .map(|(path, id)| {
                let same = first.entry(id).or_insert_with(|| path.clone()).clone();
                let line = describe(&self.nodes[id], self.nlink(id), self.size(id), &same);
                (path, line)
            })
            .collect()
    }
}

fn lay(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}
