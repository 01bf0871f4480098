//! Promises 2, 3 and 7 when the power goes: store and state directory lie on an ext4 on a disk that forgets what was
//! not flushed. ext4 itself is the control: a log beside the drive, appended to and synced in the same rounds.

#[path = "../common/mod.rs"]
mod common;
mod disk;
#[path = "../common/model.rs"]
mod model;

use common::TestDrive;
use disk::{Cut, Disk, Image};
use model::{Dice, Model, Op, look, perform, prefix};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

const BYTES: usize = 192 << 20;
/// Rounds on one disk: no version is ever let go, and it must not be full.
const EACH: usize = 25;
const LINE: &str = "a line of the control";
const OPTIONS: &str = "commit=1,journal=64M";

/// What was done before the power went, and what had been promised by then.
struct Done {
    cut: Cut<Promised>,
    ops: Vec<Op>,
}

struct Promised {
    /// How many operations were fsynced, and how many were in the store.
    durable: usize,
    stored: usize,
    /// Lines of the control that were fsynced.
    control: usize,
}

#[derive(Default)]
struct Counts {
    durable: AtomicUsize,
    stored: AtomicUsize,
    control: AtomicUsize,
}

/// Works on a mounted drive until the power goes.
fn work(d: &TestDrive, disk: &Disk, before: &Model, dice: &mut Dice) -> Done {
    let off = AtomicBool::new(false);
    let counts = Arc::new(Counts::default());
    counts.control.store(count_lines(&disk.mnt), SeqCst);
    let delay = Duration::from_millis(100 + dice.below(1500));
    let (mut work_dice, cut_dice) = (Dice(dice.roll()), Dice(dice.roll()));
    let root = d.mnt.join("work");
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut log =
                std::fs::File::options().create(true).append(true).open(disk.mnt.join("control")).unwrap();
            while !off.load(SeqCst) {
                writeln!(log, "{LINE}").and_then(|()| log.sync_data()).unwrap();
                counts.control.fetch_add(1, SeqCst);
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        s.spawn(|| {
            while !off.load(SeqCst) {
                disk::write_back(&d.state);
                disk::write_back(&d.store);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let cut = s.spawn(|| {
            std::thread::sleep(delay);
            let c = counts.clone();
            let promised = move || Promised {
                durable: c.durable.load(SeqCst),
                stored: c.stored.load(SeqCst),
                control: c.control.load(SeqCst),
            };
            let cut = disk.cut(cut_dice, promised);
            off.store(true, SeqCst);
            cut
        });
        let mut now = before.clone();
        let mut ops = Vec::new();
        while !off.load(SeqCst) {
            let op = now.choose(&mut work_dice);
            perform(&root, &op).unwrap_or_else(|e| panic!("{op:?}: {e}"));
            now.apply(&op);
            let is_sync = matches!(op, Op::Fsync(_));
            ops.push(op);
            if is_sync {
                counts.durable.store(ops.len(), SeqCst);
            }
            if work_dice.below(60) == 0 {
                d.sync();
                counts.durable.store(ops.len(), SeqCst);
                counts.stored.store(ops.len(), SeqCst);
            }
        }
        // What was under way at the cut is the last of `ops`, or before it.
        Done { cut: cut.join().unwrap(), ops }
    })
}

fn count_lines(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("control")).map_or(0, |text| text.lines().count())
}

/// Holds the disk that the cut left to what was promised, and returns what the drive holds. `stored`: how the store alone
/// looked after the last cut, and after this one.
fn judge(
    d: &mut TestDrive,
    disk: &Disk,
    before: &Model,
    done: &Done,
    stored: &mut model::Seen,
) -> Result<Model, String> {
    let text = std::fs::read_to_string(disk.mnt.join("control")).map_err(|e| format!("the control: {e}"))?;
    let whole = text.lines().take_while(|line| *line == LINE).count();
    let promised = &done.cut.figures;
    if whole < promised.control {
        return Err(format!("of {} lines of the control {whole} are there", promised.control));
    }
    // From the store alone first, which changes nothing.
    let seen = mounted(d, "ro", Some("nowhere"))?;
    // The power may go again before there is a commit.
    if promised.stored > 0 || seen != *stored {
        prefix(before, &done.ops, promised.stored, &seen)
            .map_err(|e| format!("from the store alone: {e}"))?;
    }
    *stored = seen;
    let seen = mounted(d, OPTIONS, None)?;
    let (_, model) = prefix(before, &done.ops, promised.durable, &seen)?;
    Ok(model)
}

/// How the drive looks when mounted so; it stays mounted if with its own state directory.
fn mounted(d: &mut TestDrive, options: &str, state: Option<&str>) -> Result<model::Seen, String> {
    let own = d.state.clone();
    if let Some(name) = state {
        d.state = d.dir().join(name);
    }
    let out = d.try_mount(options);
    let seen = match out.status.success() {
        true => Ok(look(&d.mnt.join("work"))),
        false => Err(format!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr))),
    };
    if state.is_some() {
        if seen.is_ok() {
            d.umount();
        }
        let _ = std::fs::remove_dir_all(&d.state);
        d.state = own;
    }
    seen
}

fn check(d: &TestDrive) {
    let out = d.nacrefs(&["check", "--read-data"]).arg(&d.store).output();
    common::ok(out);
}

/// A drive on a new disk: mounted, with an empty directory in it.
fn begin() -> (TestDrive, Disk) {
    let mut d = TestDrive::unmounted(OPTIONS);
    let disk = Disk::mount(Image::new(BYTES), &d.dir().join("disk"), true).unwrap();
    (d.store, d.state) = (disk.mnt.join("store"), disk.mnt.join("state"));
    common::ok(d.nacrefs(&["init"]).arg(&d.store).output());
    d.mount();
    std::fs::create_dir(d.mnt.join("work")).unwrap();
    d.sync();
    // The disk of a machine that has been running for a while.
    disk::run(Command::new("sync").arg("-f").arg(&disk.mnt));
    (d, disk)
}

fn seed() -> u64 {
    let seed = match std::env::var("NACREFS_SEED") {
        Ok(s) => s.parse().unwrap(),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("NACREFS_SEED={seed} chooses the same operations again");
    seed
}

#[test]
fn when_the_power_goes_nothing_synced_is_lost_and_the_rest_is_a_prefix() {
    let full = common::full();
    let rounds = if full { 150 } else { 12 };
    let mut dice = Dice(seed());
    let (mut d, mut disk) = begin();
    let (mut model, mut stored) = (Model::default(), model::Seen::default());
    let (mut ops, mut unflushed, mut lost) = (0, 0, 0);
    for round in 0..rounds {
        if round > 0 && round % EACH == 0 {
            d.umount();
            (d, disk) = begin();
            (model, stored) = (Model::default(), model::Seen::default());
        }
        let done = work(&d, &disk, &model, &mut dice);
        d.kill();
        let place = d.dir().join("disk");
        drop(disk);
        disk = Disk::mount(done.cut.image.clone(), &place, false)
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        let before = model.clone();
        model = judge(&mut d, &disk, &before, &done, &mut stored)
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        check(&d);
        ops += done.ops.len();
        unflushed += done.cut.unflushed;
        let mut all = before;
        done.ops.iter().for_each(|op| all.apply(op));
        lost += usize::from(all.seen() != model.seen());
    }
    d.umount();
    println!(
        "{ops} operations, {unflushed} sectors not flushed at a cut; {lost} of {rounds} rounds lost some operations"
    );
    assert!(ops > 10 * rounds && unflushed > 3 * rounds, "the rounds were too quiet to say anything");
}

/// The test above can fail: on a disk that does not flush when it is told to, it does.
#[test]
fn a_disk_that_lies_about_flushes_is_noticed() {
    let mut dice = Dice(seed());
    let mut noticed = Vec::new();
    for _ in 0..4 {
        let (mut d, disk) = begin();
        disk.lie();
        let done = work(&d, &disk, &Model::default(), &mut dice);
        d.kill();
        let place = d.dir().join("disk");
        drop(disk);
        let found = Disk::mount(done.cut.image.clone(), &place, false).and_then(|disk| {
            let found = judge(&mut d, &disk, &Model::default(), &done, &mut model::Seen::default());
            if d.mnt.join("work").exists() {
                d.umount_local();
            }
            found
        });
        noticed.extend(found.err());
    }
    assert!(!noticed.is_empty(), "a disk without flushes went unnoticed");
    println!("{}", noticed.join("\n"));
}
