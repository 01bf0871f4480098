//! A journal that is gone, cut off, or taken away while it is in use.

use super::*;
use crate::journal::format::{FileHeader, Keys};
use crate::sys::simdisk::{Call, Fault, Op};
use parking_lot::Mutex;
use std::fs;
use std::path::Path;

fn refused(disk: &SimDisk, floor: Lsn, words: &str) {
    let e = open(disk, Options { floor, ..small() }).err().expect("refused");
    assert_eq!(e.kind(), Kind::Damage, "{e:?}");
    assert!(e.chain().contains(words), "{}", e.chain());
}

/// A disk with other bytes in its files, noted or not.
fn disk_of(contents: &BTreeMap<String, Vec<u8>>, noted: bool) -> SimDisk {
    let disk = SimDisk::new();
    for (name, bytes) in contents {
        disk.open(name).unwrap().write_at(bytes, 0).unwrap();
    }
    if noted {
        disk.note(0).unwrap();
    }
    disk
}

/// Half of what was fsynced used to be gone without a word.
#[test]
fn a_file_that_was_cut_off_or_is_gone_is_damage() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, small()).unwrap();
    for n in 1..=10 {
        journal.append(&[&record(n, 2000)]).unwrap();
        journal.sync(n).unwrap();
    }
    let contents = disk.contents();
    let (name, whole) = contents.iter().next().unwrap();
    assert_eq!((contents.len(), whole.len()), (1, 64 << 10));
    assert_eq!(open(&disk_of(&contents, true), small()).unwrap().1.len(), 10);
    for len in [whole.len() - 1, whole.len() - 4096, 30_000, 24_576, 8192, 4096] {
        let cut = BTreeMap::from([(name.clone(), whole[..len].to_vec())]);
        refused(&disk_of(&cut, true), 0, "cut off");
        // Who only looks sees what is left.
        let lenient = Options { before_damage: true, ..small() };
        let (_, replay) = open_on(Arc::new(disk_of(&cut, true)), lenient).unwrap();
        assert!(replay.damage().is_some_and(|e| e.chain().contains("cut off")));
        let left = records(replay).unwrap().len();
        assert_eq!(left, ((len - 4096) / 4096).min(10), "{len}");
    }
    refused(&disk_of(&BTreeMap::new(), true), 0, "are gone");
    refused(&disk_of(&BTreeMap::new(), true), 10, "are gone");
    let spare = BTreeMap::from([("spare-0000000000000007".to_owned(), whole.clone())]);
    refused(&disk_of(&spare, true), 0, "are gone");
    // A directory in which nothing ever was.
    assert_eq!(open(&disk_of(&BTreeMap::new(), false), small()).unwrap().1.len(), 0);
}

/// Where older files were still there, nobody missed the newest one.
#[test]
fn the_newest_of_several_files_is_missed_and_so_is_any_other() {
    let mut disk = SimDisk::new();
    let mut floor = 0;
    // More than one file in one run; then one more in each of two runs.
    for run in 0..3 {
        let (journal, _) = open(&disk, Options { floor, ..small() }).unwrap();
        for n in 0..if run == 0 { 60 } else { 5 } {
            let at = journal.append(&[&record(n, 2000)]).unwrap();
            journal.sync(at).unwrap();
        }
        // Some of it is stored, and the first files go.
        floor = 10;
        journal.trim(floor).unwrap();
        drop(journal);
        let contents = disk.contents();
        let logs: Vec<_> = contents.keys().filter(|name| name.starts_with("journal-")).collect();
        assert!(logs.len() > 1, "{logs:?}");
        let noted = disk.noted().unwrap().unwrap();
        assert!(logs.iter().any(|name| name.ends_with(&format!("{noted:016x}"))), "{noted} of {logs:?}");
        for lost in &logs {
            let mut left = contents.clone();
            left.remove(*lost);
            let image = disk_of(&left, false);
            image.note(noted).unwrap();
            let opened = open(&image, Options { floor, ..small() });
            // The last one may have been made ahead, and hold nothing yet.
            assert!(opened.is_err_and(|e| e.kind() == Kind::Damage), "run {run}: {lost} of {logs:?}");
        }
        disk = disk.crash(run);
    }
}

/// Of a file whose header does not tell its size, a frame that runs over the end shows it.
#[test]
fn a_frame_that_runs_past_the_end_of_its_file_is_damage() {
    let keys = Keys::new(&Key(KEY), RealmId([2; 16]));
    let header = FileHeader { id: 1, durable: 0, supersedes: true, salt: [1; 32], size: 0 };
    let mut bytes = keys.encode_header(&header);
    let mut frame = Vec::new();
    for n in 1..=3 {
        let mut body = Body::default();
        body.push(&[&record(n, 6000)], 6000);
        keys.cipher(&header).seal(n, n - 1, &body, &mut frame).unwrap();
        bytes.extend_from_slice(&frame);
    }
    let file = |len: usize| BTreeMap::from([("journal-0000000000000001".to_owned(), bytes[..len].to_vec())]);
    assert_eq!(open(&disk_of(&file(bytes.len()), false), small()).unwrap().1.len(), 3);
    refused(&disk_of(&file(bytes.len() - 4096), false), 0, "cut off");
    refused(&disk_of(&file(bytes.len() - 4097), false), 0, "cut off");
}

/// Files are made, recycled and removed all the time; at no moment may that look like a loss.
#[test]
fn at_no_moment_of_a_files_life_does_a_power_cut_look_like_a_loss() {
    for full in [false, true] {
        let mut disk = SimDisk::new();
        let floor = Arc::new(AtomicU64::new(0));
        let mut noted = 0;
        for run in 0..5u64 {
            let images = Arc::new(Mutex::new(Vec::new()));
            let (at, cuts, now) = (disk.clone(), images.clone(), floor.clone());
            let mut dice = run;
            disk.set_fault(move |_: &Call| {
                dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let floor = now.load(Ordering::SeqCst);
                cuts.lock().extend([0, 1, 2].map(|n| (at.crash(dice ^ n), floor)));
                Fault::Pass
            });
            let options = Options { floor: floor.load(Ordering::SeqCst), ..small() };
            let (journal, _) = open(&disk, options).unwrap();
            for round in 0..3 {
                for n in 0..40 {
                    if journal.append(&[&record(n, 2000)]).is_err() {
                        assert!(full);
                    }
                }
                journal.sync(Lsn::MAX).unwrap();
                // All of it: no file is needed for what it holds.
                floor.store(journal.last(), Ordering::SeqCst);
                journal.trim(Lsn::MAX).unwrap();
                if full && run == 1 && round == 1 {
                    let used = disk.contents().values().map(|bytes| bytes.len() as u64).sum();
                    disk.set_capacity(Some(used));
                }
            }
            drop(journal);
            disk.clear_fault();
            for (image, floor) in std::mem::take(&mut *images.lock()) {
                noted += u32::from(image.noted().unwrap().is_some());
                let (journal, _) = open(&image, Options { floor, ..small() })
                    .unwrap_or_else(|e| panic!("run {run}: {}", e.chain()));
                let recycled = journal.append(&[b"x"]);
                assert!(recycled.is_ok() || full);
            }
            disk = disk.crash(run);
        }
        assert!(noted > 100);
    }
}

/// Nor does a failure of any call to the disk.
#[test]
fn no_failed_call_makes_the_next_opening_miss_a_file() {
    for op in [Op::Open, Op::Remove, Op::Rename, Op::SyncNames, Op::Write, Op::Sync, Op::Note] {
        for nth in 0..12 {
            let disk = SimDisk::new();
            let mut floor = 0;
            let run = |disk: &SimDisk, floor: &mut Lsn| {
                let Ok((journal, _)) = open(disk, Options { floor: *floor, ..small() }) else { return };
                for n in 0..40 {
                    let _refused = journal.append(&[&record(n, 2000)]);
                }
                if journal.sync(Lsn::MAX).is_ok() {
                    *floor = journal.last();
                    let _refused = journal.trim(Lsn::MAX);
                }
            };
            run(&disk, &mut floor);
            let from = disk.count(op);
            disk.set_fault(move |c: &Call| match c.op == op && c.nth >= from + nth {
                true => Fault::Fail(Kind::Failed),
                false => Fault::Pass,
            });
            run(&disk, &mut floor);
            disk.clear_fault();
            if let Err(e) = open(&disk.crash(nth), Options { floor, ..small() }) {
                panic!("{op:?} {nth}: {}", e.chain());
            }
        }
    }
}

/// What a hand can do to a journal that is in use, after which fsync used to go on succeeding.
#[test]
fn nothing_is_durable_any_more_once_the_files_are_removed_moved_or_exchanged() {
    let moved = |dir: &Path| fs::rename(dir.join("state"), dir.join("moved")).unwrap();
    type Deed<'a> = &'a dyn Fn(&Path);
    let deeds: [(&str, Deed); 5] = [
        ("all removed", &|dir| fs::remove_dir_all(dir.join("state")).unwrap()),
        ("journal removed", &|dir| fs::remove_dir_all(dir.join("state/journal")).unwrap()),
        ("file removed", &|dir| {
            for file in fs::read_dir(dir.join("state/journal")).unwrap() {
                fs::remove_file(file.unwrap().path()).unwrap();
            }
        }),
        ("moved", &moved),
        ("exchanged", &|dir| {
            moved(dir);
            fs::create_dir_all(dir.join("state/journal")).unwrap();
            for file in fs::read_dir(dir.join("moved/journal")).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), dir.join("state/journal").join(file.file_name())).unwrap();
            }
            fs::copy(dir.join("moved/journal.begun"), dir.join("state/journal.begun")).unwrap();
        }),
    ];
    for (what, deed) in deeds {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let path = dir.path().join("state/journal");
        let (journal, _) = open_on(Arc::new(HostDisk::open(&path).unwrap()), small()).unwrap();
        assert!(dir.path().join("state/journal.begun").exists());
        journal.append(&[b"kept"]).unwrap();
        journal.sync(1).unwrap();
        deed(dir.path());
        let before: Vec<_> = fs::read_dir(&path).into_iter().flatten().map(|e| e.unwrap().path()).collect();
        std::thread::sleep(std::time::Duration::from_millis(1010));
        journal.append(&[b"lost"]).unwrap();
        let e = journal.sync(2).expect_err(what);
        assert_eq!(e.kind(), Kind::Failed, "{what}");
        assert!(e.chain().contains("taken away"), "{what}: {}", e.chain());
        assert_eq!(journal.durable(), 1, "{what}");
        assert!(journal.append(&[b"x"]).is_err(), "{what}");
        assert!(journal.sync(1).is_ok() && journal.poison().is_some(), "{what}");
        // It is still read from, and all of it is stored.
        assert_eq!(&journal.read(2, 0..4).unwrap()[..], b"lost", "{what}");
        journal.trim(2).unwrap();
        assert_eq!(journal.usage().bytes, 0, "{what}");
        let after: Vec<_> = fs::read_dir(&path).into_iter().flatten().map(|e| e.unwrap().path()).collect();
        assert_eq!(before, after, "{what}: files of another directory were touched");
        drop(journal);
        // The next opening misses nothing.
        let (journal, replay) =
            open_on(Arc::new(HostDisk::open(&path).unwrap()), Options { floor: 2, ..small() })
                .unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
        assert_eq!((replay.count(), journal.last()), (0, 2), "{what}");
    }
}

/// Between two looks at the directory, a new file must not be begun in another one.
#[test]
fn no_file_is_begun_in_a_directory_that_is_not_in_its_place() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, small()).unwrap();
    journal.append(&[b"x"]).unwrap();
    journal.sync(1).unwrap();
    disk.displace(true);
    let names: Vec<_> = disk.contents().into_keys().collect();
    assert!((0..100).any(|n| journal.append(&[&record(n, 3000)]).is_err()));
    assert!(journal.sync(Lsn::MAX).is_err());
    disk.displace(false);
    assert!(journal.sync(Lsn::MAX).is_err(), "what was lost once stays so");
    assert_eq!(disk.contents().into_keys().collect::<Vec<_>>(), names);
}
