//! Promises 2 and 3: after the daemon is killed at any moment, everything made durable is there, and the drive is
//! as it was at some moment: a prefix of the operations.

mod common;
#[path = "common/model.rs"]
mod model;
use common::TestDrive;
use model::{Dice, Model, Op, look, perform, prefix};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// One round: operations until the daemon dies, then a new mount; returns how the tree looked then, and how many
/// operations there were.
fn round(d: &mut TestDrive, seed: u64, before: &Model) -> (Model, usize) {
    let mut dice = Dice(seed);
    let delay = Duration::from_millis(20 + dice.below(900));
    let pid = d.pid();
    let root = d.mnt.join("work");
    let dead = AtomicBool::new(false);
    let durable = AtomicUsize::new(0);
    let mut ops: Vec<Op> = Vec::new();
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(delay);
            dead.store(true, Ordering::SeqCst);
            unsafe { libc::kill(pid, libc::SIGKILL) };
        });
        let mut now = before.clone();
        loop {
            let op = now.choose(&mut dice);
            let done = perform(&root, &op);
            match done {
                Ok(()) => {
                    now.apply(&op);
                    ops.push(op.clone());
                    if matches!(op, Op::Fsync(_)) {
                        durable.store(ops.len(), Ordering::SeqCst);
                    }
                }
                Err(e) => {
                    assert!(
                        dead.load(Ordering::SeqCst),
                        "seed {seed}: {op:?} failed with the daemon alive: {e}"
                    );
                    // Not acknowledged: it may have happened all the same.
                    ops.push(op);
                    break;
                }
            }
        }
    });
    d.kill_is_done();
    let begun = Instant::now();
    d.mount();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "seed {seed}: the mount took {took:?}");
    let least = durable.load(Ordering::SeqCst);
    let found = prefix(before, &ops, least, &look(&root)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    (found.1, ops.len())
}

#[test]
fn killed_at_any_moment_nothing_durable_is_lost_and_the_rest_is_a_prefix() {
    let full = common::full();
    let rounds = if full { 200 } else { 40 };
    let seed: u64 = match std::env::var("NACREFS_SEED") {
        Ok(s) => s.parse().unwrap(),
        Err(_) => {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
        }
    };
    println!("NACREFS_SEED={seed} replays this");
    let mut d = TestDrive::new();
    std::fs::create_dir(d.mnt.join("work")).unwrap();
    // A drive that is lived on: what is not touched must be there at the end, and make no mount slower.
    let others = if full { 100_000 } else { 20_000 };
    for n in 0..others {
        let path = other(&d, n);
        if n % 1000 == 0 {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        std::fs::write(path, format!("other {n}")).unwrap();
    }
    d.sync();
    let mut m = Model::default();
    let mut done = 0;
    for r in 0..rounds {
        let (after, ops) = round(&mut d, seed.wrapping_add(r), &m);
        m = after;
        done += ops;
    }
    println!("{done} operations in {rounds} rounds");
    assert!(done as u64 > 10 * rounds, "the rounds were too short to say anything");
    // And through the store alone.
    d.move_to_a_new_machine();
    assert_eq!(look(&d.mnt.join("work")), m.seen());
    for n in 0..others {
        assert_eq!(std::fs::read_to_string(other(&d, n)).unwrap(), format!("other {n}"));
    }
}

/// A file beside those that the rounds work on.
fn other(d: &TestDrive, n: u64) -> std::path::PathBuf {
    d.mnt.join(format!("others/{}/{n}", n / 1000))
}
