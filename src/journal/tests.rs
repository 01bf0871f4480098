//! The journal against a model, on disks that crash, fail and run full.

mod faults;
mod lost;
mod model;

use super::*;
use crate::sys::{HostDisk, SimDisk, SystemRandom};
use crate::types::MAX_LSN;
use std::collections::BTreeMap;

const KEY: [u8; 32] = [9; 32];

fn small() -> Options {
    Options { file_size: 64 << 10, limit: 1 << 20, frame_bytes: 4000, ..Options::default() }
}

fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<(Journal, Replay)> {
    Journal::open(disk, Key(KEY), RealmId([2; 16]), Arc::new(SystemRandom), options)
}

/// Opens and replays.
fn open(disk: &SimDisk, options: Options) -> Result<(Journal, BTreeMap<Lsn, Vec<u8>>)> {
    let (journal, replay) = open_on(Arc::new(disk.clone()), options)?;
    Ok((journal, records(replay)?))
}

fn records(replay: Replay) -> Result<BTreeMap<Lsn, Vec<u8>>> {
    let count = replay.count();
    let mut records = BTreeMap::new();
    replay.for_each(&mut |lsn, record| {
        records.insert(lsn, record.to_vec());
        Ok(())
    })?;
    assert_eq!(records.len() as u64, count);
    Ok(records)
}

/// A record that no other number has.
fn record(n: u64, len: usize) -> Vec<u8> {
    format!("<record {n}>").bytes().cycle().take(len).collect()
}

#[test]
fn a_real_disk_keeps_what_it_is_given_and_shows_none_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(HostDisk::open(dir.path().join("journal")).unwrap());
    let (journal, replay) = open_on(disk.clone(), small()).unwrap();
    assert_eq!(replay.count(), 0);
    for n in 1..=500 {
        let r = record(n, 20 + n as usize);
        assert_eq!(journal.append(&[&r[..7], &r[7..]]).unwrap(), n);
        if n % 50 == 0 {
            journal.prepare().unwrap();
            journal.sync(n - 20).unwrap();
        }
    }
    assert_eq!(&journal.read(500, 3..9).unwrap()[..], &record(500, 520)[3..9]);
    assert_eq!(&journal.read(17, 0..37).unwrap()[..], &record(17, 37)[..]);
    assert_eq!(journal.last(), 500);
    assert!(journal.durable() >= 480 && journal.written() >= journal.durable());
    journal.sync(500).unwrap();
    assert!(journal.usage().files > 2);
    drop(journal);
    for entry in std::fs::read_dir(dir.path().join("journal")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"record"), "plaintext on the disk");
    }
    let (journal, replay) = open_on(disk.clone(), Options { floor: 100, ..small() }).unwrap();
    let got = records(replay).unwrap();
    assert_eq!(got.keys().copied().collect::<Vec<_>>(), (101..=500).collect::<Vec<_>>());
    assert!(got.iter().all(|(n, r)| *r == record(*n, 20 + *n as usize)));
    assert_eq!(&journal.read(400, 0..420).unwrap()[..], &record(400, 420)[..]);
    assert_eq!(journal.append(&[b"more"]).unwrap(), 501);
    journal.trim(501).unwrap();
    assert!(journal.usage().files <= IDLE_FILES);
    assert_eq!(disk.list().unwrap().len(), journal.usage().files);
    assert_eq!(journal.usage().bytes, 0);
    assert_eq!(journal.read(400, 0..1).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn numbers_go_on_from_the_floor_when_there_is_no_journal() {
    let (journal, got) = open(&SimDisk::new(), Options { floor: 70, ..small() }).unwrap();
    assert!(got.is_empty());
    assert_eq!((journal.last(), journal.durable()), (70, 70));
    assert_eq!(journal.append(&[]).unwrap(), 71);
    assert_eq!(journal.append(&[b"", b"x"]).unwrap(), 72);
    assert_eq!(journal.read(71, 0..0).unwrap().len(), 0);
    assert!(
        journal.read(72, 0..2).is_err() && journal.read(73, 0..0).is_err() && journal.read(70, 0..0).is_err()
    );
}

/// To count on from them overflowed.
#[test]
fn numbers_that_no_journal_comes_to_are_damage() {
    let (last, next) = (MAX_LSN, MAX_LSN + 1);
    let refused = |disk: &SimDisk, floor| {
        let e = open(disk, Options { floor, ..small() }).err().expect("refused");
        assert_eq!(e.kind(), Kind::Damage, "{e:?}");
    };
    refused(&SimDisk::new(), Lsn::MAX);
    // By their names alone, and with good headers.
    let keys = format::Keys::new(&Key(KEY), RealmId([2; 16]));
    for (id, durable) in [(next, 0), (u64::MAX, 0), (1, next), (1, u64::MAX)] {
        let disk = SimDisk::new();
        let file = disk.open(&format!("journal-{id:016x}")).unwrap();
        file.write_at(&vec![0; BLOCK as usize], 0).unwrap();
        refused(&disk, 0);
        let header = format::FileHeader { id, durable, supersedes: true, salt: [1; 32], size: 0 };
        file.write_at(&keys.encode_header(&header), 0).unwrap();
        refused(&disk, 0);
        let lenient = Options { before_damage: true, ..small() };
        assert!(open_on(Arc::new(disk.clone()), lenient).unwrap().1.damage().is_some());
    }
    // A frame of such numbers is none.
    let header = format::FileHeader { id: 1, durable: 0, supersedes: true, salt: [1; 32], size: 0 };
    let mut body = Body::default();
    body.push(&[b"record"], 6);
    let mut frame = Vec::new();
    for (first, opens) in [(last - 1, true), (last, false), (Lsn::MAX - 1, false), (Lsn::MAX, false)] {
        let cipher = keys.cipher(&header);
        cipher.seal(first, 0, &body, &mut frame).unwrap();
        assert_eq!(cipher.open(&frame).is_ok(), opens, "{first}");
    }
}

#[test]
fn records_larger_than_a_frame_have_one_of_their_own() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, Options::default()).unwrap();
    let big = record(2, (2 << 20) + 500);
    journal.append(&[b"one"]).unwrap();
    journal.append(&[&big]).unwrap();
    journal.append(&[b"three"]).unwrap();
    journal.append(&[&big]).unwrap();
    assert!(journal.append(&[&vec![0; MAX_RECORD + 1]]).is_err());
    journal.sync(4).unwrap();
    assert_eq!(&journal.read(2, 1 << 20..(1 << 20) + 9).unwrap()[..], &big[1 << 20..(1 << 20) + 9]);
    let (_, got) = open(&disk.crash(1), Options::default()).unwrap();
    assert_eq!(got.values().map(Vec::len).collect::<Vec<_>>(), [3, big.len(), 5, big.len()]);
}

#[test]
fn the_limit_refuses_before_it_gives_a_number_and_leaves_a_reserve() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, small()).unwrap();
    let r = record(0, 1000);
    let mut n = 0;
    let e = loop {
        match journal.append(&[&r]) {
            Ok(lsn) => n = lsn,
            Err(e) => break e,
        }
    };
    assert_eq!((e.kind(), journal.last()), (Kind::NoSpace, n));
    let usage = journal.usage();
    assert!(usage.bytes > usage.limit / 2 && usage.bytes <= usage.limit);
    assert_eq!(journal.append_reserve(&[&r]).unwrap(), n + 1);
    journal.trim(n / 2).unwrap();
    assert_eq!(journal.append(&[&r]).unwrap(), n + 2);
    journal.sync(n + 2).unwrap();
    let (_, got) = open(&disk.crash(3), Options { floor: n / 2, ..small() }).unwrap();
    assert_eq!(got.len() as u64, n + 2 - n / 2);
}

#[test]
fn frames_of_an_earlier_life_are_never_replayed() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, small()).unwrap();
    for n in 1..=360 {
        journal.append(&[&record(n, 400)]).unwrap();
    }
    journal.trim(360).unwrap();
    drop(journal);
    let floor = |floor| Options { floor, ..small() };
    let (journal, got) = open(&disk, floor(360)).unwrap();
    assert!(got.is_empty());
    journal.append(&[b"new"]).unwrap();
    journal.sync(361).unwrap();
    let contents = disk.contents();
    let (name, bytes) = contents.iter().find(|(n, _)| n.starts_with("journal")).unwrap();
    let frames: Vec<_> =
        (4096..bytes.len()).step_by(4096).filter(|at| bytes[*at..].starts_with(b"nacrefrm")).collect();
    assert!(frames.len() > 5, "the file was recycled with its old frames");
    // Even when the old frames claim to be of the new life, and though they follow on.
    let file = disk.open(name).unwrap();
    for at in &frames[1..] {
        file.write_at(&bytes[4104..4112], *at as u64 + 8).unwrap();
        file.write_at(&362u64.to_le_bytes(), *at as u64 + 16).unwrap();
    }
    let (_, got) = open(&disk, floor(360)).unwrap();
    assert_eq!(got, BTreeMap::from([(361, b"new".to_vec())]));
    // With a floor that is too old, what was trimmed is missed.
    let e = open(&disk, floor(359)).err().unwrap();
    assert_eq!(e.kind(), Kind::Damage, "{e:?}");
}

#[test]
fn many_threads_share_their_syncs_and_get_their_records() {
    let disk = SimDisk::new();
    disk.set_fault(|call| {
        if call.op == crate::sys::simdisk::Op::Sync {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        crate::sys::simdisk::Fault::Pass
    });
    let (journal, _) = open(&disk, small()).unwrap();
    let before = disk.count(crate::sys::simdisk::Op::Sync);
    let numbers = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16u64)
            .map(|t| {
                let journal = &journal;
                scope.spawn(move || {
                    let mut numbers = Vec::new();
                    for i in 0..10 {
                        let lsn = journal.append(&[&record(t * 100 + i, 300)]).unwrap();
                        journal.sync(lsn).unwrap();
                        assert!(journal.durable() >= lsn);
                        assert_eq!(&journal.read(lsn, 0..300).unwrap()[..], &record(t * 100 + i, 300)[..]);
                        numbers.push((lsn, t * 100 + i));
                    }
                    numbers
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect::<BTreeMap<_, _>>()
    });
    let syncs = disk.count(crate::sys::simdisk::Op::Sync) - before;
    assert!(syncs < 80, "{syncs} syncs for 160 calls");
    let (_, got) = open(&disk.crash(0), small()).unwrap();
    assert_eq!(got, numbers.into_iter().map(|(lsn, n)| (lsn, record(n, 300))).collect());
}
