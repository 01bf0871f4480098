//! Opened chunks from stored ones, each fetched once however many wait for it.

use super::cache::ContentCache;
use crate::chunk::{ChunkRef, Chunks, Opening};
use crate::crypt::Seal;
use crate::crypt::set::open_member;
use crate::error::{Error, Kind, Result};
use crate::types::{Address, Key};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;

/// A source of stored chunks.
pub trait Fetch: Send + Sync {
    /// The stored bytes of a chunk, checked against its address.
    fn fetch(&self, address: &Address) -> Result<Bytes>;
}

impl<F: Fn(&Address) -> Result<Bytes> + Send + Sync> Fetch for F {
    fn fetch(&self, address: &Address) -> Result<Bytes> {
        self(address)
    }
}

/// Opens sealed chunks: the realm's keys.
pub trait OpenSealed: Send + Sync {
    /// Opens the stored bytes of a chunk with the key that its pointer carries.
    fn open_sealed(&self, kind: Seal, key: &Key, stored: &[u8]) -> Result<Vec<u8>>;
}

impl OpenSealed for crate::crypt::RealmKeys {
    fn open_sealed(&self, kind: Seal, key: &Key, stored: &[u8]) -> Result<Vec<u8>> {
        crate::crypt::RealmKeys::open_sealed(self, kind, key, stored)
    }
}

/// The content of a chunk, from its stored bytes; anything but what was sealed is damage.
pub fn open_chunk(chunk: &ChunkRef, stored: &[u8], keys: &dyn OpenSealed) -> Result<Bytes> {
    let opened = match &chunk.opening {
        Opening::Sealed { seal, key } => keys.open_sealed(*seal, key, stored).map(Bytes::from),
        Opening::Member { index, hashes, size } => open_member(*index, hashes, *size, stored),
    };
    opened.map_err(|e| e.context(format!("chunk {} cannot be opened", chunk.address)))
}

/// Opened chunks: from the cache, else fetched, opened and put there.
pub struct Opener<F, K> {
    cache: Arc<ContentCache>,
    fetch: F,
    keys: K,
    flights: Mutex<HashMap<Address, Arc<Flight>>>,
}

/// A fetch that is under way.
struct Flight {
    chunk: ChunkRef,
    landed: Mutex<Option<Landed>>,
    signal: Condvar,
}

/// The outcome of a fetch, for those who waited: an error cannot be cloned, its story can.
type Landed = Result<Bytes, (Kind, String)>;

impl<F: Fetch, K: OpenSealed> Opener<F, K> {
    pub fn new(cache: Arc<ContentCache>, fetch: F, keys: K) -> Opener<F, K> {
        Opener { cache, fetch, keys, flights: Mutex::default() }
    }

    pub fn cache(&self) -> &Arc<ContentCache> {
        &self.cache
    }

    fn load(&self, chunk: &ChunkRef) -> Result<Bytes> {
        let content = open_chunk(chunk, &self.fetch.fetch(&chunk.address)?, &self.keys)?;
        self.cache.put(chunk, content.clone());
        Ok(content)
    }

    fn lead(&self, flight: Arc<Flight>) -> Result<Bytes> {
        let landing = Landing { flights: &self.flights, flight };
        let outcome = self.load(&landing.flight.chunk);
        let told = outcome.as_ref().map(Bytes::clone).map_err(|e| (e.kind(), e.chain()));
        *landing.flight.landed.lock() = Some(told);
        outcome
    }
}

/// Ends a flight however its leader leaves it, so that nobody waits for ever.
struct Landing<'a> {
    flights: &'a Mutex<HashMap<Address, Arc<Flight>>>,
    flight: Arc<Flight>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let abandoned = || Err((Kind::Failed, "the fetch of a chunk was abandoned".into()));
        self.flight.landed.lock().get_or_insert_with(abandoned);
        self.flights.lock().remove(&self.flight.chunk.address);
        self.flight.signal.notify_all();
    }
}

impl Flight {
    fn wait(&self) -> Result<Bytes> {
        let mut landed = self.landed.lock();
        loop {
            match &*landed {
                Some(Ok(content)) => return Ok(content.clone()),
                Some(Err((kind, story))) => return Err(Error::new(*kind, story.clone())),
                None => self.signal.wait(&mut landed),
            }
        }
    }
}

impl<F: Fetch, K: OpenSealed> Chunks for Opener<F, K> {
    /// Waits as long as the fetch does; fails as it does, or with `Kind::Damage`.
    fn get(&self, chunk: &ChunkRef) -> Result<Bytes> {
        if let Some(content) = self.cache.get(chunk) {
            return Ok(content);
        }
        let mut flights = self.flights.lock();
        let flight = match flights.get(&chunk.address) {
            Some(flight) if flight.chunk == *chunk => {
                let flight = flight.clone();
                drop(flights);
                return flight.wait();
            }
            // Another way of opening the same bytes: of no concern to those who wait.
            Some(_) => {
                drop(flights);
                return self.load(chunk);
            }
            None => {
                // It may have landed since we looked.
                if let Some(content) = self.cache.get(chunk) {
                    return Ok(content);
                }
                let flight =
                    Flight { chunk: chunk.clone(), landed: Mutex::default(), signal: Condvar::new() };
                let flight = Arc::new(flight);
                flights.insert(chunk.address, flight.clone());
                flight
            }
        };
        drop(flights);
        self.lead(flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Sealer;
    use crate::content::testing::keys;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    fn sealed(content: &[u8]) -> (ChunkRef, Bytes) {
        let (chunk, stored) = keys().seal(Seal::Content, content).unwrap();
        (chunk, stored.into())
    }

    fn together<T: Send>(threads: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    #[test]
    fn concurrent_readers_fetch_once_and_share_the_outcome() {
        let (chunk, stored) = sealed(b"content");
        let fetches = AtomicUsize::new(0);
        let slow = |_: &Address| {
            std::thread::sleep(Duration::from_millis(50));
            match fetches.fetch_add(1, SeqCst) {
                0 => Err(Error::new(Kind::Away, "the store is away")),
                _ => Ok(stored.clone()),
            }
        };
        let opener = Opener::new(Arc::new(ContentCache::new(1 << 20)), slow, keys());
        let failed = together(8, || opener.get(&chunk));
        let first = failed.iter().filter(|r| r.is_err()).count();
        assert!(failed.iter().flat_map(|r| r.as_ref().err()).all(|e| e.kind() == Kind::Away));
        assert!(first > 1, "an error is shared, too");
        let before = fetches.load(SeqCst);
        assert!(together(8, || opener.get(&chunk)).into_iter().all(|r| r.unwrap() == "content"));
        assert!(before < 3 && fetches.load(SeqCst) <= before + 1);
        assert!(opener.flights.lock().is_empty());
    }

    #[test]
    fn damage_and_panics_end_a_flight() {
        let (chunk, stored) = sealed(b"content");
        let mut bent = stored.to_vec();
        bent[30] ^= 1;
        let bent = Bytes::from(bent);
        let opener =
            Opener::new(Arc::new(ContentCache::new(1 << 20)), |_: &Address| Ok(bent.clone()), keys());
        assert_eq!(opener.get(&chunk).unwrap_err().kind(), Kind::Damage);
        assert_eq!(opener.cache().bytes(), 0);

        let panics = |_: &Address| -> Result<Bytes> { panic!("on purpose") };
        let opener = Opener::new(Arc::new(ContentCache::new(1 << 20)), panics, keys());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| opener.get(&chunk))).unwrap_err();
        assert!(opener.flights.lock().is_empty());
    }

    #[test]
    fn a_wrong_key_is_refused_though_the_content_is_cached() {
        let (chunk, stored) = sealed(b"content");
        let opener =
            Opener::new(Arc::new(ContentCache::new(1 << 20)), |_: &Address| Ok(stored.clone()), keys());
        assert_eq!(opener.get(&chunk).unwrap(), "content");
        let opening = Opening::Sealed { seal: Seal::Content, key: Key([1; 32]) };
        let forged = ChunkRef { address: chunk.address, opening };
        assert_eq!(opener.get(&forged).unwrap_err().kind(), Kind::Damage);
        assert_eq!(opener.get(&chunk).unwrap(), "content");
    }
}
