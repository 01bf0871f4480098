//! Extended attributes.

use crate::common::TestDrive;
use crate::sys::*;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr};
use std::fs;
use std::path::Path;

fn set(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    lsetxattr(path, name, value, XattrFlags::empty())
}

fn get(path: &Path, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut buf = vec![0; 70_000];
    let n = lgetxattr(path, name, &mut buf[..])?;
    buf.truncate(n);
    Ok(buf)
}

fn list(path: &Path) -> Vec<String> {
    let mut buf = vec![0; 70_000];
    let n = llistxattr(path, &mut buf[..]).unwrap();
    let names = buf[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    names.map(|n| String::from_utf8(n.to_vec()).unwrap()).collect()
}

#[test]
fn attributes_are_made_replaced_removed_and_listed() {
    let mut d = TestDrive::new();
    let f = &d.mnt.join("f");
    fs::write(f, "x").unwrap();
    fs::create_dir(d.mnt.join("dir")).unwrap();
    std::os::unix::fs::symlink("f", d.mnt.join("link")).unwrap();

    lsetxattr(f, "user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(lsetxattr(f, "user.a", b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    lsetxattr(f, "user.a", b"22", XattrFlags::REPLACE).unwrap();
    assert_eq!(lsetxattr(f, "user.b", b"2", XattrFlags::REPLACE), Err(Errno::NODATA));
    let both = XattrFlags::CREATE | XattrFlags::REPLACE;
    assert_eq!(lsetxattr(f, "user.a", b"3", both), Err(Errno::EXIST));
    assert_eq!(lsetxattr(f, "user.b", b"3", both), Err(Errno::NODATA));
    set(f, "user.empty", b"").unwrap();
    set(f, "user.gone", b"x").unwrap();
    lremovexattr(f, "user.gone").unwrap();
    assert_eq!(lremovexattr(f, "user.gone"), Err(Errno::NODATA));
    // An access list that is not there is the mode's own: ext4 removes it.
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        assert_eq!(lremovexattr(d.mnt.join("dir"), name), Ok(()), "{name}");
    }
    set(f, "security.nacre-test", b"s").unwrap();
    set(f, "trusted.t", b"t").unwrap();
    set(&d.mnt.join("dir"), "user.on.dir", &noise(1, 3000)).unwrap();
    set(&d.mnt.join("link"), "trusted.on.link", b"t").unwrap();
    assert_eq!(set(&d.mnt.join("link"), "user.on.link", b"t"), Err(Errno::PERM));

    // Sizes: asked for, too small a buffer, the greatest, too great.
    set(f, "user.large", &noise(2, 65_536)).unwrap();
    assert_eq!(set(f, "user.large", &noise(2, 65_537)), Err(Errno::TOOBIG));
    assert_eq!(rustix::fs::lgetxattr_query(f, "user.large"), Ok(65_536));
    assert_eq!(lgetxattr(f, "user.large", &mut [0u8; 100][..]), Err(Errno::RANGE));
    assert_eq!(llistxattr(f, &mut [0u8; 3][..]), Err(Errno::RANGE));
    assert_eq!(set(f, &format!("user.{}", "n".repeat(250)), b""), Ok(()));
    assert_eq!(set(f, &format!("user.{}", "n".repeat(251)), b""), Err(Errno::RANGE));

    assert_kept(&mut d);
    assert_eq!(get(f, "user.a").unwrap(), b"22");
    assert_eq!(get(f, "user.empty").unwrap(), b"");
    assert_eq!(get(f, "user.large").unwrap(), noise(2, 65_536));
    assert_eq!(get(f, "trusted.t").unwrap(), b"t");
    assert_eq!(get(f, "user.gone"), Err(Errno::NODATA));
}

#[test]
fn a_full_set_of_attributes_can_still_be_replaced() {
    let d = TestDrive::new();
    let f = &d.mnt.join("f");
    fs::write(f, "").unwrap();
    let mut n = 0;
    while set(f, &format!("user.n{n}"), &noise(n, 65_536)).is_ok() {
        n += 1;
    }
    assert!(n >= 15, "{n}");
    assert_eq!(set(f, "user.one.more", &noise(n, 65_536)), Err(Errno::NOSPC));
    set(f, "user.n0", &noise(99, 65_536)).unwrap();
    assert_eq!(get(f, "user.n0").unwrap(), noise(99, 65_536));
    d.sync();
    lremovexattr(f, "user.n1").unwrap();
    set(f, "user.one.more", &noise(n, 65_536)).unwrap();
}

#[test]
fn names_outside_the_known_spaces_are_refused() {
    let d = TestDrive::new();
    let f = &d.mnt.join("f");
    fs::write(f, "").unwrap();
    for name in ["plain", "system.other", "users.x", "os2.x", ""] {
        let refused = set(f, name, b"x").unwrap_err();
        assert!(matches!(refused, Errno::OPNOTSUPP | Errno::RANGE | Errno::INVAL), "{name}: {refused}");
    }
    assert_eq!(list(f), Vec::<String>::new());
}

#[test]
fn trusted_attributes_are_for_root_alone() {
    let d = open_to_all("");
    let f = &d.mnt.join("f");
    fs::write(f, "").unwrap();
    chmod(f, 0o666);
    set(f, "trusted.t", b"t").unwrap();
    set(f, "user.u", b"u").unwrap();
    assert_eq!(list(f).len(), 2);
    as_user(1000, 1000, &[], || {
        assert_eq!(list(f), ["user.u"]);
        assert_eq!(get(f, "trusted.t"), Err(Errno::NODATA));
        assert_eq!(set(f, "trusted.t", b"x"), Err(Errno::PERM));
        assert_eq!(set(f, "security.nacre-test", b"x"), Err(Errno::PERM));
        assert_eq!(set(f, "user.u", b"changed"), Ok(()));
    });
    chmod(f, 0o644);
    as_user(1000, 1000, &[], || {
        assert_eq!(set(f, "user.u", b"x"), Err(Errno::ACCESS));
        assert_eq!(get(f, "user.u").unwrap(), b"changed");
    });
    assert_eq!(get(f, "trusted.t").unwrap(), b"t");
}

#[test]
fn our_own_attributes_answer_and_are_never_listed() {
    let mut d = TestDrive::new();
    let f = &d.mnt.join("f");
    fs::write(f, "x").unwrap();
    d.sync();
    assert_eq!(get(f, "nacre.state").unwrap(), b"stored");
    assert!(String::from_utf8(get(f, "nacre.version").unwrap()).unwrap().parse::<u64>().unwrap() > 0);
    fs::write(f, "y").unwrap();
    assert!(list(f).is_empty() && list(&d.mnt).is_empty());
    assert_eq!(set(f, "nacre.state", b"x"), Err(Errno::PERM));
    assert_eq!(set(f, "nacre.mine", b"x"), Err(Errno::PERM));
    assert_eq!(lremovexattr(f, "nacre.state"), Err(Errno::PERM));
    assert_eq!(get(f, "nacre.nothing"), Err(Errno::NODATA));
    assert_kept(&mut d);
}

#[test]
fn the_past_has_a_name_that_is_never_listed() {
    let mut d = TestDrive::new();
    let h = d.mnt.join(".history");
    assert_eq!(refused(fs::create_dir(&h)), libc::EEXIST);
    assert_eq!(refused(fs::write(&h, "x")), libc::EEXIST);
    assert_eq!(refused(fs::metadata(&h)), libc::ENOENT);
    assert_eq!(refused(std::os::unix::fs::symlink("x", &h)), libc::EEXIST);
    fs::create_dir(d.mnt.join("d")).unwrap();
    fs::write(d.mnt.join("f"), "").unwrap();
    assert_eq!(refused(fs::rename(d.mnt.join("d"), &h)), libc::EEXIST);
    assert_eq!(refused(fs::hard_link(d.mnt.join("f"), &h)), libc::EEXIST);
    let mut seen: Vec<_> = fs::read_dir(&d.mnt).unwrap().map(|e| e.unwrap().file_name()).collect();
    seen.sort();
    assert_eq!(seen, ["d", "f"]);
    // In other directories it is a name like any other.
    fs::create_dir(d.mnt.join("d/.history")).unwrap();
    fs::rename(d.mnt.join("f"), d.mnt.join("d/.history/f")).unwrap();
    assert_kept(&mut d);
}
