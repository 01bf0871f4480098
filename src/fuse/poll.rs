//! Adaptive polling of the device.
//!
//! Waking a sleeping thread costs more than serving a request, several times more on a virtual machine whose
//! idle CPUs halt. While requests keep coming, the event loop therefore polls: the session's descriptor is set
//! to O_NONBLOCK, and fuser reads again at once after EAGAIN. When they stop, or when others want the CPU, it
//! sleeps in read(2) again. A governor thread looks every [`PERIOD`] and decides; while all is quiet it is
//! parked itself, so that an idle mount costs nothing.

use crate::error::{Context, Error, Result};
use rustix::fs::{OFlags, fcntl_setfl};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How often the governor looks.
const PERIOD: Duration = Duration::from_micros(500);
/// So many requests between two looks are worth polling for.
const BUSY: u64 = 2;
/// After so many looks that saw fewer, the event loop sleeps again.
const QUIET: u32 = 3;
/// After so many, the governor does too.
const PARK: u32 = 40;
/// Every so many looks it is measured how long the event loop had to wait for a CPU.
const MEASURE: u32 = 8;
/// Where that was more than a fifth of the time, others want the CPU, and polling rests for this long.
const REST: Duration = Duration::from_millis(20);

/// What the event loop tells the governor.
#[derive(Default)]
pub(super) struct Poller {
    requests: AtomicU64,
    /// The event loop's thread; 0 before its first request.
    thread: AtomicI32,
    parked: AtomicBool,
    ended: AtomicBool,
    governor: OnceLock<Thread>,
}

impl Poller {
    /// To be called by the event loop for each request.
    pub(super) fn tick(&self) {
        self.requests.fetch_add(1, Relaxed);
        if self.parked.load(Relaxed) && self.parked.swap(false, Relaxed) {
            if self.thread.load(Relaxed) == 0 {
                self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Relaxed);
            }
            if let Some(governor) = self.governor.get() {
                governor.unpark();
            }
        }
    }
}

/// The governor's thread. Dropping it ends it: it holds a copy of the session's descriptor, and a mount whose
/// descriptor stays open after its event loop has died would hang instead of failing.
pub(super) struct Polling {
    poller: Arc<Poller>,
    thread: Option<JoinHandle<()>>,
}

impl Polling {
    /// Starts to govern the event loop that reads `device`. None on a machine with one CPU, where an event
    /// loop that polls would keep its clients from running.
    pub(super) fn start(device: impl AsFd, poller: &Arc<Poller>) -> Result<Option<Polling>> {
        if thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
            return Ok(None);
        }
        let device =
            device.as_fd().try_clone_to_owned().context(|| "cannot copy the session's descriptor")?;
        let shared = Arc::clone(poller);
        let thread = thread::Builder::new()
            .name("fuse-poll".into())
            .spawn(move || {
                if let Err(e) = govern(&shared, &device) {
                    tracing::warn!("polling is off for this mount: {}", e.chain());
                }
            })
            .context(|| "cannot start the polling governor")?;
        Ok(Some(Polling { poller: Arc::clone(poller), thread: Some(thread) }))
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.poller.ended.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It reports its errors itself.
            let _ = thread.join();
        }
    }
}

fn govern(poller: &Poller, device: &OwnedFd) -> Result<()> {
    // Nobody else sets it.
    let _ = poller.governor.set(thread::current());
    let mut governor = Governor::default();
    let mut run_delay = None;
    let mut polling = false;
    let result = loop {
        if governor.may_park() {
            // A request that comes between these lines is missed here; the next one wakes us.
            poller.parked.store(true, Relaxed);
            while poller.parked.load(Relaxed) && !poller.ended.load(Relaxed) {
                thread::park();
            }
        }
        if poller.ended.load(Relaxed) {
            break Ok(());
        }
        let delay = match &mut run_delay {
            Some(delay) => delay,
            None => match RunDelay::of(poller.thread.load(Relaxed)) {
                Ok(delay) => run_delay.insert(delay),
                Err(e) => break Err(e),
            },
        };
        let before = poller.requests.load(Relaxed);
        thread::sleep(PERIOD);
        let requests = poller.requests.load(Relaxed).wrapping_sub(before);
        let starved = match delay.look(polling) {
            Ok(Some(starved)) => starved,
            // The event loop has ended, and this thread is about to be told.
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        };
        let want = governor.look(requests, starved, PERIOD);
        if want != polling {
            if let Err(e) = set_polling(device, want) {
                break Err(e);
            }
            polling = want;
        }
    };
    if polling {
        set_polling(device, false)?;
    }
    result
}

fn set_polling(device: &OwnedFd, on: bool) -> Result<()> {
    fcntl_setfl(device, if on { OFlags::NONBLOCK } else { OFlags::empty() })
        .map_err(std::io::Error::from)
        .context(|| "cannot change the session's descriptor")
}

/// What the governor remembers, and how it decides.
#[derive(Debug)]
struct Governor {
    /// Looks since requests kept coming.
    quiet: u32,
    /// For how long polling still rests.
    rest: Duration,
}

impl Default for Governor {
    fn default() -> Governor {
        Governor { quiet: PARK, rest: Duration::ZERO }
    }
}

impl Governor {
    /// One look: `requests` came since the last one, `elapsed` ago; `starved`: the event loop had to wait for a
    /// CPU. Returns whether the event loop is to poll from here on.
    fn look(&mut self, requests: u64, starved: bool, elapsed: Duration) -> bool {
        self.quiet = if requests >= BUSY { 0 } else { self.quiet.saturating_add(1) };
        self.rest = if starved { REST } else { self.rest.saturating_sub(elapsed) };
        self.rest.is_zero() && self.quiet < QUIET
    }

    /// Whether all has been quiet for long. Parking is followed by [`QUIET`] looks that see nothing at the
    /// least: a single request now and then does not make the event loop poll.
    fn may_park(&mut self) -> bool {
        let park = self.quiet >= PARK;
        if park {
            self.quiet = QUIET;
        }
        park
    }
}

/// Measures how long a thread of ours had to wait for a CPU (the second number of `schedstat`).
struct RunDelay {
    schedstat: File,
    looks: u32,
    since: Instant,
    waited: Duration,
}

impl RunDelay {
    fn of(thread: i32) -> Result<RunDelay> {
        let path = format!("/proc/self/task/{thread}/schedstat");
        let schedstat = File::open(&path).context(|| format!("cannot open {path}"))?;
        let waited = waited(&schedstat)?.unwrap_or_default();
        Ok(RunDelay { schedstat, looks: 0, since: Instant::now(), waited })
    }

    /// Whether, over the last [`MEASURE`] looks, the thread had to wait for more than a fifth of the time; None
    /// where it has ended. Only what it waited while `polling` counts: polling is what can be stopped.
    fn look(&mut self, polling: bool) -> Result<Option<bool>> {
        self.looks += 1;
        if self.looks < MEASURE {
            return Ok(Some(false));
        }
        let Some(waited) = waited(&self.schedstat)? else { return Ok(None) };
        let now = Instant::now();
        let starved = starved(waited.saturating_sub(self.waited), now - self.since);
        (self.looks, self.since, self.waited) = (0, now, waited);
        Ok(Some(polling && starved))
    }
}

fn starved(waited: Duration, elapsed: Duration) -> bool {
    waited * 5 > elapsed
}

/// None where the thread has ended.
fn waited(schedstat: &File) -> Result<Option<Duration>> {
    let mut buf = [0; 128];
    let n = match schedstat.read_at(&mut buf, 0) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        result => result.context(|| "cannot read schedstat")?,
    };
    let waited = parse_waited(buf.get(..n).unwrap_or_default());
    waited.map(Some).ok_or_else(|| Error::failed("schedstat does not say how long a thread waited for a CPU"))
}

/// `schedstat`: nanoseconds on a CPU, nanoseconds waiting for one, number of turns.
fn parse_waited(schedstat: &[u8]) -> Option<Duration> {
    let nanos = std::str::from_utf8(schedstat).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(g: &mut Governor, requests: u64, times: u32) -> Vec<bool> {
        (0..times).map(|_| g.look(requests, false, PERIOD)).collect()
    }

    #[test]
    fn polls_while_requests_keep_coming_and_stops_soon_after() {
        let mut g = Governor::default();
        assert_eq!(looks(&mut g, 100, 3), [true; 3]);
        assert_eq!(looks(&mut g, BUSY, 2), [true; 2]);
        assert_eq!(looks(&mut g, 0, 4), [true, true, false, false]);
        assert_eq!(looks(&mut g, BUSY, 1), [true]);
    }

    #[test]
    fn a_request_now_and_then_is_no_reason_to_poll() {
        let mut g = Governor::default();
        assert!(g.may_park(), "parked from the start");
        assert_eq!(looks(&mut g, BUSY - 1, 100), [false; 100]);
    }

    #[test]
    fn parks_when_all_is_quiet_and_only_then() {
        let mut g = Governor::default();
        assert!(g.may_park());
        assert!(!g.may_park(), "looks again before it parks again");
        looks(&mut g, BUSY, 1);
        looks(&mut g, 0, PARK - 1);
        assert!(!g.may_park());
        looks(&mut g, 0, 1);
        assert!(g.may_park());
        assert_eq!(looks(&mut g, BUSY, 1), [true], "and polls at once when requests come back");
    }

    #[test]
    fn rests_when_others_want_the_cpu() {
        let mut g = Governor::default();
        looks(&mut g, 100, 5);
        assert!(!g.look(100, true, PERIOD));
        let resting = (REST.as_micros() / PERIOD.as_micros()) as u32;
        assert_eq!(looks(&mut g, 100, resting - 1), vec![false; resting as usize - 1]);
        assert!(g.look(100, false, PERIOD), "the rest is over");
    }

    #[test]
    fn a_fifth_of_the_time_is_too_much() {
        let ms = Duration::from_millis;
        assert!(!starved(ms(1), ms(5)));
        assert!(starved(ms(1) + Duration::from_nanos(1), ms(5)));
    }

    #[test]
    fn schedstat_is_read_and_nothing_else_is_believed() {
        assert_eq!(parse_waited(b"12 3456 7\n"), Some(Duration::from_nanos(3456)));
        for bad in [&b""[..], b"12", b"12 x 7", b"\xff \xff"] {
            assert_eq!(parse_waited(bad), None);
        }
        let of_a_thread = || RunDelay::of(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        assert_eq!(of_a_thread().look(true).unwrap(), Some(false));
        let mut gone = thread::spawn(of_a_thread).join().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while gone.look(false).unwrap().is_some() {
            assert!(Instant::now() < until, "never noticed that the thread had ended");
        }
    }

    /// A pipe stands in for the device: what the governor decides must reach the descriptor itself.
    #[test]
    fn the_descriptor_follows_the_requests() {
        let nonblocking = |fd: &OwnedFd| rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK);
        let (reader, _writer) = std::io::pipe().unwrap();
        let device = OwnedFd::from(reader);
        let poller = Arc::new(Poller::default());
        let Some(polling) = Polling::start(&device, &poller).unwrap() else { return };
        let until = Instant::now() + Duration::from_secs(60);
        while !nonblocking(&device) {
            assert!(Instant::now() < until, "never began to poll");
            poller.tick();
            thread::sleep(Duration::from_micros(20));
        }
        while nonblocking(&device) || !poller.parked.load(Relaxed) {
            assert!(Instant::now() < until, "never went to sleep");
            thread::sleep(Duration::from_millis(1));
        }
        drop(polling);
        assert!(!nonblocking(&device));
    }
}
