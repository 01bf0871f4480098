//! Chunks as a hostile device could sign them: any content behind any address.

use crate::{bytes, put_bytes};
use bytes::Bytes;
use nacrefs::chunk::{ChunkRef, ChunkSink, Chunks, Opening};
use nacrefs::content::{Fetch, open_chunk};
use nacrefs::crypt::Seal;
use nacrefs::error::{Error, Kind, Result};
use nacrefs::types::Address;
use nacrefs::wire::{Reader, Writer};
use parking_lot::Mutex;
use std::collections::HashMap;

/// No reader of a small input has a reason to ask more often.
const MOST: usize = 50_000;

/// Nodes from a script, found by the first byte of an address; other content of the length that its address begins
/// with (u32, modulo 256 KiB); and what was put, found as it must be.
#[derive(Default)]
pub struct Forged {
    nodes: Vec<Bytes>,
    put: Mutex<HashMap<Address, Bytes>>,
    asked: Mutex<usize>,
}

impl Forged {
    /// Reads the nodes: how many (u8), and for each its bytes.
    pub fn read(r: &mut Reader) -> Result<Forged> {
        let nodes = (0..r.u8()?).map(|_| bytes(r).map(Bytes::copy_from_slice)).collect::<Result<_>>()?;
        Ok(Forged { nodes, ..Forged::default() })
    }

    /// What [`Forged::read`] reads.
    pub fn put_nodes(w: &mut Writer, nodes: &[Vec<u8>]) {
        w.u8(nodes.len() as u8);
        nodes.iter().for_each(|node| put_bytes(w, node));
    }

    fn count(&self) {
        let mut asked = self.asked.lock();
        *asked += 1;
        assert!(*asked <= MOST, "{MOST} chunks were asked for");
    }
}

impl Chunks for Forged {
    fn get(&self, chunk: &ChunkRef) -> Result<Bytes> {
        self.count();
        if let Some(stored) = self.put.lock().get(&chunk.address) {
            return open_chunk(chunk, stored, crate::forge::realm_keys());
        }
        let [first, second, third, fourth, ..] = chunk.address.0;
        match &chunk.opening {
            Opening::Sealed { seal: Seal::Node, .. } => {
                let missing = || Error::new(Kind::NotFound, "no such node");
                self.nodes.get(usize::from(first)).cloned().ok_or_else(missing)
            }
            Opening::Sealed { .. } => {
                let len = u32::from_le_bytes([first, second, third, fourth]) % (256 << 10);
                Ok(vec![first ^ second; len as usize].into())
            }
            Opening::Member { index, size, .. } => Ok(vec![first ^ *index as u8; *size as usize].into()),
        }
    }
}

impl Fetch for Forged {
    fn fetch(&self, address: &Address) -> Result<Bytes> {
        self.count();
        self.put.lock().get(address).cloned().ok_or_else(|| Error::damage("no such chunk"))
    }
}

/// Keeps what is put into it.
pub struct Sink<'a>(pub &'a Forged);

impl ChunkSink for Sink<'_> {
    fn put(&mut self, address: Address, stored: Vec<u8>) -> Result<()> {
        assert_eq!(address, Address::of(&stored));
        self.0.put.lock().insert(address, stored.into());
        Ok(())
    }
}
