//! A store that neither answers nor fails: nobody waits for it but who needs it, and nobody under a lock.

use crate::kernel::Kernel;
use crate::model::pattern;
use crate::world::{World, tight};
use nacrefs::commit::{FileKind, View};
use nacrefs::content::{ContentCache, Opener};
use nacrefs::drive::keeper::{Keeper, Pace};
use nacrefs::drive::types::{Caller, New, RenameHow, Wait};
use nacrefs::drive::{Drive, FromStore, Keys};
use nacrefs::error::Kind;
use nacrefs::store::faulty::{Fault, Op};
use nacrefs::sys::simdisk;
use nacrefs::types::Ino;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CALLER: Caller = Caller { uid: 1000, gid: 1000, umask: 0 };
/// How long anything may take that needs no store.
const SOON: Duration = Duration::from_secs(20);

/// Calls of the store that do not come back until they are let go.
#[derive(Clone, Default)]
struct Hanging(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    waiting: usize,
    released: bool,
}

impl Hanging {
    fn at(world: &World, op: Op) -> Hanging {
        let hanging = Hanging::default();
        let inner = hanging.clone();
        world.set_plan(move |call| {
            let (state, changed) = &*inner.0;
            let mut state = state.lock();
            if call.op == op {
                state.waiting += 1;
                changed.notify_all();
                changed.wait_while(&mut state, |s| !s.released);
            }
            Fault::Pass
        });
        hanging
    }

    /// Waits until a call hangs.
    fn reached(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock();
        changed.wait_while_for(&mut state, |s| s.waiting == 0, SOON);
        assert!(state.waiting > 0, "nothing asked the store");
    }

    fn release(&self) {
        self.0.0.lock().released = true;
        self.0.1.notify_all();
    }
}

/// Runs it on a thread, and demands that it ends without the store.
fn soon<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = channel();
    std::thread::spawn(move || done.send(run()));
    wait.recv_timeout(SOON).unwrap_or_else(|e| panic!("{what} waits for the store: {e}"))
}

fn mkdir(drive: &Drive, parent: Ino, name: &str) -> Ino {
    let new = New { kind: FileKind::Directory, perm: 0o755, rdev: 0, target: b"" };
    drive.make(Wait::yes(), &CALLER, parent, name.as_bytes(), &new).unwrap().ino
}

#[test]
fn a_rename_that_waits_for_the_store_holds_up_no_other() {
    let mut settings = tight();
    settings.cache = 0;
    let world = World::new(1, settings);
    let mut kernel = Kernel::fresh(world.open().unwrap(), world.clock.clone(), 1);
    kernel.mkdir("x");
    kernel.mkdir("x/y");
    (0..100).for_each(|n| kernel.put(&format!("z{n}"), 1, 10));
    kernel.commit_quietly();
    drop(kernel);

    let drive = world.open().unwrap();
    let root = drive.root();
    let find = |dir, name: &str| drive.lookup(Wait::yes(), dir, name.as_bytes()).unwrap().unwrap().ino;
    let y = find(find(root, "x"), "y");
    // What is new is in memory: these, and y, but not x above it.
    let (p, q) = (mkdir(&drive, root, "p"), mkdir(&drive, root, "q"));
    mkdir(&drive, p, "moving");
    mkdir(&drive, root, "slow");
    mkdir(&drive, y, "there");
    for n in 0..100 {
        world.clock.advance(1);
        drive.stat(Wait::yes(), find(root, &format!("z{n}"))).unwrap();
    }
    let slow =
        move |drive: &Drive, wait| drive.rename(wait, root, b"slow", y, b"moved", RenameHow::default());
    assert_eq!(slow(&drive, Wait::No).unwrap_err().kind(), Kind::Miss, "what is above is not in memory");

    let hanging = Hanging::at(&world, Op::Range);
    let waiting: JoinHandle<_> = {
        let drive = drive.clone();
        std::thread::spawn(move || slow(&drive, Wait::yes()))
    };
    hanging.reached();
    let other = drive.clone();
    soon("another rename", move || {
        other.rename(Wait::yes(), p, b"moving", q, b"moved", RenameHow::default())
    })
    .unwrap();
    assert!(!waiting.is_finished());
    hanging.release();
    waiting.join().unwrap().unwrap();
    find(y, "moved");
    find(q, "moved");
    assert!(drive.lookup(Wait::yes(), root, b"slow").unwrap().is_none());
}

#[test]
fn the_committed_version_is_told_while_a_commit_waits_for_the_store() {
    let world = World::new(2, tight());
    let mut kernel = Kernel::fresh(world.open().unwrap(), world.clock.clone(), 2);
    kernel.put("f", 1, 9000);
    kernel.commit();
    kernel.put("f", 2, 9000);
    let drive = kernel.drive.clone();
    let before = drive.version();

    let hanging = Hanging::at(&world, Op::Put);
    let committer = drive.clone();
    let commit = std::thread::spawn(move || committer.commit());
    hanging.reached();
    let asked = drive.clone();
    let keys = world.site().keys.clone();
    let (version, bytes) = soon("who asks for the past", move || {
        let (newest, store) = asked.committed();
        let chunks = Opener::new(Arc::new(ContentCache::new(1 << 20)), FromStore(store), Keys(keys.clone()));
        let view = View::new(newest.commit.clone(), keys, Arc::new(chunks));
        let mut bytes = vec![0; 10_000];
        let n = view.read(&view.resolve(b"f").unwrap(), 0, &mut bytes).unwrap();
        bytes.truncate(n);
        (newest.version(), bytes)
    });
    assert_eq!((version, bytes), (before, pattern(1, 9000)));
    let ino = kernel.ino(kernel.id("f"));
    let live = drive.clone();
    let now = soon("a reader", move || live.read(Wait::yes(), ino, 0, 10_000)).unwrap();
    assert_eq!(now, pattern(2, 9000));
    hanging.release();
    assert_eq!(commit.join().unwrap().unwrap(), Some(before + 1));
    assert_eq!(drive.committed().0.version(), before + 1);
}

/// A daemon that is told to end waits for what its threads are doing, and not for a store that does not answer.
#[test]
fn the_threads_of_a_drive_end_in_time_whatever_the_store_does() {
    for hangs in [false, true] {
        let world = World::new(4, tight());
        let drive = world.open().unwrap();
        let pace = Pace { flush: Duration::from_millis(10), commit: Duration::from_millis(10) };
        let mut keeper = Keeper::start(drive.clone(), pace, || {}).unwrap();
        let hanging = hangs.then(|| Hanging::at(&world, Op::Put));
        mkdir(&drive, drive.root(), "d");
        drive.want_commit();
        if let Some(hanging) = &hanging {
            hanging.reached();
        }
        assert!(keeper.is_whole());
        let patience = if hangs { Duration::from_millis(300) } else { SOON };
        let begun = Instant::now();
        keeper.stop_within(patience);
        let took = begun.elapsed();
        assert!(took < SOON && (took >= patience) == hangs, "{took:?}");
        if let Some(hanging) = &hanging {
            hanging.release();
        }
    }
}

/// What keeps changes from being durable shows in `status`, and is not taken for a store that is away.
#[test]
fn trouble_of_the_journal_is_noted_with_its_time_and_the_store_is_not_blamed() {
    let world = World::new(5, tight());
    let drive = world.open().unwrap();
    let pace = Pace { flush: Duration::from_millis(10), commit: Duration::from_secs(3600) };
    let mut keeper = Keeper::start(drive.clone(), pace, || {}).unwrap();
    world.disk.set_fault(|call| match call.op {
        simdisk::Op::Sync => simdisk::Fault::Fail(Kind::Failed),
        _ => simdisk::Fault::Pass,
    });
    mkdir(&drive, drive.root(), "d");
    let until = Instant::now() + SOON;
    while drive.progress().last_error.is_none() {
        assert!(Instant::now() < until, "a journal that cannot be synced is not told");
        std::thread::sleep(Duration::from_millis(5));
    }
    let told = drive.progress();
    assert!(told.last_error_time.is_some() && !told.away, "{told:?}");
    keeper.stop_within(SOON);
}

/// Directories are what the next operations look into; the rest of what a commit writes would only push out what
/// somebody has read.
#[test]
fn a_commit_keeps_the_nodes_of_directories_and_nothing_else() {
    let mut settings = tight();
    settings.cache = 16 << 20;
    let world = World::new(3, settings);
    let mut kernel = Kernel::fresh(world.open().unwrap(), world.clock.clone(), 3);
    kernel.mkdir("d");
    for n in 0..300 {
        kernel.put(&format!("d/{n}"), 1, 1);
        kernel.link(&format!("d/{n}"), &format!("d/the other name of {n}"));
    }
    kernel.commit();
    let kept = kernel.drive.cached_bytes();
    let listed = |drive: &Drive, away| {
        world.set_plan(move |call| match call.op {
            Op::Range if away => Fault::FailBefore(Kind::Away),
            _ => Fault::Pass,
        });
        let d = drive.lookup(Wait::yes(), drive.root(), b"d").unwrap().unwrap().ino;
        let mut names = 0;
        drive
            .read_dir(Wait::yes(), d, 0, false, &mut |_| {
                names += 1;
                true
            })
            .unwrap();
        assert_eq!(names, 602);
    };
    listed(&kernel.drive, true);
    world.clear_plan();
    let fresh = world.open().unwrap();
    listed(&fresh, false);
    let directories = fresh.cached_bytes();
    assert!(directories > 10_000, "{directories}");
    assert!(kept < directories + 2000, "{kept} bytes are kept, directories are {directories}");
}
