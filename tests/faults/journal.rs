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
    for tear in ["zeroed", "half", "garbage"] {
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

/// Six fsynced files, or three of them, were once gone without a word.
#[test]
fn a_journal_that_is_gone_or_cut_off_stops_the_mount_until_it_is_back_or_given_up() {
    for what in ["gone", "files gone", "cut"] {
        let mut d = killed(6);
        let (file, _) = frames(&d);
        let (journal, kept) = (d.state.join("journal"), d.dir().join("kept"));
        copy(&journal, &kept);
        match what {
            "gone" => fs::remove_dir_all(&journal).unwrap(),
            "files gone" => fs::remove_file(&file).unwrap(),
            _ => File::options().write(true).open(&file).unwrap().set_len(4096 * 4).unwrap(),
        }
        Said::from(d.try_mount("commit=3600")).expect(5, &["journal", "nacrefs accept", "-o ro"]);
        let out = Said::from(d.try_mount("ro"));
        assert_eq!(out.exit, 0, "{what}: {out:?}");
        assert!(!is_there(&d, 5), "{what}");
        assert!(status(&d)["last_error"].as_str().unwrap().contains("journal"), "{what}");
        d.umount();

        // Brought back.
        let state = d.dir().join("state.kept");
        copy(&d.state, &state);
        fs::remove_dir_all(&journal).ok();
        copy(&kept, &journal);
        ok(Ok(d.try_mount("commit=3600")));
        assert!((0..6).all(|n| is_there(&d, n)), "{what}");
        d.kill();

        // Given up.
        fs::remove_dir_all(&d.state).unwrap();
        copy(&state, &d.state);
        run(d.nacrefs(&["accept"]).arg(&d.store)).expect(6, &["--yes"]);
        let said = run(d.nacrefs(&["accept", "--yes"]).arg(&d.store));
        assert!(said.exit == 0 && said.out.contains("journal"), "{what}: {said:?}");
        ok(Ok(d.try_mount("commit=3600")));
        assert_eq!(fs::read_dir(&d.mnt).unwrap().count(), 0, "{what}");
        fs::write(d.mnt.join("after"), "x").unwrap();
        d.umount();
        d.mount();
        assert_eq!(fs::read_to_string(d.mnt.join("after")).unwrap(), "x", "{what}");
        d.umount();
    }
}

fn fsynced(d: &TestDrive, n: usize) -> std::io::Result<()> {
    let f = File::create(d.mnt.join(format!("file-{n:02}")))?;
    f.write_all_at(&noise(n as u64, 3000), 0)?;
    f.sync_all()
}

/// fsync used to go on succeeding into files without a name, or in a directory that no later mount would look into.
#[test]
fn a_journal_that_is_taken_away_under_a_mount_is_told_and_what_is_in_memory_is_stored() {
    for what in ["removed", "files removed", "moved"] {
        let mut d = TestDrive::with("commit=3600,flush=3600");
        fsynced(&d, 0).unwrap();
        let (journal, away) = (d.state.join("journal"), d.dir().join("away"));
        match what {
            "removed" => fs::remove_dir_all(&journal).unwrap(),
            "files removed" => {
                fs::read_dir(&journal).unwrap().flatten().for_each(|f| fs::remove_file(f.path()).unwrap())
            }
            _ => fs::rename(&journal, &away).unwrap(),
        }
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(fsynced(&d, 1).unwrap_err().raw_os_error(), Some(libc::EIO), "{what}");
        assert!(fsynced(&d, 2).is_err(), "{what}");
        let told = status(&d);
        assert!(told["last_error"].as_str().is_some_and(|e| e.contains("journal")), "{what}: {told}");
        assert!(is_there(&d, 0) && is_there(&d, 1), "{what}");
        let said = on_mount(&d, &["sync"]);
        assert_eq!(said.exit, 0, "{what}: {said:?}");
        assert!(status(&d)["last_error"].as_str().is_some_and(|e| e.contains("taken away")), "{what}");
        d.umount();
        let log = fs::read_to_string(d.state.join("log")).unwrap();
        assert_eq!(log.matches("nacrefs::journal").count(), 1, "{what}: {log}");
        // The store has everything, so nothing is missed.
        d.mount();
        assert!(is_there(&d, 0) && is_there(&d, 1), "{what}");
        fsynced(&d, 3).unwrap();
        d.umount();
    }
}

/// The whole state directory, in the way of who tidies up: what was acknowledged before is in the moved one.
#[test]
fn a_state_directory_that_is_moved_or_exchanged_under_a_mount_acknowledges_nothing_more() {
    for exchanged in [false, true] {
        let mut d = TestDrive::with("commit=3600,flush=3600");
        fsynced(&d, 0).unwrap();
        let away = d.dir().join("away");
        fs::rename(&d.state, &away).unwrap();
        if exchanged {
            ok(std::process::Command::new("cp").arg("-a").arg(&away).arg(&d.state).output());
        }
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(fsynced(&d, 1).unwrap_err().raw_os_error(), Some(libc::EIO), "{exchanged}");
        assert!(is_there(&d, 0));
        if exchanged {
            fs::remove_dir_all(&d.state).unwrap();
        }
        fs::rename(&away, &d.state).unwrap();
        assert!(fsynced(&d, 2).is_err(), "what was lost once stays so");
        d.umount();
        d.mount();
        assert!(is_there(&d, 0) && is_there(&d, 1), "{exchanged}");
    }
}
