//! Operations on attributes: set, extended attributes.

use super::Drive;
use super::acl::{self, Acl};
use super::apply::without_suid;
use super::bytes::MAX_SIZE;
use super::record::Op;
use super::types::{Caller, SetAttr, SetTime, Stat, Wait};
use crate::commit::inode::{MAX_XATTRS, Xattrs};
use crate::error::{Error, Result};
use crate::types::Ino;
use std::sync::Arc;

/// The longest value of an extended attribute (XATTR_SIZE_MAX).
const MAX_VALUE: usize = 64 << 10;
/// Our own attributes: they answer, and are never listed, so that no tool copies them.
const OURS: &[u8] = b"nacre.";
/// What else can be kept (xattr(7)).
const SPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Refuses names outside of the spaces that are kept, and those that are a space's prefix alone.
fn check_space(name: &[u8]) -> Result<()> {
    match SPACES.iter().find_map(|s| name.strip_prefix(*s)) {
        Some([]) => Err(Error::errno_of(libc::EINVAL)),
        None if name != acl::ACCESS && name != acl::DEFAULT => Err(Error::errno_of(libc::EOPNOTSUPP)),
        _ => Ok(()),
    }
}

impl Drive {
    pub fn set_attr(&self, wait: Wait, caller: &Caller, ino: Ino, how: &SetAttr) -> Result<Stat> {
        self.check_writable()?;
        if how.size.is_some_and(|s| s > MAX_SIZE) {
            return Err(Error::errno_of(libc::EFBIG));
        }
        let inode = self.load(ino, wait)?;
        let shorter = how.size.is_some_and(|size| size < inode.node.read().meta.attr.size);
        let room = if shorter { self.admit_freeing(wait)? } else { self.admit(wait, 0)? };
        let mut held = self.lock(&[&inode]);
        let node = held.node(ino)?;
        if how.size.is_some() && node.file().is_none() {
            return Err(Error::errno_of(if node.is_dir() { libc::EISDIR } else { libc::EINVAL }));
        }
        let old = &node.meta.attr;
        let mut perm = how.perm.map(|p| p & 0o7777);
        // A request that sets nothing is chown(-1, -1), or the kernel's wish that rights go (KILLPRIV_V2).
        let nothing = how.perm.is_none() && how.size.is_none() && how.atime.is_none() && how.mtime.is_none();
        // Of a file that only its owner can have open for writing, it is not the latter, and takes nobody's rights away.
        let foreign = nothing && caller.uid != 0 && caller.uid != old.uid && old.perm & 0o022 == 0;
        let chown = how.uid.is_some() || how.gid.is_some() || nothing && !foreign;
        if how.kill_suid || chown && !node.is_dir() {
            let now = perm.unwrap_or(old.perm);
            let mut without = without_suid(now);
            // Where the group may not execute, sgid goes as well if the caller is not of it. Of groups the request tells
            // only the first.
            if nothing && caller.uid != 0 && caller.gid != old.gid {
                without &= !0o2000;
            }
            perm = if without != now { Some(without) } else { perm };
        }
        let now = self.clock.now();
        let time = |t: SetTime| if let SetTime::To(t) = t { t } else { now };
        let op = Op::SetAttr {
            ino,
            perm,
            uid: how.uid,
            gid: how.gid,
            size: how.size,
            atime: how.atime.map(time),
            mtime: how.mtime.map(time),
        };
        self.perform(&mut held, &op, &room)?;
        drop(held);
        Ok(self.stat_of(&inode))
    }

    /// Takes suid and sgid away, before the bytes are changed by somebody without the right to keep them. A write says so
    /// itself, and the kernel's wish is not heeded of whoever could not have opened the file (somebody passed it on).
    pub fn drop_suid(&self, wait: Wait, caller: &Caller, ino: Ino) -> Result<()> {
        if caller.uid == 0 || self.load(ino, wait)?.node.read().meta.attr.perm & 0o6000 == 0 {
            return Ok(());
        }
        self.set_attr(wait, caller, ino, &SetAttr { kill_suid: true, ..SetAttr::default() }).map(drop)
    }

    /// The path of the control socket, which the attribute `nacre.control` answers with.
    pub fn set_control(&self, path: Vec<u8>) {
        let _ = self.control.set(path);
    }

    pub fn get_xattr(&self, wait: Wait, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let missing = Error::errno_of(libc::ENODATA);
        if let Some(ours) = name.strip_prefix(OURS) {
            let inode = self.load(ino, wait)?;
            return match ours {
                b"pid" => Ok(std::process::id().to_string().into_bytes()),
                b"control" => self.control.get().cloned().ok_or(missing),
                b"version" => Ok(self.version().to_string().into_bytes()),
                b"state" => {
                    Ok(if inode.node.read().is_stored() { &b"stored"[..] } else { b"dirty" }.to_vec())
                }
                _ => Err(missing),
            };
        }
        check_space(name)?;
        let inode = self.load(ino, wait)?;
        let node = inode.node.read();
        node.meta.xattrs.as_ref().and_then(|x| x.get(name)).cloned().ok_or(missing)
    }

    /// The names, each ended by NUL.
    pub fn list_xattr(&self, wait: Wait, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.load(ino, wait)?;
        let node = inode.node.read();
        let names = node.meta.xattrs.iter().flat_map(|x| x.keys());
        Ok(names.flat_map(|n| n.iter().copied().chain([0])).collect())
    }

    pub fn set_xattr(
        &self,
        wait: Wait,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        self.check_writable()?;
        if name.is_empty() || name.len() > 255 {
            return Err(Error::errno_of(libc::ERANGE));
        }
        if name.starts_with(OURS) {
            return Err(Error::errno_of(libc::EPERM));
        }
        if name.contains(&0) {
            return Err(Error::errno_of(libc::EINVAL));
        }
        check_space(name)?;
        let is_acl = name == acl::ACCESS || name == acl::DEFAULT;
        if value.len() > MAX_VALUE {
            return Err(Error::errno_of(libc::E2BIG));
        }
        let list = if is_acl { Some(Acl::parse(value).ok_or(Error::errno_of(libc::EINVAL))?) } else { None };
        let inode = self.load(ino, wait)?;
        let room = self.admit(wait, value.len())?;
        let mut held = self.lock(&[&inode]);
        let node = held.node(ino)?;
        if name == acl::DEFAULT && !node.is_dir() {
            return Err(Error::errno_of(libc::EACCES));
        }
        let old = node.meta.xattrs.as_ref().and_then(|x| x.get(name));
        let has = old.is_some();
        if flags & libc::XATTR_CREATE != 0 && has {
            return Err(Error::errno_of(libc::EEXIST));
        }
        if flags & libc::XATTR_REPLACE != 0 && !has {
            return Err(Error::errno_of(libc::ENODATA));
        }
        // Who may not keep sgid loses it with a new access list, as with chmod.
        let (perm, gid) = (node.meta.attr.perm, node.meta.attr.gid);
        let access = list.as_ref().filter(|_| name == acl::ACCESS);
        let drop_sgid = access.is_some() && caller.uid != 0 && caller.gid != gid && perm & 0o2000 != 0;
        // What it says already is no change, so the ctime stays, as on ext4. A list that says no more than the
        // mode is not kept.
        let same = match access {
            Some(list) => {
                let kept = (!list.is_plain()).then_some(value);
                !drop_sgid && list.mode() == perm & 0o777 && old.map(Vec::as_slice) == kept
            }
            None => old.is_some_and(|old| old == value),
        };
        if same {
            return Ok(());
        }
        let others = node.meta.xattrs.iter().flat_map(|x| x.iter()).filter(|(n, _)| n.as_slice() != name);
        let used: usize = others.map(|(n, v)| n.len() + v.len() + 12).sum();
        if used + name.len() + value.len() + 12 > MAX_XATTRS {
            return Err(Error::errno_of(libc::ENOSPC));
        }
        self.perform(&mut held, &Op::SetXattr { ino, name, value, drop_sgid }, &room)?;
        Ok(())
    }

    pub fn remove_xattr(&self, wait: Wait, ino: Ino, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        if name.starts_with(OURS) {
            return Err(Error::errno_of(libc::EPERM));
        }
        check_space(name)?;
        let inode = self.load(ino, wait)?;
        let room = self.admit_freeing(wait)?;
        let mut held = self.lock(&[&inode]);
        let xattrs: Option<&Arc<Xattrs>> = held.node(ino)?.meta.xattrs.as_ref();
        if !xattrs.is_some_and(|x| x.contains_key(name)) {
            // A list that is not there is the one that says what the mode says: to remove it changes nothing.
            let is_acl = name == acl::ACCESS || name == acl::DEFAULT;
            return if is_acl { Ok(()) } else { Err(Error::errno_of(libc::ENODATA)) };
        }
        self.perform(&mut held, &Op::RemoveXattr { ino, name }, &room)?;
        Ok(())
    }
}
