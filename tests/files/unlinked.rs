//! Files that have no name any more, but are still open.

use crate::common::TestDrive;
use crate::sys::*;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let d = TestDrive::new();
    let path = d.mnt.join("f");
    let f = rw(&path);
    f.write_all_at(&noise(1, 300_000), 0).unwrap();
    d.sync();
    fs::remove_file(&path).unwrap();
    assert_eq!(f.metadata().unwrap().nlink(), 0);
    for round in 0u64..4 {
        f.write_all_at(&noise(10 + round, 5000), round * 70_000).unwrap();
        f.write_all_at(&noise(20 + round, 5000), 300_000 + round * 5000).unwrap();
        d.sync();
        let mut expect = noise(1, 300_000);
        for r in 0..=round {
            expect[r as usize * 70_000..][..5000].copy_from_slice(&noise(10 + r, 5000));
            expect.extend(noise(20 + r, 5000));
        }
        let again = File::open(format!("/proc/self/fd/{}", f.as_raw_fd())).unwrap();
        let mut got = vec![0; expect.len() + 10];
        assert_eq!(again.read_at(&mut got, 0).unwrap(), expect.len());
        assert!(got[..expect.len()] == expect, "round {round}");
        assert_eq!(f.metadata().unwrap().size(), expect.len() as u64);
    }
    f.set_len(1000).unwrap();
    d.sync();
    f.set_len(2000).unwrap();
    let mut got = vec![1; 3000];
    assert_eq!(f.read_at(&mut got, 0).unwrap(), 2000);
    assert!(got[..1000] == noise(10, 1000) && got[1000..2000].iter().all(|b| *b == 0));
    // A new file takes the name, not the inode; and no name can be given back to the old one.
    fs::write(&path, "new").unwrap();
    assert_ne!(stat(&path).ino(), f.metadata().unwrap().ino());
    assert_eq!(
        refused(fs::hard_link(format!("/proc/self/fd/{}", f.as_raw_fd()), d.mnt.join("back"))),
        libc::EXDEV
    );
    rustix::fs::fchmod(&f, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    f.sync_all().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
}

/// O_PATH descriptors and working directories are not opened as the drive sees it: the kernel's memory of the
/// inode is all that tells of them.
#[test]
fn what_is_held_without_being_open_lives_too() {
    let d = TestDrive::new();
    let path = d.mnt.join("f");
    fs::write(&path, noise(1, 200_000)).unwrap();
    let held = File::options().read(true).custom_flags(libc::O_PATH).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let read = |what: &str| {
        let bytes = fs::read(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
        assert!(bytes == noise(1, 200_000), "{what}");
    };
    read("at once");
    d.sync();
    fs::write(d.mnt.join("other"), "x").unwrap();
    d.sync();
    read("after two commits");
    assert_eq!(held.metadata().unwrap().nlink(), 0);

    fs::create_dir(d.mnt.join("dir")).unwrap();
    let dir = File::open(d.mnt.join("dir")).unwrap();
    fs::remove_dir(d.mnt.join("dir")).unwrap();
    for i in 0..3000 {
        fs::write(d.mnt.join(format!("n{i}")), "").unwrap();
    }
    d.sync();
    assert_eq!(dir.metadata().unwrap().nlink(), 0);
    assert_eq!(refused(File::create(format!("/proc/self/fd/{}/x", dir.as_raw_fd()))), libc::ENOENT);
    assert_eq!(fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd())).map_or(0, |l| l.count()), 0);
}

#[test]
fn an_unlinked_file_survives_commits_with_little_memory() {
    let d = TestDrive::with("commit=1,memory=16M,journal=64M");
    let path = d.mnt.join("f");
    let f = rw(&path);
    fs::remove_file(&path).unwrap();
    let mib = if full() { 300 } else { 48 };
    for i in 0..mib {
        f.write_all_at(&noise(i, 1 << 20), i << 20).unwrap();
    }
    // Others go on, and the journal is trimmed.
    fs::write(d.mnt.join("g"), noise(1000, 20 << 20)).unwrap();
    d.sync();
    rustix::fs::fadvise(&f, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut got = vec![0; 1 << 20];
    for i in (0..mib).rev() {
        f.read_exact_at(&mut got, i << 20).unwrap();
        assert!(got == noise(i, 1 << 20), "MiB {i}");
    }
    assert!(fs::read(d.mnt.join("g")).unwrap() == noise(1000, 20 << 20));
}
