//! What each operation does to the inodes: the one place where the live drive changes, for operations that
//! come in and for the journal's at replay alike.

use super::acl::{self, Acl};
use super::inode::{Generation, Inode, Meta, Node, Weight};
use super::layer::Run;
use super::record::{At, Op};
use super::table::Place;
use super::{Drive, Held};
use crate::commit::change::DirKey;
use crate::commit::inode::{Attr, FileKind, Name};
use crate::error::{Error, Result};
use crate::types::{Ino, Lsn, Time};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// File capabilities: gone with each change of the bytes or the owner (FUSE_HANDLE_KILLPRIV_V2), but of
/// directories, where they mean nothing.
const CAPABILITY: &[u8] = b"security.capability";

/// What suid and sgid become when somebody without the right to keep them writes.
pub(super) fn without_suid(perm: u16) -> u16 {
    let sgid = if perm & 0o010 != 0 { 0o2000 } else { 0 };
    perm & !(0o4000 | sgid)
}

impl Drive {
    pub(super) fn key(&self, name: &[u8]) -> DirKey {
        DirKey { hash: self.name_hash(name), name: name.into() }
    }

    /// Marks an inode as changed in the current generation. To be called before anything of it is changed.
    fn touch(&self, held: &mut Held, ino: Ino) -> Result<()> {
        let gens = held.gens();
        let (inode, node) = held.entry(ino)?;
        node.roll(gens.now, gens.closed);
        if !node.dirty {
            node.dirty = true;
            let inode = inode.clone();
            self.dirty.lock().push(inode);
        }
        Ok(())
    }

    /// Applies an operation whose record has the number `lsn`; the data of a write stands at `data_at` in it.
    pub(super) fn apply(&self, held: &mut Held, lsn: Lsn, time: Time, op: &Op, data_at: usize) -> Result<()> {
        for ino in op.inodes() {
            self.touch(held, ino)?;
        }
        match *op {
            Op::Create { at, ino, kind, perm, uid, gid, rdev, target, ref xattrs } => {
                let xattrs = xattrs
                    .iter()
                    .map(|(n, v)| (n.to_vec(), v.to_vec()))
                    .collect::<std::collections::BTreeMap<_, _>>();
                let attr = Attr {
                    kind,
                    perm,
                    uid,
                    gid,
                    rdev,
                    nlink: if kind == FileKind::Directory { 2 } else { 1 },
                    size: target.len() as u64,
                    allocated: 0,
                    atime: time,
                    mtime: time,
                    ctime: time,
                    btime: time,
                };
                let xattrs = (!xattrs.is_empty()).then(|| Arc::new(xattrs));
                self.add_new(
                    held,
                    at,
                    ino,
                    Meta { attr, xattrs, names: Vec::new(), shell: false, weight: Weight::default() },
                    target,
                    time,
                )
            }
            Op::Link { ino, at } => {
                let node = held.node(ino)?;
                node.meta.names.push(Name { parent: at.dir, name: at.name.into() });
                node.meta.attr.nlink = node.meta.attr.nlink.saturating_add(1);
                node.meta.attr.ctime = time;
                node.meta.shell = true;
                let kind = node.meta.attr.kind;
                self.table.with(ino, |s| s.place = Place::SHELLS);
                self.insert_name(held, at, ino, kind, time)
            }
            Op::Remove { at, ino } => {
                let kind = held.node(ino)?.meta.attr.kind;
                self.remove_name(held, at, kind, time)?;
                self.drop_name(held, at, ino, time)
            }
            Op::Rename { from, to, ino, replaced, exchange, whiteout } => {
                self.rename_apply(held, from, to, ino, replaced, exchange, time)?;
                if let Some((ino, uid, gid)) = whiteout {
                    let attr = Attr {
                        kind: FileKind::CharDevice,
                        perm: 0,
                        uid,
                        gid,
                        rdev: 0,
                        nlink: 1,
                        size: 0,
                        allocated: 0,
                        atime: time,
                        mtime: time,
                        ctime: time,
                        btime: time,
                    };
                    self.add_new(
                        held,
                        from,
                        ino,
                        Meta {
                            attr,
                            xattrs: None,
                            names: Vec::new(),
                            shell: false,
                            weight: Weight::default(),
                        },
                        b"",
                        time,
                    )?;
                }
                Ok(())
            }
            Op::Write { ino, at, kill_suid, data } => {
                let range = data_at..data_at + data.len();
                let written = self.resident.take(&self.journal, lsn, range, Bytes::copy_from_slice(data));
                let node = held.node(ino)?;
                let end = at + data.len() as u64;
                let file = node.file().ok_or(Error::errno_of(libc::EINVAL))?;
                file.top.put(at, data.len() as u64, Run::Data(written, 0));
                node.meta.attr.size = node.meta.attr.size.max(end);
                self.changed_bytes(node, kill_suid, time);
                Ok(())
            }
            Op::Hole { ino, at, len, size, kill_suid } => {
                let node = held.node(ino)?;
                let file = node.file().ok_or(Error::errno_of(libc::EINVAL))?;
                file.top.put(at, len, Run::Hole);
                node.meta.attr.size = size;
                self.changed_bytes(node, kill_suid, time);
                Ok(())
            }
            Op::SetAttr { ino, perm, uid, gid, size, atime, mtime } => {
                let node = held.node(ino)?;
                if let Some(size) = size {
                    let old = node.meta.attr.size;
                    if let Some(file) = node.file()
                        && size < old
                    {
                        file.top.truncate(size);
                    }
                    node.meta.attr.size = size;
                    node.meta.attr.mtime = time;
                }
                let is_dir = node.is_dir();
                if (uid.is_some() || gid.is_some() || size.is_some()) && !is_dir {
                    remove_xattr(&mut node.meta, CAPABILITY);
                }
                let attr = &mut node.meta.attr;
                attr.uid = uid.unwrap_or(attr.uid);
                attr.gid = gid.unwrap_or(attr.gid);
                attr.atime = atime.unwrap_or(attr.atime);
                attr.mtime = mtime.unwrap_or(attr.mtime);
                attr.ctime = time;
                if let Some(perm) = perm {
                    attr.perm = perm;
                    if let Some(xattrs) = &mut node.meta.xattrs
                        && let Some(mut list) = xattrs.get(acl::ACCESS).and_then(|b| Acl::parse(b))
                    {
                        list.chmod(perm);
                        Arc::make_mut(xattrs).insert(acl::ACCESS.to_vec(), list.to_bytes());
                    }
                }
                Ok(())
            }
            Op::SetXattr { ino, name, value, drop_sgid } => {
                let meta = &mut held.node(ino)?.meta;
                meta.attr.ctime = time;
                if drop_sgid {
                    meta.attr.perm &= !0o2000;
                }
                if name == acl::ACCESS
                    && let Some(list) = Acl::parse(value)
                {
                    meta.attr.perm = meta.attr.perm & 0o7000 | list.mode();
                    if list.is_plain() {
                        remove_xattr(meta, name);
                        meta.weigh(&self.xattr_bytes);
                        return Ok(());
                    }
                }
                Arc::make_mut(meta.xattrs.get_or_insert_default()).insert(name.to_vec(), value.to_vec());
                meta.weigh(&self.xattr_bytes);
                Ok(())
            }
            Op::RemoveXattr { ino, name } => {
                let meta = &mut held.node(ino)?.meta;
                meta.attr.ctime = time;
                remove_xattr(meta, name);
                meta.weigh(&self.xattr_bytes);
                Ok(())
            }
        }
    }

    fn changed_bytes(&self, node: &mut Node, kill_suid: bool, time: Time) {
        let attr = &mut node.meta.attr;
        (attr.mtime, attr.ctime) = (time, time);
        if kill_suid {
            attr.perm = without_suid(attr.perm);
        }
        remove_xattr(&mut node.meta, CAPABILITY);
    }

    /// A new inode under a name.
    fn add_new(
        &self,
        held: &mut Held,
        at: At,
        ino: Ino,
        mut meta: Meta,
        target: &[u8],
        time: Time,
    ) -> Result<()> {
        meta.names.push(Name { parent: at.dir, name: at.name.into() });
        meta.weigh(&self.xattr_bytes);
        let kind = meta.attr.kind;
        let now = held.gens().now;
        // Not locked: nobody knows it, and its number may be below its directory's, which another machine has made.
        let inode = Inode::create(ino, meta, target, at.dir, now);
        let place = Place { parent: at.dir, hash: self.name_hash(at.name) };
        self.dirty.lock().push(inode.clone());
        self.table.insert(inode, place, 0, || true);
        self.table.with(ino, |s| s.placed = now);
        self.placed.lock().push(ino);
        self.next_ino.fetch_max(ino + 1, Relaxed);
        self.insert_name(held, at, ino, kind, time)
    }

    fn insert_name(&self, held: &mut Held, at: At, ino: Ino, kind: FileKind, time: Time) -> Result<()> {
        let key = self.key(at.name);
        let node = held.node(at.dir)?;
        let dir = node.dir().ok_or(Error::errno_of(libc::ENOTDIR))?;
        dir.top.names.insert(key, Some((ino, kind)));
        let attr = &mut node.meta.attr;
        // A version may have said anything of them.
        attr.size = attr.size.saturating_add(1);
        attr.nlink = attr.nlink.saturating_add(u32::from(kind == FileKind::Directory));
        (attr.mtime, attr.ctime) = (time, time);
        Ok(())
    }

    fn remove_name(&self, held: &mut Held, at: At, kind: FileKind, time: Time) -> Result<()> {
        let key = self.key(at.name);
        let node = held.node(at.dir)?;
        let dir = node.dir().ok_or(Error::errno_of(libc::ENOTDIR))?;
        dir.top.names.insert(key, None);
        let attr = &mut node.meta.attr;
        attr.size = attr.size.saturating_sub(1);
        attr.nlink -= u32::from(kind == FileKind::Directory && attr.nlink > 2);
        (attr.mtime, attr.ctime) = (time, time);
        Ok(())
    }

    /// Takes one of its names from an inode.
    fn drop_name(&self, held: &mut Held, at: At, ino: Ino, time: Time) -> Result<()> {
        let (inode, node) = held.entry(ino)?;
        let meta = &mut node.meta;
        meta.names.retain(|n| n.parent != at.dir || n.name[..] != *at.name);
        meta.attr.ctime = time;
        meta.attr.nlink = if meta.attr.kind == FileKind::Directory { 0 } else { meta.names.len() as u32 };
        if meta.names.is_empty() {
            if !self.is_reachable(inode)
                && let Some(f) = node.file()
            {
                f.top = Default::default();
            }
            self.table.with(ino, |s| s.place = Place::NOWHERE);
        }
        Ok(())
    }

    /// An inode's name becomes another one.
    fn move_name(&self, held: &mut Held, from: At, to: At, ino: Ino, time: Time) -> Result<()> {
        let hash = self.name_hash(to.name);
        let node = held.node(ino)?;
        let found = node.meta.names.iter_mut().find(|n| n.parent == from.dir && n.name[..] == *from.name);
        let name = found.ok_or_else(|| Error::damage(format!("inode {ino} does not know its own name")))?;
        *name = Name { parent: to.dir, name: to.name.into() };
        node.meta.attr.ctime = time;
        if let Some(d) = node.dir() {
            d.parent = to.dir;
        }
        if !node.meta.shell {
            self.table.with(ino, |s| s.place = Place { parent: to.dir, hash });
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn rename_apply(
        &self,
        held: &mut Held,
        from: At,
        to: At,
        ino: Ino,
        replaced: Option<Ino>,
        exchange: bool,
        time: Time,
    ) -> Result<()> {
        let kind = held.node(ino)?.meta.attr.kind;
        self.remove_name(held, from, kind, time)?;
        if let Some(other) = replaced {
            let other_kind = held.node(other)?.meta.attr.kind;
            self.remove_name(held, to, other_kind, time)?;
            if exchange {
                // By way of a name that nothing can have, so that two names in one inode's list never meet.
                self.move_name(held, to, At { dir: to.dir, name: b"" }, other, time)?;
            } else {
                self.drop_name(held, to, other, time)?;
            }
            self.move_name(held, from, to, ino, time)?;
            if exchange {
                self.move_name(held, At { dir: to.dir, name: b"" }, from, other, time)?;
                self.insert_name(held, from, other, other_kind, time)?;
            }
        } else {
            self.move_name(held, from, to, ino, time)?;
        }
        self.insert_name(held, to, ino, kind, time)
    }

    /// The generation that the next change belongs to.
    pub fn generation(&self) -> Generation {
        self.gate.read().now
    }
}

fn remove_xattr(meta: &mut Meta, name: &[u8]) {
    if let Some(xattrs) = &mut meta.xattrs
        && xattrs.contains_key(name)
    {
        Arc::make_mut(xattrs).remove(name);
        if xattrs.is_empty() {
            meta.xattrs = None;
        }
    }
}
