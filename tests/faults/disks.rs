//! Full disks, and stores that go away and come back.

use crate::common::{NACREFS, TestDrive, ok};
use crate::lab::*;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A small file system at a directory, as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(dir: &Path, size: &str) -> SmallDisk {
        fs::create_dir_all(dir).unwrap();
        let mut c = Command::new("mount");
        ok(c.args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "nacrefs-test"]).arg(dir).output());
        SmallDisk(dir.to_owned())
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut f = File::create(self.0.join("filler")).unwrap();
        let e = loop {
            if let Err(e) = f.write_all(&[1; 4096]) {
                break e;
            }
        };
        assert_eq!(e.raw_os_error(), Some(libc::ENOSPC));
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Writes files of 200 kB with an fsync each, until one fails or `most` are done. Returns those that were
/// acknowledged, and the error.
fn write_until_refused(d: &TestDrive, prefix: &str, most: usize) -> (usize, Option<std::io::Error>) {
    for n in 0..most {
        let write = || {
            let f = File::create(d.mnt.join(format!("{prefix}-{n}")))?;
            f.write_all_at(&noise(n as u64, 200_000), 0)?;
            f.sync_all()
        };
        if let Err(e) = write() {
            return (n, Some(e));
        }
    }
    (most, None)
}

#[track_caller]
fn all_there(d: &TestDrive, prefix: &str, n: usize) {
    for i in 0..n {
        let bytes = fs::read(d.mnt.join(format!("{prefix}-{i}"))).unwrap();
        assert!(bytes == noise(i as u64, 200_000), "{prefix}-{i}");
    }
}

#[test]
fn a_full_disk_under_the_state_directory_is_enospc_and_loses_nothing() {
    let mut d = TestDrive::unmounted("commit=3600,timeout=2");
    let disk = SmallDisk::at(&d.state, "24m");
    d.mount();
    let (before, none) = write_until_refused(&d, "early", 5);
    assert!(none.is_none());
    d.sh("for n in $(seq 100); do echo $n > spare-$n; done");
    disk.fill();
    let (acked, refused) = write_until_refused(&d, "late", 200);
    assert_eq!(refused.unwrap().raw_os_error(), Some(libc::ENOSPC), "after {acked}");
    all_there(&d, "early", before);
    all_there(&d, "late", acked);
    // Names can still be removed.
    d.sh("rm spare-*; ! ls spare-*");
    // The log is on the full disk as well, and that kills nobody.
    assert!(fs::write(d.mnt.join("refused"), noise(1, 3_000_000)).is_err());
    all_there(&d, "late", acked);
    // The store has room: a sync stores all that was taken, and so makes room in the journal.
    let said = on_mount(&d, &["sync"]);
    assert_eq!(said.exit, 0, "{said:?}");
    disk.make_room();
    let (more, none) = write_until_refused(&d, "after", 10);
    assert!(none.is_none(), "{none:?}");
    // Full again, and killed: all that was acknowledged is in the journal or the store.
    disk.fill();
    let (last, _) = write_until_refused(&d, "last", 200);
    d.kill();
    d.mount();
    all_there(&d, "early", before);
    all_there(&d, "late", acked);
    all_there(&d, "after", more);
    all_there(&d, "last", last);
    disk.make_room();
    d.umount();
    drop(disk);
    // From the store alone.
    fs::remove_dir_all(&d.state).unwrap();
    d.mount();
    all_there(&d, "late", acked);
    all_there(&d, "last", last);
    assert_eq!(run(d.nacrefs(&["check", "--read-data"]).arg(&d.store)).exit, 0);
}

/// A drive whose store is on a small disk of its own.
fn small_store(options: &str, size: &str) -> (TestDrive, SmallDisk) {
    let d = TestDrive::unmounted(options);
    fs::remove_dir_all(&d.store).unwrap();
    let disk = SmallDisk::at(d.store.parent().unwrap().join("small").as_path(), size);
    let inside = disk.0.join("store");
    ok(d.nacrefs(&["init"]).arg(&inside).output());
    std::os::unix::fs::symlink(&inside, &d.store).unwrap();
    (d, disk)
}

#[test]
fn a_full_disk_under_the_store_holds_writers_back_says_why_and_goes_on_when_there_is_room() {
    let (mut d, disk) = small_store("commit=1,timeout=2,journal=16M", "12m");
    d.mount();
    disk.fill();
    let log = LogTail::of(&d);
    let begun = Instant::now();
    let (acked, refused) = write_until_refused(&d, "full", 400);
    assert_eq!(refused.expect("the journal has an end").raw_os_error(), Some(libc::ENOSPC));
    assert!(acked > 20, "the journal takes what the store cannot: {acked}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    wait_until("status says why", || {
        status(&d)["last_error"].as_str().is_some_and(|e| e.contains("No space left"))
    });
    let text = log.text();
    assert!(text.contains("cannot commit") && text.contains("No space left"), "{text}");
    assert!(text.matches("cannot commit").count() < 40, "tried without rest: {text}");
    on_mount(&d, &["sync"]).one_line(&["No space left"]);
    let said = on_mount(&d, &["umount"]);
    assert_ne!(said.exit, 0);
    let _ = said.one_line(&["still mounted", "--local"]);
    all_there(&d, "full", acked);
    // Deleting still goes.
    fs::remove_file(d.mnt.join("full-0")).unwrap();
    fs::write(d.mnt.join("full-0"), noise(0, 200_000)).ok();

    // What the failed tries left behind must not have eaten the room for good.
    disk.make_room();
    ok(Command::new("mount").args(["-o", "remount,size=40m"]).arg(&disk.0).output());
    wait_until("it goes on by itself", || status(&d)["last_error"].is_null());
    let said = on_mount(&d, &["sync"]);
    assert_eq!(said.exit, 0, "{said:?}");
    let packs: u64 = d.store_bytes_below(&disk.0);
    assert!(packs < (acked as u64 + 4) * 200_000 * 3 / 2, "{packs} bytes for {acked} files");
    d.move_to_a_new_machine();
    for i in 1..acked {
        assert!(fs::read(d.mnt.join(format!("full-{i}"))).unwrap() == noise(i as u64, 200_000), "full-{i}");
    }
    d.umount();
    drop(disk);
}

/// It used to say what could not be made, and neither that the drive is still there nor what to do.
/// A version that had the removed file was tried for ever, though nobody wanted it any more.
/// What does not fit is taken away again, in one way or another; and nothing else need be done.
fn removed(large: &str, remove: &str) {
    let (mut d, disk) = small_store("commit=1,timeout=2,journal=200M", "40m");
    d.mount();
    fs::create_dir(d.mnt.join("kept")).unwrap();
    fs::write(d.mnt.join("kept/before"), noise(1, 100_000)).unwrap();
    d.sync();
    d.sh(large);
    wait_until("there is no room", || {
        status(&d)["last_error"].as_str().is_some_and(|e| e.contains("No space left"))
    });
    let said = on_mount(&d, &["status"]);
    assert!(!said.out.contains(", about"), "{said:?}");
    fs::write(d.mnt.join("kept/after"), noise(3, 100_000)).unwrap();
    d.sh(remove);
    wait_until("it goes on by itself", || status(&d)["last_error"].is_null());
    assert_eq!(on_mount(&d, &["sync"]).exit, 0);
    // Nor is anything left in the store of what was tried: a version may have come about before all of it was removed.
    let packs = objects(&d.store).iter().filter(|n| n.contains("/packs/")).count();
    let checked = run(d.nacrefs(&["check", "--json"]).arg(&d.store));
    assert!(checked.out.contains(&format!("\"packs\":{packs},")), "{packs} packs, {checked:?}: {remove}");
    d.move_to_a_new_machine();
    for (name, seed) in [("kept/before", 1), ("kept/after", 3)] {
        assert!(fs::read(d.mnt.join(name)).unwrap() == noise(seed, 100_000), "{name}");
    }
    d.umount();
    drop(disk);
}

const LARGE: &str = "head -c 60000000 /dev/urandom > large";

#[test]
fn what_is_removed_for_want_of_room_keeps_no_commit_back() {
    removed(LARGE, "exec 5< large; rm large");
}

#[test]
fn what_is_punched_out_for_want_of_room_keeps_no_commit_back() {
    removed(LARGE, "fallocate -p -l 60000000 large");
}

#[test]
fn attributes_that_are_removed_for_want_of_room_keep_no_commit_back() {
    let each = "import os, sys
for n in range(1000):
    name = f'f{n}'
    if sys.argv[1] == 'set':
        open(name, 'w').close()
        os.setxattr(name, 'user.large', os.urandom(60000))
    else:
        os.removexattr(name, 'user.large')
";
    removed(&format!("python3 -c \"{each}\" set"), &format!("python3 -c \"{each}\" remove"));
}

/// The usual temporary file has no name when it is written.
#[test]
fn a_file_without_a_name_that_is_closed_for_want_of_room_keeps_no_commit_back() {
    let hold = "(exec 5> large; rm large; head -c 60000000 /dev/urandom >&5; echo $BASHPID > ../holder; exec sleep 600) \
                >/dev/null 2>&1 & until [ -s ../holder ]; do sleep .1; done";
    removed(hold, "kill $(cat ../holder)");
}

#[test]
fn a_read_only_store_is_told_by_umount_which_leaves_the_drive_mounted() {
    let (mut d, disk) = small_store("commit=3600", "12m");
    d.mount();
    d.sh("echo kept > f");
    let remount = |how: &str| ok(Command::new("mount").args(["-o", how]).arg(&disk.0).output());
    remount("remount,ro");
    let said = on_mount(&d, &["umount"]);
    assert_eq!(said.exit, 1, "{said:?}");
    let _ = said.one_line(&["still mounted", "--local", "Read-only"]);
    assert_eq!(d.sh("cat f"), "kept\n");
    d.umount_local();
    remount("remount,rw");
    d.mount();
    assert_eq!(d.sh("cat f"), "kept\n");
    d.umount();
    drop(disk);
}

#[test]
fn a_store_that_goes_away_and_comes_back_loses_nothing() {
    let mut d = TestDrive::with("commit=1,timeout=5");
    fs::write(d.mnt.join("cached"), noise(1, 500_000)).unwrap();
    d.sync();
    assert!(fs::read(d.mnt.join("cached")).unwrap() == noise(1, 500_000));
    let away = d.dir().join("away");
    fs::rename(&d.store, &away).unwrap();
    let (written, none) = write_until_refused(&d, "while-away", 5);
    assert!(none.is_none(), "{none:?}");
    assert!(fs::read(d.mnt.join("cached")).unwrap() == noise(1, 500_000));
    all_there(&d, "while-away", written);
    on_mount(&d, &["sync"]).expect(4, &["gone"]);
    on_mount(&d, &["umount"]).expect(4, &["still mounted", "--local"]);
    all_there(&d, "while-away", written);
    let told = status(&d);
    assert!(told["online"] == false && told["last_error"].as_str().unwrap().contains("gone"), "{told}");
    assert!(told["dirty_bytes"].as_u64().unwrap() > 1_000_000, "{told}");
    assert!(!d.store.exists(), "nothing was written beside it");

    // It comes back: commits go on by themselves.
    fs::rename(&away, &d.store).unwrap();
    wait_until("it goes on by itself", || status(&d)["online"] == true);
    let said = on_mount(&d, &["sync"]);
    assert_eq!(said.exit, 0, "{said:?}");

    // Away again, and another copy of it comes back, as a disk that is mounted anew. Names can be made although
    // nobody has looked into the directory since the commit: a commit keeps the nodes that it wrote.
    fs::rename(&d.store, &away).unwrap();
    let (again, none) = write_until_refused(&d, "again", 3);
    assert!(none.is_none());
    fs::create_dir(&d.store).unwrap();
    on_mount(&d, &["sync"]).expect(4, &["put its own back"]);
    assert_eq!(fs::read_dir(&d.store).unwrap().count(), 0, "an empty mount point is not written to");
    fs::remove_dir(&d.store).unwrap();
    copy(&away, &d.store);
    fs::remove_dir_all(&away).unwrap();
    let said = on_mount(&d, &["sync"]);
    assert_eq!(said.exit, 0, "{said:?}");
    all_there(&d, "again", again);

    // And away for good, from this mount's side.
    assert!(fs::read_dir(&d.mnt).unwrap().count() > written + again);
    fs::rename(&d.store, &away).unwrap();
    let (rest, none) = write_until_refused(&d, "rest", 3);
    assert!(none.is_none());
    let said = on_mount(&d, &["umount", "--local"]);
    assert_eq!(said.exit, 0, "{said:?}");
    let out = Said::from(d.try_mount("commit=1"));
    assert!([4, 7].contains(&out.exit), "{out:?}");
    let _ = out.one_line(&["store"]);
    fs::rename(&away, &d.store).unwrap();
    d.mount();
    all_there(&d, "rest", rest);
    d.move_to_a_new_machine();
    for (prefix, n) in [("while-away", written), ("again", again), ("rest", rest)] {
        all_there(&d, prefix, n);
    }
    assert_eq!(run(Command::new(NACREFS).arg("umount").arg(&d.mnt)).exit, 0);
}

/// SIGXFSZ used to kill the daemon, and the log said nothing.
#[test]
fn a_limit_of_the_size_of_files_is_an_error_that_says_so_and_kills_nobody() {
    let mut d = TestDrive::unmounted("commit=3600");
    // In blocks of 512 or 1024 bytes: below the first file of a journal, and above it and below a later one.
    let limited = |d: &TestDrive, blocks: u32| {
        let mount = d.mount_command();
        let mut c = Command::new("bash");
        c.arg("-c").arg(format!("ulimit -c 0; ulimit -f {blocks}; exec \"$0\" \"$@\""));
        c.arg(mount.get_program()).args(mount.get_args());
        for (key, value) in mount.get_envs() {
            match value {
                Some(value) => c.env(key, value),
                None => c.env_remove(key),
            };
        }
        run(&mut c)
    };
    limited(&d, 2000).expect(1, &["ulimit -f"]);
    let said = limited(&d, 6000);
    assert_eq!(said.exit, 0, "{said:?}");
    let (acked, refused) = write_until_refused(&d, "limited", 100);
    assert!(refused.is_some() && acked > 5, "{acked} {refused:?}");
    all_there(&d, "limited", acked);
    assert!(fs::read_to_string(d.state.join("log")).unwrap().contains("ulimit -f"));
    d.kill();
    d.mount();
    all_there(&d, "limited", acked);
    d.umount();
}

/// The store was given up for good, with nothing changed on the full disk, and the error said that nothing was changed.
#[test]
fn an_accept_without_room_on_this_machine_changes_nothing_in_the_store() {
    let mut d = TestDrive::with("commit=3600");
    d.sh("echo old > f");
    d.sync();
    let old = d.dir().join("old-store");
    copy(&d.store, &old);
    d.sh("echo stored > f");
    d.sync();
    d.sh("echo precious > unstored");
    d.umount_local();
    fs::remove_dir_all(&d.store).unwrap();
    fs::rename(&old, &d.store).unwrap();
    let kept = d.dir().join("kept");
    fs::rename(&d.state, &kept).unwrap();
    let disk = SmallDisk::at(&d.state, "80m");
    d.sh_in(&kept, &format!("cp -a . {}", d.state.display()));
    disk.fill();
    let before = objects(&d.store);
    let accept = || run(d.nacrefs(&["accept", "--yes"]).arg(&d.store));
    let said = accept();
    assert!(said.exit == 1 && objects(&d.store) == before, "{said:?}");
    let _ = said.one_line(&["nothing was changed", "No space left"]);
    disk.make_room();
    let said = accept();
    assert!(said.exit == 0 && said.out.contains("before-accept-"), "{said:?}");
    assert!(!d.state.join("accepting.new").exists() && objects(&d.store).len() > before.len());
    d.mount();
    assert_eq!(d.sh("cat f"), "old\n");
    d.umount();
    drop(disk);
}
