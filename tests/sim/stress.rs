//! Many threads at one drive while it commits: no deadlock, no error, and in the end the store has what was seen.

use crate::kernel::{Kernel, differ, look};
use crate::times;
use crate::world::{Dice, World, tight};
use nacrefs::commit::FileKind;
use nacrefs::drive::types::{Caller, New, RenameHow, Wait};
use nacrefs::drive::{Drive, Settings};
use nacrefs::error::{Kind, Result};
use nacrefs::types::Ino;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const CALLER: Caller = Caller { uid: 1000, gid: 1000, umask: 0 };

fn mkdir(drive: &Drive, parent: Ino, name: &[u8]) -> Ino {
    let new = New { kind: FileKind::Directory, perm: 0o755, rdev: 0, target: b"" };
    drive.make(Wait::yes(), &CALLER, parent, name, &new).unwrap().ino
}

/// A refusal is as good as success; anything else is a fault.
fn refused<T>(r: Result<T>) -> Option<T> {
    match r {
        Ok(v) => Some(v),
        Err(e) => {
            assert!(matches!(e.kind(), Kind::Errno(_)), "{}", e.chain());
            assert_ne!(e.kind(), Kind::Errno(libc::ESTALE));
            None
        }
    }
}

/// Operations on names that everybody changes: nobody knows how they end.
fn chaos(drive: &Drive, dirs: &[Ino], dice: &mut Dice) {
    let dir = *dice.pick(dirs).unwrap();
    let to = *dice.pick(dirs).unwrap();
    let name = |d: &mut Dice| format!("c{}", d.below(12)).into_bytes();
    let (a, b) = (name(dice), name(dice));
    match dice.below(9) {
        0 | 1 => {
            let kind = if dice.below(3) == 0 { FileKind::Directory } else { FileKind::File };
            let new = New { kind, perm: 0o755, rdev: 0, target: b"" };
            if let Some(s) = refused(drive.make(Wait::yes(), &CALLER, dir, &a, &new)) {
                drive.forget(s.ino, 1);
            }
        }
        2 => _ = refused(drive.unlink(Wait::yes(), dir, &a)),
        3 => _ = refused(drive.rmdir(Wait::yes(), dir, &a)),
        4 | 5 => {
            let how = RenameHow { exchange: dice.below(3) == 0, ..RenameHow::default() };
            _ = refused(drive.rename(Wait::yes(), dir, &a, to, &b, how));
        }
        6 => {
            if let Some(Some(s)) = refused(drive.lookup(Wait::yes(), dir, &a)) {
                if s.attr.kind == FileKind::File {
                    if let Some(l) = refused(drive.link(Wait::yes(), s.ino, to, &b)) {
                        drive.forget(l.ino, 1);
                    }
                    refused(drive.write(Wait::yes(), s.ino, dice.below(9000), &[7; 700], false, false));
                    refused(drive.read(Wait::yes(), s.ino, 0, 5000));
                }
                drive.forget(s.ino, 1);
            }
        }
        7 => {
            let mut seen = Vec::new();
            refused(drive.read_dir(Wait::yes(), dir, 2, true, &mut |item| {
                let stat = item.stat.as_ref().unwrap();
                assert_eq!(stat.ino, item.ino, "an item with another's attributes");
                seen.push(item.ino);
                seen.len() < 20
            }));
            // The last one was refused, and is not counted.
            seen.truncate(19);
            seen.iter().for_each(|ino| drive.forget(*ino, 1));
        }
        _ => drop(refused(drive.stat(Wait::yes(), dir))),
    }
}

fn storm(seed: u64, time: Duration) {
    let mut settings = Settings::within(32 << 20);
    settings.journal = tight().journal;
    (settings.loaded_inodes, settings.written, settings.cache) = (0, 64 << 10, 256 << 10);
    let world = World::new(seed, settings);
    let drive = world.open().unwrap();
    let homes: Vec<Ino> =
        (0..6).map(|n| mkdir(&drive, drive.root(), format!("home{n}").as_bytes())).collect();
    let shared: Vec<Ino> =
        (0..3).map(|n| mkdir(&drive, drive.root(), format!("shared{n}").as_bytes())).collect();
    let stop = AtomicBool::new(false);
    let commits = AtomicU64::new(0);
    let ops = AtomicU64::new(0);
    std::thread::scope(|s| {
        let committer = s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                commits.fetch_add(drive.commit().unwrap().is_some().into(), Ordering::Relaxed);
                if seed.is_multiple_of(2) {
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
        });
        let mut workers = Vec::new();
        for (n, home) in homes.iter().enumerate() {
            let (drive, clock, ops) = (drive.clone(), world.clock.clone(), &ops);
            workers.push(s.spawn(move || {
                let mut kernel = Kernel::below(drive, *home, clock, seed * 100 + n as u64);
                (kernel.alone, kernel.step) = (false, 0);
                let begun = Instant::now();
                while begun.elapsed() < time {
                    for _ in 0..20 {
                        kernel.step(false);
                    }
                    ops.fetch_add(20, Ordering::Relaxed);
                    if kernel.dice.below(8) == 0 {
                        kernel.compare();
                    }
                }
                kernel.compare();
            }));
        }
        for n in 0..2 {
            let (drive, shared, ops) = (&drive, &shared, &ops);
            workers.push(s.spawn(move || {
                let mut dice = Dice(seed * 77 + n);
                let begun = Instant::now();
                while begun.elapsed() < time {
                    chaos(drive, shared, &mut dice);
                    ops.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let ends: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
        stop.store(true, Ordering::Relaxed);
        committer.join().unwrap();
        ends.into_iter().for_each(|e| e.unwrap());
    });
    eprintln!("{ops:?} operations, {commits:?} commits");
    drive.commit_all().unwrap();
    let live = look(&drive, drive.root()).unwrap();
    world.check();
    let elsewhere = world.elsewhere().open().unwrap();
    assert_eq!(differ(&look(&elsewhere, elsewhere.root()).unwrap(), &live), None);
    assert!(commits.into_inner() > 3);
}

/// Runs it with a limit: a deadlock is a failure, not a test that never ends.
fn within(limit: Duration, run: impl FnOnce() + Send + 'static) {
    let (done, wait) = channel();
    let thread = std::thread::spawn(move || {
        run();
        let _ = done.send(());
    });
    match wait.recv_timeout(limit) {
        Ok(()) => thread.join().unwrap(),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            thread.join().unwrap();
        }
        Err(e) => panic!("the drive stands still: {e}"),
    }
}

#[test]
fn eight_threads_and_commits_neither_stand_still_nor_lose_anything() {
    for seed in 0..times(2, 6) {
        let time = Duration::from_secs(times(5, 10));
        within(time + Duration::from_secs(60), move || {
            storm(seed, time);
        });
    }
}
