//! Names and paths: any bytes, up to the limits.

use crate::common::TestDrive;
use crate::sys::*;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

#[test]
fn names_are_any_255_bytes() {
    let mut d = TestDrive::new();
    let every: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let mut names: Vec<Vec<u8>> = vec![
        every.clone(),
        every.iter().rev().copied().collect(),
        vec![0xff; 255],
        b" ".to_vec(),
        b"\n".to_vec(),
        b"...".to_vec(),
        b"..a".to_vec(),
        b".hidden".to_vec(),
        b"-rf".to_vec(),
        "\u{e9}".into(),
        "e\u{301}".into(), // the same letter, decomposed: another name
        "UPPER".into(),
        "upper".into(),
        vec![b'n'; 255],
    ];
    names.extend((1..=255u8).filter(|b| !b"/.".contains(b)).map(|b| vec![b]));
    let names: BTreeSet<_> = names.into_iter().collect();
    for n in &names {
        fs::write(d.mnt.join(name(n)), n).unwrap();
    }
    for what in ["at once", "after a remount", "from store and key"] {
        match what {
            "after a remount" => d.remount(),
            "from store and key" => d.move_to_a_new_machine(),
            _ => {}
        }
        let listed: Vec<_> = fs::read_dir(&d.mnt).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(listed.len(), names.len(), "{what}");
        let listed: BTreeSet<Vec<u8>> = listed.iter().map(|n| n.as_bytes().to_vec()).collect();
        assert_eq!(listed, names, "{what}");
        for n in &names {
            assert_eq!(&fs::read(d.mnt.join(name(n))).unwrap(), n, "{what}");
        }
    }
    let long = d.mnt.join("n".repeat(256));
    let there = d.mnt.join("UPPER");
    for (what, refusal) in [
        ("create", refused(fs::write(&long, ""))),
        ("mkdir", refused(fs::create_dir(&long))),
        ("stat", refused(fs::metadata(&long))),
        ("rename", refused(fs::rename(&there, &long))),
        ("link", refused(fs::hard_link(&there, &long))),
        ("symlink", refused(std::os::unix::fs::symlink("x", &long))),
        ("unlink", refused(fs::remove_file(&long))),
    ] {
        assert_eq!(refusal, libc::ENAMETOOLONG, "{what}");
    }
}

#[test]
fn paths_of_4095_bytes_and_trees_deeper_than_any_path() {
    let mut d = TestDrive::new();
    let root =
        |d: &TestDrive| openat(CWD, &d.mnt, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    // 15 names of 255 bytes and a slash each, and one that fills it up.
    let dir = "d".repeat(255) + "/";
    let mut path = String::new();
    let at = root(&d);
    for _ in 0..15 {
        path += &dir;
        rustix::fs::mkdirat(&at, &path, Mode::RWXU).unwrap();
    }
    path += &"f".repeat(4095 - path.len());
    assert_eq!(path.len(), 4095);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::io::write(openat(&at, &path, flags, Mode::RUSR).unwrap(), b"deep").unwrap();
    assert_eq!(openat(&at, format!("{path}f"), flags, Mode::RUSR).unwrap_err(), Errno::NAMETOOLONG);
    drop(at);
    d.remount();
    let mut got = [0; 9];
    assert_eq!(
        rustix::io::read(
            openat(root(&d), &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap(),
            &mut got
        ),
        Ok(4)
    );
    // Down, step by step, beyond what a path can say.
    let mut at = root(&d);
    let depth = 300;
    let step = "s".repeat(40);
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, &step, Mode::RWXU).unwrap();
        at = openat(&at, &step, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    drop(at);
    d.move_to_a_new_machine();
    let mut at = root(&d);
    for _ in 0..depth {
        at = openat(&at, &step, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    drop(at);
    d.sh("rm -rf ./*; [ -z \"$(ls -A)\" ]");
}
