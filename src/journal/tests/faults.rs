//! Every call to the disk may fail, once or from then on: nothing acknowledged is lost, nobody is lied to.

use super::*;
use crate::sys::simdisk::{Call, Fault, Op};

/// What a workload was promised.
#[derive(Default)]
struct Promised {
    records: BTreeMap<Lsn, Vec<u8>>,
    acknowledged: Lsn,
    floor: Lsn,
    errors: Vec<Error>,
}

/// Appends, syncs, flushes, trims, whatever fails on the way.
fn work(journal: &Journal) -> Promised {
    let mut p = Promised::default();
    for n in 0..240u64 {
        let r = record(n, 200 + (n as usize * 37) % 900);
        match journal.append(&[&r]) {
            Ok(lsn) => {
                assert_eq!(lsn, p.records.len() as u64 + 1);
                p.records.insert(lsn, r);
            }
            Err(e) => p.errors.push(e),
        }
        let last = p.records.len() as u64;
        if n % 7 == 0 {
            match journal.sync(last) {
                Ok(()) => p.acknowledged = last,
                Err(e) => p.errors.push(e),
            }
        }
        if n % 11 == 0 {
            p.errors.extend(journal.flush().err());
            p.errors.extend(journal.prepare().err());
        }
        if n % 60 == 59 {
            p.floor = p.acknowledged;
            p.errors.extend(journal.trim(p.floor).err());
        }
    }
    p
}

fn check(disk: &SimDisk, p: &Promised, what: &str) {
    for seed in 0..4 {
        let disk = disk.crash(seed);
        let (journal, got) =
            open(&disk, Options { floor: p.floor, ..small() }).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        assert!(journal.last() >= p.acknowledged, "{what}: {} of {}", journal.last(), p.acknowledged);
        let expected = p.records.range(p.floor + 1..journal.last() + 1).map(|(n, r)| (*n, r.clone()));
        assert_eq!(got, expected.collect(), "{what}");
    }
}

const OPS: [Op; 6] = [Op::Open, Op::Rename, Op::Remove, Op::SyncNames, Op::Write, Op::Sync];

#[test]
fn any_single_failure_is_survived() {
    for op in OPS {
        for nth in 0.. {
            let disk = SimDisk::new();
            let (journal, _) = open(&disk, small()).unwrap();
            let from = disk.count(op);
            let tear = nth % 2 == 1;
            disk.set_fault(move |c: &Call| match c.op == op && c.nth == from + nth {
                true if op == Op::Write && tear => Fault::Tear(1500),
                true => Fault::Fail(Kind::Failed),
                false => Fault::Pass,
            });
            let p = work(&journal);
            assert!(p.errors.len() <= 1, "{op:?} {nth}: {:?}", p.errors);
            assert!(journal.log.lock().poison.is_none(), "{op:?} {nth}");
            check(&disk, &p, &format!("{op:?} {nth}"));
            if disk.count(op) - from <= nth {
                break;
            }
        }
    }
}

#[test]
fn a_disk_that_stays_broken_poisons_and_is_never_believed_again() {
    for op in [Op::Write, Op::Sync] {
        for nth in (0..60).step_by(3) {
            let disk = SimDisk::new();
            let (journal, _) = open(&disk, small()).unwrap();
            let from = disk.count(op);
            // It works again later, which must change nothing.
            disk.set_fault(move |c: &Call| {
                match c.op == op && (from + nth..from + nth + 3).contains(&c.nth) {
                    true => Fault::Fail(Kind::NoSpace),
                    false => Fault::Pass,
                }
            });
            let p = work(&journal);
            check(&disk, &p, &format!("{op:?} {nth}"));
            if journal.log.lock().poison.is_some() {
                assert!(p.errors.iter().all(|e| e.kind() == Kind::NoSpace), "{:?}", p.errors);
                assert!(p.errors.len() > 1);
                assert_eq!(journal.append(&[b"x"]).unwrap_err().kind(), Kind::NoSpace);
                assert_eq!(journal.flush().unwrap_err().kind(), Kind::NoSpace);
                assert_eq!(journal.sync(Lsn::MAX).unwrap_err().kind(), Kind::NoSpace);
                assert!(journal.sync(p.acknowledged).is_ok());
                let (lsn, r) = p.records.iter().last().unwrap();
                assert_eq!(&journal.read(*lsn, 0..r.len()).unwrap()[..], &r[..], "still readable");
            }
        }
    }
}

#[test]
fn every_waiter_hears_of_a_failure() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, small()).unwrap();
    disk.set_fault(|c: &Call| {
        if c.op != Op::Sync {
            return Fault::Pass;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        Fault::Fail(Kind::Failed)
    });
    std::thread::scope(|scope| {
        for n in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                let lsn = journal.append(&[&record(n, 100)]);
                let e = lsn.and_then(|lsn| journal.sync(lsn)).expect_err("no lie");
                assert_eq!(e.kind(), Kind::Failed);
            });
        }
    });
    assert_eq!(journal.durable(), 0);
}

#[test]
fn threads_survive_failures_that_pass() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, Options { limit: 16 << 20, ..small() }).unwrap();
    disk.set_fault(|c: &Call| match c.op {
        Op::Write if c.nth % 40 == 23 => Fault::Tear(700),
        Op::Sync if c.nth % 30 == 17 => Fault::Fail(Kind::Failed),
        _ => Fault::Pass,
    });
    let acknowledged = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|t| {
                let journal = &journal;
                scope.spawn(move || {
                    let mut acknowledged = BTreeMap::new();
                    for i in 0..150 {
                        let r = record(t * 1000 + i, 700);
                        // What fails without a number, or with a poisoned journal, is no promise.
                        let Ok(lsn) = journal.append(&[&r]) else { continue };
                        if i % 5 == 0 && journal.sync(lsn).is_ok() {
                            acknowledged.insert(lsn, r);
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect::<BTreeMap<_, _>>()
    });
    assert!(acknowledged.len() > 10);
    for seed in 0..3 {
        let (_, got) = open(&disk.crash(seed), small()).unwrap();
        assert!(acknowledged.iter().all(|(lsn, r)| got.get(lsn) == Some(r)));
    }
}

#[test]
fn a_full_disk_is_told_before_the_number_and_passes() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, small()).unwrap();
    disk.set_capacity(Some(100 << 10));
    let r = record(0, 1000);
    let mut n = 0;
    let e = loop {
        match journal.append(&[&r]) {
            Ok(lsn) => n = lsn,
            Err(e) => break e,
        }
    };
    assert_eq!((e.kind(), journal.last()), (Kind::NoSpace, n));
    assert!(n > 30, "{n}");
    journal.sync(n).unwrap();
    // What frees space still goes in, for a while; and is as durable as the rest.
    let freeing = std::iter::from_fn(|| journal.append_reserve(&[&r]).ok()).last().unwrap();
    assert!(freeing > n + 10, "{freeing} after {n}");
    let n = freeing;
    journal.sync(n).unwrap();
    assert_eq!(disk.contents().len(), 1, "what could not be made is removed");
    assert_eq!(journal.append(&[&r]).unwrap_err().kind(), Kind::NoSpace);
    // A daemon that starts on the full disk can replay, and says the same.
    let copy = disk.crash(0);
    let (again, got) = open(&copy, small()).unwrap();
    assert_eq!(got.len() as u64, n);
    assert_eq!(again.append(&[&r]).unwrap_err().kind(), Kind::NoSpace);
    copy.set_capacity(None);
    assert_eq!(again.append(&[&r]).unwrap(), n + 1);
    again.sync(n + 1).unwrap();
    assert_eq!(open(&copy.crash(0), small()).unwrap().1.len() as u64, n + 1);
    disk.set_capacity(None);
    assert_eq!(journal.append(&[&r]).unwrap(), n + 1);
}

/// What was promised at the moment of a power cut.
#[derive(Clone, Default)]
struct Moment {
    records: BTreeMap<Lsn, Vec<u8>>,
    acknowledged: Lsn,
    floor: Lsn,
}

/// The power goes in the midst of any call to the disk, in a journal that is trimmed, recycled and opened
/// again after deaths and power cuts.
#[test]
fn power_may_go_at_any_moment() {
    let mut disk = SimDisk::new();
    let now = Arc::new(Mutex::new(Moment::default()));
    for run in 0..6u64 {
        let images = Arc::new(Mutex::new(Vec::new()));
        let (at, moment, cuts) = (disk.clone(), now.clone(), images.clone());
        let mut dice = run;
        disk.set_fault(move |_| {
            dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let cut = [at.crash(dice), at.crash(!dice)];
            cuts.lock().push((cut, moment.lock().clone()));
            Fault::Pass
        });
        let floor = now.lock().floor;
        let (journal, got) = open(&disk, Options { floor, ..small() }).unwrap();
        assert!(journal.last() >= now.lock().acknowledged);
        let _lost = now.lock().records.split_off(&(journal.last() + 1));
        assert_eq!(got, now.lock().records);
        now.lock().acknowledged = journal.last();
        for n in 0..90 {
            let lsn = journal.last() + 1;
            let r = record(run * 1_000_000 + lsn, 300 + (n as usize * 53) % 1500);
            now.lock().records.insert(lsn, r.clone());
            assert_eq!(journal.append(&[&r]).unwrap(), lsn);
            if n % 10 == 3 {
                journal.sync(lsn).unwrap();
                now.lock().acknowledged = lsn;
            }
            if n % 40 == 30 {
                let floor = lsn - 4;
                let mut moment = now.lock();
                moment.floor = floor;
                moment.records = moment.records.split_off(&(floor + 1));
                drop(moment);
                journal.trim(floor).unwrap();
                journal.prepare().unwrap();
            }
        }
        journal.flush().unwrap();
        disk.clear_fault();
        let images = std::mem::take(&mut *images.lock());
        assert!(images.len() > 60);
        for (index, (cut, moment)) in images.into_iter().enumerate() {
            for image in cut {
                let options = Options { floor: moment.floor, ..small() };
                let (journal, got) =
                    open(&image, options).unwrap_or_else(|e| panic!("run {run}, call {index}: {e:?}"));
                assert!(journal.last() >= moment.acknowledged.max(moment.floor), "run {run}, call {index}");
                let mut expected = moment.records.clone();
                let _lost = expected.split_off(&(journal.last() + 1));
                assert_eq!(got, expected, "run {run}, call {index}");
            }
        }
        if run % 2 == 1 {
            disk = disk.crash(run);
        }
    }
}

/// Else a power cut could leave an old file whose void tail nothing voids any more.
#[test]
fn a_superseding_file_goes_only_after_those_that_it_voids() {
    let disk = SimDisk::new();
    let fill = |journal: &Journal| assert!((0..30).all(|_| journal.append(&[&[1; 3000]]).is_ok()));
    fill(&open(&disk, small()).unwrap().0);
    let (journal, _) = open(&disk, small()).unwrap();
    let first = journal.log.lock().next.as_ref().unwrap().name.clone();
    fill(&journal);
    journal.sync(Lsn::MAX).unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = calls.clone();
    disk.set_fault(move |c| {
        log.lock().push((c.op, c.file.to_string()));
        Fault::Pass
    });
    journal.trim(Lsn::MAX).unwrap();
    let calls = calls.lock();
    let at = calls.iter().position(|c| c.1 == first).unwrap();
    assert!(at > 1 && calls[at - 1].0 == Op::SyncNames, "{calls:?}");
}
