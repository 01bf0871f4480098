//! Operations in the middle of commits: a commit runs on a thread of its own and stops before each call of the store;
//! what happens there is up to the test. Each version must be the drive as it was when its generation was closed.

use crate::kernel::{Kernel, differ, look};
use crate::model::{How, Model};
use crate::world::{World, tight};
use crate::{assert_stored, times};
use nacrefs::drive::types::Wait;
use nacrefs::error::Kind;
use nacrefs::store::faulty::{Fault, Op};
use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

thread_local! {
    static IS_COMMIT: Cell<bool> = const { Cell::new(false) };
}

/// What the commit is told where it stops: to go on, or that the call fails.
#[derive(Clone, Copy, PartialEq)]
enum Tell {
    GoOn,
    Fail,
    /// The call is done, and then fails.
    LoseReply,
    /// There is no room for it.
    Full,
}

struct Steps {
    world: World,
    kernel: Kernel,
    arrivals: Receiver<()>,
    orders: Sender<Tell>,
    /// The drive as it was when the generation that is being committed was closed; there may have been several moments,
    /// for one that finds no room may be opened again.
    closed: Vec<Model>,
    /// The last commit found no room.
    full: bool,
    versions: u64,
    reopened: u64,
}

type Running = JoinHandle<nacrefs::error::Result<Option<u64>>>;

impl Steps {
    fn new(seed: u64) -> Steps {
        let world = World::new(seed, tight());
        let kernel = Kernel::fresh(world.open().unwrap(), world.clock.clone(), seed);
        let (arrive, arrivals) = channel();
        let (orders, obey) = channel();
        let line = parking_lot::Mutex::new((arrive, obey));
        world.set_plan(move |call| {
            // Not at reads: a reader of the same chunk would wait for the commit to have it.
            if !IS_COMMIT.get() || !matches!(call.op, Op::Put | Op::Create) {
                return Fault::Pass;
            }
            let line = line.lock();
            let told = line.0.send(()).ok().and_then(|()| line.1.recv().ok());
            match told {
                None | Some(Tell::GoOn) => Fault::Pass,
                Some(Tell::Fail) => Fault::FailBefore(Kind::Away),
                Some(Tell::LoseReply) => Fault::FailAfter(Kind::Away),
                Some(Tell::Full) => Fault::FailBefore(Kind::NoSpace),
            }
        });
        Steps { world, kernel, arrivals, orders, closed: Vec::new(), full: false, versions: 0, reopened: 0 }
    }

    fn begin(&mut self) -> Running {
        if self.closed.is_empty() || self.full {
            self.closed.push(self.kernel.model.clone());
        }
        let drive = self.kernel.drive.clone();
        std::thread::spawn(move || {
            IS_COMMIT.set(true);
            drive.commit()
        })
    }

    /// Waits until the commit stops at a call, or ends: then false.
    fn stopped(&self, running: &Running) -> bool {
        loop {
            if self.arrivals.recv_timeout(Duration::from_millis(1)).is_ok() {
                return true;
            }
            if running.is_finished() {
                return self.arrivals.try_recv().is_ok();
            }
        }
    }

    /// A commit, with `between` at each stop (counted from 0), which says what becomes of the call there. Returns
    /// whether it succeeded.
    fn commit(&mut self, mut between: impl FnMut(&mut Kernel, u64) -> Tell) -> bool {
        let running = self.begin();
        let mut stop = 0;
        while self.stopped(&running) {
            let tell = between(&mut self.kernel, stop);
            stop += 1;
            self.orders.send(tell).unwrap();
        }
        self.full = false;
        match running.join().unwrap() {
            Ok(Some(_)) => {
                self.versions += 1;
                let closed = std::mem::take(&mut self.closed);
                self.compare_stored(&closed);
                true
            }
            Ok(None) => {
                self.closed.clear();
                true
            }
            Err(e) => {
                assert!(matches!(e.kind(), Kind::Away | Kind::NoSpace), "{}", e.chain());
                self.full = e.kind() == Kind::NoSpace;
                false
            }
        }
    }

    fn compare_stored(&mut self, closed: &[Model]) {
        let drive = self.world.elsewhere().open().unwrap();
        let seen = look(&drive, drive.root()).unwrap();
        let differences: Vec<_> = closed.iter().map(|model| differ(&seen, &model.seen())).collect();
        match differences.iter().position(Option::is_none) {
            None => panic!("version {}: {differences:?}", drive.version()),
            Some(moment) => self.reopened += u64::from(moment > 0),
        }
    }

    /// Everything goes to the store and is there; and a mount finds it.
    fn finish(mut self) {
        self.kernel.compare();
        while !self.closed.is_empty() {
            assert!(self.commit(|_, _| Tell::GoOn));
        }
        self.commit(|_, _| Tell::GoOn);
        self.kernel.compare();
        self.kernel.forget_all();
        self.kernel.compare();
        assert_stored(&self.world, &self.kernel);
        self.world.check();
        let seen = self.kernel.model.seen();
        drop(self.kernel);
        let drive = self.world.open().unwrap();
        assert_eq!(differ(&look(&drive, drive.root()).unwrap(), &seen), None, "after mounting again");
    }
}

/// Random operations at every stop of commits that at times fail.
#[test]
fn a_version_is_the_moment_its_generation_was_closed() {
    let mut versions = 0;
    for seed in 0..times(14, 300) {
        let mut s = Steps::new(1000 + seed);
        for _ in 0..8 {
            for _ in 0..20 {
                s.kernel.step(false);
            }
            let unlucky = s.kernel.dice.below(14);
            s.commit(|kernel, stop| {
                for _ in 0..kernel.dice.below(4) {
                    kernel.step(false);
                }
                match (stop == unlucky, kernel.dice.below(3)) {
                    (false, _) => Tell::GoOn,
                    (true, 0) => Tell::Fail,
                    (true, 1) => Tell::Full,
                    _ => Tell::LoseReply,
                }
            });
            s.kernel.compare();
        }
        versions += s.versions;
        s.finish();
    }
    eprintln!("{versions} versions");
    assert!(versions > 20, "only {versions} versions");
}

/// A version for which there is no room is made anew when something of it has been removed, without that; as one moment
/// all the same.
#[test]
fn what_finds_no_room_becomes_a_version_without_what_was_removed() {
    let (mut versions, mut reopened) = (0, 0);
    for seed in 0..times(14, 300) {
        let mut s = Steps::new(3000 + seed);
        for round in 0..10 {
            for _ in 0..20 {
                s.kernel.step(false);
            }
            s.commit(|kernel, stop| {
                for _ in 0..kernel.dice.below(8) {
                    kernel.step(false);
                }
                if stop == 0 && round % 4 != 3 { Tell::Full } else { Tell::GoOn }
            });
            s.kernel.compare();
        }
        versions += s.versions;
        reopened += s.reopened;
        s.finish();
    }
    eprintln!("{versions} versions, {reopened} of them of generations that were opened again");
    assert!(versions > 20 && reopened > 10, "only {versions} versions, {reopened} of them opened again");
}

/// Runs a script at each stop of a commit in turn, until the commit has no such stop; and again with the commit
/// failing there, once and twice.
fn at_each_stop(before: impl Fn(&mut Kernel), during: impl Fn(&mut Kernel)) {
    for failures in 0..3 {
        for at in 0.. {
            let mut s = Steps::new(77);
            before(&mut s.kernel);
            let mut reached = false;
            let ok = s.commit(|kernel, stop| {
                if stop != at {
                    return Tell::GoOn;
                }
                reached = true;
                during(kernel);
                kernel.compare();
                if failures > 0 { Tell::Fail } else { Tell::GoOn }
            });
            if failures > 1 && !ok {
                s.kernel.put("more", 9, 300);
                assert!(!s.commit(|_, _| Tell::Fail));
                s.kernel.put("more", 10, 7000);
            }
            s.kernel.compare();
            s.finish();
            if !reached {
                assert!(at > 3, "the commit has only {at} stops");
                break;
            }
        }
    }
}

#[test]
fn a_directory_renamed_while_what_is_below_it_is_committed() {
    let tree = |k: &mut Kernel| {
        k.mkdir("a");
        k.mkdir("a/b");
        k.mkdir("a/b/c");
        k.put("a/b/c/f", 1, 5000);
        k.mkdir("z");
        k.commit_quietly();
        k.put("a/b/c/f", 2, 400);
        k.put("a/b/g", 3, 10);
    };
    at_each_stop(tree, |k| {
        k.rename("a/b", "z/moved", How::default());
        k.rename("a", "z/moved/a", How::default());
        k.put("z/moved/c/f", 4, 90);
        k.mkdir("a");
    });
}

#[test]
fn a_name_removed_and_made_again_while_it_is_committed() {
    let tree = |k: &mut Kernel| {
        k.mkdir("d");
        k.put("d/f", 1, 9000);
        k.commit_quietly();
        k.put("d/f", 2, 100);
        k.put("d/new", 2, 100);
    };
    at_each_stop(tree, |k| {
        for name in ["d/f", "d/new"] {
            k.unlink(name);
            k.put(name, 5, 50);
        }
        k.put("d/last", 1, 1);
        k.unlink("d/last");
        k.mkdir("d/last");
    });
}

#[test]
fn a_file_linked_while_it_is_committed_becomes_a_shell() {
    let tree = |k: &mut Kernel| {
        k.mkdir("d");
        k.put("d/old", 1, 3000);
        k.put("d/untouched", 1, 30);
        k.commit_quietly();
        k.put("d/old", 2, 3000);
        k.put("d/new", 3, 30);
    };
    at_each_stop(tree, |k| {
        k.link("d/old", "x");
        k.link("d/new", "d/y");
        k.link("d/untouched", "d/u2");
        k.put("x", 9, 20);
        k.unlink("d/untouched");
        k.unlink("d/new");
    });
}

#[test]
fn a_shell_unlinked_and_linked_while_it_is_committed() {
    let tree = |k: &mut Kernel| {
        k.mkdir("d");
        k.put("d/a", 1, 3000);
        k.link("d/a", "d/b");
        k.commit_quietly();
        k.put("d/a", 2, 10);
        k.unlink("d/b");
    };
    at_each_stop(tree, |k| {
        k.link("d/a", "d/b");
        k.unlink("d/a");
        k.rename("d/b", "c", How::default());
        k.link("c", "d/a");
    });
}

#[test]
fn a_file_removed_while_it_is_committed() {
    let tree = |k: &mut Kernel| {
        k.mkdir("d");
        k.put("d/f", 1, 40_000);
        k.commit_quietly();
        k.put("d/f", 2, 20_000);
        k.mkdir("d/e");
        k.put("d/e/g", 2, 20_000);
    };
    at_each_stop(tree, |k| {
        k.unlink("d/f");
        k.unlink("d/e/g");
        k.rmdir("d/e");
        k.rmdir("d");
        k.forget_all();
        k.mkdir("d");
    });
}

#[test]
fn an_open_file_without_a_name_keeps_its_bytes_across_commits() {
    let tree = |k: &mut Kernel| {
        k.put("f", 1, 50_000);
        k.put("g", 1, 5_000);
        k.open(k.id("f"));
        k.open(k.id("g"));
        k.commit_quietly();
        let f = k.id("f");
        k.run(&crate::model::Op::Write {
            node: f,
            at: 70_000,
            len: 30_000,
            fill: 8,
            append: false,
            kill: false,
        });
        k.unlink("f");
        k.run(&crate::model::Op::Write { node: f, at: 10, len: 30_000, fill: 9, append: false, kill: false });
    };
    at_each_stop(tree, |k| {
        let g = k.id("g");
        k.unlink("g");
        k.run(&crate::model::Op::Write { node: g, at: 4000, len: 3000, fill: 8, append: false, kill: false });
        k.run(&crate::model::Op::Truncate { node: g, size: 6000 });
    });
}

#[test]
fn names_exchanged_while_they_are_committed() {
    let tree = |k: &mut Kernel| {
        k.mkdir("a");
        k.mkdir("b");
        k.mkdir("a/sub");
        k.put("a/sub/f", 1, 100);
        k.put("b/f", 2, 200);
        k.link("b/f", "b/shell");
        k.commit_quietly();
        k.put("a/sub/f", 3, 100);
        k.put("b/f", 4, 20);
    };
    let exchange = How { exchange: true, ..How::default() };
    at_each_stop(tree, |k| {
        k.rename("a/sub", "b/f", exchange);
        k.rename("a", "b", exchange);
        k.rename("b/f", "b/w", How { whiteout: true, ..How::default() });
        k.forget_all();
    });
}

/// `status`, and whoever unmounts, saw 0 of 300 MiB until all of them were stored.
#[test]
fn what_is_left_to_store_falls_while_a_commit_is_under_way() {
    let world = World::new(11, tight());
    let drive = world.open().unwrap();
    let mut kernel = Kernel::fresh(drive.clone(), world.clock.clone(), 11);
    kernel.put("f", 1, 1);
    let ino = kernel.ino(kernel.id("f"));
    // More than two packs.
    for n in 0..34u64 << 3 {
        let key = blake3::hash(&n.to_le_bytes());
        let mut noise = vec![0; 128 << 10];
        blake3::Hasher::new_keyed(key.as_bytes()).finalize_xof().fill(&mut noise);
        drive.write(Wait::yes(), ino, n << 17, &noise, false, false).unwrap();
    }
    let all = drive.unstored_bytes();
    assert!(all > 34 << 20, "{all}");
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (look, see) = (drive.clone(), seen.clone());
    let fails = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let failing = fails.clone();
    world.set_plan(move |call| {
        if matches!(call.op, Op::Put) {
            see.lock().push(look.unstored_bytes());
        }
        match call.op == Op::Create && failing.load(std::sync::atomic::Ordering::SeqCst) {
            true => Fault::FailBefore(Kind::Away),
            false => Fault::Pass,
        }
    });
    drive.commit().unwrap_err();
    assert_eq!(drive.unstored_bytes(), all, "nothing is stored by a commit that failed");
    let steps = std::mem::take(&mut *seen.lock());
    assert!(steps.is_sorted_by(|a, b| a >= b) && steps.iter().all(|left| *left <= all), "{steps:?}");
    let between = steps.iter().filter(|left| (all / 16..all - all / 16).contains(left)).count();
    assert!(between >= 2, "{steps:?} of {all}");
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    drive.commit().unwrap();
    assert_eq!(drive.unstored_bytes(), 0);
}
