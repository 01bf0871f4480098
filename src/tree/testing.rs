//! Chunks in memory, for tests of whatever is built on trees.

use crate::chunk::{ChunkRef, ChunkSink, Chunks, Opening, Sealer};
use crate::crypt::{self, Seal};
use crate::error::{Error, Kind, Result};
use crate::types::{Address, Key, RealmId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

const REALM: RealmId = RealmId([5; 16]);
const BOUNDARY: [u8; 32] = [7; 32];

/// What a [`Memory`] was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Chunks read.
    pub gets: usize,
    /// Chunks put, and their stored bytes.
    pub puts: usize,
    pub put_bytes: usize,
    /// Chunks put that were held already.
    pub repeats: usize,
}

/// Sealer, source and sink in one, with the real seal; a clone is another handle to the same chunks.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    chunks: HashMap<Address, Vec<u8>>,
    tally: Tally,
}

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }

    /// What was asked for since the last time that this was called.
    pub fn tally(&self) -> Tally {
        std::mem::take(&mut self.0.lock().tally)
    }

    /// Flips a bit of a chunk.
    pub fn damage(&self, address: Address) {
        if let Some(last) = self.0.lock().chunks.get_mut(&address).and_then(|stored| stored.last_mut()) {
            *last ^= 1;
        }
    }

    pub fn remove(&self, address: Address) {
        self.0.lock().chunks.remove(&address);
    }

    pub fn holds(&self, address: Address) -> bool {
        self.0.lock().chunks.contains_key(&address)
    }

    /// The addresses of all chunks.
    pub fn addresses(&self) -> Vec<Address> {
        self.0.lock().chunks.keys().copied().collect()
    }
}

impl Chunks for Memory {
    fn get(&self, chunk: &ChunkRef) -> Result<Bytes> {
        let mut held = self.0.lock();
        held.tally.gets += 1;
        let missing = || Error::new(Kind::NotFound, format!("no chunk {}", chunk.address));
        let stored = held.chunks.get(&chunk.address).ok_or_else(missing)?;
        match &chunk.opening {
            Opening::Sealed { seal, key } => Ok(crypt::open(*seal, key, &REALM, &[], stored)?.into()),
            Opening::Member { .. } => Err(Error::failed("this test double opens sealed chunks only")),
        }
    }
}

impl ChunkSink for Memory {
    fn put(&mut self, address: Address, stored: Vec<u8>) -> Result<()> {
        assert_eq!(address, Address::of(&stored), "a chunk was put under another's address");
        let mut held = self.0.lock();
        held.tally.puts += 1;
        held.tally.put_bytes += stored.len();
        if held.chunks.insert(address, stored).is_some() {
            held.tally.repeats += 1;
        }
        Ok(())
    }
}

impl Sealer for Memory {
    fn seal(&self, kind: Seal, content: &[u8]) -> Result<(ChunkRef, Vec<u8>)> {
        let key = Key(*blake3::keyed_hash(&[kind as u8; 32], content).as_bytes());
        let stored = crypt::seal(kind, &key, &REALM, &[], content)?;
        Ok((ChunkRef { address: Address::of(&stored), opening: Opening::Sealed { seal: kind, key } }, stored))
    }

    fn source_hash(&self, encoded: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&[9; 32], encoded).as_bytes()
    }

    fn boundary_key(&self) -> &[u8; 32] {
        &BOUNDARY
    }
}
