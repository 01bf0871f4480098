//! Promises 2 and 3: stopped at any call of the disk or the store, the drive is as it was after some operation, none
//! that was made durable is missing, and it goes on from there.

use crate::kernel::{Kernel, Log, differ, look};
use crate::world::{Dice, Snapshot, World, tight};
use crate::{assert_stored, times};
use nacrefs::store::Objects;
use parking_lot::Mutex;
use std::sync::Arc;

/// How many images of the disk are taken at each call: what was synced, and any part of the rest.
const IMAGES: usize = 3;

/// A moment to stop at.
pub struct Moment {
    snapshot: Snapshot,
    /// How many operations were durable, and how many were done; one more may be under way.
    synced: usize,
    done: usize,
    what: String,
}

/// Takes a snapshot before every call that changes the disk or the store, and after a part of it.
pub fn watch(world: &World, log: &Arc<Mutex<Log>>, seed: u64) -> Arc<Mutex<Vec<Moment>>> {
    let moments: Arc<Mutex<Vec<Moment>>> = Arc::default();
    let dice = Arc::new(Mutex::new(Dice(seed)));
    let take = {
        let (moments, log, eye, dice) = (moments.clone(), log.clone(), world.clone(), dice.clone());
        move |what: String| {
            let log = log.lock();
            for _ in 0..IMAGES {
                let snapshot = Snapshot {
                    disk: eye.disk.crash(dice.lock().roll()),
                    store: eye.store(),
                    known: eye.known(),
                };
                let what = what.clone();
                moments.lock().push(Moment { snapshot, synced: log.synced, done: log.done(), what });
            }
        }
    };
    let take = Arc::new(take);
    let snap = take.clone();
    world.disk.set_fault(move |call| {
        use nacrefs::sys::simdisk::Op;
        if !matches!(call.op, Op::Read | Op::Len | Op::List) {
            snap(format!("{:?} {}", call.op, call.file));
        }
        nacrefs::sys::simdisk::Fault::Pass
    });
    let list = moments.clone();
    world.watch(move |name, bytes| {
        take(format!("put {name}"));
        // Torn: a part of the object is there. Lost reply: all of it is.
        let Some(bytes) = bytes else { return };
        for last in list.lock().iter_mut().rev().take(IMAGES) {
            let mut dice = dice.lock();
            let cut = match dice.below(3) {
                0 => continue,
                1 => dice.below(bytes.len() as u64) as usize,
                _ => bytes.len(),
            };
            last.what = format!("put {name}, {cut} of {}", bytes.len());
            last.snapshot.store.put(name, bytes.slice(..cut)).unwrap();
        }
    });
    moments
}

/// Opens a drive at a moment and holds it to the promises.
pub fn survive(world: &World, moment: Moment, log: &Log, seed: u64) {
    let Moment { snapshot, synced, done, what } = moment;
    let world = world.at(snapshot);
    let drive = world.open().unwrap_or_else(|e| panic!("at {what}: {}", e.chain()));
    let is = look(&drive, drive.root()).unwrap();
    let possible = synced..=(done + 1).min(log.done());
    let found = possible.clone().rev().find(|at| log.states[*at].seen() == is);
    let Some(found) = found else {
        let near = differ(&is, &log.states[done].seen()).unwrap_or_default();
        let earlier = log.states.iter().position(|m| m.seen() == is);
        panic!("at {what}: none of the states {possible:?}, but {earlier:?}; the last differs in {near}");
    };
    // It goes on as if nothing had happened, and makes a version: a torn head is a finding until another follows it.
    let opened = drive.version();
    let mut kernel = Kernel::new(drive, log.states[found].clone(), world.clock.clone(), seed);
    let mut steps = 0;
    while steps < 6 || kernel.drive.version() == opened {
        kernel.step(true);
        steps += 1;
        if steps >= 6 {
            kernel.commit();
        }
    }
    kernel.compare();
    world.check();
    assert_stored(&world, &kernel);
}

#[test]
fn a_crash_at_any_call_leaves_a_prefix_with_everything_durable() {
    let mut images = 0;
    for seed in 0..times(10, 60) {
        let world = World::new(100 + seed, tight());
        // From the first opening on.
        let log = Arc::new(Mutex::new(Log { states: Vec::new(), synced: 0 }));
        let mut kernel = {
            let drive = world.open().unwrap();
            Kernel::fresh(drive, world.clock.clone(), seed)
        };
        *log.lock() = Log { states: vec![kernel.model.clone()], synced: 0 };
        kernel.log = log.clone();
        let moments = watch(&world, &log, seed);
        for step in 0..times(200, 400) {
            kernel.step(true);
            let due = std::mem::take(&mut *moments.lock());
            images += due.len();
            for (n, moment) in due.into_iter().enumerate() {
                survive(&world, moment, &log.lock(), seed * 1000 + step * 10 + n as u64);
            }
        }
        world.quiet();
    }
    eprintln!("{} points, {images} images", images / IMAGES);
    assert!(images / IMAGES >= 200 && images >= 1000, "only {images} images");
}
