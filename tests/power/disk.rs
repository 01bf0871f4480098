//! A disk that loses power: a file of a FUSE file system of our own below a loop device. It keeps apart what was
//! written and what was flushed; a cut leaves what was flushed, and of each sector written since any state that it had.

use crate::model::Dice;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};
use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

/// What a device writes whole or not at all, in bytes.
const SECTOR: usize = 512;
const FILE: INodeNo = INodeNo(2);
const FOR_EVER: Duration = Duration::from_secs(1 << 20);

/// What a power cut leaves, and the figures that the test wanted to have at that moment.
pub struct Cut<T> {
    pub image: Image,
    /// Sectors that were written and not flushed then.
    pub unflushed: usize,
    pub figures: T,
}

/// The bytes of a disk.
#[derive(Clone)]
pub struct Image {
    current: Vec<u8>,
    flushed: Vec<u8>,
    unflushed: Vec<(usize, Vec<u8>)>,
    /// Flushes are answered, and forgotten too.
    lies: bool,
}

impl Image {
    pub fn new(bytes: usize) -> Image {
        Image { current: vec![0; bytes], flushed: vec![0; bytes], unflushed: Vec::new(), lies: false }
    }

    fn write(&mut self, at: usize, data: &[u8]) -> bool {
        let Some(place) = self.current.get_mut(at..at + data.len()) else { return false };
        place.copy_from_slice(data);
        self.unflushed.push((at, data.to_vec()));
        true
    }

    fn flush(&mut self) {
        if self.lies {
            return;
        }
        for (at, data) in self.unflushed.drain(..) {
            self.flushed[at..at + data.len()].copy_from_slice(&data);
        }
    }

    /// As a power cut at this moment might leave it: one of many possibilities.
    fn cut(&self, dice: &mut Dice) -> Image {
        let mut left = self.flushed.clone();
        // Mostly lost, mostly written, or anything between.
        let odds = [2, 50, 98][dice.below(3) as usize];
        for (at, data) in &self.unflushed {
            for (n, sector) in data.chunks(SECTOR).enumerate() {
                if dice.below(100) < odds {
                    let at = at + n * SECTOR;
                    left[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        Image { current: left.clone(), flushed: left, unflushed: Vec::new(), lies: false }
    }
}

/// A power cut to come: when so many writes are not flushed, or at a flush that comes after so many others.
struct Fuse {
    writes: usize,
    flushes: u64,
    blow: Box<dyn FnOnce(&Image) + Send>,
}

#[derive(Default)]
struct Shared {
    image: Mutex<Option<Image>>,
    fuse: Mutex<Option<Fuse>>,
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Image) -> T) -> T {
        act(self.image.lock().unwrap().as_mut().unwrap())
    }

    /// After a write, and before a flush is done.
    fn count_down(&self, is_flush: bool) {
        let mut fuse = self.fuse.lock().unwrap();
        let Some(f) = fuse.as_mut() else { return };
        let waiting = self.with(|image| image.unflushed.len());
        let due = if is_flush { f.flushes == 0 } else { waiting >= f.writes };
        if is_flush {
            f.flushes = f.flushes.saturating_sub(1);
        }
        if let Some(fuse) = fuse.take_if(|_| due) {
            self.with(|image| (fuse.blow)(image));
        }
    }
}

struct OneFile(Arc<Shared>);

impl OneFile {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let size = self.0.with(|image| image.current.len()) as u64;
        let (kind, perm) = match ino {
            FILE => (FileType::RegularFile, 0o600),
            _ => (FileType::Directory, 0o700),
        };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == "disk" {
            true => reply.entry(&FOR_EVER, &self.attr(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.with(|image| {
            let end = image.current.len().min(offset as usize + size as usize);
            reply.data(&image.current[end.min(offset as usize)..end]);
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.0.with(|image| image.write(offset as usize, data));
        self.0.count_down(false);
        match written {
            true => reply.written(data.len() as u32),
            false => reply.error(Errno::ENOSPC),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.count_down(true);
        self.0.with(Image::flush);
        reply.ok();
    }
}

/// A disk with an ext4 on it, mounted.
pub struct Disk {
    shared: Arc<Shared>,
    pub mnt: PathBuf,
    layer: PathBuf,
    device: String,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// Attaches an image below a directory; `fresh` makes a file system on it.
    pub fn mount(image: Image, dir: &Path, fresh: bool) -> Result<Disk, String> {
        let (layer, mnt) = (dir.join("layer"), dir.join("ext4"));
        for d in [&layer, &mnt] {
            std::fs::create_dir_all(d).unwrap();
        }
        let shared = Arc::new(Shared { image: Mutex::new(Some(image)), fuse: Mutex::default() });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forgetful".into())];
        let session = fuser::spawn_mount(OneFile(shared.clone()), &layer, &config).unwrap();
        let file = layer.join("disk");
        let device = attach(&file);
        if fresh {
            run(Command::new("mkfs.ext4").args(["-q", "-E", "nodiscard", &device]));
        }
        let disk = Disk { shared, mnt, layer, device, session: Some(session) };
        let out = Command::new("mount").args(["-t", "ext4", &disk.device]).arg(&disk.mnt).output().unwrap();
        match out.status.success() {
            true => Ok(disk),
            false => Err(format!("ext4: {}", String::from_utf8_lossy(&out.stderr))),
        }
    }

    /// From now on this disk answers to flushes and does nothing.
    pub fn lie(&self) {
        self.shared.with(|image| {
            image.flush();
            image.lies = true;
        });
    }

    /// Waits for some writes or flushes, and says what a power cut at that moment leaves. `figures` is
    /// called then; it must not touch the disk.
    pub fn cut<T: Send + 'static>(
        &self,
        mut dice: Dice,
        figures: impl FnOnce() -> T + Send + 'static,
    ) -> Cut<T> {
        let (tell, told) = channel();
        let (writes, flushes) = (1 + dice.below(60) as usize, dice.below(12));
        let blow = move |image: &Image| {
            let figures = figures();
            let unflushed = image.unflushed.iter().map(|(_, data)| data.len() / SECTOR).sum();
            let _ = tell.send(Cut { image: image.cut(&mut dice), unflushed, figures });
        };
        *self.shared.fuse.lock().unwrap() = Some(Fuse { writes, flushes, blow: Box::new(blow) });
        told.recv_timeout(Duration::from_secs(20)).expect("writes go on until the power goes")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily where somebody still has a file open: the loop device goes with the last of them.
        let quiet =
            |c: &mut Command| c.stderr(std::process::Stdio::null()).status().is_ok_and(|s| s.success());
        if !quiet(Command::new("umount").arg(&self.mnt)) {
            quiet(Command::new("umount").arg("-l").arg(&self.mnt));
        }
        quiet(Command::new("losetup").args(["-d", &self.device]));
        let gone = || {
            !std::fs::read_to_string("/sys/block/".to_owned() + &self.device[5..] + "/loop/backing_file")
                .is_ok_and(|file| Path::new(file.trim()) == self.layer.join("disk"))
        };
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while !gone() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(self.session.take());
    }
}

/// A loop device over a file. Others look for a free one at the same time, and only one gets it.
fn attach(file: &Path) -> String {
    for _ in 0..20 {
        let out = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        if out.status.success() {
            return String::from_utf8_lossy(&out.stdout).trim().to_owned();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("no loop device for {}", file.display());
}

/// Has the kernel write back what is dirty below a directory, without a flush, as it may at any time.
pub fn write_back(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => write_back(&entry.path()),
            Ok(kind) if kind.is_file() => {
                // It may be gone by now.
                let Ok(file) = std::fs::File::open(entry.path()) else { continue };
                // SAFETY: a descriptor that is open; no memory is passed.
                unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
            }
            _ => {}
        }
    }
}

pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
