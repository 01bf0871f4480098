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
