//! Replay over what other machines have made since: what the journal says must still mean what it meant.
//!
//! The journal's changes were acknowledged on one version, its base. Where other machines have written since, they are
//! done over the newest version only if nothing that they touch was touched there: the bytes and attributes of a
//! file, or the names. (Merging is to come.) A directory's own attributes go to whoever comes last.
//!
//! After the first thing that both have changed the drive cannot be opened. The replay goes on all the same, without
//! what does not fit and what builds on it, to tell of the others.

use super::Drive;
use super::inode::Body;
use super::record::{At, Op};
use super::types::Wait;
use crate::commit::history;
use crate::commit::inode::ROOT;
use crate::error::{Error, Kind, Result};
use crate::tree::Map;
use crate::types::{Ino, Version};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// More things that both have changed than this are counted, and not named.
const NAMED: usize = 20;
/// No path has more names than this: in a damaged version directories may lead in circles.
const DEPTH: usize = 4096;

/// What other machines have made on top of the journal's base.
pub(super) struct Others {
    base: Version,
    /// Of the newest version.
    history: Map,
    /// Files that nobody has changed since the base.
    untouched: HashSet<Ino>,
    left_out: LeftOut,
    met: Option<BothChanged>,
}

/// What operations were about that a replay left out: others build on it.
#[derive(Default)]
pub(super) struct LeftOut {
    inodes: HashSet<Ino>,
    /// In directories.
    names: HashSet<(Ino, Vec<u8>)>,
    /// How many operations.
    pub count: u64,
}

impl LeftOut {
    pub fn add(&mut self, op: &Op) {
        self.count += 1;
        self.inodes.extend(op.subjects());
        self.names.extend(op.names().iter().map(|at| (at.dir, at.name.to_vec())));
    }

    /// Whether an operation builds on one that was left out.
    pub fn bears(&self, op: &Op) -> bool {
        let name =
            |at: &At| self.inodes.contains(&at.dir) || self.names.contains(&(at.dir, at.name.to_vec()));
        self.count > 0
            && (op.subjects().iter().any(|ino| self.inodes.contains(ino)) || op.names().iter().any(name))
    }
}

/// What both this machine and another have changed: the source of an error of kind `Conflict`. Shown, it names no file:
/// names are for whoever asks, and not for a log.
#[derive(Clone, Debug)]
pub struct BothChanged {
    base: Version,
    /// The first of them: an inode, or the directory of a name; and the path from the drive's root (names joined by
    /// `/`), where it is known.
    things: Vec<(Ino, Option<Vec<u8>>)>,
    more: usize,
}

impl BothChanged {
    /// One line, with each thing as `name` tells it from its inode and its path.
    pub fn line(&self, name: impl Fn(Ino, Option<&[u8]>) -> String) -> String {
        let mut names: Vec<String> =
            self.things.iter().map(|(ino, path)| name(*ino, path.as_deref())).collect();
        // Names in one directory are one number.
        names.dedup();
        if self.more > 0 {
            names.push(format!("{} more", self.more));
        }
        let last = names.pop().unwrap_or_default();
        let all = if names.is_empty() { last } else { format!("{} and {last}", names.join(", ")) };
        format!(
            "since version {}, on which the changes in this machine's journal were made, another machine has changed \
             {all} as well",
            self.base
        )
    }
}

impl fmt::Display for BothChanged {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.line(|ino, _| format!("inode {ino}")))
    }
}

impl std::error::Error for BothChanged {}

impl Others {
    pub fn new(base: Version, history: Map) -> Others {
        Others { base, history, untouched: HashSet::new(), left_out: LeftOut::default(), met: None }
    }

    pub fn has_met(&self) -> bool {
        self.met.is_some()
    }

    /// Why the drive cannot be opened, if both have changed something.
    pub fn refusal(&self) -> Option<Error> {
        let what = "the journal cannot be replayed over the newest version";
        Some(Error::new(Kind::Conflict, what).with_source(self.met.clone()?))
    }

    /// Whether an operation builds on one that was left out.
    pub fn is_left_out(&self, op: &Op) -> bool {
        self.has_met() && self.left_out.bears(op)
    }

    pub fn leave_out(&mut self, op: &Op) {
        self.left_out.add(op);
    }
}

impl Drive {
    /// Refuses an operation of the journal that no longer does what was acknowledged (`Conflict`).
    pub(super) fn check_over(&self, others: &mut Others, op: &Op) -> Result<()> {
        match *op {
            Op::Create { at, .. } => self.must_lead(others, at, None).map(drop),
            Op::Link { ino, at } => {
                self.must_be_untouched(others, ino)?;
                self.must_lead(others, at, None).map(drop)
            }
            Op::Remove { at, ino } => {
                let found = self.must_lead(others, at, Some(ino))?;
                self.must_be_free(others, found)
            }
            Op::Rename { from, to, ino, replaced, exchange, .. } => {
                let moved = self.must_lead(others, from, Some(ino))?;
                let other = self.must_lead(others, to, replaced)?;
                if !exchange {
                    self.must_be_free(others, other)?;
                }
                self.must_not_loop(others, moved, to.dir)?;
                if exchange { self.must_not_loop(others, replaced, from.dir) } else { Ok(()) }
            }
            Op::Write { ino, .. }
            | Op::Hole { ino, .. }
            | Op::SetAttr { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::RemoveXattr { ino, .. } => self.must_be_untouched(others, ino),
        }
    }

    /// Takes note of what both have changed: an inode, or a name in a directory.
    pub(super) fn meet(&self, others: &mut Others, ino: Ino, name: Option<&[u8]>) -> Error {
        let base = others.base;
        let things = &mut others.met.get_or_insert(BothChanged { base, things: Vec::new(), more: 0 }).things;
        if things.len() < NAMED {
            let mut path = self.path_of(&others.history, ino);
            if let (Some(path), Some(name)) = (&mut path, name) {
                path.extend(if path.is_empty() { &b""[..] } else { b"/" });
                path.extend_from_slice(name);
            }
            if !things.contains(&(ino, path.clone())) {
                things.push((ino, path));
            }
        } else if let Some(met) = &mut others.met {
            met.more += 1;
        }
        Error::new(Kind::Conflict, "another machine has changed the same")
    }

    /// Where an inode stands, or stood last: names joined by `/`, none for the root.
    fn path_of(&self, history: &Map, ino: Ino) -> Option<Vec<u8>> {
        let (mut names, mut at) = (Vec::new(), ino);
        while at != ROOT {
            let (parent, name) = self.last_name(history, at)?;
            names.push(name);
            at = parent;
            if names.len() > DEPTH {
                return None;
            }
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// The directory and the name of an inode; of one that is gone, as history has it.
    fn last_name(&self, history: &Map, ino: Ino) -> Option<(Ino, Arc<[u8]>)> {
        let inode = self.load(ino, Wait::yes()).ok();
        if let Some(name) = inode.and_then(|inode| inode.node.read().meta.names.first().cloned()) {
            return Some((name.parent, name.name));
        }
        let newest = history::versions_of(history, ino, self.chunks(Wait::yes())).next()?;
        newest.ok().map(|(_, event)| (event.parent, event.name))
    }

    /// The inode of a name, which must be this one.
    fn must_lead(&self, others: &mut Others, at: At, ino: Option<Ino>) -> Result<Option<Ino>> {
        let dir = self.load(at.dir, Wait::yes())?;
        let (_, found) = self.child(&dir, at.name, Wait::yes())?;
        let found = found.map(|inode| inode.ino);
        if found == ino { Ok(found) } else { Err(self.meet(others, at.dir, Some(at.name))) }
    }

    /// What goes away must be an empty directory, or a file that nobody has changed.
    fn must_be_free(&self, others: &mut Others, ino: Option<Ino>) -> Result<()> {
        let Some(ino) = ino else { return Ok(()) };
        let inode = self.load(ino, Wait::yes())?;
        if !Self::is_dir(&inode) {
            return self.must_be_untouched(others, ino);
        }
        let size = inode.node.read().meta.attr.size;
        if size == 0 { Ok(()) } else { Err(self.meet(others, ino, None)) }
    }

    fn must_be_untouched(&self, others: &mut Others, ino: Ino) -> Result<()> {
        if others.untouched.contains(&ino) || Self::is_dir(&*self.load(ino, Wait::yes())?) {
            return Ok(());
        }
        let newest =
            history::versions_of(&others.history, ino, self.chunks(Wait::yes())).next().transpose()?;
        if newest.is_some_and(|(version, _)| version > others.base) {
            return Err(self.meet(others, ino, None));
        }
        others.untouched.insert(ino);
        Ok(())
    }

    /// A directory must not come to be below itself.
    fn must_not_loop(&self, others: &mut Others, moved: Option<Ino>, to: Ino) -> Result<()> {
        let mut at = to;
        while at != ROOT {
            if Some(at) == moved {
                return Err(self.meet(others, at, None));
            }
            at = match &self.load(at, Wait::yes())?.node.read().body {
                Body::Dir(d) => d.parent,
                _ => return Err(Error::errno_of(libc::ENOTDIR)),
            };
        }
        Ok(())
    }
}
