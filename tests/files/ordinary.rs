//! A drive of an ordinary user, mounted by way of fusermount3.

use crate::common::NACREFS;
use crate::sys::*;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Users that every Debian has, with names that fusermount3 can find.
const USER: (u32, u32) = (65_534, 65_534); // nobody
const OTHER: (u32, u32) = (1, 1); // daemon

fn run(home: &Path, (uid, gid): (u32, u32), script: &str) -> (bool, String) {
    let mut c = Command::new("bash");
    c.args(["-euc", script]).current_dir(home).stdin(Stdio::null()).env_clear();
    c.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", home).env("LC_ALL", "C");
    c.env("N", home.join("bin/nacrefs")).env("M", home.join("mnt")).uid(uid).gid(gid);
    let out = c.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (out.status.success(), text)
}

fn needs_fuse_for_all() {
    assert_eq!(perm("/dev/fuse"), 0o666, "only root may mount here: run tests/run, or chmod 666 /dev/fuse");
}

/// Takes the mount away whatever happened.
struct Cleanup<'a>(&'a Path);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).stderr(Stdio::null()).status();
    }
}

#[test]
fn an_ordinary_user_has_a_drive_of_their_own() {
    let dir = tempfile::Builder::new().prefix("nacre-test-").tempdir().unwrap();
    let home = dir.path();
    needs_fuse_for_all();
    chmod(home, 0o755);
    for sub in ["bin", "mnt", "."] {
        let _ = fs::create_dir(home.join(sub));
        chown(home.join(sub), Some(USER.0), Some(USER.1)).unwrap();
    }
    fs::copy(NACREFS, home.join("bin/nacrefs")).unwrap();
    chmod(home.join("bin/nacrefs"), 0o755);
    let mnt = home.join("mnt");
    let _cleanup = Cleanup(&mnt);
    let ok = |script: &str| {
        let (ok, text) = run(home, USER, script);
        assert!(ok, "{script}\n{text}");
        text
    };

    ok("$N mount $M");
    ok(
        "cd $M; mkdir -p a/b; echo text > a/b/f; ln a/b/f a/l; chmod 4755 a/b/f; setfattr -n user.x -v y a/b/f; git init -q r",
    );
    ok("$N status $M; $N sync $M; df $M >/dev/null; findmnt -no OPTIONS $M | grep nosuid | grep -q nodev");
    ok("[ $(stat -c %u:%g $M) = 65534:65534 ]");

    // Nobody else gets in: neither another user, nor root.
    for (who, what) in [(OTHER, "ls $M"), (OTHER, "cat $M/a/l"), ((0, 0), "cat $M/a/l")] {
        let (ok, text) = run(home, who, what);
        assert!(!ok && text.contains("Permission denied"), "{who:?}: {text}");
    }
    // Nor to its control, its key, its journal; nor can they unmount it.
    for what in [
        "$N sync $M",
        "$N umount $M",
        "fusermount3 -u $M",
        "cat .config/nacrefs/key",
        "ls .local/state/nacrefs/*",
    ] {
        let (ok, text) = run(home, OTHER, what);
        assert!(!ok, "{what}: {text}");
    }
    ok("cat $M/a/l | grep -qx text");

    // suid has no effect, and devices cannot be made.
    ok("cp /usr/bin/id $M/id; chmod 4755 $M/id; [ $($M/id -u) = 65534 ]; ! mknod $M/null c 1 3 2>/dev/null");
    // Files cannot be given away.
    ok("! chown 1 $M/a/l 2>/dev/null; ! chgrp 1 $M/a/l 2>/dev/null");

    ok("$N umount $M; [ -z \"$(ls -A $M)\" ]");
    ok("$N mount $M; [ $(cat $M/a/l) = text ]; [ $(stat -c %h:%a $M/a/b/f) = 2:4755 ]");
    ok("getfattr --only-values -n user.x $M/a/b/f | grep -qx y");
    ok("fusermount3 -u $M; for i in $(seq 100); do findmnt $M >/dev/null || exit 0; sleep .1; done; exit 1");
    // The store and the key belong to them alone.
    ok("[ -z \"$(find .local .config -perm /077 -type f)\" ]");
}

#[test]
fn suid_and_devices_of_a_root_drive_have_no_effect_for_a_user() {
    // What root made on a drive (a suid program, a device) is only a file where its user mounts it.
    let dir = tempfile::Builder::new().prefix("nacre-test-").tempdir().unwrap();
    let home = dir.path();
    needs_fuse_for_all();
    chmod(home, 0o755);
    for sub in ["bin", "mnt"] {
        fs::create_dir(home.join(sub)).unwrap();
    }
    fs::copy(NACREFS, home.join("bin/nacrefs")).unwrap();
    let mnt = home.join("mnt");
    let _cleanup = Cleanup(&mnt);
    let make = "echo 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef > key
        export NACREFS_STATE_DIR=$HOME/state; $N init --key-file key store >/dev/null; $N mount --key-file key store $M
        cp /usr/bin/id $M/id; chmod 4755 $M/id; mknod -m 666 $M/null c 1 3; $N umount $M
        rm -rf state; chown -R 65534:65534 . ";
    let (ok, text) = run(home, (0, 0), make);
    assert!(ok, "{text}");
    let (ok, text) = run(
        home,
        USER,
        "export NACREFS_STATE_DIR=$HOME/state; $N mount --key-file key store $M
         [ $($M/id -u) = 65534 ]; [ $(stat -c %a%F $M/null) = '666character special file' ] || [ -c $M/null ]
         ! echo x 2>/dev/null > $M/null; $N umount $M",
    );
    assert!(ok, "{text}");
}
