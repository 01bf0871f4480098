//! The daemon's end, and what it tells about whom.

use crate::common::{NACREFS, TestDrive, ok};
use crate::lab::*;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

fn ended(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |s| s.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

#[test]
fn a_dead_mount_is_cleared_by_the_next_mount() {
    let mut d = TestDrive::with("commit=3600,flush=1");
    fs::write(d.mnt.join("file"), "x").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let pid = d.pid();
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait_until("the daemon dies", || ended(pid));
    wait_until("the mount is dead", || {
        fs::metadata(&d.mnt).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
    });
    on_mount(&d, &["status"]).expect(1, &["lost its daemon", "nacrefs"]);
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "x");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.lines().filter(|l| l.contains(d.mnt.to_str().unwrap())).count(), 1);
}

#[test]
fn sigterm_commits_or_leaves_the_rest_to_the_journal_and_ends_within_seconds() {
    for (store_away, open_file) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut d = TestDrive::with("commit=3600,flush=3600");
        fs::write(d.mnt.join("file"), noise(1, 700_000)).unwrap();
        let held = open_file.then(|| fs::File::open(d.mnt.join("file")).unwrap());
        let away = d.dir().join("away");
        if store_away {
            fs::rename(&d.store, &away).unwrap();
        }
        let pid = d.pid();
        let begun = Instant::now();
        unsafe { libc::kill(pid, libc::SIGTERM) };
        wait_until("the daemon ends", || ended(pid));
        println!("store away {store_away}, a file open {open_file}: {:?}", begun.elapsed());
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(d.mnt.to_str().unwrap()));
        drop(held);
        if store_away {
            fs::rename(&away, &d.store).unwrap();
        }
        let heads = objects(&d.store).iter().filter(|n| n.contains("/heads/")).count();
        assert_eq!(
            heads,
            if store_away { 1 } else { 2 },
            "what can be stored is, and the rest is in the journal"
        );
        d.mount();
        assert!(fs::read(d.mnt.join("file")).unwrap() == noise(1, 700_000));
    }
}

/// It used to be remembered: the umount after it, of whatever kind, committed nothing.
#[test]
fn a_local_umount_that_failed_is_not_remembered() {
    let mut d = TestDrive::with("commit=3600,flush=3600");
    let heads = |d: &TestDrive| objects(&d.store).iter().filter(|n| n.contains("/heads/")).count();
    fs::write(d.mnt.join("file"), "one").unwrap();
    let held = fs::File::open(d.mnt.join("file")).unwrap();
    on_mount(&d, &["umount", "--local"]).expect(6, &["in use"]);
    fs::write(d.mnt.join("file"), "two").unwrap();
    drop(held);
    let pid = d.pid();
    wait_until("the mount is free", || Command::new("umount").arg(&d.mnt).status().unwrap().success());
    wait_until("the daemon ends", || ended(pid));
    assert_eq!(heads(&d), 2, "everything is in the store");

    // And where it succeeds, the rest is in the journal alone.
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "two");
    fs::write(d.mnt.join("file"), "three").unwrap();
    d.umount_local();
    assert_eq!(heads(&d), 2);
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "three");
}

/// A daemon that stands still, as a network file system whose server hangs; goes on when this is dropped.
struct Hung(i32);

impl Hung {
    fn of(d: &TestDrive) -> Hung {
        let hung = Hung(d.pid());
        unsafe { libc::kill(hung.0, libc::SIGSTOP) };
        hung
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

/// No request fails, so it used to be in `status` alone.
#[test]
fn a_store_that_answers_nothing_is_told_and_so_is_its_answer() {
    let below = TestDrive::new();
    let mut d = TestDrive::unmounted("commit=1");
    copy(&d.store, &below.mnt.join("store"));
    d.store = below.mnt.join("store");
    d.mount();
    let log = LogTail::of(&d);
    let hung = Hung::of(&below);
    fs::write(d.mnt.join("file"), "kept").unwrap();
    fs::File::open(d.mnt.join("file")).unwrap().sync_all().unwrap();
    wait_until("the log tells of it", || log.text().contains("the store has answered nothing for 30 s"));
    let told = status(&d);
    assert_eq!(told["online"], false);
    assert!(told["last_error"].as_str().is_some_and(|e| e.contains("answers nothing")), "{told}");
    assert!(told["last_error_time"].is_string(), "{told}");
    assert!(!log.text().contains("answers again"));
    drop(hung);
    wait_until("the log tells that it is over", || log.text().contains("the store answers again"));
    d.sync();
    assert_eq!(status(&d)["online"], true);
    d.umount();
}

#[test]
fn the_log_names_no_file() {
    let mut d = TestDrive::with("commit=1,timeout=1");
    let at = |name: &str| d.mnt.join(format!("{MARK}-{name}"));
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("file"), noise(1, 400_000)).unwrap();
    fs::write(at("dir").join(format!("{MARK}-below")), "x").unwrap();
    d.sync();
    // The newest root directory stands in another pack: a drive without it is not mounted.
    fs::write(at("later"), "x").unwrap();
    d.sync();
    d.umount();
    // Every chunk of the first gone: whatever is asked for fails.
    for name in objects(&d.store).iter().filter(|n| n.contains("/packs/")) {
        let path = d.store.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let n = bytes.len();
        if n > 100_000 {
            bytes[20..n / 2].fill(0x55);
            fs::write(&path, &bytes).unwrap();
        }
    }
    let log = LogTail::of(&d);
    d.mount();
    let at = |name: &str| d.mnt.join(format!("{MARK}-{name}"));
    assert_eq!(fs::read(at("file")).unwrap_err().raw_os_error(), Some(libc::EIO));
    let _ = fs::read(at("dir").join(format!("{MARK}-below")));
    let _ = fs::read_dir(at("dir")).map(|dir| dir.count());
    fs::write(at("new"), "x").unwrap();
    let _ = fs::OpenOptions::new().append(true).open(at("file")).map(|mut f| {
        use std::io::Write;
        f.write_all(b"more")
    });
    for line in [&["cat"][..], &["cat", "--at", "99"], &["log"], &["cat", "--at", "1"]] {
        let said = run(Command::new(NACREFS).args(line).arg(at("file")));
        println!("{line:?}: {said:?}");
    }
    let _ = on_mount(&d, &["sync"]);
    let text = log.text();
    assert!(text.contains("ERROR") && text.contains("inode"), "{text}");
    assert!(!text.contains(MARK), "{text}");
    let _ = Command::new(NACREFS).arg("umount").arg("--local").arg(&d.mnt).output();
}

#[test]
fn secrets_stand_nowhere_that_others_can_look() {
    const SECRET: &str = "correct-horse-battery-staple-9472";
    let d = TestDrive::unmounted("commit=1");
    let (store, state) = (d.dir().join("by-passphrase"), d.dir().join("its-state"));
    let nacrefs = |line: &[&str]| {
        let mut c = Command::new(NACREFS);
        c.args(line).env("NACREFS_PASSPHRASE", SECRET).env("NACREFS_STATE_DIR", &state);
        c
    };
    ok(nacrefs(&["init"]).arg(&store).output());
    ok(nacrefs(&["mount"]).arg(&store).arg(&d.mnt).output());
    let pid = d.pid();
    for what in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{pid}/{what}")).unwrap();
        assert!(what == "cmdline" || !bytes.is_empty(), "there is something to look at");
        assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "/proc/{pid}/{what}");
    }
    let held = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(held.lines().any(|l| l.starts_with("Max core file size") && l.contains(" 0 ")), "{held}");
    ok(Command::new(NACREFS).arg("umount").arg(&d.mnt).output());
    for dir in [&state, &store] {
        for name in objects(dir) {
            let bytes = fs::read(dir.join(&name)).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{name}");
        }
    }
    let wrong = run(nacrefs(&["mount"]).arg(&store).arg(&d.mnt).env("NACREFS_PASSPHRASE", "wrong"));
    let _ = wrong.expect(3, &["passphrase is wrong"]);
}
