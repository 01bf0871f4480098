//! What stands under the number of the next version.

mod common;

use common::{NACREFS, TestDrive, ok};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn sync(d: &TestDrive) -> u64 {
    let out = ok(Command::new(NACREFS).arg("sync").arg(&d.mnt).output());
    let text = String::from_utf8(out.stdout).unwrap();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no version in {text:?}"))
}

fn heads(d: &TestDrive) -> PathBuf {
    let mut realms = fs::read_dir(d.store.join("realms")).unwrap();
    realms.next().unwrap().unwrap().path().join("heads")
}

/// TRUST 3: an invalid object at a counter counts as absent, and the next number is used. Whoever can write to
/// the store could otherwise stop all commits of a mounted drive with one small file.
#[test]
fn rubbish_under_the_next_number_does_not_stop_commits() {
    let mut d = TestDrive::with("commit=3600");
    fs::write(d.mnt.join("a"), "one").unwrap();
    let version = sync(&d);
    for taken in [version + 1, version + 2] {
        fs::write(heads(&d).join(format!("{taken:020}")), "rubbish").unwrap();
    }
    fs::write(d.mnt.join("b"), "two").unwrap();
    assert_eq!(sync(&d), version + 3);
    d.move_to_a_new_machine();
    assert_eq!(fs::read(d.mnt.join("a")).unwrap(), b"one");
    assert_eq!(fs::read(d.mnt.join("b")).unwrap(), b"two");
}

/// DESIGN 2.8 is not kept yet: one writer for each drive. A second one must be told, and must lose nothing.
#[test]
fn a_second_writer_is_refused_and_keeps_its_changes() {
    let first = TestDrive::with("commit=3600");
    let mut second = first.other_machine();
    fs::write(second.mnt.join("from the second"), "2").unwrap();
    fs::write(first.mnt.join("from the first"), "1").unwrap();
    sync(&first);
    let out = Command::new(NACREFS).arg("sync").arg(&second.mnt).output().unwrap();
    assert_eq!(out.status.code(), Some(6), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("another machine"), "{out:?}");
    // Trying again puts nothing more into the store.
    let stored = || walk(&first.store);
    let before = stored();
    for _ in 0..3 {
        assert!(!Command::new(NACREFS).arg("sync").arg(&second.mnt).output().unwrap().status.success());
    }
    assert_eq!(stored(), before);
    ok(Command::new(NACREFS).args(["umount", "--local"]).arg(&second.mnt).output());
    second.is_unmounted();
    second.mount();
    assert_eq!(fs::read(second.mnt.join("from the first")).unwrap(), b"1");
    assert_eq!(fs::read(second.mnt.join("from the second")).unwrap(), b"2");
}

/// Files below a directory.
fn walk(dir: &std::path::Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}
