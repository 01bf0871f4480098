//! Index runs that are damaged or missing while every pack is whole: nothing is lost, and the next commit mends it.

use crate::common::{NACREFS, TestDrive};
use crate::lab::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the log says, once, when a part of the index cannot be read.
const TOLD: &str = "looked up in the packs instead";

/// A furnished drive whose index has several runs; not mounted any more.
fn with_several_runs() -> (TestDrive, Tree) {
    let (mut d, _) = furnished();
    d.mount();
    for n in 0..2 {
        fs::write(d.mnt.join(format!("{MARK}-late-{n}")), noise(40 + n, 30_000)).unwrap();
        d.sync();
    }
    let tree = tree(&d.mnt);
    d.umount();
    (d, tree)
}

fn check(d: &TestDrive, data: bool) -> Said {
    let mut c = d.nacrefs(&["check", "--json"]);
    if data {
        c.arg("--read-data");
    }
    run(c.arg(&d.store))
}

/// The store and the state of the machine that made it, to come back to.
struct Kept {
    store: PathBuf,
    state: PathBuf,
}

impl Kept {
    fn of(d: &TestDrive) -> Kept {
        let kept = Kept { store: d.dir().join("kept-store"), state: d.dir().join("kept-state") };
        copy(&d.store, &kept.store);
        copy(&d.state, &kept.state);
        kept
    }

    fn back(&self, d: &TestDrive) {
        for (from, to) in [(&self.store, &d.store), (&self.state, &d.state)] {
            if to.exists() {
                fs::remove_dir_all(to).unwrap();
            }
            copy(from, to);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Missing,
    Empty,
    Cut,
    Flipped,
}

impl Fault {
    const ALL: [Fault; 4] = [Fault::Missing, Fault::Empty, Fault::Cut, Fault::Flipped];

    fn strike(self, object: &Path) {
        let mut bytes = fs::read(object).unwrap();
        let middle = bytes.len() / 2;
        match self {
            Fault::Missing => return fs::remove_file(object).unwrap(),
            Fault::Empty => bytes.clear(),
            Fault::Cut => bytes.truncate(middle),
            Fault::Flipped => bytes[middle] ^= 1,
        }
        fs::write(object, bytes).unwrap();
    }
}

/// Mounts, with or without what the machine knew.
fn begin(d: &mut TestDrive, fresh: bool) -> LogTail {
    if fresh && d.state.exists() {
        fs::remove_dir_all(&d.state).unwrap();
    }
    let log = LogTail::of(d);
    d.mount();
    log
}

fn told(log: &LogTail) -> usize {
    log.text().matches(TOLD).count()
}

/// With parts of the index damaged: all is read, told once, and mended by the next commit of this machine.
fn mended(d: &mut TestDrive, want: &Tree, runs: &[&String], fresh: bool, what: &str) {
    let names = |said: &Said| runs.iter().all(|run| said.out.contains(run.rsplit('/').next().unwrap()));
    let found = check(d, true);
    assert!(found.exit == 5 && names(&found), "{what}: {found:?}");

    let log = begin(d, fresh);
    assert!(tree(&d.mnt) == *want, "{what}: the tree is another");
    wait_until("the damage is told", || told(&log) > 0);
    assert!(tree(&d.mnt) == *want, "{what}: the tree is another, later");
    let found = check(d, false);
    assert!(found.exit == 5 && names(&found), "{what}: reading mends nothing: {found:?}");

    fs::write(d.mnt.join("after"), noise(99, 50_000)).unwrap();
    d.sync();
    let found = check(d, true);
    assert_eq!(found.exit, 0, "{what}: {found:?}");
    fs::write(d.mnt.join("after"), noise(98, 60_000)).unwrap();
    d.sync();
    let now = tree(&d.mnt);
    assert_eq!(now.len(), want.len() + 1);
    d.umount();
    assert_eq!(told(&log), 1, "{what}: {}", log.text());
    assert!(!log.text().contains(MARK) && !log.text().contains("panicked"), "{what}: {}", log.text());

    let log = begin(d, true);
    assert!(tree(&d.mnt) == now, "{what}: the tree is another on the next machine");
    d.umount();
    assert_eq!(told(&log), 0, "{what}: {}", log.text());
    let found = check(d, true);
    assert_eq!(found.exit, 0, "{what}: {found:?}");
}

#[test]
fn a_damaged_index_run_costs_nothing_and_is_mended_by_the_next_commit() {
    let (mut d, want) = with_several_runs();
    let kept = Kept::of(&d);
    let live = index_runs(&d);
    assert!(live.len() > 1, "{live:?}");
    for (n, run) in live.iter().enumerate() {
        for (m, fault) in Fault::ALL.into_iter().enumerate() {
            // The machine that made them knows their entries itself: it only looks whether they are there. One that
            // is new finds everything.
            let machines = [true, false].into_iter().filter(|fresh| match (fault, fresh) {
                (Fault::Flipped, fresh) => *fresh,
                (_, fresh) => full() || *fresh == ((n + m) % 2 == 0),
            });
            for fresh in machines {
                fault.strike(&d.store.join(run));
                mended(&mut d, &want, &[run], fresh, &format!("{run} {fault:?}, fresh: {fresh}"));
                kept.back(&d);
            }
        }
    }

    // All of them at once; and for a tool that has no state directory at all.
    let all: Vec<&String> = live.iter().collect();
    all.iter().for_each(|run| Fault::Missing.strike(&d.store.join(run)));
    let mut c = Command::new(NACREFS);
    c.args(["cat", "--store"]).arg(&d.store).arg(format!("/{MARK}-late-1")).arg("--key-file").arg(&d.key);
    let out = c.env("NACREFS_STATE_DIR", d.dir().join("no-state")).output().unwrap();
    assert!(out.status.success() && out.stdout == noise(41, 30_000), "{:?}", out.stderr);
    mended(&mut d, &want, &all, true, "all of the index missing");
}

#[test]
fn a_read_only_mount_reads_everything_without_the_index_and_changes_nothing() {
    let (mut d, want) = with_several_runs();
    for name in objects(&d.store).iter().filter(|name| name.contains("/index/")) {
        Fault::Missing.strike(&d.store.join(name));
    }
    fs::remove_dir_all(&d.state).unwrap();
    let before = objects(&d.store);
    assert!(d.try_mount("ro").status.success());
    assert!(tree(&d.mnt) == want);
    d.umount();
    assert_eq!(objects(&d.store), before);
    assert_eq!(check(&d, false).exit, 5);
}

#[test]
fn bytes_behind_the_end_of_an_index_run_are_found() {
    let (d, _) = with_several_runs();
    let live = index_runs(&d);
    for name in objects(&d.store).iter().filter(|name| name.contains("/index/")) {
        let _bent = Bent::keep(&d.store, name);
        let mut longer = fs::read(d.store.join(name)).unwrap();
        longer.extend_from_slice(&[7; 5000]);
        fs::write(d.store.join(name), longer).unwrap();
        let said = check(&d, false);
        // Those that were merged since find nothing any more.
        if live.contains(name) {
            assert!(said.exit == 5 && said.out.contains(&name[name.len() - 64..]), "{said:?}");
        } else {
            assert_eq!(said.exit, 0, "{said:?}");
        }
    }
    assert_eq!(check(&d, false).exit, 0);
}
