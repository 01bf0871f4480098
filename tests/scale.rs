//! A drive of ten million files, one directory of a million among them: made by the drive's core, without a mount, then
//! mounted, used and checked. `NACREFS_TEST_FULL=1` makes that many; else a hundredth.

mod common;
use common::{TestDrive, full};
use nacrefs::commit::FileKind;
use nacrefs::crypt::Secret;
use nacrefs::drive::types::{Caller, New, Wait};
use nacrefs::drive::{Drive, Settings};
use nacrefs::session::{self, Opening, Site, StateDir};
use nacrefs::types::Ino;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Files in a directory, and such directories in one above it.
const EACH: u64 = 1000;

/// The drive's memory when it is mounted, in MiB.
const MEMORY: u64 = 256;

/// How many files there are in small directories, and in the large one.
fn sizes() -> (u64, u64) {
    if full() { (9_000_000, 1_000_000) } else { (90_000, 10_000) }
}

fn make(drive: &Drive, dir: Ino, name: &str, kind: FileKind) -> Ino {
    let caller = Caller { uid: 0, gid: 0, umask: 0 };
    let new = New { kind, perm: 0o755, rdev: 0, target: b"" };
    drive.make(Wait::yes(), &caller, dir, name.as_bytes(), &new).unwrap().ino
}

/// Makes files by number, each with its number in it, and lets go of them.
fn fill(drive: &Drive, dir: Ino, files: std::ops::Range<u64>) {
    for n in files {
        let ino = make(drive, dir, &format!("file-{n}"), FileKind::File);
        drive.write(Wait::yes(), ino, 0, text(n).as_bytes(), false, false).unwrap();
        drive.forget(ino, 1);
    }
}

fn text(n: u64) -> String {
    format!("file {n}\n").repeat(1 + n as usize % 20)
}

/// The file with a number, among those in small directories.
fn path(n: u64) -> PathBuf {
    let dir = n / EACH;
    format!("{}/{dir}/file-{n}", dir / EACH).into()
}

/// Makes the drive, as fast as its core can.
fn build(d: &TestDrive) {
    let (small, large) = sizes();
    let secret = Secret::from_key_file(&fs::read(&d.key).unwrap()).unwrap();
    let site = Site::unlock(&format!("file://{}", d.store.display()), &secret).unwrap();
    let settings = Settings::within(1 << 30);
    let opening = Opening {
        site,
        state: StateDir::open(&d.state).unwrap(),
        settings,
        store_dir: Some(d.store.clone()),
        cache: 0,
    };
    let (drive, _) = session::open(opening).unwrap();
    let begun = Instant::now();
    let big = make(&drive, drive.root(), "large", FileKind::Directory);
    for from in (0..large).step_by(100_000) {
        fill(&drive, big, from..large.min(from + 100_000));
        drive.commit_all().unwrap();
    }
    let mut above = 0;
    for dir in 0..small / EACH {
        if dir % EACH == 0 {
            above = make(&drive, drive.root(), &format!("{}", dir / EACH), FileKind::Directory);
        }
        let below = make(&drive, above, &format!("{dir}"), FileKind::Directory);
        fill(&drive, below, dir * EACH..(dir + 1) * EACH);
        drive.forget(below, 1);
        if dir % 100 == 99 {
            drive.commit_all().unwrap();
        }
    }
    drive.commit_all().unwrap();
    println!("{} files made in {:.0} s", small + large, begun.elapsed().as_secs_f64());
}

/// A figure of the daemon's memory, in MiB.
fn memory(d: &TestDrive, what: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", d.pid())).unwrap();
    let line = text.lines().find(|l| l.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn a_drive_of_millions_of_files_is_mounted_used_and_checked_within_its_memory() {
    let (small, large) = sizes();
    let mut d = TestDrive::unmounted(&format!("commit=3600,memory={MEMORY}M"));
    build(&d);
    println!("{} MiB in the store", d.store_bytes() / MIB);
    let timed = |what: &str, begun: Instant| println!("{what}: {:.2} s", begun.elapsed().as_secs_f64());

    let begun = Instant::now();
    d.mount();
    timed("mount", begun);
    assert!(begun.elapsed() < Duration::from_secs(5), "a mount reads more than it must");

    let begun = Instant::now();
    for i in 0..1000 {
        let n = i * 7919 * 7919 % small;
        assert_eq!(fs::read_to_string(d.mnt.join(path(n))).unwrap(), text(n));
    }
    timed("1,000 files anywhere", begun);

    let begun = Instant::now();
    assert_eq!(fs::read_dir(d.mnt.join("large")).unwrap().count() as u64, large);
    timed("ls of the large directory", begun);

    // What a change costs does not depend on what else there is.
    let (at, before) = (d.mnt.join(path(small / 2)), d.store_bytes());
    let begun = Instant::now();
    fs::write(&at, "changed\n").unwrap();
    fs::write(d.mnt.join("large/new"), "new\n").unwrap();
    fs::rename(d.mnt.join("0/1"), d.mnt.join("moved")).unwrap();
    d.sync();
    timed("three changes, stored", begun);
    let cost = d.store_bytes() - before;
    assert!(cost <= 192 << 10, "three changes took {cost} bytes");

    let begun = Instant::now();
    assert_eq!(d.sh("find moved large -type f | wc -l").trim().parse::<u64>().unwrap(), EACH + large + 1);
    timed("find in the large directory", begun);

    let (peak, now) = (memory(&d, "VmHWM:"), memory(&d, "VmRSS:"));
    println!("memory: at most {peak} MiB, now {now} MiB");
    assert!(peak <= MEMORY + 64, "{peak} MiB of {MEMORY}");

    d.move_to_a_new_machine();
    assert_eq!(fs::read_to_string(&at).unwrap(), "changed\n");
    let entry = fs::metadata(d.mnt.join("moved/file-1234")).unwrap();
    assert_eq!(entry.size(), text(1234).len() as u64);
    d.umount();
    let begun = Instant::now();
    common::ok(d.nacrefs(&["check"]).arg(&d.store).output());
    timed("check", begun);
}
