//! Self-encrypted sets, in the format of the `self_encryption` crate 0.36.2.
//!
//! Content is cut into **pieces** of one size; each piece is encoded as a Brotli stream ([`encode_piece`])
//! and sealed as a **member** under a key that comes from its index and from the source hashes of itself
//! and of the two members before it (wrapping round). The crate's `decrypt` reads what is written here.
//!
//! A source hash is the keyed hash of the exact encoded bytes, not of the plaintext, so that no key and
//! nonce can ever meet two messages, whatever encoder made them (docs/SECURITY.md). A member that is sealed
//! again only because a neighbour changed is therefore opened to its encoded bytes, never encoded again.

mod cipher;
mod piece;

pub use cipher::{OVERHEAD, open_encoded, seal_member};
pub use piece::{decode_piece, encode_piece};

use crate::chunk::{ChunkRef, Opening};
use crate::error::Result;
use crate::types::Address;
use crate::wire::{Reader, Writer};
use bytes::Bytes;
use self_encryption::{ChunkInfo, DataMap, XorName};
use std::ops::Range;

/// Members that a set has at least: the format's keys need three source hashes.
pub const LEAST_MEMBERS: usize = 3;
/// Piece sizes are powers of two: 4 KiB to 1 MiB.
const PIECE_BITS: std::ops::RangeInclusive<u8> = 12..=20;

/// One sealed piece of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// BLAKE3 of the stored bytes.
    pub address: Address,
    /// Keyed BLAKE3 of the encoded bytes.
    pub source_hash: [u8; 32],
}

/// What turns the members of a set back into content: the crate's `DataMap`, in 64 bytes a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMap {
    piece_bits: u8,
    size: u32,
    members: Vec<Member>,
}

/// Opens the member of a set that [`Opening::Member`] describes: its plaintext, of exactly `size` bytes.
pub fn open_member(index: u32, hashes: &[[u8; 32]; 3], size: u32, stored: &[u8]) -> Result<Bytes> {
    decode_piece(open_encoded(index, hashes, stored)?.into(), size as usize)
}

/// How many members a set of `size` bytes has; some may be empty.
pub fn member_count(size: u32, piece_size: u32) -> usize {
    (size.div_ceil(piece_size) as usize).max(LEAST_MEMBERS)
}

/// The bytes of the content that member `index` holds.
pub fn piece_range(size: u32, piece_size: u32, index: usize) -> Range<u32> {
    let at = |i: usize| (i as u64 * u64::from(piece_size)).min(u64::from(size)) as u32;
    at(index)..at(index + 1)
}

/// A piece of a set that is being written.
pub enum Piece {
    /// The old set's member of this index: same bytes, same length.
    Kept,
    /// New encoded bytes.
    Encoded(Vec<u8>),
}

/// What writing a set needs from outside.
pub struct Io<'a> {
    /// Keyed hash of encoded bytes.
    pub source_hash: &'a dyn Fn(&[u8]) -> [u8; 32],
    /// The stored bytes of a member of the old set.
    pub stored: &'a dyn Fn(&Address) -> Result<Bytes>,
    /// Takes a new member's stored bytes; called in the order of the members.
    pub put: &'a mut dyn FnMut(Address, Vec<u8>) -> Result<()>,
}

impl SetMap {
    /// Writes a set of `size` bytes in pieces of `piece_size` (a power of two, 4 KiB to 1 MiB), given one
    /// [`Piece`] for each of [`member_count`]. Seals only members whose key changed: for each run of new
    /// pieces the run and the two members after it, and the first two where the number of members changes.
    pub fn write(
        old: Option<&SetMap>,
        size: u32,
        piece_size: u32,
        pieces: Vec<Piece>,
        io: &mut Io,
    ) -> Result<SetMap> {
        let old_member = |i: usize| old.and_then(|set| set.members.get(i));
        let lost = || crate::error::Error::failed("a kept piece has no old member");
        let hashes = pieces
            .iter()
            .enumerate()
            .map(|(i, piece)| match piece {
                Piece::Encoded(encoded) => Ok((io.source_hash)(encoded)),
                Piece::Kept => old_member(i).map(|m| m.source_hash).ok_or_else(lost),
            })
            .collect::<Result<Vec<_>>>()?;
        let mut members = Vec::with_capacity(pieces.len());
        for (i, piece) in pieces.into_iter().enumerate() {
            let three = three_hashes(i, hashes.len(), |j| hashes[j]);
            let old_three = old.filter(|set| i < set.members.len()).map(|set| set.hashes(i));
            let address = match (old_member(i), old_three) {
                // One that is at hand is given to the store even if it is the same: what is there may be damaged.
                (Some(member), Some(old_three)) if old_three == three && matches!(piece, Piece::Kept) => {
                    member.address
                }
                (old_member, old_three) => {
                    let encoded = match (piece, old_member, old_three) {
                        (Piece::Encoded(encoded), _, _) => encoded,
                        (Piece::Kept, Some(member), Some(old_three)) => {
                            open_encoded(i as u32, &old_three, &(io.stored)(&member.address)?)?
                        }
                        (Piece::Kept, _, _) => return Err(lost()),
                    };
                    let stored = seal_member(i as u32, &three, &encoded)?;
                    let address = Address::of(&stored);
                    (io.put)(address, stored)?;
                    address
                }
            };
            members.push(Member { address, source_hash: hashes[i] });
        }
        debug_assert!(piece_size.is_power_of_two() && members.len() == member_count(size, piece_size));
        Ok(SetMap { piece_bits: piece_size.trailing_zeros() as u8, size, members })
    }

    /// Bytes of content.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Bytes of content in each member but the last ones.
    pub fn piece_size(&self) -> u32 {
        1 << self.piece_bits
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The bytes of the content that member `index` holds.
    pub fn piece_range(&self, index: usize) -> Range<u32> {
        piece_range(self.size, self.piece_size(), index)
    }

    /// The source hashes of member `index` and of the two before it, wrapping round.
    fn hashes(&self, index: usize) -> [[u8; 32]; 3] {
        three_hashes(index, self.members.len(), |j| self.members[j].source_hash)
    }

    /// The member at `index`, and how to open it; none beyond the last.
    pub fn chunk(&self, index: usize) -> Option<ChunkRef> {
        let address = self.members.get(index)?.address;
        let size = self.piece_range(index).len() as u32;
        Some(ChunkRef {
            address,
            opening: Opening::Member { index: index as u32, hashes: self.hashes(index), size },
        })
    }

    pub fn chunks(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        (0..self.members.len()).filter_map(|i| self.chunk(i))
    }

    pub fn put(&self, w: &mut Writer) {
        w.u8(self.piece_bits).var(self.size.into());
        for member in &self.members {
            w.raw(&member.address.0).raw(&member.source_hash);
        }
    }

    pub fn get(r: &mut Reader) -> Result<SetMap> {
        let piece_bits = r.u8()?;
        if !PIECE_BITS.contains(&piece_bits) {
            return Err(r.bad("piece size of a set out of range"));
        }
        let size = r.var32()?;
        let count = member_count(size, 1 << piece_bits);
        if count > r.rest().len() / 64 {
            return Err(r.bad("a set has more members than the bytes that follow"));
        }
        let members = (0..count)
            .map(|_| Ok(Member { address: Address(r.array()?), source_hash: r.array()? }))
            .collect::<Result<Vec<_>>>()?;
        Ok(SetMap { piece_bits, size, members })
    }

    /// The same set as the crate knows it: its `decrypt` gives the content back.
    pub fn to_data_map(&self) -> DataMap {
        let info = |(i, member): (usize, &Member)| ChunkInfo {
            index: i,
            dst_hash: XorName(member.address.0),
            src_hash: XorName(member.source_hash),
            src_size: self.piece_range(i).len(),
        };
        DataMap::new(self.members.iter().enumerate().map(info).collect())
    }
}

/// What `hash` says of `index`, `index` − 1 and `index` − 2, wrapping round below 0.
fn three_hashes(index: usize, count: usize, hash: impl Fn(usize) -> [u8; 32]) -> [[u8; 32]; 3] {
    [0, 1, 2].map(|back| hash((index + count - back) % count))
}

#[cfg(test)]
pub(crate) mod tests;
