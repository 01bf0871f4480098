//! Damage to the journal, and its torn tail.

use crate::common::{TestDrive, ok};
use crate::lab::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

const BLOCK: usize = 4096;

/// A killed drive: `files` files, each with its own fsync.
fn killed(files: usize) -> TestDrive {
    let mut d = TestDrive::with("commit=3600,flush=3600");
    for n in 0..files {
        let f = File::create(d.mnt.join(format!("file-{n:02}"))).unwrap();
        f.write_all_at(&noise(n as u64, 3000), 0).unwrap();
        f.sync_all().unwrap();
    }
    d.kill();
    d
}

/// The journal's file with frames, and where these begin.
fn frames(d: &TestDrive) -> (PathBuf, Vec<usize>) {
    let mut best = (PathBuf::new(), Vec::new());
    for e in fs::read_dir(d.state.join("journal")).unwrap().flatten() {
        let bytes = fs::read(e.path()).unwrap();
        let at: Vec<usize> =
            (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(b"nacrefrm")).collect();
        if at.len() > best.1.len() {
            best = (e.path(), at);
        }
    }
    best
}

fn is_there(d: &TestDrive, n: usize) -> bool {
    match fs::read(d.mnt.join(format!("file-{n:02}"))) {
        Ok(bytes) => bytes == noise(n as u64, 3000),
        Err(e) => {
            assert_eq!(e.raw_os_error(), Some(libc::ENOENT));
            false
        }
    }
}

fn journal_bytes(d: &TestDrive) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(d.state.join("journal"))
        .unwrap()
        .flatten()
        .map(|e| (e.path(), fs::read(e.path()).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn damage_to_durable_records_stops_the_mount_and_a_read_only_one_shows_the_state_before() {
    let mut d = killed(8);
    let (file, at) = frames(&d);
    assert!(at.len() >= 8, "{at:?}");
    let good = fs::read(&file).unwrap();
    let rounds = if full() { 200 } else { 12 };
    for round in 0..rounds {
        let dice = u64::from_le_bytes(noise(round as u64 + 99, 8).try_into().unwrap()) as usize;
        // In the file's header, or in a frame with others behind it; within what a frame of a small record holds.
        let (from, what) = match round % 4 {
            0 => (dice % 112, None),
            _ => (at[dice % (at.len() - 2)] + dice % 700, Some(dice % (at.len() - 2))),
        };
        let mut bent = good.clone();
        bent[from] ^= 1 << (round % 8);
        fs::write(&file, &bent).unwrap();
        let before = journal_bytes(&d);
        Said::from(d.try_mount("commit=3600")).expect(5, &["journal"]);
        assert!(journal_bytes(&d) == before, "round {round}: the journal was changed");
        let out = Said::from(d.try_mount("ro"));
        assert_eq!(out.exit, 0, "round {round}: {out:?}");
        let seen: Vec<bool> = (0..8).map(|n| is_there(&d, n)).collect();
        assert!(seen.is_sorted_by(|a, b| a >= b), "round {round}: a prefix: {seen:?}");
        if let Some(frame) = what {
            // Every fsync ended a frame; the first frames may hold several operations' records.
            assert!(
                !seen[7] && seen.iter().filter(|s| **s).count() <= frame + 1,
                "round {round}: {frame} {seen:?}"
            );
        }
        assert!(status(&d)["last_error"].as_str().unwrap().contains("journal"), "round {round}");
        d.umount();
        assert!(journal_bytes(&d) == before, "round {round}: a read-only mount changed the journal");
    }
    fs::write(&file, &good).unwrap();
    d.mount();
    assert!((0..8).all(|n| is_there(&d, n)));
}

#[test]
fn a_torn_tail_is_cut_and_everything_synced_before_it_is_there() {
    for tear in ["zeroed", "half", "cut", "garbage"] {
        let mut d = TestDrive::with("commit=3600,flush=3600");
        for n in 0..4 {
            let f = File::create(d.mnt.join(format!("file-{n:02}"))).unwrap();
            f.write_all_at(&noise(n as u64, 3000), 0).unwrap();
            f.sync_all().unwrap();
        }
        // Enough for frames that nobody has synced.
        for n in 4..40 {
            fs::write(d.mnt.join(format!("file-{n:02}")), noise(n as u64, 3000)).unwrap();
        }
        for n in 0..6 {
            fs::write(d.mnt.join(format!("more-{n}")), noise(77 + n, 600_000)).unwrap();
        }
        d.kill();
        let (path, at) = frames(&d);
        let last = *at.last().unwrap();
        assert!(at.len() > 5, "{at:?}");
        let file = File::options().write(true).open(&path).unwrap();
        match tear {
            "zeroed" => file.write_all_at(&vec![0; 300_000], last as u64).unwrap(),
            "half" => file.write_all_at(&vec![0; 300_000], last as u64 + 5000).unwrap(),
            "cut" => file.set_len(last as u64 + 1000).unwrap(),
            _ => file.write_all_at(&noise(5, 200), last as u64 + 60).unwrap(),
        }
        drop(file);
        d.mount();
        assert!((0..4).all(|n| is_there(&d, n)), "{tear}");
        let seen: Vec<bool> = (0..40).map(|n| is_there(&d, n)).collect();
        assert!(seen.is_sorted_by(|a, b| a >= b), "{tear}: {seen:?}");
        assert_eq!(fs::metadata(d.mnt.join("file-39")).is_ok(), seen[39]);
        assert!(status(&d)["last_error"].is_null(), "{tear}");
        // And it goes on from there.
        fs::write(d.mnt.join("after"), "x").unwrap();
        d.umount();
        d.mount();
        assert_eq!(fs::read_to_string(d.mnt.join("after")).unwrap(), "x");
    }
}

#[test]
fn a_lost_journal_file_with_durable_records_is_damage() {
    let mut d = killed(3);
    let (file, _) = frames(&d);
    let good = fs::read(&file).unwrap();
    fs::write(&file, []).unwrap();
    Said::from(d.try_mount("commit=1")).expect(5, &["journal"]);
    fs::write(&file, &good).unwrap();
    d.mount();
    assert!((0..3).all(|n| is_there(&d, n)));
}

#[test]
fn a_read_only_mount_shows_the_journal_and_commits_none_of_it() {
    let mut d = killed(4);
    let (store, journal) = (objects(&d.store), journal_bytes(&d));
    ok(Ok(d.try_mount("ro,commit=1")));
    assert!((0..4).all(|n| is_there(&d, n)));
    std::thread::sleep(Duration::from_secs(3));
    on_mount(&d, &["sync"]).expect(1, &["read-only", "journal"]);
    d.umount();
    assert_eq!(objects(&d.store), store, "a read-only mount wrote to the store");
    assert!(journal_bytes(&d) == journal, "a read-only mount changed the journal");
    d.mount();
    assert!((0..4).all(|n| is_there(&d, n)));
}
