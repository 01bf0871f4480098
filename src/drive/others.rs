//! Replay over what other machines have made since: what the journal says must still mean what it meant.
//!
//! The journal's changes were acknowledged on one version, its base. Where other machines have written since, they are
//! done over the newest version only if nothing that they touch was touched there: the bytes and attributes of a
//! file, or the names. (Merging is to come.) A directory's own attributes go to whoever comes last.

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

/// What other machines have made on top of the journal's base.
pub(super) struct Others {
    base: Version,
    /// Of the newest version.
    history: Map,
    /// Files that nobody has changed since the base.
    untouched: HashSet<Ino>,
}

impl Others {
    pub fn new(base: Version, history: Map) -> Others {
        Others { base, history, untouched: HashSet::new() }
    }

    /// Both changed this.
    pub fn conflict(&self, what: &str) -> Error {
        let what = format!(
            "since version {}, on which the changes in this machine's journal were made, another machine has changed \
             {what} as well",
            self.base
        );
        Error::new(Kind::Conflict, what)
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

    /// The inode of a name, which must be this one.
    fn must_lead(&self, others: &Others, at: At, ino: Option<Ino>) -> Result<Option<Ino>> {
        let dir = self.load(at.dir, Wait::yes())?;
        let (_, found) = self.child(&dir, at.name, Wait::yes())?;
        let found = found.map(|inode| inode.ino);
        if found == ino { Ok(found) } else { Err(others.conflict("the names of a directory")) }
    }

    /// What goes away must be an empty directory, or a file that nobody has changed.
    fn must_be_free(&self, others: &mut Others, ino: Option<Ino>) -> Result<()> {
        let Some(ino) = ino else { return Ok(()) };
        let inode = self.load(ino, Wait::yes())?;
        if !Self::is_dir(&inode) {
            return self.must_be_untouched(others, ino);
        }
        let size = inode.node.read().meta.attr.size;
        if size == 0 { Ok(()) } else { Err(others.conflict("what is in a directory that was removed here")) }
    }

    fn must_be_untouched(&self, others: &mut Others, ino: Ino) -> Result<()> {
        if others.untouched.contains(&ino) || Self::is_dir(&*self.load(ino, Wait::yes())?) {
            return Ok(());
        }
        let newest =
            history::versions_of(&others.history, ino, self.chunks(Wait::yes())).next().transpose()?;
        if newest.is_some_and(|(version, _)| version > others.base) {
            return Err(others.conflict("a file"));
        }
        others.untouched.insert(ino);
        Ok(())
    }

    /// A directory must not come to be below itself.
    fn must_not_loop(&self, others: &Others, moved: Option<Ino>, to: Ino) -> Result<()> {
        let mut at = to;
        while at != ROOT {
            if Some(at) == moved {
                return Err(others.conflict("what is above a directory"));
            }
            at = match &self.load(at, Wait::yes())?.node.read().body {
                Body::Dir(d) => d.parent,
                _ => return Err(Error::errno_of(libc::ENOTDIR)),
            };
        }
        Ok(())
    }
}
