//! Opened chunks in memory, and reading from them without waiting.

use crate::chunk::{ChunkRef, Chunks, Opening};
use crate::error::{Error, Kind, Result};
use crate::types::Address;
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;

/// What an entry takes besides its content, about: opening, table, list.
const ENTRY: usize = 256;

/// The content of chunks, least recently used first to go, within a budget of bytes.
pub struct ContentCache {
    inner: Mutex<Inner>,
}

struct Inner {
    entries: LruCache<Address, (Opening, Bytes)>,
    bytes: usize,
    budget: usize,
    hits: u64,
    misses: u64,
}

impl ContentCache {
    /// A cache of at most so many bytes, what it needs for itself included.
    pub fn new(budget: usize) -> ContentCache {
        let entries = LruCache::unbounded();
        ContentCache { inner: Mutex::new(Inner { entries, bytes: 0, budget, hits: 0, misses: 0 }) }
    }

    /// The content, if it is held and was opened in this very way: an address alone opens nothing.
    pub fn get(&self, chunk: &ChunkRef) -> Option<Bytes> {
        let inner = &mut *self.inner.lock();
        let found = inner.entries.get(&chunk.address).filter(|(opening, _)| *opening == chunk.opening);
        match found {
            Some(_) => inner.hits += 1,
            None => inner.misses += 1,
        }
        found.map(|(_, content)| content.clone())
    }

    /// Takes the content of a chunk, in place of what was held for its address.
    pub fn put(&self, chunk: &ChunkRef, content: Bytes) {
        let mut inner = self.inner.lock();
        inner.bytes += content.len() + ENTRY;
        if let Some((_, old)) = inner.entries.put(chunk.address, (chunk.opening.clone(), content)) {
            inner.bytes -= old.len() + ENTRY;
        }
        inner.shrink();
    }

    /// Changes the budget.
    pub fn set_budget(&self, budget: usize) {
        let mut inner = self.inner.lock();
        inner.budget = budget;
        inner.shrink();
    }

    /// How often a chunk was found, and how often not. What has to wait for one looks twice.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.hits, inner.misses)
    }

    /// The most bytes that may be used.
    pub fn budget(&self) -> usize {
        self.inner.lock().budget
    }

    /// Bytes that are used now.
    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}

impl Inner {
    fn shrink(&mut self) {
        while self.bytes > self.budget
            && let Some((_, (_, old))) = self.entries.pop_lru()
        {
            self.bytes -= old.len() + ENTRY;
        }
    }
}

/// Chunks from the cache only, for one operation: what is not there is a `Kind::Miss`, after which the caller
/// fetches [`NoWait::missed`] elsewhere, gives it to [`NoWait::hold`], and runs the operation again with the
/// same `NoWait`. It holds what it returned, so that every try comes further than the one before.
pub struct NoWait<'a> {
    cache: &'a ContentCache,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: HashMap<Address, (Opening, Bytes)>,
    missed: Option<ChunkRef>,
}

impl<'a> NoWait<'a> {
    pub fn new(cache: &'a ContentCache) -> NoWait<'a> {
        NoWait { cache, state: Mutex::default() }
    }

    /// The chunk that was missed last, once.
    pub fn missed(&self) -> Option<ChunkRef> {
        self.state.lock().missed.take()
    }

    /// Keeps the content of a chunk for this operation.
    pub fn hold(&self, chunk: &ChunkRef, content: Bytes) {
        self.state.lock().held.insert(chunk.address, (chunk.opening.clone(), content));
    }
}

impl Chunks for NoWait<'_> {
    fn get(&self, chunk: &ChunkRef) -> Result<Bytes> {
        let mut state = self.state.lock();
        if let Some((opening, content)) = state.held.get(&chunk.address)
            && *opening == chunk.opening
        {
            return Ok(content.clone());
        }
        match self.cache.get(chunk) {
            Some(content) => {
                state.held.insert(chunk.address, (chunk.opening.clone(), content.clone()));
                Ok(content)
            }
            None => {
                state.missed = Some(chunk.clone());
                Err(Error::new(Kind::Miss, "a chunk is not in memory"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::Seal;
    use crate::types::Key;

    fn chunk(n: u8, key: u8) -> ChunkRef {
        let opening = Opening::Sealed { seal: Seal::Content, key: Key([key; 32]) };
        ChunkRef { address: Address([n; 32]), opening }
    }

    #[test]
    fn the_budget_holds_and_the_oldest_go_first() {
        let cache = ContentCache::new(3 * (1000 + ENTRY));
        for n in 0..3 {
            cache.put(&chunk(n, 0), vec![n; 1000].into());
        }
        assert_eq!(cache.get(&chunk(0, 0)).unwrap(), vec![0; 1000]);
        cache.put(&chunk(3, 0), vec![3; 1000].into());
        assert!(cache.get(&chunk(1, 0)).is_none());
        assert!([0, 2, 3].iter().all(|&n| cache.get(&chunk(n, 0)).is_some()));
        cache.put(&chunk(3, 0), vec![3; 10].into());
        assert_eq!(cache.bytes(), 2010 + 3 * ENTRY);
        cache.put(&chunk(9, 0), vec![9; 100_000].into());
        assert!(cache.bytes() <= 3 * (1000 + ENTRY));
        cache.set_budget(0);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn an_address_without_its_key_opens_nothing() {
        let cache = ContentCache::new(1 << 20);
        cache.put(&chunk(1, 5), Bytes::from_static(b"secret"));
        let nowait = NoWait::new(&cache);
        assert!(cache.get(&chunk(1, 6)).is_none());
        assert_eq!(nowait.get(&chunk(1, 5)).unwrap(), "secret");
        assert_eq!(nowait.get(&chunk(1, 6)).unwrap_err().kind(), Kind::Miss);
    }

    #[test]
    fn a_retry_has_all_that_the_try_had() {
        let cache = ContentCache::new(1 << 20);
        cache.put(&chunk(1, 0), Bytes::from_static(b"one"));
        let nowait = NoWait::new(&cache);
        let operation = || -> Result<Vec<Bytes>> { (1..4).map(|n| nowait.get(&chunk(n, 0))).collect() };
        for n in 2..4 {
            assert_eq!(operation().unwrap_err().kind(), Kind::Miss);
            assert_eq!(nowait.missed(), Some(chunk(n, 0)));
            assert_eq!(nowait.missed(), None);
            nowait.hold(&chunk(n, 0), Bytes::from_static(b"more"));
            // Whatever happens to the cache meanwhile.
            cache.set_budget(0);
        }
        assert_eq!(operation().unwrap(), ["one", "more", "more"]);
    }
}
