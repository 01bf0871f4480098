//! Two machines that write to one drive: not promised yet, but nothing may be lost to it in silence.

mod common;

use common::{NACREFS, TestDrive, ok};
use std::fs;
use std::process::Command;

fn sync(d: &TestDrive) -> u64 {
    let out = ok(Command::new(NACREFS).arg("sync").arg(&d.mnt).output());
    let text = String::from_utf8(out.stdout).unwrap();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no version in {text:?}"))
}

/// DESIGN 2.8 is not kept yet: one writer for each drive. A second one must be told, and must lose nothing.
#[test]
fn a_second_writer_is_refused_and_keeps_its_changes() {
    let mut first = TestDrive::with("commit=3600");
    let mut second = first.other_machine();
    // Each becomes a device of the drive before they meet.
    second.umount();
    fs::write(first.mnt.join("a"), "").unwrap();
    first.umount();
    second.mount();
    fs::write(second.mnt.join("b"), "").unwrap();
    sync(&second);
    first.mount();

    fs::write(second.mnt.join("from the second"), "2").unwrap();
    fs::write(first.mnt.join("from the first"), "1").unwrap();
    sync(&first);
    refused(&second);
    // Trying again puts nothing more into the store.
    let before = files(&first.store);
    (0..3).for_each(|_| refused(&second));
    assert_eq!(files(&first.store), before);

    second.umount_local();
    second.mount();
    assert_eq!(fs::read(second.mnt.join("from the first")).unwrap(), b"1");
    assert_eq!(fs::read(second.mnt.join("from the second")).unwrap(), b"2");
    sync(&second);
}

/// Two machines that are both new to the drive may both call themselves the next device, and then give the same
/// inode numbers to different files.
#[test]
fn inode_numbers_that_two_machines_gave_are_not_mixed() {
    let first = TestDrive::with("commit=3600");
    let mut second = first.other_machine();
    fs::write(second.mnt.join("from the second"), "2").unwrap();
    fs::write(first.mnt.join("from the first"), "1").unwrap();
    sync(&first);
    refused(&second);
    second.umount_local();
    let out = second.mount_command().output().unwrap();
    assert_eq!(out.status.code(), Some(6), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("device"), "{out:?}");
}

fn refused(d: &TestDrive) {
    let out = Command::new(NACREFS).arg("sync").arg(&d.mnt).output().unwrap();
    assert_eq!(out.status.code(), Some(6), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("another machine"), "{out:?}");
}

/// Files below a directory.
fn files(dir: &std::path::Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}
