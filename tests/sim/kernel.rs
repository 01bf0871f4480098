//! Plays the kernel to a drive: resolves names, counts lookups, forgets, opens and releases, and holds every answer
//! against the model.

use crate::model::{How, Id, Model, Node, Op, Seen, describe, pattern};
use crate::world::{Dice, SimClock};
use nacrefs::commit::{Attr, FileKind};
use nacrefs::drive::Drive;
use nacrefs::drive::types::{Allocate, Caller, New, RenameHow, Seek, SetAttr, SetTime, Wait};
use nacrefs::error::{Kind, Result};
use nacrefs::sys::Clock;
use nacrefs::types::{Ino, Time};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const CALLER: Caller = Caller { uid: 1000, gid: 1000, umask: 0 };

/// What was done: the model after each change, and how many changes are known to be durable.
pub struct Log {
    pub states: Vec<Model>,
    pub synced: usize,
}

impl Log {
    pub fn done(&self) -> usize {
        self.states.len() - 1
    }
}

pub struct Kernel {
    pub drive: Arc<Drive>,
    pub model: Model,
    pub log: Arc<Mutex<Log>>,
    pub dice: Dice,
    /// The inode that the model's root stands for.
    root: Ino,
    known: BTreeMap<Id, (Ino, u64)>,
    opens: Vec<Id>,
    clock: Arc<SimClock>,
    /// Nanoseconds from one operation to the next.
    pub step: u64,
    /// Nobody else uses the drive.
    pub alone: bool,
    /// Errors that are no refusals are answered by trying again.
    pub retry: bool,
    pub troubles: u64,
}

/// What an operation takes, besides changes.
enum Step {
    Do(Op),
    Open(Id),
    Release(Id),
    Read(Id),
    Seek(Id),
    Compare(Id),
    List(Id, bool),
    Forget(Id),
    Sync,
    Commit,
}

/// An inode of the drive as the model would have it.
fn observe(drive: &Drive, ino: Ino, attr: &Attr) -> Result<Node> {
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

impl Kernel {
    /// A kernel at a freshly opened drive that is as the model says.
    pub fn new(drive: Arc<Drive>, model: Model, clock: Arc<SimClock>, seed: u64) -> Kernel {
        let log = Log { states: vec![model.clone()], synced: 0 };
        let root = drive.root();
        Kernel {
            drive,
            model,
            log: Arc::new(Mutex::new(log)),
            dice: Dice(seed),
            root,
            known: BTreeMap::new(),
            opens: Vec::new(),
            clock,
            step: 1_234_567,
            alone: true,
            retry: false,
            troubles: 0,
        }
    }

    /// A kernel of an empty drive.
    pub fn fresh(drive: Arc<Drive>, clock: Arc<SimClock>, seed: u64) -> Kernel {
        let root = drive.root();
        let attr = drive.stat(Wait::yes(), root).unwrap().attr;
        let node = observe(&drive, root, &attr).unwrap();
        Kernel::new(drive, Model::new(node), clock, seed)
    }

    /// One that sees only a directory of the drive, which nobody else changes.
    pub fn below(drive: Arc<Drive>, dir: Ino, clock: Arc<SimClock>, seed: u64) -> Kernel {
        let attr = drive.stat(Wait::yes(), dir).unwrap().attr;
        let node = observe(&drive, dir, &attr).unwrap();
        Kernel { root: dir, ..Kernel::new(drive, Model::new(node), clock, seed) }
    }

    /// Asks the drive: at times without waiting first, which must change nothing where it says Miss.
    fn ask<T>(&mut self, f: impl Fn(&Drive, Wait) -> Result<T>) -> Result<T> {
        let mut wait = if self.dice.below(3) == 0 { Wait::No } else { Wait::yes() };
        let mut tries = 0;
        loop {
            let before = self.drive.journal().last();
            match f(&self.drive, wait) {
                Err(e) if e.kind() == Kind::Miss => {
                    assert!(wait == Wait::No, "Miss to one who waits");
                    assert!(
                        !self.alone || self.drive.journal().last() == before,
                        "a Miss has changed something"
                    );
                    wait = Wait::yes();
                }
                Err(e) if self.retry && !matches!(e.kind(), Kind::Errno(_)) && tries < 3 => {
                    self.troubles += 1;
                    tries += 1;
                }
                answer => return answer,
            }
        }
    }

    /// The inode number; looked up where the kernel has forgotten it.
    pub fn ino(&mut self, id: Id) -> Ino {
        if id == 0 {
            return self.root;
        }
        if let Some((ino, _)) = self.known.get(&id) {
            return *ino;
        }
        let (dir, name) = self.model.nodes[id].names.first().cloned().expect("a removed inode was forgotten");
        let parent = self.ino(dir);
        let found = self.ask(|d, w| d.lookup(w, parent, &name)).unwrap();
        let ino = found.unwrap_or_else(|| panic!("no {} in inode {parent}", name.escape_ascii())).ino;
        self.known.insert(id, (ino, 1));
        ino
    }

    /// Does an operation; it must end as the model says.
    pub fn run(&mut self, op: &Op) {
        self.clock.advance(self.step);
        let time = self.clock.now();
        let fresh = self.model.nodes.len();
        let got: Result<Option<Ino>> = match op {
            Op::Make { dir, name, kind, perm, target, rdev } => {
                let (dir, new) = (self.ino(*dir), New { kind: *kind, perm: *perm, rdev: *rdev, target });
                self.ask(|d, w| d.make(w, &CALLER, dir, name, &new)).map(|s| Some(s.ino))
            }
            Op::Link { node, dir, name } => {
                let (ino, to) = (self.ino(*node), self.ino(*dir));
                let linked = self.ask(|d, w| d.link(w, ino, to, name));
                if linked.is_ok() {
                    self.count(*node, ino);
                }
                linked.map(|_| None)
            }
            Op::Unlink { dir, name } => {
                let dir = self.ino(*dir);
                self.ask(|d, w| d.unlink(w, dir, name)).map(|()| None)
            }
            Op::Rmdir { dir, name } => {
                let dir = self.ino(*dir);
                self.ask(|d, w| d.rmdir(w, dir, name)).map(|()| None)
            }
            Op::Rename { dir, name, to, to_name, how } => {
                let (dir, to) = (self.ino(*dir), self.ino(*to));
                let how =
                    RenameHow { no_replace: how.no_replace, exchange: how.exchange, whiteout: how.whiteout };
                self.ask(|d, w| d.rename(w, dir, name, to, to_name, how)).map(|()| None)
            }
            Op::Write { node, at, len, fill, append, kill } => {
                let (ino, data) = (self.ino(*node), pattern(*fill, *len));
                self.ask(|d, w| d.write(w, ino, *at, &data, *append, *kill)).map(|()| None)
            }
            Op::Truncate { node, size } => {
                self.set(*node, SetAttr { size: Some(*size), ..SetAttr::default() }).map(|()| None)
            }
            Op::Punch { node, at, len } => self.allocate(*node, *at, *len, Allocate::Punch),
            Op::Zero { node, at, len, keep } => {
                self.allocate(*node, *at, *len, Allocate::Zero { keep_size: *keep })
            }
            Op::Reserve { node, at, len } => {
                self.allocate(*node, *at, *len, Allocate::Reserve { keep_size: false })
            }
            Op::Copy { from, from_at, to, to_at, len } => {
                let (from, to) = (self.ino(*from), self.ino(*to));
                self.ask(|d, w| d.copy_range(w, from, *from_at, to, *to_at, *len)).map(|_| None)
            }
            Op::Chmod { node, perm } => {
                self.set(*node, SetAttr { perm: Some(*perm), ..SetAttr::default() }).map(|()| None)
            }
            Op::Chown { node, uid, gid } => {
                let how = SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() };
                self.set(*node, how).map(|()| None)
            }
            Op::Utime { node, mtime } => {
                let how = SetAttr { mtime: Some(SetTime::To(*mtime)), ..SetAttr::default() };
                self.set(*node, how).map(|()| None)
            }
            Op::SetXattr { node, name, len, fill } => {
                let (ino, value) = (self.ino(*node), pattern(*fill, *len));
                self.ask(|d, w| d.set_xattr(w, &CALLER, ino, name, &value, 0)).map(|()| None)
            }
            Op::RemoveXattr { node, name } => {
                let ino = self.ino(*node);
                self.ask(|d, w| d.remove_xattr(w, ino, name)).map(|()| None)
            }
        };
        match (got, self.model.apply(op, time)) {
            (Ok(made), Ok(())) => {
                if let Some(ino) = made {
                    self.known.insert(fresh, (ino, 1));
                }
                self.log.lock().states.push(self.model.clone());
            }
            (Err(e), Err(errno)) if e.kind() == Kind::Errno(errno) => {}
            (got, must) => panic!("{op:?}: is {:?}, must be {must:?}", got.map_err(|e| e.chain())),
        }
    }

    fn set(&mut self, node: Id, how: SetAttr) -> Result<()> {
        let ino = self.ino(node);
        self.ask(|d, w| d.set_attr(w, &CALLER, ino, &how)).map(drop)
    }

    fn allocate(&mut self, node: Id, at: u64, len: u64, what: Allocate) -> Result<Option<Ino>> {
        let ino = self.ino(node);
        self.ask(|d, w| d.fallocate(w, ino, at, len, what)).map(|()| None)
    }

    fn count(&mut self, id: Id, ino: Ino) {
        if id != 0 {
            self.known.entry(id).or_insert((ino, 0)).1 += 1;
        }
    }

    /// Shows the whole tree and compares it.
    pub fn compare(&mut self) {
        self.compare_below("");
    }

    /// The tree below the model's root, and all that is open without a name.
    fn compare_below(&mut self, why: &str) {
        let drive = self.drive.clone();
        let mut tries = 0;
        let is = loop {
            match look(&drive, self.root) {
                Err(e) if self.retry && tries < 3 && !matches!(e.kind(), Kind::Errno(_)) => tries += 1,
                other => break other.unwrap(),
            }
        };
        if let Some(difference) = differ(&is, &self.model.seen()) {
            panic!("{why}{difference}");
        }
        for id in self.opens.clone() {
            self.compare_one(id);
        }
    }

    fn compare_one(&mut self, id: Id) {
        let ino = self.ino(id);
        let (attr, node) = self
            .ask(|d, _| {
                let attr = d.stat(Wait::yes(), ino)?.attr;
                Ok((attr.clone(), observe(d, ino, &attr)?))
            })
            .unwrap();
        let is = describe(&node, attr.nlink, attr.size, "");
        let must = describe(&self.model.nodes[id], self.model.nlink(id), self.model.size(id), "");
        assert_eq!(is, must, "inode {ino}");
        assert!(attr.allocated <= attr.size.next_multiple_of(4096), "inode {ino} takes {}", attr.allocated);
    }

    /// Makes everything durable.
    pub fn sync(&mut self) {
        let done = self.log.lock().done();
        self.ask(|d, _| d.sync()).unwrap();
        self.log.lock().synced = done;
    }

    pub fn commit(&mut self) {
        let done = self.log.lock().done();
        self.ask(|d, _| d.commit_all()).unwrap();
        self.log.lock().synced = done;
    }

    /// A commit in the middle of a script, forgetting what can be.
    pub fn commit_quietly(&mut self) {
        self.commit();
        self.forget_all();
    }

    pub fn open(&mut self, id: Id) {
        let ino = self.ino(id);
        self.ask(|d, w| d.open(w, ino, None)).unwrap();
        self.opens.push(id);
    }

    pub fn release(&mut self, id: Id) {
        let at = self.opens.iter().position(|i| *i == id).expect("it is open");
        self.opens.remove(at);
        let ino = self.ino(id);
        self.drive.release(ino);
    }

    /// Forgets an inode unless it is open or something below it is known.
    pub fn forget(&mut self, id: Id) -> bool {
        let used = self.opens.contains(&id)
            || self.known.keys().any(|k| self.model.nodes[*k].names.iter().any(|(dir, _)| *dir == id));
        if used {
            return false;
        }
        match self.known.remove(&id) {
            Some((ino, n)) => {
                self.drive.forget(ino, n);
                true
            }
            None => false,
        }
    }

    /// Forgets whatever can be.
    pub fn forget_all(&mut self) {
        while self.known.keys().copied().collect::<Vec<_>>().into_iter().any(|id| self.forget(id)) {}
    }

    /// Lists a directory in parts, with changes in between where these are asked for.
    fn list(&mut self, dir: Id, changing: bool) {
        let ino = self.ino(dir);
        let plus = self.dice.below(2) == 0;
        let mut always = self.model.nodes[dir].entries.clone();
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut from = 0;
        loop {
            let most = 1 + self.dice.below(4) as usize;
            let taken: Mutex<Vec<(Vec<u8>, Ino, u64)>> = Mutex::default();
            let listed = self.ask(|d, w| {
                // A call that fails has been seen by nobody; its lookups are taken back.
                for (_, ino, _) in taken.lock().drain(..) {
                    if plus {
                        d.forget(ino, 1);
                    }
                }
                d.read_dir(w, ino, from, plus, &mut |item| {
                    if item.name == b"." || item.name == b".." {
                        return true;
                    }
                    if taken.lock().len() == most {
                        return false;
                    }
                    assert_eq!(item.stat.is_some(), plus);
                    taken.lock().push((item.name.to_vec(), item.ino, item.next));
                    true
                })
            });
            listed.unwrap();
            let taken = taken.into_inner();
            for (name, ino, next) in &taken {
                let id = *self.model.nodes[dir].entries.get(name).expect("a listed name is there");
                if plus {
                    self.count(id, *ino);
                }
                assert_eq!(self.ino(id), *ino);
                seen.push(name.clone());
                from = *next;
            }
            if taken.len() < most {
                break;
            }
            if changing {
                let op = self.choose_change();
                self.run(&op);
                let now = &self.model.nodes[dir].entries;
                always.retain(|name, id| now.get(name) == Some(id));
            }
        }
        let names: BTreeSet<&Vec<u8>> = seen.iter().collect();
        assert_eq!(names.len(), seen.len(), "a name is listed twice");
        for name in always.keys() {
            assert!(names.contains(name), "{} is not listed", name.escape_ascii());
        }
    }

    fn read(&mut self, id: Id) {
        let ino = self.ino(id);
        let bytes = self.model.nodes[id].bytes.clone();
        let at = self.dice.below(bytes.len() as u64 + 100);
        let len = 1 + self.dice.below(9000) as usize;
        let is = self.ask(|d, w| d.read(w, ino, at, len)).unwrap();
        let (lo, hi) = ((at as usize).min(bytes.len()), (at as usize + len).min(bytes.len()));
        assert!(is == bytes[lo..hi], "inode {ino}: {len} bytes at {at} of {}", bytes.len());
    }

    /// Between data and hole only zeros may lie.
    fn seek(&mut self, id: Id) {
        let ino = self.ino(id);
        let bytes = self.model.nodes[id].bytes.clone();
        let at = self.dice.below(bytes.len() as u64 + 10);
        let data = self.ask(|d, w| d.seek(w, ino, at, Seek::Data));
        match data {
            Ok(found) => assert!(found >= at && bytes[at as usize..found as usize].iter().all(|b| *b == 0)),
            Err(e) => {
                assert_eq!(e.kind(), Kind::Errno(libc::ENXIO));
                assert!(bytes.iter().skip(at as usize).all(|b| *b == 0));
            }
        }
    }

    /// A random change.
    pub fn choose_change(&mut self) -> Op {
        let m = &self.model;
        let living: Vec<Id> = (0..m.nodes.len()).filter(|i| !m.is_gone(*i)).collect();
        let dirs: Vec<Id> = living.iter().copied().filter(|i| m.is_dir(*i)).collect();
        let mut files: Vec<Id> =
            living.iter().copied().filter(|i| m.nodes[*i].kind == FileKind::File).collect();
        files.extend(self.opens.iter().copied());
        let mut others = living.clone();
        others.extend(self.opens.iter().copied());
        let d = &mut self.dice;
        let dir = *d.pick(&dirs).unwrap_or(&0);
        let to = *d.pick(&dirs).unwrap_or(&0);
        let name = |d: &mut Dice, dir: Id| -> Vec<u8> {
            let there: Vec<&Vec<u8>> = m.nodes[dir].entries.keys().collect();
            match d.below(10) {
                0..=4 if !there.is_empty() => (*d.pick(&there).unwrap()).clone(),
                5 => vec![b'L'; 255],
                6 => b"\xff\n odd".to_vec(),
                n => format!("n{}", n * d.below(3)).into_bytes(),
            }
        };
        let (old, new) = (name(d, dir), name(d, to));
        let free = format!("f{}", d.below(200)).into_bytes();
        let fill = d.roll() as u8;
        let time = Time { sec: d.below(2_000_000_000) as i64 - 1000, nsec: d.below(1_000_000_000) as u32 };
        let node = *d.pick(&others).unwrap_or(&0);
        let file = d.pick(&files).copied();
        let other = d.pick(&files).copied();
        let far = if d.below(6) == 0 { 300_000 } else { 20_000 };
        match (d.below(30), file) {
            (0..=3, _) if living.len() < 40 => {
                Op::Make { dir, name: free, kind: FileKind::File, perm: 0o6755, target: vec![], rdev: 0 }
            }
            (4 | 5, _) if dirs.len() < 12 => {
                Op::Make { dir, name: new, kind: FileKind::Directory, perm: 0o755, target: vec![], rdev: 0 }
            }
            (6, _) => Op::Make {
                dir,
                name: new,
                kind: FileKind::Symlink,
                perm: 0,
                target: pattern(fill, 1 + fill as usize * 8).into_iter().map(|b| b.max(1)).collect(),
                rdev: 0,
            },
            (7, _) => {
                let kind = *d.pick(&[FileKind::Fifo, FileKind::CharDevice, FileKind::Socket]).unwrap();
                let rdev = if kind == FileKind::CharDevice { u32::from(fill) } else { 0 };
                Op::Make { dir, name: new, kind, perm: 0o600, target: vec![], rdev }
            }
            (8 | 9, Some(node)) => Op::Link { node, dir: to, name: if d.below(3) > 0 { free } else { new } },
            (10, _) => Op::Link { node, dir: to, name: free },
            (11 | 12, _) => Op::Unlink { dir, name: old },
            (13, _) => Op::Rmdir { dir, name: old },
            (14..=17, _) => {
                let how =
                    How { no_replace: d.below(8) == 0, exchange: d.below(4) == 0, whiteout: d.below(8) == 0 };
                let how = if how.exchange { How { exchange: true, ..How::default() } } else { how };
                Op::Rename { dir, name: old, to, to_name: if d.below(2) == 0 { free } else { new }, how }
            }
            (18..=20, Some(node)) => {
                let most = if d.below(5) == 0 { 60_000 } else { 5_000 };
                let len = 1 + d.below(most) as usize;
                Op::Write {
                    node,
                    at: d.below(far),
                    len,
                    fill,
                    append: d.below(4) == 0,
                    kill: d.below(4) == 0,
                }
            }
            (21, Some(node)) => Op::Truncate { node, size: d.below(far) },
            (22, Some(node)) => Op::Punch { node, at: d.below(far), len: 1 + d.below(far) },
            (23, Some(node)) => {
                Op::Zero { node, at: d.below(far), len: 1 + d.below(9000), keep: d.below(2) == 0 }
            }
            (24, Some(node)) => Op::Reserve { node, at: d.below(far), len: 1 + d.below(9000) },
            (25, Some(from)) if other.is_some_and(|o| o != from) => Op::Copy {
                from,
                from_at: d.below(far),
                to: other.unwrap(),
                to_at: d.below(far),
                len: 1 + d.below(50_000),
            },
            (26, _) => Op::Chmod { node, perm: d.below(0o10000) as u16 },
            (27, _) if d.below(2) == 0 => Op::Chown { node, uid: fill.into(), gid: 1000 },
            (27, _) => Op::Utime { node, mtime: time },
            (28, _) => {
                let name = format!("user.x{}", d.below(3)).into_bytes();
                let most = if d.below(3) == 0 { 3000 } else { 60 };
                let len = d.below(most) as usize;
                Op::SetXattr { node, name, len, fill }
            }
            (29, _) => Op::RemoveXattr { node, name: format!("user.x{}", d.below(3)).into_bytes() },
            _ => Op::Make { dir, name: free, kind: FileKind::File, perm: 0o600, target: vec![], rdev: 0 },
        }
    }

    /// A random step of a scenario.
    pub fn step(&mut self, commits: bool) {
        let step = {
            let m = &self.model;
            let files: Vec<Id> = (0..m.nodes.len())
                .filter(|i| m.nodes[*i].kind == FileKind::File && (!m.is_gone(*i) || self.opens.contains(i)))
                .collect();
            let dirs: Vec<Id> = (0..m.nodes.len()).filter(|i| m.is_dir(*i) && !m.is_gone(*i)).collect();
            let known: Vec<Id> = self.known.keys().copied().collect();
            let d = &mut self.dice;
            let file = d.pick(&files).copied();
            match (d.below(40), file) {
                (0 | 1, Some(f)) if self.opens.len() < 6 => Step::Open(f),
                (2, _) if !self.opens.is_empty() => Step::Release(*d.pick(&self.opens).unwrap()),
                (3 | 4, Some(f)) => Step::Read(f),
                (5, Some(f)) => Step::Seek(f),
                (6, Some(f)) => Step::Compare(f),
                (7, _) => Step::List(*d.pick(&dirs).unwrap_or(&0), true),
                (8, _) => Step::List(*d.pick(&dirs).unwrap_or(&0), false),
                (9..=12, _) if !known.is_empty() => Step::Forget(*d.pick(&known).unwrap()),
                (13 | 14, _) => Step::Sync,
                (15, _) if commits => Step::Commit,
                _ => Step::Do(self.choose_change()),
            }
        };
        match step {
            Step::Do(op) => self.run(&op),
            Step::Open(id) => self.open(id),
            Step::Release(id) => self.release(id),
            Step::Read(id) => self.read(id),
            Step::Seek(id) => self.seek(id),
            Step::Compare(id) => self.compare_one(id),
            Step::List(id, changing) => self.list(id, changing),
            Step::Forget(id) => {
                self.forget(id);
            }
            Step::Sync => self.sync(),
            Step::Commit => self.commit(),
        }
    }

    // Short words for scripts.

    pub fn id(&self, path: &str) -> Id {
        self.model.find(path).unwrap_or_else(|| panic!("no {path}"))
    }

    fn split(&self, path: &str) -> (Id, Vec<u8>) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.id(dir), name.as_bytes().to_vec())
    }

    pub fn mkdir(&mut self, path: &str) {
        let (dir, name) = self.split(path);
        self.run(&Op::Make { dir, name, kind: FileKind::Directory, perm: 0o755, target: vec![], rdev: 0 });
    }

    pub fn put(&mut self, path: &str, fill: u8, len: usize) {
        if self.model.find(path).is_none() {
            let (dir, name) = self.split(path);
            self.run(&Op::Make { dir, name, kind: FileKind::File, perm: 0o644, target: vec![], rdev: 0 });
        }
        let node = self.id(path);
        self.run(&Op::Write { node, at: 0, len, fill, append: false, kill: false });
    }

    pub fn link(&mut self, path: &str, new: &str) {
        let (node, (dir, name)) = (self.id(path), self.split(new));
        self.run(&Op::Link { node, dir, name });
    }

    pub fn unlink(&mut self, path: &str) {
        let (dir, name) = self.split(path);
        self.run(&Op::Unlink { dir, name });
    }

    pub fn rmdir(&mut self, path: &str) {
        let (dir, name) = self.split(path);
        self.run(&Op::Rmdir { dir, name });
    }

    pub fn rename(&mut self, path: &str, new: &str, how: How) {
        let ((dir, name), (to, to_name)) = (self.split(path), self.split(new));
        self.run(&Op::Rename { dir, name, to, to_name, how });
    }
}
