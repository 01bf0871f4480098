//! Each call of the disk and of the store fails once: the error is clean, nothing is lost, and trying again works.

use crate::kernel::{Kernel, differ, look};
use crate::world::{World, tight};
use crate::{assert_stored, times};
use nacrefs::error::Kind;
use nacrefs::store::faulty::{Fault, Op as StoreOp};
use nacrefs::sys::simdisk::{self, Op as DiskOp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs a scenario whose calls fail as `arm` says; returns how many operations had to be tried again.
fn scenario(seed: u64, arm: impl Fn(&World)) -> u64 {
    let world = World::new(seed, tight());
    arm(&world);
    // A mount that fails can be tried again.
    let drive = world.open().or_else(|_| world.open()).unwrap();
    let mut kernel = Kernel::fresh(drive, world.clock.clone(), seed);
    kernel.retry = true;
    for step in 0..200 {
        kernel.step(true);
        if step % 20 == 19 {
            kernel.commit();
        }
    }
    kernel.sync();
    kernel.compare();
    world.quiet();
    // What is in the journal, and then what is in the store.
    let seen = kernel.model.seen();
    let troubles = kernel.troubles;
    let Kernel { drive, model, .. } = kernel;
    drop(drive);
    let drive = world.open().unwrap();
    if let Some(difference) = differ(&look(&drive, drive.root()).unwrap(), &seen) {
        panic!("after mounting again: {difference}");
    }
    let mut kernel = Kernel::new(drive, model, world.clock.clone(), seed);
    for _ in 0..5 {
        kernel.step(true);
    }
    kernel.commit();
    world.check();
    assert_stored(&world, &kernel);
    troubles
}

fn each_call_of_the_disk_fails(op: DiskOp, stride: u64) {
    let (mut runs, mut troubles) = (0, 0);
    for nth in (0..).step_by(times(stride, 1) as usize) {
        let met = Arc::new(AtomicU64::new(0));
        let count = met.clone();
        troubles += scenario(5, |world| {
            let (count, from) = (count.clone(), world.disk.count(op));
            world.disk.set_fault(move |call| {
                if call.op == op && call.nth == from + nth {
                    count.fetch_add(1, Ordering::Relaxed);
                    return simdisk::Fault::Fail(Kind::Failed);
                }
                simdisk::Fault::Pass
            });
        });
        if met.load(Ordering::Relaxed) == 0 {
            break;
        }
        runs += 1;
    }
    eprintln!("{op:?}: {runs} runs, {troubles} errors");
    assert!(runs > 0);
}

fn each_call_of_the_store_fails(op: StoreOp, fault: Fault, stride: u64) {
    let (mut runs, mut troubles) = (0, 0);
    for nth in (0..).step_by(times(stride, 1) as usize) {
        let met = Arc::new(AtomicU64::new(0));
        let count = met.clone();
        troubles += scenario(6, |world| {
            let count = count.clone();
            let calls = AtomicU64::new(0);
            world.set_plan(move |call| {
                if call.op == op && calls.fetch_add(1, Ordering::Relaxed) == nth {
                    count.fetch_add(1, Ordering::Relaxed);
                    return fault;
                }
                Fault::Pass
            });
        });
        if met.load(Ordering::Relaxed) == 0 {
            break;
        }
        runs += 1;
    }
    eprintln!("{op:?} {fault:?}: {runs} runs, {troubles} errors");
    assert!(runs > 0);
}

#[test]
fn a_journal_write_that_fails_loses_nothing() {
    each_call_of_the_disk_fails(DiskOp::Write, 1);
}

#[test]
fn a_journal_sync_that_fails_loses_nothing() {
    each_call_of_the_disk_fails(DiskOp::Sync, 1);
}

#[test]
fn a_journal_file_that_cannot_be_opened_loses_nothing() {
    each_call_of_the_disk_fails(DiskOp::Open, 1);
    each_call_of_the_disk_fails(DiskOp::SyncNames, 1);
}

#[test]
fn a_put_that_fails_loses_nothing() {
    each_call_of_the_store_fails(StoreOp::Put, Fault::FailBefore(Kind::Away), 1);
    each_call_of_the_store_fails(StoreOp::Put, Fault::FailAfter(Kind::Away), 1);
}

#[test]
fn a_head_that_cannot_be_created_loses_nothing() {
    each_call_of_the_store_fails(StoreOp::Create, Fault::FailBefore(Kind::Away), 1);
    each_call_of_the_store_fails(StoreOp::Create, Fault::FailAfter(Kind::Away), 1);
}

#[test]
fn a_read_of_the_store_that_fails_loses_nothing() {
    each_call_of_the_store_fails(StoreOp::Get, Fault::FailBefore(Kind::Away), 3);
    each_call_of_the_store_fails(StoreOp::Range, Fault::FailBefore(Kind::Away), 11);
    each_call_of_the_store_fails(StoreOp::List, Fault::FailBefore(Kind::Away), 1);
}

/// A drive in which a commit has failed, after it took the content of `b` for that of `a`, which is stored.
fn with_a_duplicate(world: &World) -> Kernel {
    let mut kernel = Kernel::fresh(world.open().unwrap(), world.clock.clone(), 1);
    kernel.put("a", 1, 20_000);
    kernel.commit();
    kernel.put("b", 1, 20_000);
    kernel.unlink("a");
    world.set_plan(|call| match call.op {
        StoreOp::Put => Fault::FailBefore(Kind::Away),
        _ => Fault::Pass,
    });
    assert_eq!(kernel.drive.commit().unwrap_err().kind(), Kind::Away);
    world.clear_plan();
    kernel
}

#[test]
fn a_version_whose_duplicates_are_gone_from_the_index_is_made_anew() {
    let world = World::new(1, tight());
    let kernel = with_a_duplicate(&world);
    let (newest, store) = kernel.drive.committed();
    let runs = store.runs();
    let mut entries: Vec<_> =
        runs.parts().flat_map(|part| store.index().scan(part)).collect::<Result<_, _>>().unwrap();
    // The content of `a` is the largest chunk.
    entries.sort_by_key(|e| e.place.len);
    assert!(entries.pop().is_some_and(|e| e.place.len > 200));
    store.adopt(store.index().add(&Default::default(), entries).unwrap());
    assert_eq!(kernel.drive.commit().unwrap(), Some(newest.version() + 1));
    world.check();
    assert_stored(&world, &kernel);
}

#[test]
fn a_commit_that_panics_is_an_error_and_the_next_one_stores_all() {
    let world = World::new(2, tight());
    let mut kernel = Kernel::fresh(world.open().unwrap(), world.clock.clone(), 2);
    kernel.put("f", 1, 9000);
    let calls = AtomicU64::new(0);
    world.set_plan(move |call| {
        assert!(call.op != StoreOp::Put || calls.fetch_add(1, Ordering::Relaxed) > 0, "on purpose");
        Fault::Pass
    });
    let told = kernel.drive.commit().unwrap_err();
    assert!(told.kind() == Kind::Failed && told.to_string().contains("panicked"), "{}", told.chain());
    kernel.put("f", 2, 100);
    kernel.compare();
    assert!(kernel.drive.commit().unwrap().is_some());
    kernel.commit();
    kernel.compare();
    world.check();
    assert_stored(&world, &kernel);
}

/// The version is published: the error is the journal's, and no more than its files is left behind.
#[test]
fn a_journal_that_cannot_be_trimmed_keeps_no_version_from_being_one() {
    for op in [DiskOp::Rename, DiskOp::Remove, DiskOp::SyncNames] {
        let world = World::new(3, tight());
        let mut kernel = Kernel::fresh(world.open().unwrap(), world.clock.clone(), 3);
        // So many that the next file is not made ahead: trimming keeps one, and removes another.
        for round in 0..41 {
            kernel.put(&format!("f{round}"), round, 40_000);
        }
        let before = kernel.drive.version();
        let full = kernel.drive.journal().usage();
        world.disk.set_fault(move |call| match call.op == op {
            true => simdisk::Fault::Fail(Kind::Failed),
            false => simdisk::Fault::Pass,
        });
        assert_eq!(kernel.drive.commit().unwrap_err().kind(), Kind::Failed, "{op:?}");
        world.disk.clear_fault();
        assert_eq!(kernel.drive.version(), before + 1, "{op:?}");
        assert_eq!(kernel.drive.progress().stored, kernel.drive.journal().last());
        assert_stored(&world, &kernel);
        // The next commit trims; and a mount replays nothing that is stored.
        kernel.put("more", 1, 10);
        kernel.commit();
        let left = kernel.drive.journal().usage();
        assert!(left.bytes < full.bytes / 10, "{op:?}: {left:?} of {full:?}");
        kernel.put("last", 1, 10);
        kernel.sync();
        let Kernel { drive, model, .. } = kernel;
        drop(drive);
        let kernel = Kernel::new(world.open().unwrap(), model, world.clock.clone(), 4);
        let is = look(&kernel.drive, kernel.drive.root()).unwrap();
        assert_eq!(differ(&is, &kernel.model.seen()), None, "{op:?}");
    }
}
