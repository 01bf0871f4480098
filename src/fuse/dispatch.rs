//! Where an operation runs.
//!
//! Each runs first on the event loop, told not to wait. Where it would have to, it is handed with its
//! arguments and its reply to a worker, and runs there again, allowed to wait. So a hit costs no change of
//! thread, and the event loop never stands still.

use super::convert::{Shown, errno};
use super::counts::{Call, Counts};
use super::poll::Poller;
use super::reply::Answer;
use super::workers::{Lane, Workers};
use crate::drive::types::Wait;
use crate::error::{Error, Kind, Result};
use crate::types::Ino;
use parking_lot::Mutex;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An operation, as far as it matters for where it runs and what the log says of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    call: Call,
    ino: Ino,
    lane: Lane,
    /// Whether it is tried on the event loop first.
    here: bool,
}

impl Op {
    /// An operation that changes nothing.
    pub(super) fn read(call: Call, ino: Ino) -> Op {
        Op { call, ino, lane: Lane::Read, here: true }
    }

    /// An operation that appends to the journal.
    pub(super) fn change(call: Call, ino: Ino) -> Op {
        Op { call, ino, lane: Lane::Change, here: true }
    }

    /// An operation that appends to the journal, and makes room: it passes those that wait for some.
    pub(super) fn free(call: Call, ino: Ino) -> Op {
        Op { call, ino, lane: Lane::Free, here: true }
    }

    /// An operation that waits for the disk.
    pub(super) fn sync(call: Call, ino: Ino) -> Op {
        Op { call, ino, lane: Lane::Sync, here: false }
    }

    /// Straight to a worker when `long`: too much work for the event loop, or sure to wait.
    pub(super) fn long_if(self, long: bool) -> Op {
        Op { here: self.here && !long, ..self }
    }
}

/// What is durable when an operation is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// What was asked for: fsync, O_SYNC.
    OnDemand,
    /// Each change but what is written to files (`dirsync`).
    Names,
    /// Each change (`sync`).
    Changes,
}

/// Runs operations on `D` (the drive) and answers them.
pub(super) struct Dispatcher<D> {
    core: Arc<Core<D>>,
    poller: Arc<Poller>,
    workers: Workers,
}

/// What the event loop and the workers share.
struct Core<D> {
    drive: Arc<D>,
    throttled: fn(&D) -> bool,
    /// Makes everything durable, and after which operations.
    sync: fn(&D) -> Result<()>,
    durable: Durable,
    shown: Shown,
    lines: Mutex<Limiter>,
    counts: Arc<Counts>,
}

impl<D: Send + Sync + 'static> Dispatcher<D> {
    /// `throttled` tells when those who change something have to wait; `sync` makes durable what `durable` says;
    /// `workers` is the number of threads for each lane.
    pub(super) fn new(
        drive: Arc<D>,
        throttled: fn(&D) -> bool,
        (sync, durable): (fn(&D) -> Result<()>, Durable),
        shown: Shown,
        poller: Arc<Poller>,
        workers: usize,
    ) -> Result<Dispatcher<D>> {
        let lines = Mutex::new(Limiter::new(Instant::now()));
        let core = Core { drive, throttled, sync, durable, shown, lines, counts: Arc::default() };
        Ok(Dispatcher { core: Arc::new(core), poller, workers: Workers::start(workers)? })
    }

    pub(super) fn shown(&self) -> &Shown {
        &self.core.shown
    }

    /// What was answered so far.
    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.core.counts
    }

    /// Runs `work`, here or on a worker, and answers with what it returns. `bytes` are the borrowed
    /// arguments; they are copied only on the way to a worker. `work` runs a second time only after it
    /// failed with [`Kind::Miss`].
    pub(super) fn serve<const N: usize, T, R: Answer<T>>(
        &self,
        op: Op,
        bytes: [&[u8]; N],
        reply: R,
        mut work: impl FnMut(&D, Wait, [&[u8]; N]) -> Result<T> + Send + 'static,
    ) {
        self.serve_into(op, bytes, reply, move |drive, wait, bytes, _| work(drive, wait, bytes));
    }

    /// The same for work that fills its reply as it goes.
    pub(super) fn serve_into<const N: usize, T, R: Answer<T>>(
        &self,
        op: Op,
        bytes: [&[u8]; N],
        mut reply: R,
        mut work: impl FnMut(&D, Wait, [&[u8]; N], &mut R) -> Result<T> + Send + 'static,
    ) {
        self.poller.tick();
        let core = &self.core;
        if op.here && !core.settles(op) && (op.lane != Lane::Change || !(core.throttled)(&core.drive)) {
            let result = core.guarded(|| work(&core.drive, Wait::No, bytes, &mut reply));
            if !result.as_ref().is_err_and(|e| e.kind() == Kind::Miss) {
                return core.answer(op, reply, result);
            }
        }
        // However long it stands in the queue.
        let came = Wait::yes();
        let core = Arc::clone(core);
        let owned = bytes.map(<[u8]>::to_vec);
        let job = move || {
            let bytes = owned.each_ref().map(Vec::as_slice);
            let result = core.guarded(|| {
                let done = work(&core.drive, came, bytes, &mut reply)?;
                if core.settles(op) {
                    (core.sync)(&core.drive)?;
                }
                Ok(done)
            });
            core.answer(op, reply, result);
        };
        self.workers.hand(op.lane, Box::new(job));
    }

    /// Runs what the kernel expects no answer to.
    pub(super) fn tell(&self, op: Op, work: impl FnOnce(&D)) {
        self.core.counts.answered(op.call);
        if let Err(e) = self.core.guarded(|| {
            work(&self.core.drive);
            Ok(())
        }) {
            self.core.report(op, &e);
        }
    }
}

impl<D> Core<D> {
    /// Whether what the operation changes is durable before it is answered.
    fn settles(&self, op: Op) -> bool {
        matches!(op.lane, Lane::Change | Lane::Free)
            && match self.durable {
                Durable::OnDemand => false,
                Durable::Names => op.call != Call::Write,
                Durable::Changes => true,
            }
    }

    /// Turns a panic into an error: one operation fails, the mount stays.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            Err(Error::failed(format!(
                "the operation panicked, please report it: {}",
                panic_message(&*panic)
            )))
        })
    }

    fn answer<T>(&self, op: Op, reply: impl Answer<T>, result: Result<T>) {
        self.counts.answered(op.call);
        match result {
            Ok(value) => reply.done(value, &self.shown),
            Err(e) => {
                self.report(op, &e);
                let errno = errno(&e);
                self.counts.refused(errno.code());
                reply.fail(errno);
            }
        }
    }

    /// Logs what is a fault, not a file operation's own refusal.
    fn report(&self, op: Op, e: &Error) {
        if matches!(e.kind(), Kind::Errno(_)) {
            return;
        }
        if let Some(held_back) = self.lines.lock().admit(Instant::now()) {
            tracing::error!(op = op.call.name(), inode = op.ino, held_back, "{}", e.chain());
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Lets a few lines through in each window of time and counts the rest.
struct Limiter {
    start: Instant,
    lines: u32,
    held_back: u64,
}

impl Limiter {
    const WINDOW: Duration = Duration::from_secs(10);
    const LINES: u32 = 20;

    fn new(now: Instant) -> Limiter {
        Limiter { start: now, lines: 0, held_back: 0 }
    }

    /// Whether a line may be written now; if so, how many were held back since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.start) >= Self::WINDOW {
            (self.start, self.lines) = (now, 0);
        }
        if self.lines == Self::LINES {
            self.held_back += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::Reply;
    use super::*;
    use crossbeam_channel::{Receiver, Sender, bounded};
    use fuser::Errno;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::thread::{self, ThreadId};

    type Told = (Result<u32, i32>, ThreadId);

    /// A reply that tells the test what it was given, and by which thread.
    struct Probe(Sender<Told>);

    impl Reply for Probe {
        fn fail(self, errno: Errno) {
            self.0.send((Err(errno.code()), thread::current().id())).unwrap();
        }
    }

    impl Answer<u32> for Probe {
        fn done(self, value: u32, _: &Shown) {
            self.0.send((Ok(value), thread::current().id())).unwrap();
        }
    }

    fn dispatcher(throttled: bool) -> Dispatcher<AtomicBool> {
        let shown = Shown::default();
        let drive = Arc::new(AtomicBool::new(throttled));
        let sync = (never as fn(&AtomicBool) -> Result<()>, Durable::OnDemand);
        Dispatcher::new(drive, |d| d.load(Relaxed), sync, shown, Arc::new(Poller::default()), 2).unwrap()
    }

    fn never(_: &AtomicBool) -> Result<()> {
        panic!("nobody asked for it")
    }

    fn probe() -> (Probe, Receiver<Told>) {
        let (tell, told) = bounded(4);
        (Probe(tell), told)
    }

    fn miss() -> Error {
        Error::new(Kind::Miss, "not in memory")
    }

    /// The answer, and whether it was given on this thread. There is exactly one.
    fn told(told: &Receiver<Told>) -> (Result<u32, i32>, bool) {
        let (answer, by) = told.recv_timeout(Duration::from_secs(60)).expect("an answer");
        assert!(told.recv_timeout(Duration::from_secs(60)).is_err(), "the reply is gone after one answer");
        (answer, by == thread::current().id())
    }

    #[test]
    fn a_hit_is_answered_on_the_event_loop() {
        let (reply, answers) = probe();
        dispatcher(false).serve(Op::read(Call::Read, 1), [], reply, |_, wait, []| {
            assert_eq!(wait, Wait::No);
            Ok(7)
        });
        assert_eq!(told(&answers), (Ok(7), true));
    }

    #[test]
    fn a_miss_runs_again_on_a_worker_with_its_own_copy_of_the_arguments() {
        let (reply, answers) = probe();
        let d = dispatcher(false);
        let name = b"name".to_vec();
        let mut runs = 0;
        d.serve(Op::read(Call::Lookup, 1), [&name, b"x"], reply, move |_, wait, [name, x]| {
            runs += 1;
            assert_eq!((name, x), (&b"name"[..], &b"x"[..]));
            if wait == Wait::No { Err(miss()) } else { Ok(runs) }
        });
        drop(name);
        assert_eq!(told(&answers), (Ok(2), false));
    }

    #[test]
    fn changes_wait_on_a_worker_while_the_drive_is_throttled_and_reads_do_not() {
        let d = dispatcher(true);
        for (op, here) in [
            (Op::read(Call::Read, 1), true),
            (Op::change(Call::Write, 1), false),
            (Op::sync(Call::Fsync, 1), false),
            (Op::read(Call::Read, 1).long_if(true), false),
        ] {
            let (reply, answers) = probe();
            d.serve(op, [], reply, move |_, wait, []| {
                assert_eq!(wait == Wait::No, here);
                Ok(1)
            });
            assert_eq!(told(&answers), (Ok(1), here), "{op:?}");
        }
    }

    #[test]
    fn what_a_synchronous_mount_changes_is_durable_before_the_answer() {
        // The "drive" is told by its sync that it was asked for one.
        fn sync(d: &AtomicBool) -> Result<()> {
            d.store(true, Relaxed);
            Ok(())
        }
        for (durable, write, make) in
            [(Durable::OnDemand, false, false), (Durable::Names, false, true), (Durable::Changes, true, true)]
        {
            for (op, synced) in [
                (Op::change(Call::Write, 1), write),
                (Op::change(Call::Mkdir, 1), make),
                (Op::read(Call::Read, 1), false),
            ] {
                let drive = Arc::new(AtomicBool::new(false));
                let how = (sync as fn(&AtomicBool) -> Result<()>, durable);
                let poller = Arc::new(Poller::default());
                let d = Dispatcher::new(drive.clone(), |_| false, how, Shown::default(), poller, 1).unwrap();
                let (reply, answers) = probe();
                d.serve(op, [], reply, |_, _, []| Ok(1));
                assert_eq!(told(&answers), (Ok(1), !synced), "{durable:?} {op:?}");
                assert_eq!(drive.load(Relaxed), synced, "{durable:?} {op:?}");
            }
        }
        // A sync that fails is the operation's own failure.
        let how = (|_: &AtomicBool| Err(Error::errno_of(libc::EIO)), Durable::Changes);
        let poller = Arc::new(Poller::default());
        let drive = Arc::new(AtomicBool::new(false));
        let d = Dispatcher::new(
            drive,
            |_| false,
            (how.0 as fn(&AtomicBool) -> Result<()>, how.1),
            Shown::default(),
            poller,
            1,
        );
        let (reply, answers) = probe();
        d.unwrap().serve(Op::change(Call::Mkdir, 1), [], reply, |_, _, []| Ok(1));
        assert_eq!(told(&answers).0, Err(libc::EIO));
    }

    #[test]
    fn a_panic_answers_eio_wherever_it_happens_and_the_next_request_is_served() {
        let d = dispatcher(false);
        for on_worker in [false, true] {
            let (reply, answers) = probe();
            d.serve(Op::change(Call::Write, 1).long_if(on_worker), [], reply, |_, _, []| -> Result<u32> {
                panic!("on purpose")
            });
            assert_eq!(told(&answers), (Err(libc::EIO), !on_worker));
        }
        d.tell(Op::read(Call::Forget, 1), |_| panic!("on purpose"));
        let (reply, answers) = probe();
        d.serve(Op::read(Call::Read, 1), [], reply, |_, _, []| Ok(3));
        assert_eq!(told(&answers).0, Ok(3));
    }

    #[test]
    fn a_refusal_is_answered_with_its_errno_and_a_miss_that_may_wait_is_a_fault() {
        let d = dispatcher(false);
        let (reply, answers) = probe();
        d.serve(Op::read(Call::Lookup, 1), [], reply, |_, _, []| {
            Err::<u32, _>(Error::errno_of(libc::ENOENT))
        });
        assert_eq!(told(&answers), (Err(libc::ENOENT), true));
        let (reply, answers) = probe();
        d.serve(Op::read(Call::Read, 1), [], reply, |_, _, []| Err::<u32, _>(miss()));
        assert_eq!(told(&answers), (Err(libc::EIO), false));
    }

    #[test]
    fn many_requests_from_many_threads_all_get_one_answer() {
        let d = &dispatcher(false);
        thread::scope(|s| {
            for t in 0..4u32 {
                s.spawn(move || {
                    for i in 0..200u32 {
                        let (reply, answers) = probe();
                        let lane =
                            [Op::read(Call::Read, 1), Op::change(Call::Write, 1), Op::sync(Call::Fsync, 1)]
                                [(i % 3) as usize];
                        d.serve(lane, [], reply, move |_, wait, []| match (i % 5, wait) {
                            (0, Wait::No) => Err(miss()),
                            (1, _) => panic!("on purpose"),
                            _ => Ok(t * 1000 + i),
                        });
                        let expected = if i % 5 == 1 { Err(libc::EIO) } else { Ok(t * 1000 + i) };
                        assert_eq!(told(&answers).0, expected);
                    }
                });
            }
        });
    }

    #[test]
    fn the_log_is_limited_and_says_what_it_left_out() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let admitted = (0..100).filter(|_| limiter.admit(start).is_some()).count();
        assert_eq!(admitted as u32, Limiter::LINES);
        assert_eq!(limiter.admit(start + Limiter::WINDOW), Some(80));
        assert_eq!(limiter.admit(start + Limiter::WINDOW), Some(0));
    }
}
