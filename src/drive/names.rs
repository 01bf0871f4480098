//! Operations on names: make, link, unlink, rmdir, rename.

use super::acl::{self, Acl};
use super::inode::{Body, Inode, Node};
use super::record::{At, Op};
use super::types::{Caller, New, RenameHow, Stat, Wait};
use super::{Drive, Held};
use crate::commit::change::DirKey;
use crate::commit::inode::{FileKind, ROOT};
use crate::error::{Error, Kind, Result};
use crate::tree::Map;
use crate::types::Ino;
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const fn errno<T>(e: i32) -> Result<T> {
    Err(Error::errno_of(e))
}

impl Drive {
    /// A directory that names may be put into: locked, and still there.
    fn check_parent(&self, held: &mut Held, dir: Ino) -> Result<()> {
        let node = held.node(dir)?;
        if !node.is_dir() {
            return errno(libc::ENOTDIR);
        }
        if dir != ROOT && node.is_gone() { errno(libc::ENOENT) } else { Ok(()) }
    }

    /// Makes a file, directory, link or special file, and counts a lookup of it.
    pub fn make(&self, wait: Wait, caller: &Caller, parent: Ino, name: &[u8], new: &New) -> Result<Stat> {
        self.check_writable()?;
        self.check_new_name(parent, name)?;
        if new.kind == FileKind::Symlink && (new.target.is_empty() || new.target.len() > 4095) {
            return errno(if new.target.is_empty() { libc::ENOENT } else { libc::ENAMETOOLONG });
        }
        // What no version can hold must not get into the journal: no commit would ever succeed again.
        if new.target.contains(&0) {
            return errno(libc::EINVAL);
        }
        let dir = self.load(parent, wait)?;
        let room = self.admit(wait, new.target.len())?;
        loop {
            let (epoch, found) = self.child(&dir, name, wait)?;
            if found.is_some() {
                return errno(libc::EEXIST);
            }
            let mut held = self.lock(&[&dir]);
            self.check_parent(&mut held, parent)?;
            if !self.still(&mut held, parent, name, (epoch, None))? {
                continue;
            }
            let ino = self.next_ino.fetch_add(1, Relaxed);
            let above = held.node(parent)?.meta.clone();
            let mut perm = new.perm & 0o7777;
            let mut gid = caller.gid;
            if above.attr.perm & 0o2000 != 0 {
                gid = above.attr.gid;
                perm |= if new.kind == FileKind::Directory { 0o2000 } else { 0 };
            }
            let default = above.xattrs.as_ref().and_then(|x| x.get(acl::DEFAULT));
            let mut xattrs: Vec<(&[u8], &[u8])> = Vec::new();
            let inherited;
            match default.and_then(|b| Some((b, Acl::parse(b)?))) {
                _ if new.kind == FileKind::Symlink => perm = 0o777,
                Some((bytes, list)) => {
                    let (list, mode) = list.inherit(perm);
                    perm = mode;
                    inherited = list.to_bytes();
                    if !list.is_plain() {
                        xattrs.push((acl::ACCESS, &inherited));
                    }
                    if new.kind == FileKind::Directory {
                        xattrs.push((acl::DEFAULT, bytes));
                    }
                }
                None => perm &= !(caller.umask as u16 & 0o777),
            }
            let op = Op::Create {
                at: At { dir: parent, name },
                ino,
                kind: new.kind,
                perm,
                uid: caller.uid,
                gid,
                rdev: new.rdev,
                target: new.target,
                xattrs,
            };
            self.perform(&mut held, &op, &room)?;
            self.table.with(ino, |s| s.lookups = s.lookups.saturating_add(1));
            drop(held);
            let made = self.table.loaded_inode(ino).ok_or(Error::errno_of(libc::ESTALE))?;
            return Ok(self.stat_of(&made));
        }
    }

    /// Gives an inode another name, and counts a lookup of it.
    pub fn link(&self, wait: Wait, ino: Ino, parent: Ino, name: &[u8]) -> Result<Stat> {
        self.check_writable()?;
        self.check_new_name(parent, name)?;
        let (dir, inode) = (self.load(parent, wait)?, self.load(ino, wait)?);
        let room = self.admit(wait, 0)?;
        loop {
            let (epoch, found) = self.child(&dir, name, wait)?;
            if found.is_some() {
                return errno(libc::EEXIST);
            }
            let mut held = self.lock(&[&dir, &inode]);
            self.check_parent(&mut held, parent)?;
            if !self.still(&mut held, parent, name, (epoch, None))? {
                continue;
            }
            let node = held.node(ino)?;
            if node.is_dir() {
                return errno(libc::EPERM);
            }
            if node.is_gone() {
                return errno(libc::ENOENT);
            }
            if node.meta.names.len() >= MAX_LINKS {
                return errno(libc::EMLINK);
            }
            self.perform(&mut held, &Op::Link { ino, at: At { dir: parent, name } }, &room)?;
            drop(held);
            self.count_lookup(&inode);
            return Ok(self.stat_of(&inode));
        }
    }

    pub fn unlink(&self, wait: Wait, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(wait, parent, name, false)
    }

    pub fn rmdir(&self, wait: Wait, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(wait, parent, name, true)
    }

    fn remove(&self, wait: Wait, parent: Ino, name: &[u8], want_dir: bool) -> Result<()> {
        self.check_writable()?;
        let dir = self.load(parent, wait)?;
        let room = self.admit_freeing(wait)?;
        let mut seen = None;
        loop {
            let (epoch, found) = self.child(&dir, name, wait)?;
            let Some(child) = found else { return errno(libc::ENOENT) };
            let mut held = self.lock(&[&dir, &child]);
            if !self.still(&mut held, parent, name, (epoch, Some(child.ino)))? {
                continue;
            }
            let node = held.node(child.ino)?;
            match (node.is_dir(), want_dir) {
                (true, false) => return errno(libc::EISDIR),
                (false, true) => return errno(libc::ENOTDIR),
                (true, true) => match self.has_names(node, seen.as_ref()) {
                    Ok(false) => {}
                    Ok(true) => return errno(libc::ENOTEMPTY),
                    Err(e) if e.kind() == Kind::Miss && wait != Wait::No => {
                        drop(held);
                        seen = Some(self.look_into(&child, wait)?);
                        continue;
                    }
                    Err(e) => return Err(e),
                },
                _ => {}
            }
            self.perform(&mut held, &Op::Remove { at: At { dir: parent, name }, ino: child.ino }, &room)?;
            return Ok(());
        }
    }

    /// Renames; see rename(2) and renameat2(2).
    pub fn rename(
        &self,
        wait: Wait,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        how: RenameHow,
    ) -> Result<()> {
        self.check_writable()?;
        self.check_new_name(new_parent, new_name)?;
        if how.exchange && (how.no_replace || how.whiteout.is_some()) {
            return errno(libc::EINVAL);
        }
        let (from_dir, to_dir) = (self.load(parent, wait)?, self.load(new_parent, wait)?);
        let room = self.admit_freeing(wait)?;
        // What lies above the two directories, kept in memory once it was fetched.
        let mut pinned = Vec::new();
        let mut seen = None;
        loop {
            let (from_epoch, found) = self.child(&from_dir, name, wait)?;
            let Some(child) = found else { return errno(libc::ENOENT) };
            let (to_epoch, other) = self.child(&to_dir, new_name, wait)?;
            // Only one at a time may change what is above what.
            let renames = match (parent != new_parent, wait) {
                (false, _) => None,
                (true, Wait::Since(_)) => Some(self.renames.lock()),
                (true, Wait::No) => Some(self.renames.try_lock().ok_or(Error::new(Kind::Miss, "renaming"))?),
            };
            let child_is_dir = Self::is_dir(&child);
            if parent != new_parent {
                match self.check_no_loop((&child, &to_dir), (other.as_ref(), &from_dir), how) {
                    Ok(()) => {}
                    // The store is waited for without the lock.
                    Err(e) if e.kind() == Kind::Miss && wait != Wait::No => {
                        drop(renames);
                        pinned.extend(self.upwards(&from_dir, wait)?);
                        pinned.extend(self.upwards(&to_dir, wait)?);
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            }
            let mut all = vec![&from_dir, &to_dir, &child];
            all.extend(other.as_ref());
            let mut held = self.lock(&all);
            self.check_parent(&mut held, new_parent)?;
            if !self.still(&mut held, parent, name, (from_epoch, Some(child.ino)))?
                || !self.still(&mut held, new_parent, new_name, (to_epoch, other.as_ref().map(|o| o.ino)))?
            {
                continue;
            }
            match &other {
                Some(_) if how.no_replace => return errno(libc::EEXIST),
                Some(o) if o.ino == child.ino => return Ok(()),
                None if how.exchange => return errno(libc::ENOENT),
                Some(o) if !how.exchange => {
                    let node = held.node(o.ino)?;
                    match (child_is_dir, node.is_dir()) {
                        (true, false) => return errno(libc::ENOTDIR),
                        (false, true) => return errno(libc::EISDIR),
                        (true, true) => match self.has_names(node, seen.as_ref()) {
                            Ok(false) => {}
                            Ok(true) => return errno(libc::ENOTEMPTY),
                            Err(e) if e.kind() == Kind::Miss && wait != Wait::No => {
                                drop((held, renames));
                                seen = Some(self.look_into(o, wait)?);
                                continue;
                            }
                            Err(e) => return Err(e),
                        },
                        _ => {}
                    }
                }
                _ => {}
            }
            let above = &held.node(parent)?.meta.attr;
            let group = |caller: &Caller| if above.perm & 0o2000 != 0 { above.gid } else { caller.gid };
            let owner = how.whiteout.map(|caller| (caller.uid, group(&caller)));
            let op = Op::Rename {
                from: At { dir: parent, name },
                to: At { dir: new_parent, name: new_name },
                ino: child.ino,
                replaced: other.as_ref().map(|o| o.ino),
                exchange: how.exchange,
                whiteout: owner.map(|(uid, gid)| (self.next_ino.fetch_add(1, Relaxed), uid, gid)),
            };
            self.perform(&mut held, &op, &room)?;
            return Ok(());
        }
    }

    /// Whether a directory has names. Its size alone does not tell: around a node that could not be read it is an
    /// estimate, though never too small. Does not wait: what is not in memory has to be in `seen`.
    fn has_names(&self, node: &Node, seen: Option<&Seen>) -> Result<bool> {
        let Body::Dir(d) = &node.body else { return Ok(false) };
        if node.meta.attr.size == 0 {
            return Ok(false);
        }
        let changed = |key: &DirKey| d.top.names.get(key).or_else(|| d.frozen.as_ref()?.names.get(key));
        let frozen = d.frozen.iter().flat_map(|layer| layer.names.keys());
        if d.top.names.keys().chain(frozen).any(|key| changed(key).is_some_and(Option::is_some)) {
            return Ok(true);
        }
        let is_there = |key: &[u8]| DirKey::from_bytes(key).is_none_or(|key| changed(&key).is_none());
        let more = d.base.len() > LOOK as u64;
        if let Some(seen) = seen.filter(|seen| seen.base == d.base) {
            return Ok(seen.keys.iter().any(|key| is_there(key)) || more);
        }
        for item in d.base.range(&*self.quick, Bound::Unbounded).take(LOOK) {
            if is_there(&item?.0) {
                return Ok(true);
            }
        }
        Ok(more)
    }

    /// Reads the names of a directory, without any lock. They are kept by the caller: a cache that is small, or much
    /// used, may have let them go by the time the directory is locked.
    fn look_into(&self, dir: &Inode, wait: Wait) -> Result<Seen> {
        let base = self.base_of(dir)?;
        let names = base.range(self.chunks(wait), Bound::Unbounded).take(LOOK);
        let keys = names.map(|item| Ok(item?.0)).collect::<Result<_>>()?;
        Ok(Seen { base, keys })
    }

    /// Refuses a rename that would put a directory below itself, or in the place of one that it is below. The
    /// caller holds `renames`: so this never waits, and is a Miss where it would have to.
    fn check_no_loop(
        &self,
        (child, to_dir): (&Inode, &Arc<Inode>),
        (other, from_dir): (Option<&Arc<Inode>>, &Arc<Inode>),
        how: RenameHow,
    ) -> Result<()> {
        let is_above = |inode: &Inode, dir| -> Result<bool> {
            Ok(Self::is_dir(inode) && self.upwards(dir, Wait::No)?.iter().any(|d| d.ino == inode.ino))
        };
        if is_above(child, to_dir)? {
            return errno(libc::EINVAL);
        }
        match other {
            Some(other) if is_above(other, from_dir)? => {
                errno(if how.exchange { libc::EINVAL } else { libc::ENOTEMPTY })
            }
            _ => Ok(()),
        }
    }

    /// A directory and all those above it, up to the root, loaded. Without `renames` held they may change at once.
    fn upwards(&self, dir: &Arc<Inode>, wait: Wait) -> Result<Vec<Arc<Inode>>> {
        let mut all = vec![dir.clone()];
        let mut at = dir.clone();
        while at.ino != ROOT {
            let parent = match &at.node.read().body {
                super::inode::Body::Dir(d) => d.parent,
                _ => return errno(libc::ENOTDIR),
            };
            at = self.load(parent, wait)?;
            all.push(at.clone());
        }
        Ok(all)
    }
}

/// The first names of a directory of a version.
struct Seen {
    base: Map,
    keys: Vec<Bytes>,
}

/// How many names of a directory are looked at to see whether there is any left.
const LOOK: usize = 4096;

/// The most names that an inode may have, as on ext4.
const MAX_LINKS: usize = 65_000;
