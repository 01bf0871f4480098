//! One method for each request of the kernel.
//!
//! Requests name inodes by the numbers that lookups gave them; the drive answers ESTALE for one that it does
//! not know. Locks (flock, fcntl) are the kernel's own business.

use super::convert::{self, Shown};
use super::counts::{Call, Counts};
use super::dispatch::{Dispatcher, Durable, Op};
use super::poll::Poller;
use super::reply::{Listing, XattrReply};
use crate::commit::inode::FileKind;
use crate::drive::Drive;
use crate::drive::types::{Caller, New, SetAttr};
use crate::error::{Error, Kind, Result};
use crate::types::Ino;
use fuser::*;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes in one write request, at most.
const MAX_WRITE: u32 = 1 << 20;
/// Requests that the kernel keeps in flight without anybody waiting for each: read-ahead, write-back.
const MAX_BACKGROUND: u16 = 64;
/// Reads of so many bytes go to a worker at once: read-ahead sends several, which are then decrypted in
/// parallel.
const LONG_READ: u32 = 256 << 10;
/// The same for copies.
const LONG_COPY: u64 = 1 << 20;
/// The reply to copy_file_range counts in 32 bits; callers go on from where it stopped.
const MAX_COPY: u64 = 1 << 30;

/// What is asked of the kernel at the start, as far as it has it. docs/KERNEL.md says why.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_POSIX_ACL);

/// The kernel's requests, served from a drive.
pub(super) struct Ops {
    desk: Dispatcher<Drive>,
    writeback: bool,
    /// Whether directories can do without being opened.
    no_opendir: bool,
}

impl Ops {
    pub(super) fn new(
        drive: Arc<Drive>,
        shown: Shown,
        poller: Arc<Poller>,
        workers: usize,
        writeback: bool,
        durable: Durable,
    ) -> Result<Ops> {
        let sync = (Drive::sync as fn(&Drive) -> Result<()>, durable);
        let desk = Dispatcher::new(drive, Drive::throttle, sync, shown, poller, workers)?;
        Ok(Ops { desk, writeback, no_opendir: false })
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        self.desk.counts()
    }

    /// mknod, mkdir, symlink: makes what `kind` says. `bytes`: the name, and a symbolic link's target.
    fn make(
        &self,
        op: Op,
        caller: Caller,
        parent: Ino,
        bytes: [&[u8]; 2],
        new: New<'static>,
        reply: ReplyEntry,
    ) {
        self.desk.serve(op, bytes, reply, move |drive, wait, [name, target]| {
            drive.make(wait, &caller, parent, name, &New { target, ..new.clone() })
        });
    }

    /// readdir and readdirplus. What was taken before an error is answered; the kernel comes back for the rest,
    /// and meets the error then.
    fn list<L: Listing>(&self, op: Op, dir: Ino, from: u64, reply: L) {
        let shown = *self.desk.shown();
        self.desk.serve_into(op, [], reply, move |drive, wait, [], reply: &mut L| {
            let mut any = false;
            let result = drive.read_dir(wait, dir, from, L::PLUS, &mut |item| {
                let taken = reply.take(item, &shown);
                any |= taken;
                taken
            });
            if any { Ok(()) } else { result }
        });
    }
}

/// Whether a file that is open so may be mapped for writing.
fn may_map(flags: i32) -> bool {
    flags & libc::O_ACCMODE == libc::O_RDWR
}

fn caller(req: &Request, umask: u32) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask }
}

fn new(kind: FileKind, mode: u32, rdev: u32) -> New<'static> {
    New { kind, perm: convert::permissions(mode), rdev, target: b"" }
}

impl Filesystem for Ops {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let mut wanted = WANTED;
        wanted.set(InitFlags::FUSE_WRITEBACK_CACHE, self.writeback);
        self.no_opendir = offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let refused = |what: &str| io::Error::other(format!("fuser refuses {what}"));
        config
            .add_capabilities(wanted & offered)
            .map_err(|_| refused("the options that the kernel offers"))?;
        config.set_max_write(MAX_WRITE).map_err(|_| refused("the size of writes"))?;
        config.set_max_background(MAX_BACKGROUND).map_err(|_| refused("the number of requests"))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let op = Op::read(Call::Lookup, parent.0);
        self.desk.serve(op, [name.as_bytes()], reply, move |drive, wait, [name]| {
            drive.lookup(wait, parent.0, name)
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.desk.tell(Op::read(Call::Forget, ino.0), |drive| drive.forget(ino.0, nlookup));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.desk
            .serve(Op::read(Call::Getattr, ino.0), [], reply, move |drive, wait, []| drive.stat(wait, ino.0));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller(req, 0);
        // fuser hides FATTR_KILL_SUIDGID, by which the kernel says that the caller lacks CAP_FSETID.
        let kill_suid = size.is_some() && caller.uid != 0;
        let change = SetAttr {
            perm: mode.map(convert::permissions),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::from_request),
            kill_suid,
        };
        self.desk.serve(Op::change(Call::Setattr, ino.0), [], reply, move |drive, wait, []| {
            convert::in_range(0, change.size.unwrap_or(0))?;
            drive.set_attr(wait, &caller, ino.0, &change)
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let op = Op::read(Call::Readlink, ino.0);
        self.desk.serve(op, [], reply, move |drive, wait, []| drive.read_link(wait, ino.0));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        match convert::mknod_kind(mode) {
            Ok(kind) => {
                let (op, bytes) = (Op::change(Call::Mknod, parent.0), [name.as_bytes(), b""]);
                self.make(op, caller(req, umask), parent.0, bytes, new(kind, mode, rdev), reply);
            }
            Err(e) => reply.error(convert::errno(&e)),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (op, bytes) = (Op::change(Call::Mkdir, parent.0), [name.as_bytes(), b""]);
        self.make(op, caller(req, umask), parent.0, bytes, new(FileKind::Directory, mode, 0), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (op, bytes) =
            (Op::change(Call::Symlink, parent.0), [name.as_bytes(), target.as_os_str().as_bytes()]);
        self.make(op, caller(req, 0), parent.0, bytes, new(FileKind::Symlink, 0o777, 0), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let op = Op::free(Call::Unlink, parent.0);
        self.desk.serve(op, [name.as_bytes()], reply, move |drive, wait, [name]| {
            drive.unlink(wait, parent.0, name)
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let op = Op::free(Call::Rmdir, parent.0);
        self.desk.serve(op, [name.as_bytes()], reply, move |drive, wait, [name]| {
            drive.rmdir(wait, parent.0, name)
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let caller = caller(req, 0);
        let names = [name.as_bytes(), newname.as_bytes()];
        self.desk.serve(
            Op::free(Call::Rename, parent.0),
            names,
            reply,
            move |drive, wait, [name, newname]| {
                drive.rename(wait, parent.0, name, newparent.0, newname, convert::rename_how(flags, caller)?)
            },
        );
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (op, bytes) = (Op::change(Call::Link, ino.0), [newname.as_bytes()]);
        self.desk
            .serve(op, bytes, reply, move |drive, wait, [name]| drive.link(wait, ino.0, newparent.0, name));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncate = (flags.0 & libc::O_TRUNC != 0).then(|| caller(req, 0));
        let op = if truncate.is_some() { Op::change(Call::Open, ino.0) } else { Op::read(Call::Open, ino.0) };
        let may_map = may_map(flags.0);
        self.desk
            .serve(op, [], reply, move |drive, wait, []| drive.open(wait, ino.0, truncate.as_ref(), may_map));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let caller = caller(req, umask);
        let new = new(FileKind::File, mode, 0);
        // Kept over a miss of `open`, so that the file is not made twice.
        let mut made = None;
        let may_map = may_map(flags);
        self.desk.serve(
            Op::change(Call::Create, parent.0),
            [name.as_bytes()],
            reply,
            move |drive, wait, [name]| {
                let stat = match made.take() {
                    Some(stat) => stat,
                    None => drive.make(wait, &caller, parent.0, name, &new).map_err(|e| match e.kind() {
                        // The name came to be behind the kernel's back, by another machine: ESTALE makes the
                        // kernel look again and open what it finds.
                        Kind::Errno(libc::EEXIST)
                            if flags & libc::O_EXCL == 0 && !drive.is_past(parent.0, name) =>
                        {
                            Error::errno_of(libc::ESTALE)
                        }
                        _ => e,
                    })?,
                };
                match drive.open(wait, stat.ino, None, may_map) {
                    Ok(opened) => Ok((stat, opened)),
                    Err(e) if e.kind() == Kind::Miss => {
                        made = Some(stat);
                        Err(e)
                    }
                    Err(e) => {
                        // The kernel hears of an error, and not of the lookup that was counted.
                        drive.forget(stat.ino, 1);
                        Err(e)
                    }
                }
            },
        );
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let quietly = flags.0 & libc::O_NOATIME != 0;
        let op = Op::read(Call::Read, ino.0).long_if(size >= LONG_READ);
        let counts = Arc::clone(self.desk.counts());
        self.desk.serve(op, [], reply, move |drive, wait, []| {
            drive
                .read_as(wait, ino.0, offset, size as usize, quietly)
                .inspect(|bytes| counts.read.add(bytes.len() as u64))
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The flags are the file's as they are now, and those of this write (pwritev2). O_SYNC includes
        // O_DSYNC. Pages that the kernel collected come later, to the places that they were written to.
        let append = flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let durable = flags.0 & libc::O_DSYNC != 0;
        let kill_suid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let op = Op::change(Call::Write, ino.0).long_if(durable);
        let counts = Arc::clone(self.desk.counts());
        self.desk.serve(op, [data], reply, move |drive, wait, [data]| {
            convert::in_range(offset, data.len() as u64)?;
            drive.write(wait, ino.0, offset, data, append, kill_suid)?;
            if durable {
                drive.sync()?;
            }
            counts.written.add(data.len() as u64);
            Ok(data.len() as u32)
        });
    }

    /// Nothing is held back until close(2). ENOSYS tells the kernel so for good, where FOPEN_NOFLUSH did not.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        flags: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let may_map = may_map(flags.0);
        self.desk.serve(Op::read(Call::Release, ino.0), [], reply, move |drive, _, []| {
            drive.release(ino.0, may_map);
            Ok(())
        });
    }

    /// fsync and fdatasync alike: the journal is one, and a sync of it makes everything durable.
    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.desk.serve(Op::sync(Call::Fsync, ino.0), [], reply, |drive, _, []| drive.sync());
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.desk.serve(Op::sync(Call::Fsyncdir, ino.0), [], reply, |drive, _, []| drive.sync());
    }

    /// An open directory has no state: ENOSYS tells the kernel to ask no more, where it offers that, and to keep
    /// what it read. Listings may be kept because every change of them goes through the kernel, or is told it.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.no_opendir {
            return reply.error(Errno::ENOSYS);
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(Op::read(Call::Readdir, ino.0), ino.0, offset, reply);
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.list(Op::read(Call::Readdirplus, ino.0), ino.0, offset, reply);
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        // The true figures may have to be asked of the disk.
        let op = Op::read(Call::Statfs, ino.0).long_if(true);
        self.desk.serve(op, [], reply, |drive, _, []| drive.space());
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(req, 0);
        let bytes = [name.as_bytes(), value];
        self.desk.serve(
            Op::change(Call::Setxattr, ino.0),
            bytes,
            reply,
            move |drive, wait, [name, value]| drive.set_xattr(wait, &caller, ino.0, name, value, flags),
        );
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (op, reply) = (Op::read(Call::Getxattr, ino.0), XattrReply { reply, room: size });
        self.desk.serve(op, [name.as_bytes()], reply, move |drive, wait, [name]| {
            drive.get_xattr(wait, ino.0, name)
        });
    }

    /// trusted.* are shown to root alone: the kernel leaves that to us (listxattr(2)).
    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (op, reply) = (Op::read(Call::Listxattr, ino.0), XattrReply { reply, room: size });
        let trusted = req.uid() == 0;
        self.desk.serve(op, [], reply, move |drive, wait, []| {
            let names = drive.list_xattr(wait, ino.0)?;
            Ok(if trusted { names } else { convert::without_trusted(&names) })
        });
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let op = Op::free(Call::Removexattr, ino.0);
        self.desk.serve(op, [name.as_bytes()], reply, move |drive, wait, [name]| {
            drive.remove_xattr(wait, ino.0, name)
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // What is not a hole needs space, and how much there is may have to be asked of the disk.
        let op = Op::change(Call::Fallocate, ino.0).long_if(mode & libc::FALLOC_FL_PUNCH_HOLE == 0);
        let caller = caller(req, 0);
        self.desk.serve(op, [], reply, move |drive, wait, []| {
            convert::in_range(offset, length)?;
            let what = convert::allocate(mode)?;
            drive.drop_suid(wait, &caller, ino.0)?;
            drive.fallocate(wait, ino.0, offset, length, what)
        });
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        if self.writeback {
            // It keeps writes and the size that they make, which we do not know: it is to tell the end only, by itself.
            return reply.error(Errno::ENOSYS);
        }
        self.desk.serve(Op::read(Call::Lseek, ino.0), [], reply, move |drive, wait, []| {
            let (at, what) = convert::seek(offset, whence)?;
            drive.seek(wait, ino.0, at, what)
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let len = len.min(MAX_COPY);
        let op = Op::change(Call::CopyFileRange, ino_out.0).long_if(len > LONG_COPY);
        let caller = caller(req, 0);
        self.desk.serve(op, [], reply, move |drive, wait, []| {
            if !flags.is_empty() {
                return Err(Error::errno_of(libc::EINVAL));
            }
            convert::in_range(offset_out, len)?;
            drive.drop_suid(wait, &caller, ino_out.0)?;
            let copied = drive.copy_range(wait, ino_in.0, offset_in, ino_out.0, offset_out, len)?;
            u32::try_from(copied).map_err(|_| Error::failed("more was copied than was asked for"))
        });
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// Files are always ready: the kernel need not ask again.
    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
