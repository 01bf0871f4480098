//! A store whose requests are counted.

use super::objects::{Created, Objects};
use crate::error::{Kind, Result};
use crate::sys::ranked::{WAITS_FOR_STORE, assert_nothing_above};
use crate::sys::{Counter, Timer};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Get,
    GetRange,
    Put,
    Create,
    List,
    Delete,
    Size,
}

impl Request {
    pub const ALL: [Request; 7] = [
        Request::Get,
        Request::GetRange,
        Request::Put,
        Request::Create,
        Request::List,
        Request::Delete,
        Request::Size,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Request::Get => "get",
            Request::GetRange => "get_range",
            Request::Put => "put",
            Request::Create => "create",
            Request::List => "list",
            Request::Delete => "delete",
            Request::Size => "size",
        }
    }
}

/// What became of the requests of one kind.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that were answered, and how long that took.
    pub answered: Timer,
    /// Of these, the ones that failed. That an object is not there, or there already, is no failure.
    pub failed: Counter,
    /// Bytes of objects that came or went.
    pub bytes: Counter,
}

/// Since the store was opened.
#[derive(Debug, Default)]
pub struct Counts {
    tallies: [Tally; Request::ALL.len()],
    waiting: Mutex<Waiting>,
}

/// The requests that are not answered yet.
#[derive(Debug, Default)]
struct Waiting {
    /// How many, and since when there are any, or since the last answer.
    requests: usize,
    since: Option<Instant>,
}

impl Counts {
    pub fn of(&self, request: Request) -> &Tally {
        // The array has a place for each kind.
        &self.tallies[request as usize]
    }

    /// How many requests of all kinds were answered.
    pub fn answered(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.answered.times()).sum()
    }

    /// For how long the store has answered nothing although it was asked; `None` while nobody waits for an answer.
    pub fn silent_for(&self) -> Option<Duration> {
        self.waiting.lock().since.map(|since| since.elapsed())
    }

    fn asked(&self) {
        let mut waiting = self.waiting.lock();
        waiting.requests += 1;
        waiting.since.get_or_insert_with(Instant::now);
    }

    fn heard(&self) {
        let mut waiting = self.waiting.lock();
        waiting.requests -= 1;
        waiting.since = (waiting.requests > 0).then(Instant::now);
    }
}

/// A request that is not answered yet, until this is dropped.
struct Asked<'a>(&'a Counts);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.heard();
    }
}

/// Counts what goes through to a store.
pub struct Counted {
    store: Arc<dyn Objects>,
    counts: Arc<Counts>,
}

impl Counted {
    pub fn new(store: Arc<dyn Objects>) -> (Counted, Arc<Counts>) {
        let counts = Arc::<Counts>::default();
        (Counted { store, counts: counts.clone() }, counts)
    }

    fn count<T>(
        &self,
        request: Request,
        ask: impl FnOnce(&dyn Objects) -> Result<T>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T> {
        assert_nothing_above(WAITS_FOR_STORE);
        let begun = Instant::now();
        self.counts.asked();
        let asked = Asked(&self.counts);
        let answer = ask(&*self.store);
        drop(asked);
        let tally = self.counts.of(request);
        tally.answered.add(begun.elapsed());
        match &answer {
            Ok(value) => tally.bytes.add(bytes(value) as u64),
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(_) => tally.failed.one(),
        }
        answer
    }
}

impl Objects for Counted {
    fn get(&self, name: &str) -> Result<Bytes> {
        self.count(Request::Get, |s| s.get(name), Bytes::len)
    }

    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
        self.count(Request::GetRange, |s| s.get_range(name, start, len), Bytes::len)
    }

    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        let len = bytes.len();
        self.count(Request::Put, |s| s.put(name, bytes), |()| len)
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        let len = bytes.len();
        let stored = |made: &Created| if *made == Created::Created { len } else { 0 };
        self.count(Request::Create, |s| s.create(name, bytes), stored)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.count(Request::List, |s| s.list(dir), |_| 0)
    }

    fn list_after(&self, dir: &str, name: &str) -> Result<Vec<String>> {
        self.count(Request::List, |s| s.list_after(dir, name), |_| 0)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.count(Request::Delete, |s| s.delete(name), |()| 0)
    }

    fn size(&self, name: &str) -> Result<u64> {
        self.count(Request::Size, |s| s.size(name), |_| 0)
    }

    fn is_there(&self, name: &str) -> Result<bool> {
        self.count(Request::Size, |s| s.is_there(name), |_| 0)
    }

    fn settle(&self, name: &str) -> Result<()> {
        self.store.settle(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[test]
    fn requests_are_counted_by_kind_with_their_bytes_and_failures() {
        let (store, counts) = Counted::new(Arc::new(Memory::default()));
        store.put("a", Bytes::from_static(b"12345")).unwrap();
        assert_eq!(store.create("a", Bytes::from_static(b"123")).unwrap(), Created::Exists);
        assert_eq!(store.get_range("a", 1, 2).unwrap().len(), 2);
        assert!(store.get("none").is_err());
        assert!(store.get_range("a", 4, 9).is_err());
        store.list("").unwrap();
        let seen = Request::ALL.map(|r| {
            let tally = counts.of(r);
            (r.name(), tally.answered.times(), tally.failed.get(), tally.bytes.get())
        });
        let want = [
            ("get", 1, 0, 0),
            ("get_range", 2, 1, 2),
            ("put", 1, 0, 5),
            ("create", 1, 0, 0),
            ("list", 1, 0, 0),
            ("delete", 0, 0, 0),
            ("size", 0, 0, 0),
        ];
        assert_eq!(seen, want);
        assert_eq!(counts.answered(), 6);
    }

    /// A store that hangs makes no error: only its silence tells.
    #[test]
    fn silence_is_measured_from_the_last_answer_while_somebody_waits() {
        let counts = Counts::default();
        assert_eq!(counts.silent_for(), None);
        counts.asked();
        counts.asked();
        std::thread::sleep(Duration::from_millis(20));
        assert!(counts.silent_for().unwrap() >= Duration::from_millis(20));
        let before = Instant::now();
        counts.heard();
        assert!(counts.silent_for().unwrap() <= before.elapsed());
        counts.heard();
        assert_eq!(counts.silent_for(), None);
    }
}
