//! Plays the kernel to a drive: resolves names, counts lookups, forgets, opens and releases, and holds every answer
//! against the model.

mod look;
mod script;
mod steps;

pub use look::{differ, look};

use crate::model::{Id, Model, Op, describe, pattern};
use crate::world::{Dice, SimClock};
use look::observe;
use nacrefs::drive::Drive;
use nacrefs::drive::types::{Allocate, Caller, New, RenameHow, Seek, SetAttr, SetTime, Wait};
use nacrefs::error::{Kind, Result};
use nacrefs::sys::Clock;
use nacrefs::types::Ino;
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
                let whiteout = how.whiteout.then_some(CALLER);
                let how = RenameHow { no_replace: how.no_replace, exchange: how.exchange, whiteout };
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
        self.ask(|d, w| d.open(w, ino, None, false)).unwrap();
        self.opens.push(id);
    }

    pub fn release(&mut self, id: Id) {
        let at = self.opens.iter().position(|i| *i == id).expect("it is open");
        self.opens.remove(at);
        let ino = self.ino(id);
        self.drive.release(ino, false);
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
}
