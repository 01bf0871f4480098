//! Reading and writing: append, truncate, direct, synchronous, mapped, copied.

use crate::common::TestDrive;
use crate::sys::*;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

#[test]
fn two_processes_append_to_one_file() {
    let mut d = TestDrive::new();
    d.sh("for w in a b c; do (for i in $(seq 400); do echo \"$w $i $w$w$w$w$w$w$w$w\" >> log; done) & done; wait");
    d.sh("[ $(wc -l < log) = 1200 ]; for w in a b c; do grep -c \"^$w [0-9]* $w\\{8\\}$\" log | grep -qx 400; done");
    // pwrite on such a file appends too, on Linux.
    let f = File::options().append(true).open(d.mnt.join("log")).unwrap();
    let size = f.metadata().unwrap().size();
    f.write_all_at(b"last\n", 0).unwrap();
    assert_eq!(f.metadata().unwrap().size(), size + 5);
    // O_APPEND that is set later.
    let g = rw(d.mnt.join("log"));
    rustix::fs::fcntl_setfl(&g, OFlags::APPEND).unwrap();
    (&g).write_all(b"later\n").unwrap();
    assert!(fs::read_to_string(d.mnt.join("log")).unwrap().ends_with("last\nlater\n"));
    drop((f, g));
    assert_kept(&mut d);
}

#[test]
fn open_flags_mean_what_they_say() {
    let d = TestDrive::new();
    let f = d.mnt.join("f");
    let open = |flags| openat(CWD, &f, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
    assert_eq!(open(OFlags::RDWR).unwrap_err(), Errno::NOENT);
    drop(open(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL).unwrap());
    assert_eq!(open(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL).unwrap_err(), Errno::EXIST);
    fs::write(&f, "content").unwrap();
    drop(open(OFlags::RDWR | OFlags::CREATE).unwrap());
    assert_eq!(stat(&f).size(), 7);
    drop(open(OFlags::RDWR | OFlags::TRUNC).unwrap());
    assert_eq!(stat(&f).size(), 0);
    assert_eq!(open(OFlags::DIRECTORY).unwrap_err(), Errno::NOTDIR);
    std::os::unix::fs::symlink("f", d.mnt.join("l")).unwrap();
    let l = openat(CWD, d.mnt.join("l"), OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty());
    assert_eq!(l.unwrap_err(), Errno::LOOP);
    assert_eq!(refused(File::options().write(true).open(&d.mnt)), libc::EISDIR);
    assert_eq!(refused(File::open(d.mnt.join("f/below"))), libc::ENOTDIR);
    // Reading and writing in the wrong way.
    assert_eq!(refused(File::open(&f).unwrap().write_all(b"x")), libc::EBADF);
    assert_eq!(refused(File::options().write(true).open(&f).unwrap().read(&mut [0; 1])), libc::EBADF);
    // A program that runs is not written to.
    fs::copy("/bin/sleep", d.mnt.join("sleep")).unwrap();
    let mut child = std::process::Command::new(d.mnt.join("sleep")).arg("5").spawn().unwrap();
    assert_eq!(refused(File::options().write(true).open(d.mnt.join("sleep"))), libc::ETXTBSY);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Memory that O_DIRECT takes.
#[repr(align(4096))]
struct Aligned([u8; 65_536]);

#[test]
fn direct_and_buffered_see_the_same_bytes() {
    let mut d = TestDrive::new();
    let path = d.mnt.join("f");
    let direct = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .unwrap();
    let buffered = rw(&path);
    let mut block = Box::new(Aligned([0; 65_536]));
    let mut expect = vec![0u8; 1 << 20];
    for i in 0u64..40 {
        let at = i * 7919 % 240 * 4096;
        let bytes = noise(i, 65_536);
        expect[at as usize..at as usize + 65_536].copy_from_slice(&bytes);
        if i % 2 == 0 {
            block.0.copy_from_slice(&bytes);
            assert_eq!(direct.write_at(&block.0, at).unwrap(), 65_536);
        } else {
            buffered.write_all_at(&bytes, at).unwrap();
        }
        let other = if i % 2 == 0 { &buffered } else { &direct };
        other.read_exact_at(&mut block.0, at).unwrap();
        assert!(block.0[..] == bytes[..], "write {i}");
    }
    let size = stat(&path).size() as usize;
    drop((direct, buffered));
    assert!(fs::read(&path).unwrap() == expect[..size]);
    assert_kept(&mut d);
    assert!(fs::read(&path).unwrap() == expect[..size]);
}

/// A write by io_submit(2), waited for with io_getevents(2).
fn write_by_aio(f: &File, data: &[u8], at: u64) {
    /// `struct iocb` and `struct io_event` of linux/aio_abi.h.
    #[repr(C)]
    #[derive(Default)]
    struct Call {
        data: u64,
        key: u32,
        rw_flags: i32,
        opcode: u16,
        priority: i16,
        fd: u32,
        buffer: u64,
        len: u64,
        offset: i64,
        reserved: u64,
        flags: u32,
        event_fd: u32,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Event {
        data: u64,
        call: u64,
        result: i64,
        result2: i64,
    }
    const PWRITE: u16 = 1;
    let mut call = Call {
        opcode: PWRITE,
        fd: std::os::fd::AsRawFd::as_raw_fd(f) as u32,
        buffer: data.as_ptr() as u64,
        len: data.len() as u64,
        offset: at as i64,
        ..Call::default()
    };
    let (mut context, mut event) = (0u64, Event::default());
    let no_limit = std::ptr::null_mut::<libc::timespec>();
    // SAFETY: what the pointers name lives until io_getevents has said that the call is done.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_io_setup, 1i64, &mut context), 0);
        assert_eq!(libc::syscall(libc::SYS_io_submit, context, 1i64, [&mut call].as_mut_ptr()), 1);
        assert_eq!(libc::syscall(libc::SYS_io_getevents, context, 1i64, 1i64, &mut event, no_limit), 1);
        libc::syscall(libc::SYS_io_destroy, context);
    }
    assert_eq!(event.result, data.len() as i64);
}

#[test]
fn asynchronous_direct_writes_leave_nothing_stale_in_the_page_cache() {
    let d = TestDrive::new();
    let path = d.mnt.join("f");
    let buffered = rw(&path);
    buffered.write_all_at(&[0; 1 << 19], 0).unwrap();
    let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut block = Box::new(Aligned([0; 65_536]));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        // Somebody brings pages back into the cache all the while.
        s.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(fs::read(&path).unwrap().len(), 1 << 19);
            }
        });
        let mut seen = [0; 65_536];
        let stale = (1..=if full() { 4000 } else { 400u32 }).find(|round| {
            let (value, at) = (*round as u8, u64::from(round % 8) * 65_536);
            block.0.fill(value);
            write_by_aio(&direct, &block.0, at);
            buffered.read_exact_at(&mut seen, at).unwrap();
            seen.iter().any(|b| *b != value)
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(stale, None, "the round whose write was not seen");
    });
}

#[test]
fn synchronous_writes_are_there_after_the_daemon_was_killed() {
    // Neither the commit's nor the flush's timer helps.
    let mut d = TestDrive::with("commit=600,flush=600");
    for (name, flag) in [("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC)] {
        let mut f = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(flag)
            .open(d.mnt.join(name))
            .unwrap();
        f.write_all(name.as_bytes()).unwrap();
    }
    let f = rw(d.mnt.join("data"));
    f.write_all_at(b"fdatasync", 0).unwrap();
    f.sync_data().unwrap();
    fs::create_dir(d.mnt.join("dir")).unwrap();
    File::open(&d.mnt).unwrap().sync_all().unwrap();
    drop(f);
    d.kill();
    d.mount();
    for (name, text) in [("sync", "sync"), ("dsync", "dsync"), ("data", "fdatasync")] {
        assert_eq!(fs::read_to_string(d.mnt.join(name)).unwrap(), text);
    }
    assert!(d.mnt.join("dir").is_dir());
}

/// A shared mapping of a file, to be written through.
struct Map(*mut u8, usize);

impl Map {
    fn of(f: &File, len: usize) -> Map {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, which only this struct uses.
        let p = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, f, 0) }.unwrap();
        Map(p.cast(), len)
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.1);
        // SAFETY: within the mapping, whose file is long enough.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(at), bytes.len()) };
    }

    fn get(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.1);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.0.add(at), len) }.to_vec()
    }

    fn sync(&self) {
        // SAFETY: the whole mapping.
        unsafe { rustix::mm::msync(self.0.cast(), self.1, rustix::mm::MsyncFlags::SYNC) }.unwrap();
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        unsafe { rustix::mm::munmap(self.0.cast(), self.1) }.unwrap();
    }
}

#[test]
fn shared_mappings_write_through() {
    let mut d = TestDrive::new();
    let path = d.mnt.join("f");
    let f = rw(&path);
    let mut expect = noise(1, 1 << 20);
    f.write_all_at(&expect, 0).unwrap();
    d.sync();
    let map = Map::of(&f, 1 << 20);
    let other = Map::of(&f, 1 << 20);
    for i in 0..50usize {
        let at = i * 20_011 % ((1 << 20) - 300);
        let bytes = noise(100 + i as u64, 300);
        map.put(at, &bytes);
        expect[at..at + 300].copy_from_slice(&bytes);
        assert_eq!(other.get(at, 300), bytes);
    }
    // read(2) sees it before msync, the drive after it.
    assert!(fs::read(&path).unwrap() == expect);
    map.sync();
    d.sync();
    // A write is seen in the mapping; what a truncation cuts off comes back as zeros.
    f.write_all_at(b"written", 5000).unwrap();
    expect[5000..5007].copy_from_slice(b"written");
    assert_eq!(map.get(5000, 7), b"written");
    map.put(600_000, b"dirty");
    f.set_len(500_001).unwrap();
    f.set_len(1 << 20).unwrap();
    expect[500_001..].fill(0);
    assert!(map.get(0, 1 << 20) == expect);
    map.put(1_000_000, b"after");
    expect[1_000_000..1_000_005].copy_from_slice(b"after");
    drop((map, other, f));
    assert!(fs::read(&path).unwrap() == expect);
    assert_kept(&mut d);
    assert!(fs::read(&path).unwrap() == expect);
}

/// cp and tar made zeros of what a program had in a mapping, and read(2) gave right.
#[test]
fn what_is_in_a_shared_mapping_is_no_hole_to_others() {
    use rustix::fs::{SeekFrom, seek};
    let d = TestDrive::new();
    let path = d.mnt.join("f");
    let f = rw(&path);
    f.set_len(1 << 20).unwrap();
    f.write_all_at(&noise(1, 10_000), 40_960).unwrap();
    let map = Map::of(&f, 1 << 20);
    for at in [0, 8192, 200_000, 900_000] {
        map.put(at, b"in the mapping");
    }
    // The pages that were read, perhaps with some around them, may be data.
    let reader = fs::File::open(&path).unwrap();
    for at in [0, 8192, 200_000, 900_000] {
        assert_eq!(seek(&reader, SeekFrom::Data(at)), Ok(at));
    }
    assert_eq!(seek(&reader, SeekFrom::Data(1 << 20)), Err(Errno::NXIO));
    map.put(500_000, b"later");
    d.sh("cp f g; cmp f g; tar -Scf t.tar f; rm g; mkdir x; tar -C x -xf t.tar; cmp f x/f");
    // A file of which we know nothing but its size: tar does not read one without blocks.
    let other = rw(d.mnt.join("h"));
    other.set_len(1 << 20).unwrap();
    let all_of_it = Map::of(&other, 1 << 20);
    all_of_it.put(300_000, b"the only bytes");
    d.sh("tar -Scf t.tar h 2>/dev/null || [ $? = 1 ]; tar -C x -xf t.tar; cmp h x/h");

    // They are again when nobody can have it mapped.
    drop((map, f, all_of_it, other));
    let hole = || seek(&reader, SeekFrom::Hole(0)).unwrap();
    crate::common::wait_until("the file is closed", || hole() == 4096);
    assert_eq!(
        (seek(&reader, SeekFrom::Data(4096)), seek(&reader, SeekFrom::Hole(8192))),
        (Ok(8192), Ok(12_288))
    );
}

#[test]
fn what_the_kernel_keeps_of_writes_is_no_hole_to_others() {
    use rustix::fs::{SeekFrom, seek};
    let d = TestDrive::with("writeback,commit=3600");
    let path = d.mnt.join("f");
    let f = File::options().write(true).create_new(true).open(&path).unwrap();
    f.set_len(1 << 20).unwrap();
    f.write_all_at(&noise(1, 10_000), 409_600).unwrap();
    f.write_all_at(b"beyond the end", 2 << 20).unwrap();
    let reader = fs::File::open(&path).unwrap();
    let end = (2 << 20) + 14;
    assert_eq!((seek(&reader, SeekFrom::Data(0)), seek(&reader, SeekFrom::Hole(0))), (Ok(0), Ok(end)));
    assert_eq!(seek(&reader, SeekFrom::Data(2 << 20)), Ok(2 << 20));
    assert_eq!(seek(&reader, SeekFrom::Data(end)), Err(Errno::NXIO));
    let other = File::options().write(true).create_new(true).open(d.mnt.join("g")).unwrap();
    other.set_len(1 << 20).unwrap();
    other.write_all_at(b"the only bytes", 300_000).unwrap();
    d.sh("mkdir x; tar -Scf t.tar g; tar -C x -xf t.tar; cmp g x/g; cp g h; cmp g h");
}

#[test]
fn a_mapping_outlives_its_descriptor_and_name() {
    let d = TestDrive::new();
    let path = d.mnt.join("f");
    let f = rw(&path);
    f.write_all_at(&noise(1, 65_536), 0).unwrap();
    let map = Map::of(&f, 65_536);
    drop(f);
    fs::remove_file(&path).unwrap();
    map.put(100, b"still here");
    map.sync();
    d.sync();
    let mut expect = noise(1, 65_536);
    expect[100..110].copy_from_slice(b"still here");
    assert!(map.get(0, 65_536) == expect);
}

#[test]
fn ranges_are_copied_between_files() {
    let mut d = TestDrive::new();
    let (a, b) = (rw(d.mnt.join("a")), rw(d.mnt.join("b")));
    let data = noise(1, 3_000_000);
    a.write_all_at(&data, 0).unwrap();
    let copy = |from: &File, mut at: u64, to: &File, mut to_at: u64, len: usize| {
        rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut to_at), len)
    };
    let mut done = 0;
    while done < 2_500_000 {
        let n = copy(&a, 123 + done, &b, 50_001 + done, (2_500_000 - done) as usize).unwrap() as u64;
        assert!(n > 0);
        done += n;
    }
    let mut expect = vec![0; 50_001];
    expect.extend_from_slice(&data[123..2_500_123]);
    assert!(fs::read(d.mnt.join("b")).unwrap() == expect);
    assert_eq!(copy(&a, 2_999_000, &b, 0, 10_000), Ok(1000), "as much as there is");
    assert_eq!(copy(&a, 3_000_000, &b, 0, 10), Ok(0));
    assert_eq!(copy(&a, 0, &a, 100, 1000), Err(Errno::INVAL), "it overlaps");
    assert_eq!(copy(&a, 0, &a, 3_000_000, 1000), Ok(1000));
    let reader = File::open(d.mnt.join("b")).unwrap();
    assert_eq!(copy(&a, 0, &reader, 0, 10), Err(Errno::BADF));
    // From another file system.
    let mut out = rw(d.mnt.join("c"));
    fs::write(d.dir().join("outside"), &data).unwrap();
    std::io::copy(&mut File::open(d.dir().join("outside")).unwrap(), &mut out).unwrap();
    out.rewind().unwrap();
    let mut got = Vec::new();
    out.read_to_end(&mut got).unwrap();
    assert!(got == data);
    drop((a, b, reader, out));
    assert_kept(&mut d);
}

#[test]
fn locks_hold_between_processes() {
    let d = TestDrive::new();
    d.sh("exec 9> lock; flock 9; ! flock -n lock true; ! flock -ns lock true; exec 9>&-; flock -n lock true");
    let (a, b) = (rw(d.mnt.join("lock")), rw(d.mnt.join("lock")));
    use rustix::fs::{FlockOperation, fcntl_lock, flock};
    flock(&a, FlockOperation::LockExclusive).unwrap();
    assert_eq!(flock(&b, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    flock(&a, FlockOperation::Unlock).unwrap();
    flock(&b, FlockOperation::NonBlockingLockShared).unwrap();
    // A record lock belongs to a process: another one is refused (SQLite lives by this).
    fcntl_lock(&a, FlockOperation::LockExclusive).unwrap();
    d.sh("! python3 -c 'import fcntl; fcntl.lockf(open(\"lock\", \"r+\"), fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null");
}

#[test]
fn statfs_tells_the_true_figures() {
    let d = TestDrive::new();
    let (drive, disk) = (rustix::fs::statvfs(&d.mnt).unwrap(), rustix::fs::statvfs(&d.store).unwrap());
    assert_eq!(drive.f_namemax, 255);
    assert_eq!(drive.f_blocks * drive.f_frsize / 4096, disk.f_blocks * disk.f_frsize / 4096);
    let (free, disk_free) = (drive.f_bavail * drive.f_frsize, disk.f_bavail * disk.f_frsize);
    assert!(free.abs_diff(disk_free) < disk_free / 5 + (1 << 30), "{free} of {disk_free}");
    assert!(drive.f_bavail <= drive.f_bfree && drive.f_bfree <= drive.f_blocks && drive.f_ffree > 0);
    let fs = rustix::fs::statfs(&d.mnt).unwrap();
    assert_eq!((fs.f_type as u64, fs.f_bsize as u64), (0x6573_5546, 4096));
}
