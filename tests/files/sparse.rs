//! Holes: made, found, counted; files up to the greatest size.

use crate::common::TestDrive;
use crate::sys::*;
use rustix::fs::{FallocateFlags as F, SeekFrom, fallocate, seek};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

const MIB: u64 = 1 << 20;

/// The ranges of data that SEEK_DATA and SEEK_HOLE tell.
fn map(f: &File) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Ok(data) = seek(f, SeekFrom::Data(at)) {
        let hole = seek(f, SeekFrom::Hole(data)).unwrap();
        assert!(hole > data && data >= at);
        out.push((data, hole));
        at = hole;
    }
    out
}

#[test]
fn holes_are_found_and_take_no_space() {
    let mut d = TestDrive::new();
    let f = rw(d.mnt.join("f"));
    f.write_all_at(&noise(1, 8192), 0).unwrap();
    f.write_all_at(&noise(2, 4096), 10 * MIB).unwrap();
    f.set_len(1 << 40).unwrap();
    let expect = [(0, 8192), (10 * MIB, 10 * MIB + 4096)];
    assert_eq!(map(&f), expect);
    assert_eq!(seek(&f, SeekFrom::Hole(0)), Ok(8192));
    assert_eq!(seek(&f, SeekFrom::Hole(20 * MIB)), Ok(20 * MIB));
    assert_eq!(seek(&f, SeekFrom::Data(20 * MIB)), Err(Errno::NXIO));
    assert_eq!(seek(&f, SeekFrom::Data(1 << 40)), Err(Errno::NXIO));
    assert_eq!(seek(&f, SeekFrom::Hole(1 << 40)), Err(Errno::NXIO));
    assert_eq!(stat(d.mnt.join("f")).blocks(), 24);
    drop(f);
    assert_kept(&mut d);
    let f = File::open(d.mnt.join("f")).unwrap();
    assert_eq!(map(&f), expect);
    assert_eq!(stat(d.mnt.join("f")).blocks(), 24);
    assert!(d.store_bytes() < 4 * MIB, "a sparse terabyte is not stored: {}", d.store_bytes());
    drop(f);
    d.sh("cp --sparse=always f g && cmp -n 20000000 f g && [ $(stat -c %b g) -lt 100 ] && tar -Scf t.tar f && [ $(stat -c %s t.tar) -lt 100000 ]");
}

/// A seek looks at a part of the file first, and then at more of it: where the parts meet, nothing is seen.
#[test]
fn the_map_of_a_file_of_many_changes_is_right_to_the_page() {
    let mut d = TestDrive::with("commit=600");
    let path = d.mnt.join("f");
    let f = File::options().write(true).create_new(true).open(&path).unwrap();
    let (mut at, mut expect) = (0, Vec::new());
    // Runs of data of 1 to 80 pages, between holes of 1 to 40, far holes, and one that ends within a page.
    for n in 0..400u64 {
        at += 4096 * (1 + n * 7 % 40) + if n % 100 == 99 { 30 * MIB } else { 0 };
        let len = 4096 * (1 + n * 13 % 80);
        f.write_all_at(&noise(n, len as usize), at).unwrap();
        expect.push((at, at + len));
        at += len;
    }
    f.write_all_at(b"end", at + 8192).unwrap();
    expect.push((at + 8192, at + 8195));
    drop(f);
    let f = File::open(&path).unwrap();
    assert_eq!(map(&f), expect);
    drop(f);
    assert_kept(&mut d);
    assert_eq!(map(&File::open(&path).unwrap()), expect);
}

/// Until it is committed, what is written over something else is counted with it; the kernel keeps such a
/// figure for a second at most.
#[track_caller]
fn wait_for_blocks(path: &std::path::Path, blocks: u64) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while stat(path).blocks() != blocks && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(stat(path).blocks(), blocks);
}

#[test]
fn fallocate_does_what_each_mode_says() {
    let mut d = TestDrive::new();
    let path = d.mnt.join("f");
    // Holes are told in full where nobody may have the file mapped.
    let f = File::options().write(true).create_new(true).open(&path).unwrap();
    let reader = File::open(&path).unwrap();
    let data = noise(3, 65_536);
    f.write_all_at(&data, 0).unwrap();
    for committed in [false, true] {
        if committed {
            f.write_all_at(&data, 0).unwrap();
            f.set_len(65_536).unwrap();
            d.sync();
        }
        fallocate(&f, F::PUNCH_HOLE | F::KEEP_SIZE, 8192, 16_384).unwrap();
        assert_eq!(map(&reader), [(0, 8192), (24_576, 65_536)], "committed: {committed}");
        d.sync();
        wait_for_blocks(&path, (65_536 - 16_384) / 512);
        // Across the end, and with odd edges.
        fallocate(&f, F::PUNCH_HOLE | F::KEEP_SIZE, 65_000, 10_000).unwrap();
        fallocate(&f, F::ZERO_RANGE, 100, 200).unwrap();
        fallocate(&f, F::ZERO_RANGE | F::KEEP_SIZE, 65_530, 4096).unwrap();
        assert_eq!(stat(&path).size(), 65_536);
        let mut expect = data.clone();
        for hole in [8192..24_576, 65_000..65_536, 100..300] {
            expect[hole].fill(0);
        }
        assert!(fs::read(&path).unwrap() == expect, "committed: {committed}");
        fallocate(&f, F::KEEP_SIZE, 0, MIB).unwrap();
        assert_eq!(stat(&path).size(), 65_536);
        fallocate(&f, F::empty(), 0, 70_000).unwrap();
        fallocate(&f, F::ZERO_RANGE, 70_000, 10_000).unwrap();
        expect.resize(80_000, 0);
        assert!(fs::read(&path).unwrap() == expect, "committed: {committed}");
    }
    for (mode, at, len, errno) in [
        (F::PUNCH_HOLE, 0, 10, Errno::OPNOTSUPP),
        (F::empty(), 0, 0, Errno::INVAL),
        (F::empty(), i64::MAX as u64, 10, Errno::FBIG),
    ] {
        assert_eq!(fallocate(&f, mode, at, len), Err(errno), "{mode:?} {at} {len}");
    }
    assert_eq!(fallocate(&reader, F::empty(), 0, 10), Err(Errno::BADF));
    drop((f, reader));
    let before = fs::read(&path).unwrap();
    assert_kept(&mut d);
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn fallocate_of_more_than_there_is_room_for_is_refused_and_changes_nothing() {
    let d = TestDrive::new();
    let path = d.mnt.join("f");
    let f = rw(&path);
    f.write_all_at(&[7; 4096], 0).unwrap();
    let free = rustix::fs::statvfs(&d.mnt).map(|s| s.f_bavail * s.f_frsize).unwrap();
    for mode in [F::empty(), F::KEEP_SIZE, F::ZERO_RANGE] {
        assert_eq!(fallocate(&f, mode, 0, free + (1 << 40)), Err(rustix::io::Errno::NOSPC), "{mode:?}");
    }
    assert_eq!(fs::read(&path).unwrap(), [7; 4096]);
    // A hole needs none.
    fallocate(&f, F::PUNCH_HOLE | F::KEEP_SIZE, 0, free + (1 << 40)).unwrap();
    fallocate(&f, F::empty(), 0, 1 << 20).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
}

#[test]
fn the_map_of_a_file_does_not_hang_on_when_it_was_committed() {
    let d = TestDrive::with("commit=3600");
    let f = rw(d.mnt.join("f"));
    f.set_len(20 * MIB + 77).unwrap();
    // Bytes at the edges of pages and segments, holes that cut pages, and a tail.
    for at in [0, 4095, 8192, 20_000, 36_864, MIB - 1, 5 * MIB, 5 * MIB + 4096, 20 * MIB + 76] {
        f.write_all_at(b"x", at).unwrap();
    }
    f.write_all_at(&noise(5, 40_000), 7 * MIB + 1).unwrap();
    let punch = |at, len| fallocate(&f, F::PUNCH_HOLE | F::KEEP_SIZE, at, len).unwrap();
    punch(7 * MIB + 4096, 4096);
    punch(7 * MIB + 9000, 5000);
    let all = |at| (seek(&f, SeekFrom::Data(at)), seek(&f, SeekFrom::Hole(at)));
    let probes = || (0..200).map(|i| all(i * 3011 + i / 100 * 7 * MIB)).collect::<Vec<_>>();
    let before = (map(&f), probes());
    assert_eq!(before.0[..3], [(0, 4096), (8192, 12_288), (16_384, 20_480)]);
    assert!(before.0.contains(&(20 * MIB, 20 * MIB + 77)), "{:?}", before.0);
    d.sync();
    assert_eq!((map(&f), probes()), before, "once committed");
    // Over what is committed.
    f.write_all_at(b"y", 12_289).unwrap();
    punch(7 * MIB + 16_384, 4096 + 100);
    let before = (map(&f), probes());
    d.sync();
    assert_eq!((map(&f), probes()), before, "and changed again");
}

#[test]
fn blocks_count_each_byte_once() {
    let d = TestDrive::new();
    let path = d.mnt.join("f");
    let f = rw(&path);
    let blocks = || stat(&path).blocks();
    for round in 0..3 {
        f.write_all_at(&noise(round, 40_960), 0).unwrap();
        assert_eq!(blocks(), 80, "round {round}");
        d.sync();
    }
    f.write_all_at(&noise(9, 4096), 1 << 30).unwrap();
    f.write_all_at(&noise(10, 40_960), 0).unwrap();
    assert!((88..=88 + 80).contains(&blocks()), "{}: what is written again may count twice", blocks());
    d.sync();
    wait_for_blocks(&path, 88);
    f.set_len(4096).unwrap();
    assert_eq!(blocks(), 8);
    f.set_len(1 << 30).unwrap();
    d.sync();
    wait_for_blocks(&path, 8); // what was cut off does not come back
    f.set_len(0).unwrap();
    assert_eq!(blocks(), 0);
}

#[test]
fn files_reach_the_greatest_offset_and_no_further() {
    let mut d = TestDrive::new();
    let path = d.mnt.join("f");
    let f = rw(&path);
    let max = i64::MAX as u64;
    f.write_all_at(b"end", max - 3).unwrap();
    assert_eq!(stat(&path).size(), max);
    // Beyond what an offset can say the kernel refuses by itself, with EINVAL.
    assert_eq!(refused(f.write_at(b"x", max)), libc::EINVAL);
    assert_eq!(refused(f.write_at(b"abc", max - 2)), libc::EINVAL);
    assert_eq!(f.write_at(b"ab", max - 2).unwrap(), 2);
    f.write_all_at(b"middle", 1 << 50).unwrap();
    f.write_all_at(b"start", 0).unwrap();
    let mut buf = [0; 16];
    assert_eq!(f.read_at(&mut buf[..5], max - 5).unwrap(), 5);
    assert_eq!(&buf[..5], b"\0\0eab");
    assert_eq!(f.read_at(&mut [], max).unwrap(), 0);
    // SAFETY: plain integers.
    assert_eq!(unsafe { libc::ftruncate(std::os::fd::AsRawFd::as_raw_fd(&f), -1) }, -1);
    drop(f);
    assert_kept(&mut d);
    let f = rw(&path);
    assert_eq!(f.read_at(&mut buf, (1 << 50) - 2).unwrap(), 16);
    assert_eq!(&buf[..10], b"\0\0middle\0\0");
    assert_eq!(f.read_at(&mut buf[..5], max - 5).unwrap(), 5);
    assert_eq!(&buf[..5], b"\0\0eab");
    f.set_len(5).unwrap();
    f.set_len(100).unwrap();
    drop(f);
    let mut expect = b"start".to_vec();
    expect.resize(100, 0);
    assert_eq!(fs::read(&path).unwrap(), expect);
    assert_kept(&mut d);
}
