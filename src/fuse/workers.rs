//! Threads for operations that may wait: for the store, for the disk, for space in the journal.

use crate::error::{Context, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

/// Work that owns all it needs, its reply included.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// What an operation waits for. Each lane has its own threads, so that a store that is away holds up
/// neither fsync nor writers, and a full journal no readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Something that is not in memory.
    Read,
    /// Space for a change.
    Change,
    /// What a change that frees space waits for: never for those that take some.
    Free,
    /// Durability.
    Sync,
}

/// The worker threads of one mount. Dropping it runs what is queued, then ends the threads.
pub(super) struct Workers {
    lanes: [Sender<Job>; 4],
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `threads` (at least one) threads for each lane.
    pub(super) fn start(threads: usize) -> Result<Workers> {
        let queues: [(Sender<Job>, Receiver<Job>); 4] = std::array::from_fn(|_| unbounded());
        // Collected one by one, so that threads that were started end when a later one cannot be.
        let mut workers = Workers { lanes: queues.each_ref().map(|q| q.0.clone()), threads: Vec::new() };
        for (name, (_, jobs)) in ["read", "change", "free", "sync"].into_iter().zip(queues) {
            for i in 0..threads.max(1) {
                let jobs = jobs.clone();
                let thread = Builder::new()
                    .name(format!("fuse-{name}-{i}"))
                    .spawn(move || work(&jobs))
                    .context(|| "cannot start a worker thread")?;
                workers.threads.push(thread);
            }
        }
        Ok(workers)
    }

    /// Queues a job. The queue needs no limit of its own: the kernel limits the requests in flight.
    pub(super) fn hand(&self, lane: Lane, job: Job) {
        // The threads end only after the senders, so the job cannot be refused; were it, it would be
        // dropped here, and its reply with it, which answers EIO.
        if self.lanes[lane as usize].send(job).is_err() {
            tracing::error!("a worker lane has ended: a request was refused");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.lanes = std::array::from_fn(|_| unbounded().0);
        for thread in self.threads.drain(..) {
            // A worker outlives the panics of its jobs: there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Receiver<Job>) {
    for job in jobs {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a worker's job panicked outside an operation");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_queued_is_done_before_the_threads_end() {
        let (done, count) = unbounded();
        let workers = Workers::start(2).unwrap();
        for i in 0..100 {
            let done = done.clone();
            workers.hand(Lane::Read, Box::new(move || done.send(i).unwrap()));
        }
        drop(workers);
        let mut all: Vec<i32> = count.try_iter().collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_does_not_end_the_worker() {
        let (done, count) = unbounded();
        let workers = Workers::start(1).unwrap();
        workers.hand(Lane::Sync, Box::new(|| panic!("on purpose")));
        workers.hand(Lane::Sync, Box::new(move || done.send(()).unwrap()));
        count.recv_timeout(Duration::from_secs(60)).expect("the second job runs on the same thread");
    }

    #[test]
    fn a_lane_that_waits_holds_up_no_other() {
        let (release, gate) = unbounded::<()>();
        let (done, count) = unbounded();
        let workers = Workers::start(1).unwrap();
        workers.hand(Lane::Read, Box::new(move || assert!(gate.recv().is_err())));
        for lane in [Lane::Change, Lane::Free, Lane::Sync] {
            let done = done.clone();
            workers.hand(lane, Box::new(move || done.send(lane).unwrap()));
            assert_eq!(count.recv_timeout(Duration::from_secs(60)), Ok(lane));
        }
        drop(release);
    }
}
