//! A store in memory and the realm's real keys, for tests of whatever is built on content.

use super::{Ctx, Fetch, open_chunk};
use crate::chunk::{ChunkRef, ChunkSink, Chunks};
use crate::crypt::RealmKeys;
use crate::error::{Error, Kind, Result};
use crate::types::{Address, Key, RealmId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

pub fn keys() -> RealmKeys {
    RealmKeys::new(RealmId([5; 16]), 0, &Key([1; 32]), &Key([1; 32]))
}

/// Chunks by address; a clone is another handle to the same ones.
#[derive(Clone)]
pub struct World {
    keys: Arc<RealmKeys>,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    chunks: HashMap<Address, Bytes>,
    /// New chunks and their bytes since [`World::added`] was called.
    added: (usize, usize),
    /// Fetches since [`World::fetched`] was called.
    fetched: usize,
}

impl Default for World {
    fn default() -> World {
        World { keys: Arc::new(keys()), held: Arc::default() }
    }
}

impl World {
    pub fn ctx(&self) -> Ctx<'_> {
        Ctx { sealer: &*self.keys, chunks: self, fetch: self, random: false }
    }

    /// New chunks and their stored bytes since the last call.
    pub fn added(&self) -> (usize, usize) {
        std::mem::take(&mut self.held.lock().added)
    }

    /// Fetches of stored bytes since the last call, whether to open them or to seal them again.
    pub fn fetched(&self) -> usize {
        std::mem::take(&mut self.held.lock().fetched)
    }

    /// Flips a bit of a chunk; or flips it back.
    pub fn bend(&self, address: &Address) {
        if let Some(stored) = self.held.lock().chunks.get_mut(address) {
            let mut bent = stored.to_vec();
            if let Some(last) = bent.last_mut() {
                *last ^= 1;
            }
            *stored = bent.into();
        }
    }

    pub fn remove(&self, address: &Address) {
        self.held.lock().chunks.remove(address);
    }
}

impl Fetch for World {
    fn fetch(&self, address: &Address) -> Result<Bytes> {
        let mut held = self.held.lock();
        held.fetched += 1;
        let missing = || Error::new(Kind::NotFound, format!("no chunk {address}"));
        held.chunks.get(address).cloned().ok_or_else(missing)
    }
}

impl Chunks for World {
    fn get(&self, chunk: &ChunkRef) -> Result<Bytes> {
        open_chunk(chunk, &self.fetch(&chunk.address)?, &*self.keys)
    }
}

impl ChunkSink for World {
    fn put(&mut self, address: Address, stored: Vec<u8>) -> Result<()> {
        assert_eq!(address, Address::of(&stored), "a chunk was put under another's address");
        let mut held = self.held.lock();
        let bytes = stored.len();
        if held.chunks.insert(address, stored.into()).is_none() {
            held.added = (held.added.0 + 1, held.added.1 + bytes);
        }
        Ok(())
    }
}
