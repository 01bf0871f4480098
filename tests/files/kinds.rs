//! Sockets, fifos, devices, symbolic links.

use crate::common::TestDrive;
use crate::sys::*;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

#[test]
fn sockets_and_fifos_carry_bytes() {
    let mut d = TestDrive::new();
    let (sock, fifo) = (d.mnt.join("sock"), d.mnt.join("fifo"));
    let listener = UnixListener::bind(&sock).unwrap();
    let client = std::thread::spawn({
        let sock = sock.clone();
        move || UnixStream::connect(sock).unwrap().write_all(b"over the socket").unwrap()
    });
    let mut got = String::new();
    listener.accept().unwrap().0.read_to_string(&mut got).unwrap();
    client.join().unwrap();
    assert_eq!(got, "over the socket");

    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, "through the pipe").unwrap()
    });
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "through the pipe");
    writer.join().unwrap();
    assert!(stat(&sock).file_type().is_socket() && stat(&fifo).file_type().is_fifo());
    assert_eq!(stat(&fifo).size(), 0);
    drop(listener);
    assert_kept(&mut d);
    assert!(stat(&sock).file_type().is_socket() && stat(&fifo).file_type().is_fifo());
    assert_eq!(refused(UnixStream::connect(&sock)), libc::ECONNREFUSED);
}

#[test]
fn devices_keep_their_numbers_and_work() {
    let mut d = TestDrive::new();
    let mode = Mode::from_raw_mode(0o666);
    let nodes = [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("zero", FileType::CharacterDevice, makedev(1, 5)),
        ("big", FileType::BlockDevice, makedev(0xfff, 0xfffff)),
        ("whiteout", FileType::CharacterDevice, 0),
    ];
    for (name, kind, dev) in nodes {
        mknodat(CWD, d.mnt.join(name), kind, mode, dev).unwrap();
    }
    assert_kept(&mut d);
    for (name, _, dev) in nodes {
        assert_eq!(stat(d.mnt.join(name)).rdev(), dev, "{name}");
    }
    fs::write(d.mnt.join("null"), "gone").unwrap();
    let mut zeros = [7; 10];
    fs::File::open(d.mnt.join("zero")).unwrap().read_exact(&mut zeros).unwrap();
    assert_eq!(zeros, [0; 10]);
}

#[test]
fn symbolic_links_hold_up_to_4095_bytes_of_anything() {
    let mut d = TestDrive::new();
    let targets: Vec<Vec<u8>> =
        vec![b"x".to_vec(), vec![b'a'; 4095], (1..=255).collect(), b"../../etc/passwd".to_vec()];
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    for (i, t) in targets.iter().enumerate() {
        let path = d.mnt.join(format!("l{i}"));
        symlink(OsStr::from_bytes(t), &path).unwrap();
        assert_eq!(stat(&path).size(), t.len() as u64);
        assert_eq!(perm(&path), 0o777);
    }
    assert_eq!(refused(symlink("a".repeat(4096), d.mnt.join("long"))), libc::ENAMETOOLONG);
    assert_eq!(refused(symlink("", d.mnt.join("empty"))), libc::ENOENT);
    symlink("loop", d.mnt.join("loop")).unwrap();
    assert_eq!(refused(fs::read(d.mnt.join("loop"))), libc::ELOOP);
    assert_kept(&mut d);
    for (i, t) in targets.iter().enumerate() {
        assert_eq!(fs::read_link(d.mnt.join(format!("l{i}"))).unwrap().as_os_str().as_bytes(), t);
    }
}
