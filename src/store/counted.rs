//! A store whose requests are counted.

use super::objects::{Created, Objects};
use crate::error::{Kind, Result};
use crate::sys::{Counter, Timer};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

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
pub struct Counts([Tally; Request::ALL.len()]);

impl Counts {
    pub fn of(&self, request: Request) -> &Tally {
        // The array has a place for each kind.
        &self.0[request as usize]
    }

    /// How many requests of all kinds were answered.
    pub fn answered(&self) -> u64 {
        self.0.iter().map(|tally| tally.answered.times()).sum()
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
        let begun = Instant::now();
        let answer = ask(&*self.store);
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

    fn delete(&self, name: &str) -> Result<()> {
        self.count(Request::Delete, |s| s.delete(name), |()| 0)
    }

    fn size(&self, name: &str) -> Result<u64> {
        self.count(Request::Size, |s| s.size(name), |_| 0)
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
}
