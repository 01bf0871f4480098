//! What trees and content ask of whatever holds chunks, without knowing what that is.

use crate::crypt::Seal;
use crate::error::Result;
use crate::types::{Address, Key};
use bytes::Bytes;

/// A chunk, and how to open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    pub address: Address,
    pub opening: Opening,
}

/// How the stored bytes of a chunk become content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// One sealed chunk, with the key that its pointer carries.
    Sealed { seal: Seal, key: Key },
    /// A member of a self-encrypted set: its index, the source hashes of itself and of the two before it
    /// (wrapping round), and the size of its plaintext.
    Member { index: u32, hashes: [[u8; 32]; 3], size: u32 },
}

/// A source of opened chunks: decrypted, verified, of the declared size.
pub trait Chunks: Send + Sync {
    /// The content of a chunk. Fails with `Kind::Miss` where the source was asked not to wait.
    fn get(&self, chunk: &ChunkRef) -> Result<Bytes>;
}

/// The keys of a realm, as far as writing trees and content needs them.
pub trait Sealer: Send + Sync {
    /// Seals a small object as one chunk, under a key derived from the object itself.
    /// Returns how to open it, and the stored bytes. Equal objects give equal chunks.
    fn seal(&self, kind: Seal, content: &[u8]) -> Result<(ChunkRef, Vec<u8>)>;
    /// The source hash of a member of a set: keyed BLAKE3 of the encoded bytes given to the cipher .
    fn source_hash(&self, encoded: &[u8]) -> [u8; 32];
    /// The key that decides node boundaries, for the life of the realm.
    fn boundary_key(&self) -> &[u8; 32];
}

/// Where new chunks go.
pub trait ChunkSink {
    /// Takes the stored bytes of a chunk whose address they have. A chunk that is known to be held already
    /// is not stored again.
    fn put(&mut self, address: Address, stored: Vec<u8>) -> Result<()>;
    /// As [`Self::put`], of chunks that are read one after the other, as those of a set are: they stay together, in
    /// this order. Where chunks that are put alone end up, nobody can tell.
    fn put_together(&mut self, chunks: Vec<(Address, Vec<u8>)>) -> Result<()> {
        chunks.into_iter().try_for_each(|(address, stored)| self.put(address, stored))
    }
}
