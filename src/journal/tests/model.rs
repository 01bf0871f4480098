//! Any sequence of calls, deaths and power cuts leaves a prefix with everything acknowledged in it.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Flush,
    /// Up to a share of what was appended.
    Sync(f64),
    /// A commit holds a share of the records from now on.
    Commit(f64),
    Trim,
    Prepare,
    /// Reads a record again.
    Read(f64),
    /// The daemon dies and starts again.
    Kill,
    /// The machine loses power.
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0usize..3000).prop_map(Step::Append),
        4 => (0usize..60).prop_map(Step::Append),
        1 => (8000usize..50_000).prop_map(Step::Append),
        3 => Just(Step::Flush),
        4 => (0.0..=1.0).prop_map(Step::Sync),
        2 => (0.0..=1.0).prop_map(Step::Commit),
        2 => Just(Step::Trim),
        1 => Just(Step::Prepare),
        3 => (0.0..=1.0).prop_map(Step::Read),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

struct Model {
    disk: SimDisk,
    journal: Journal,
    /// What was appended and not cut since, above the floor.
    records: BTreeMap<Lsn, Vec<u8>>,
    floor: Lsn,
    acknowledged: Lsn,
    appended: u64,
}

impl Model {
    fn new() -> Model {
        let disk = SimDisk::new();
        let (journal, _) = open(&disk, small()).unwrap();
        Model { disk, journal, records: BTreeMap::new(), floor: 0, acknowledged: 0, appended: 0 }
    }

    fn share(&self, share: f64) -> Lsn {
        let last = self.journal.last();
        self.floor + ((last - self.floor) as f64 * share) as u64
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match *step {
            Step::Append(len) => {
                self.appended += 1;
                let r = record(self.appended, len);
                let at = r.len() / 3;
                match self.journal.append(&[&r[..at], &r[at..]]) {
                    Ok(lsn) => {
                        assert_eq!(Some(lsn - 1), self.records.keys().last().copied().or(Some(self.floor)));
                        self.records.insert(lsn, r);
                    }
                    Err(e) => assert_eq!(e.kind(), Kind::NoSpace, "{e:?}"),
                }
            }
            Step::Flush => {
                self.journal.flush()?;
                assert_eq!(self.journal.written(), self.journal.last());
            }
            Step::Sync(share) => {
                let upto = self.share(share);
                self.journal.sync(upto)?;
                assert!(self.journal.durable() >= upto);
                self.acknowledged = self.acknowledged.max(upto);
            }
            Step::Commit(share) => {
                self.floor = self.share(share);
                self.records = self.records.split_off(&(self.floor + 1));
            }
            Step::Trim => self.journal.trim(self.floor)?,
            Step::Prepare => self.journal.prepare()?,
            Step::Read(share) => {
                let lsn = self.share(share);
                if let Some(r) = self.records.get(&lsn) {
                    assert_eq!(&self.journal.read(lsn, r.len() / 2..r.len())?[..], &r[r.len() / 2..]);
                }
            }
            Step::Kill => {
                let least = self.journal.written();
                self.reopen(self.disk.clone(), least)?;
            }
            Step::Crash(seed) => self.reopen(self.disk.crash(seed), self.acknowledged)?,
        }
        Ok(())
    }

    fn reopen(&mut self, disk: SimDisk, least: Lsn) -> Result<()> {
        let (journal, got) = open(&disk, Options { floor: self.floor, ..small() })?;
        let last = journal.last();
        assert!(last >= least.max(self.floor), "{last} records of at least {least}");
        let _lost = self.records.split_off(&(last + 1));
        assert_eq!(got, self.records, "a prefix, unaltered");
        assert_eq!(journal.durable(), last);
        (self.disk, self.journal, self.acknowledged) = (disk, journal, last);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_left_is_a_prefix_with_all_that_was_acknowledged(
        steps in proptest::collection::vec(step(), 1..150)
    ) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step).map_err(|e| TestCaseError::fail(format!("{step:?}: {e:?}")))?;
        }
        model.step(&Step::Crash(1)).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        model.step(&Step::Commit(1.0))?;
        model.step(&Step::Trim)?;
        prop_assert!(model.journal.usage().files <= IDLE_FILES);
        prop_assert_eq!(model.disk.contents().len(), model.journal.usage().files);
    }

    /// Damage below what is known durable is reported, told apart from a torn tail, and nothing is touched.
    #[test]
    fn damage_in_the_middle_is_reported(
        lens in proptest::collection::vec(0usize..2500, 30..80), which: prop::sample::Index, bit in 0u8..8,
        pick: prop::sample::Index,
    ) {
        let disk = SimDisk::new();
        let (journal, _) = open(&disk, small())?;
        let mut all = BTreeMap::new();
        for (i, len) in lens.iter().enumerate() {
            let r = record(i as u64, *len);
            let lsn = journal.append(&[&r])?;
            all.insert(lsn, r);
            if i % 3 == 0 {
                journal.sync(lsn)?;
            }
        }
        journal.sync(journal.last())?;
        // The last frame vouches for the others.
        journal.append(&[b"last"])?;
        journal.sync(journal.last())?;
        let log = journal.log.lock();
        let frames: Vec<_> = log.frames.iter().map(|f| f.place.clone()).collect();
        drop(log);
        let place = &frames[which.index(frames.len() - 1)];
        let (head, _) = place.file.cipher.open(&disk.contents()[&place.file.name][place.at as usize..])?;
        let covered = format::FRAME_HEADER + head.sealed as usize;
        let offset = place.at as usize + pick.index(covered);
        prop_assert!(disk.corrupt(&place.file.name, offset, 1 << bit));
        let before = disk.contents();
        let e = open(&disk, small()).err().expect("damage");
        prop_assert_eq!(e.kind(), Kind::Damage);
        prop_assert!(e.chain().contains(&place.file.name), "{}", e.chain());
        prop_assert!(e.chain().contains(&format!("record {} ", place.first)), "{}", e.chain());
        let (journal, replay) = open_on(Arc::new(disk.clone()), Options { before_damage: true, ..small() })?;
        prop_assert!(replay.damage().is_some());
        let _rest = all.split_off(&place.first);
        prop_assert_eq!(records(replay)?, all);
        prop_assert_eq!(journal.append(&[b"x"]).unwrap_err().errno(), libc::EROFS);
        prop_assert!(journal.sync(Lsn::MAX).is_ok() && journal.flush().is_ok() && journal.prepare().is_ok());
        drop(journal);
        prop_assert!(disk.contents() == before, "the disk was changed");
        // A commit that holds the damaged records makes the rest good again.
        let (_, got) = open(&disk, Options { floor: place.last, ..small() })?;
        prop_assert_eq!(got.keys().next().copied(), Some(place.last + 1));
    }
}

#[test]
fn a_bad_or_missing_file_is_damage() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, small()).unwrap();
    for n in 1..=400 {
        journal.append(&[&record(n, 500)]).unwrap();
        if n % 20 == 0 {
            journal.sync(n).unwrap();
        }
    }
    let names: Vec<_> = journal.log.lock().files.iter().map(|f| f.name.clone()).collect();
    drop(journal);
    assert!(names.len() > 3);
    for name in &names {
        let copy = disk.crash(0);
        copy.corrupt(name, 9, 1);
        let e = open(&copy, small()).err().unwrap();
        assert!(e.chain().contains(name), "{e:?}");
    }
    for name in &names[..names.len() - 1] {
        let copy = disk.crash(0);
        copy.remove(name).unwrap();
        assert_eq!(open(&copy, small()).err().unwrap().kind(), Kind::Damage, "without {name}");
    }
    // A later run vouches for all that it replayed, before anything is appended to it.
    let (journal, _) = open(&disk, small()).unwrap();
    let last = journal.log.lock().frames.back().unwrap().place.clone();
    drop(journal);
    disk.corrupt(&last.file.name, last.at as usize + 50, 1);
    assert_eq!(open(&disk, small()).err().unwrap().kind(), Kind::Damage);
}
