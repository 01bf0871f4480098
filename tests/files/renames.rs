//! rename(2) and renameat2(2) in all their forms, and hard links.

use crate::common::TestDrive;
use crate::sys::*;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

#[test]
fn renames_do_what_each_form_says() {
    let mut d = TestDrive::new();
    let m = d.mnt.clone();
    let x = |n: &str| m.join(n);
    let with = |from: &str, to: &str, f| renameat_with(CWD, x(from), CWD, x(to), f);
    for dir in ["a", "a/b", "a/b/c", "empty", "full", "full/x"] {
        fs::create_dir(x(dir)).unwrap();
    }
    for f in ["f", "g", "h"] {
        fs::write(x(f), f).unwrap();
    }
    let nlink = |n: &str| stat(x(n)).nlink();
    assert_eq!((nlink("a"), nlink("a/b/c"), nlink("full")), (3, 2, 3));
    let root = nlink("");

    // NOREPLACE
    assert_eq!(with("f", "g", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(with("f", "f2", RenameFlags::NOREPLACE), Ok(()));
    fs::rename(x("f2"), x("f")).unwrap();
    // EXCHANGE, of a file and a directory, between directories
    assert_eq!(with("f", "nothing", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    assert_eq!(with("f", "a/b", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!(fs::read_to_string(x("a/b")).unwrap(), "f");
    assert!(x("f/c").is_dir());
    assert_eq!((nlink("a"), nlink(""), nlink("f")), (2, root + 1, 3));
    assert_eq!(fs::canonicalize(x("f/c/../..")).unwrap(), m, "the parent moved along");
    assert_eq!(with("f", "a/b", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!((nlink("a"), nlink("")), (3, root));
    assert_eq!(with("f", "g", RenameFlags::EXCHANGE | RenameFlags::NOREPLACE), Err(Errno::INVAL));
    // WHITEOUT
    assert_eq!(with("h", "a/h", RenameFlags::WHITEOUT), Ok(()));
    assert!(stat(x("h")).file_type().is_char_device() && stat(x("h")).rdev() == 0);
    assert_eq!(fs::read_to_string(x("a/h")).unwrap(), "h");
    // Into itself; over what is not empty; across kinds
    assert_eq!(refused(fs::rename(x("a"), x("a/b/c/d"))), libc::EINVAL);
    assert_eq!(with("a", "a/b/c", RenameFlags::EXCHANGE), Err(Errno::INVAL));
    assert_eq!(refused(fs::rename(x("empty"), x("full"))), libc::ENOTEMPTY);
    assert_eq!(refused(fs::rename(x("a/b/c"), x("a"))), libc::ENOTEMPTY);
    assert_eq!(refused(fs::rename(x("f"), x("empty"))), libc::EISDIR);
    assert_eq!(refused(fs::rename(x("empty"), x("f"))), libc::ENOTDIR);
    assert_eq!(refused(fs::rename(x("nothing"), x("f"))), libc::ENOENT);
    assert_eq!(refused(fs::rename(x("f"), x("f/below"))), libc::ENOTDIR);
    // A directory over an empty one
    fs::rename(x("full"), x("empty")).unwrap();
    assert!(x("empty/x").is_dir() && !x("full").exists());
    assert_eq!((nlink(""), nlink("empty")), (root - 1, 3));
    // Over an open file: who has it open keeps it.
    let mut old = fs::File::open(x("g")).unwrap();
    fs::rename(x("f"), x("g")).unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), old.metadata().unwrap().nlink()), ("g", 0));
    drop(old);
    assert_eq!(fs::read_to_string(x("g")).unwrap(), "f");
    // Between two names of one file nothing happens.
    fs::hard_link(x("g"), x("g2")).unwrap();
    fs::rename(x("g"), x("g2")).unwrap();
    assert_eq!(nlink("g"), 2);
    assert_kept(&mut d);
    assert_eq!((nlink("a"), nlink("empty"), nlink("g2")), (3, 3, 2));
}

#[test]
fn a_file_has_many_names_in_many_places() {
    let mut d = TestDrive::new();
    let m = d.mnt.clone();
    let n = if full() { 20_000 } else { 1500 };
    fs::write(m.join("f"), "one").unwrap();
    for i in 0..10 {
        fs::create_dir(m.join(format!("d{i}"))).unwrap();
    }
    let path = |i: usize| m.join(format!("d{}/l{i}", i % 10));
    for i in 0..n {
        fs::hard_link(m.join("f"), path(i)).unwrap();
        if i == n / 2 {
            d.sync();
        }
    }
    assert_eq!(stat(m.join("f")).nlink(), n as u64 + 1);
    assert_eq!(refused(fs::hard_link(m.join("d0"), m.join("d0/again"))), libc::EPERM);
    assert_kept(&mut d);
    // One file under all names.
    let ino = stat(m.join("f")).ino();
    fs::OpenOptions::new().append(true).open(path(n - 1)).unwrap().write_all(b" two").unwrap();
    assert_eq!(fs::read_to_string(path(3)).unwrap(), "one two");
    for i in (0..n).filter(|i| i % 3 != 0) {
        assert_eq!(stat(path(i)).ino(), ino);
        fs::remove_file(path(i)).unwrap();
    }
    fs::remove_file(m.join("f")).unwrap();
    fs::rename(path(0), m.join("f")).unwrap();
    assert_eq!(stat(m.join("f")).nlink(), n.div_ceil(3) as u64);
    assert_kept(&mut d);
    for i in (3..n).step_by(3) {
        fs::remove_file(path(i)).unwrap();
    }
    assert_eq!((stat(m.join("f")).nlink(), stat(m.join("f")).ino()), (1, ino));
    d.move_to_a_new_machine();
    assert_eq!(fs::read_to_string(m.join("f")).unwrap(), "one two");
    assert_eq!((stat(m.join("f")).nlink(), stat(m.join("f")).ino()), (1, ino));
}
