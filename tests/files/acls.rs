//! POSIX access control lists: kept true to the mode, handed down, and obeyed.

use crate::common::TestDrive;
use crate::sys::*;
use std::fs;
use std::path::Path;

/// A list as getfacl prints it, one entry a word.
fn acl(d: &TestDrive, path: &str) -> String {
    d.sh(&format!("getfacl -ncpE -- {path} | grep -v '^$' | tr '\\n' ' '")).trim().to_string()
}

fn may(path: &Path, uid: u32, gid: u32, groups: &[u32]) -> (bool, bool) {
    as_user(uid, gid, groups, || {
        (fs::read(path).is_ok(), fs::OpenOptions::new().write(true).open(path).is_ok())
    })
}

#[test]
fn lists_and_modes_stay_in_step() {
    let mut d = open_to_all("");
    d.sh("umask 022; echo x > f; setfacl -m u:1001:rw,g:2001:r,m::rwx f");
    assert_eq!(acl(&d, "f"), "user::rw- user:1001:rw- group::r-- group:2001:r-- mask::rwx other::r--");
    assert_eq!(perm(d.mnt.join("f")), 0o674, "the group bits show the mask");
    d.sh("chmod 640 f");
    assert_eq!(acl(&d, "f"), "user::rw- user:1001:rw- group::r-- group:2001:r-- mask::r-- other::---");
    assert_kept(&mut d);
    assert_eq!(acl(&d, "f"), "user::rw- user:1001:rw- group::r-- group:2001:r-- mask::r-- other::---");
    // A list that says no more than the mode is the mode.
    d.sh("setfacl -b f; setfacl -m u::rwx,g::rw,o::r f");
    assert_eq!(perm(d.mnt.join("f")), 0o764);
    assert_eq!(rustix::fs::llistxattr(d.mnt.join("f"), &mut [0u8; 100][..]), Ok(0));
    // What is no list is refused.
    let bad = rustix::fs::lsetxattr(
        d.mnt.join("f"),
        "system.posix_acl_access",
        b"\x02\0\0\0junk",
        rustix::fs::XattrFlags::empty(),
    );
    assert_eq!(bad, Err(Errno::INVAL));
    d.sh("! setfacl -d -m u:1001:r f 2>/dev/null; setfacl -k .; setfacl -b .");
}

#[test]
fn default_lists_are_handed_down() {
    let mut d = open_to_all("");
    d.sh(r#"
        umask 077
        mkdir top; setfacl -m d:u:1001:rwx,d:g:2001:rx,d:o::r top
        echo x > top/file; mkdir top/sub; echo y > top/sub/deep; mkfifo top/pipe; ln -s nowhere top/link
        install -m 600 /dev/null top/private"#);
    // The umask has no say where there is a default list; what the creator asked for has.
    assert_eq!(acl(&d, "top/file"), "user::rw- user:1001:rwx group::--- group:2001:r-x mask::rw- other::r--");
    assert_eq!(perm(d.mnt.join("top/file")), 0o664);
    assert!(acl(&d, "top/sub").contains("default:user:1001:rwx"));
    assert!(acl(&d, "top/sub/deep").contains("user:1001:rwx"));
    assert!(acl(&d, "top/pipe").contains("user:1001:rwx"));
    assert_eq!(perm(d.mnt.join("top/private")), 0o600);
    assert_kept(&mut d);
    assert!(acl(&d, "top/sub/deep").contains("group:2001:r-x"));
    d.sh("umask 027; setfacl -k top; echo z > top/after; [ $(stat -c %a top/after) = 640 ]");
    d.sh("mkdir t; cd t; setfacl -m d:u:1:r .; mkdir a; tar --acls -cf ../t.tar . ; mkdir ../u; tar --acls -C ../u -xpf ../t.tar; getfacl -R . > $T/1; cd ../u; getfacl -R . > $T/2; diff $T/1 $T/2");
}

#[test]
fn lists_are_obeyed() {
    let d = open_to_all("");
    let f = &d.mnt.join("f");
    d.sh("umask 077; echo x > f; setfacl -m u:1001:r,g:2001:rw f");
    assert_eq!(may(f, 1001, 1001, &[]), (true, false));
    assert_eq!(may(f, 1002, 1002, &[]), (false, false));
    assert_eq!(may(f, 1002, 2001, &[]), (true, true));
    assert_eq!(may(f, 1002, 1002, &[2001]), (true, true));
    d.sh("chmod g= f");
    assert_eq!(may(f, 1001, 1001, &[]), (false, false), "the mask is empty now");
    d.sh("setfacl -m m::rw f");
    assert_eq!(may(f, 1001, 2001, &[]), (true, false), "the user's entry comes before the group's");
    // Only the owner may change a list.
    let stranger =
        as_user(1001, 1001, &[], || rustix::fs::lremovexattr(f, "system.posix_acl_access").unwrap_err());
    assert_eq!(stranger, Errno::PERM);
}

#[test]
fn modes_owners_and_sticky_directories_are_obeyed() {
    let d = open_to_all("");
    d.sh("mkdir -m 1777 tmp; mkdir -m 755 mine; echo x > mine/f");
    let (tmp, mine) = (&d.mnt.join("tmp"), &d.mnt.join("mine"));
    as_user(1001, 1001, &[], || {
        fs::write(tmp.join("a"), "a").unwrap();
        assert_eq!(refused(fs::write(mine.join("new"), "")), libc::EACCES);
        assert_eq!(refused(fs::remove_file(mine.join("f"))), libc::EACCES);
        assert_eq!(refused(std::os::unix::fs::chown(tmp.join("a"), Some(0), None)), libc::EPERM);
    });
    as_user(1002, 1002, &[], || {
        assert_eq!(refused(fs::remove_file(tmp.join("a"))), libc::EPERM);
        assert_eq!(refused(fs::rename(tmp.join("a"), tmp.join("b"))), libc::EPERM);
        fs::write(tmp.join("c"), "").unwrap();
        assert_eq!(refused(fs::rename(tmp.join("c"), tmp.join("a"))), libc::EPERM);
    });
    as_user(1001, 1001, &[], || fs::remove_file(tmp.join("a")).unwrap());
}

/// Any user could take the rights of root's programs away: the request is the same as that before a write.
#[test]
fn who_may_not_write_a_file_takes_no_rights_from_it() {
    let d = open_to_all("");
    let file = d.mnt.join("program");
    fs::write(&file, "0123456789").unwrap();
    for mode in [0o4755, 0o6755, 0o2050] {
        chmod(&file, mode);
        let nothing = || drop(std::os::unix::fs::chown(&file, None, None));
        as_user(1001, 1001, &[], nothing);
        assert_eq!(perm(&file), mode, "of another user");
    }
    // Its owner does, as everywhere.
    std::os::unix::fs::chown(&file, Some(1001), Some(1001)).unwrap();
    chmod(&file, 0o4755);
    as_user(1001, 1001, &[], || std::os::unix::fs::chown(&file, None, None).unwrap());
    assert_eq!(perm(&file), 0o755);
}

#[test]
fn suid_and_sgid_go_when_they_must() {
    let mut d = open_to_all("");
    d.sh("mkdir -m 777 w");
    let w = &d.mnt.join("w");
    let fresh = |name: &str, mode: u32| {
        let path = w.join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, "0123456789").unwrap();
        std::os::unix::fs::chown(&path, Some(1001), Some(1001)).unwrap();
        chmod(&path, mode);
        path
    };
    // A write, a truncation, a hole by somebody without the right to keep them.
    let write = |p: &Path| rw(p).set_len(3).unwrap();
    let truncate = |p: &Path| fs::File::options().write(true).truncate(true).open(p).map(drop).unwrap();
    let append = |p: &Path| {
        use std::io::Write;
        fs::File::options().append(true).open(p).unwrap().write_all(b"x").unwrap();
    };
    let punch = |p: &Path| {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(rw(p), flags, 0, 5).unwrap();
    };
    type Way<'a> = &'a (dyn Fn(&Path) + Sync);
    let ways: [(&str, Way); 4] =
        [("set_len", &write), ("O_TRUNC", &truncate), ("append", &append), ("punch", &punch)];
    for (what, way) in ways {
        for (mode, left) in [(0o6777, 0o777), (0o2767, 0o2767), (0o4755, 0o755)] {
            let p = fresh("f", mode);
            as_user(1001, 1001, &[], || way(&p));
            assert_eq!(perm(&p), left, "{what} of {mode:o}");
        }
        let p = fresh("g", 0o6755);
        append(&p);
        assert_eq!(perm(&p), 0o6755, "root keeps them");
    }
    // A hole and a copy: the same, and where the group may not execute, sgid stays for its members only.
    let source = fresh("source", 0o644);
    let copy = |p: &Path| {
        let (from, to) = (fs::File::open(&source).unwrap(), rw(p));
        assert_eq!(rustix::fs::copy_file_range(from, None, to, None, 5).unwrap(), 5);
    };
    for (what, way) in [("punch", &punch as Way), ("copy", &copy)] {
        let p = fresh("member", 0o6666);
        as_user(1001, 1001, &[], || way(&p));
        assert_eq!(perm(&p), 0o2666, "{what} by a member");
        let p = fresh("stranger", 0o6666);
        as_user(1002, 1002, &[], || way(&p));
        assert_eq!(perm(&p), 0o666, "{what} by somebody else");
        let p = fresh(what, 0o6777);
        way(&p);
        assert_eq!(perm(&p), 0o6777, "{what} by root");
    }
    // chown takes them from files, and not from directories.
    let p = fresh("h", 0o6755);
    std::os::unix::fs::chown(&p, Some(1002), None).unwrap();
    assert_eq!(perm(&p), 0o755);
    // Also where it changes neither user nor group, as on the host.
    let host = &d.dir().join("host");
    for (mode, left) in [(0o6755, 0o755), (0o2745, 0o2745)] {
        fs::write(host, "").unwrap();
        for p in [fresh("k", mode), host.clone()] {
            chmod(&p, mode);
            std::os::unix::fs::chown(&p, None, None).unwrap();
            assert_eq!(perm(&p), left, "{mode:o} of {}", p.display());
        }
    }
    d.sh("mkdir -m 2775 w/team; chgrp 2001 w/team; chown 1001 w/team");
    assert_eq!(perm(w.join("team")), 0o2775, "a directory keeps its sgid when its group changes");
    // What is made in such a directory has its group; a directory is sgid itself.
    as_user(1001, 1001, &[2001], || {
        fs::write(w.join("team/f"), "").unwrap();
        fs::create_dir(w.join("team/sub")).unwrap();
    });
    use std::os::unix::fs::MetadataExt;
    assert_eq!((stat(w.join("team/f")).gid(), stat(w.join("team/sub")).gid()), (2001, 2001));
    assert_eq!(perm(w.join("team/sub")) & 0o2000, 0o2000);
    // An owner outside the group cannot set sgid.
    let p = fresh("i", 0o755);
    std::os::unix::fs::chown(&p, None, Some(2001)).unwrap();
    as_user(1001, 1001, &[], || chmod(&p, 0o2755));
    assert_eq!(perm(&p), 0o755);
    // File capabilities go with a change of the bytes.
    let p = fresh("cap", 0o755);
    let cap = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::lsetxattr(&p, "security.capability", &cap, rustix::fs::XattrFlags::empty()).unwrap();
    append(&p);
    assert_eq!(rustix::fs::lgetxattr(&p, "security.capability", &mut [0u8; 64][..]), Err(Errno::NODATA));
    assert_kept(&mut d);
}
