//! The bytes of the journal (docs/FORMAT.md, "The journal"): file header, frame, records.

use crate::crypt::{self, Seal, domains, seal};
use crate::error::{Error, Result};
use crate::types::{Key, Lsn, MAX_LSN, RealmId};
use crate::wire::{Reader, Writer};

/// Headers and frames begin at multiples of this, in bytes.
pub const BLOCK: u64 = 4096;
/// What a record's length takes in a frame, in bytes.
pub const RECORD_HEADER: usize = 4;
/// A frame's header, in clear, in bytes.
pub const FRAME_HEADER: usize = 40;

const FILE_MAGIC: &[u8; 8] = b"nacrejnl";
const FRAME_MAGIC: &[u8; 8] = b"nacrefrm";
const MACED: usize = 80;
const MAC: usize = 32;
const SUPERSEDES: u8 = 1;

/// The room that a frame with so many bytes of records takes in its file.
pub fn space(body: usize) -> u64 {
    ((FRAME_HEADER + seal::OVERHEAD + body) as u64).next_multiple_of(BLOCK)
}

/// The keys of a journal.
pub struct Keys {
    realm: RealmId,
    headers: Key,
    files: Key,
}

/// The first block of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHeader {
    pub id: u64,
    /// The highest record known durable when the file was begun.
    pub durable: Lsn,
    /// The file begins a run of the journal: records above `durable` in files with a lower id are void.
    pub supersedes: bool,
    /// Fresh for each life of a file.
    pub salt: [u8; 32],
    /// How large the file is, in bytes, a multiple of [`BLOCK`]; 0 where that is not told.
    pub size: u64,
}

impl Keys {
    pub fn new(key: &Key, realm: RealmId) -> Keys {
        Keys {
            realm,
            headers: domains::JOURNAL_HEADERS.derive(&[&key.0]),
            files: domains::JOURNAL_FILES.derive(&[&key.0]),
        }
    }

    /// A block.
    pub fn encode_header(&self, header: &FileHeader) -> Vec<u8> {
        let mut w = Writer::with_capacity(BLOCK as usize);
        w.raw(FILE_MAGIC).u16(seal::FORMAT).u8(seal::SUITE).u8(if header.supersedes {
            SUPERSEDES
        } else {
            0
        });
        w.u32((header.size / BLOCK) as u32)
            .raw(&self.realm.0)
            .u64(header.id)
            .u64(header.durable)
            .raw(&header.salt);
        let mac = blake3::keyed_hash(&self.headers.0, w.as_slice());
        w.raw(mac.as_bytes());
        let mut block = w.into_vec();
        block.resize(BLOCK as usize, 0);
        block
    }

    /// Reads a block; anything but what [`Keys::encode_header`] gives is damage.
    pub fn decode_header(&self, block: &[u8]) -> Result<FileHeader> {
        let mut r = Reader::new(block, "header");
        let magic = r.array()?;
        let format = r.u16()?;
        if &magic == FILE_MAGIC && format != seal::FORMAT {
            return Err(Error::failed(format!(
                "made in format {format}; this program reads {}",
                seal::FORMAT
            )));
        }
        let (_suite, flags, blocks, _realm) = (r.u8()?, r.u8()?, r.u32()?, r.array::<16>()?);
        let (id, durable, salt) = (r.u64()?, r.u64()?, r.array()?);
        let size = u64::from(blocks) * BLOCK;
        let header = FileHeader { id, durable, supersedes: flags == SUPERSEDES, salt, size };
        // blake3::Hash compares in constant time, so the whole block is compared only after its MAC.
        let mac = blake3::Hash::from_bytes(r.array::<MAC>()?);
        let maced = block.get(..MACED).unwrap_or_default();
        if blake3::keyed_hash(&self.headers.0, maced) != mac || self.encode_header(&header) != block {
            return Err(r.bad("not as it was written, or of another drive"));
        }
        if header.id > MAX_LSN || header.durable > MAX_LSN {
            return Err(r.bad("numbers that no journal comes to"));
        }
        Ok(header)
    }

    /// What seals the frames of one life of a file. Its key hangs on the whole header.
    pub fn cipher(&self, header: &FileHeader) -> FrameCipher {
        let block = self.encode_header(header);
        let key = Key(*blake3::keyed_hash(&self.files.0, &block[..MACED]).as_bytes());
        let mut life = [0; 8];
        life.copy_from_slice(&header.salt[..8]);
        FrameCipher { key, realm: self.realm, id: header.id, life }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The number of the first record.
    pub first: Lsn,
    /// How many records; at least one.
    pub count: u32,
    /// The length of what follows the header, in bytes.
    pub sealed: u32,
    /// The highest record known durable when the frame was closed; below `first`.
    pub durable: Lsn,
}

impl FrameHead {
    pub fn last(&self) -> Lsn {
        self.first + Lsn::from(self.count) - 1
    }

    /// The room that the frame takes, in bytes.
    pub fn space(&self) -> u64 {
        (FRAME_HEADER as u64 + u64::from(self.sealed)).next_multiple_of(BLOCK)
    }
}

/// Seals and opens the frames of one life of a file.
pub struct FrameCipher {
    key: Key,
    realm: RealmId,
    id: u64,
    /// The beginning of the salt, in clear in each frame: tells frames of earlier lives without opening.
    life: [u8; 8],
}

impl FrameCipher {
    fn associated(&self, head: &[u8]) -> Vec<u8> {
        let mut w = Writer::with_capacity(8 + FRAME_HEADER);
        w.u64(self.id).raw(head);
        w.into_vec()
    }

    /// Replaces `out` with the frame's bytes, zeros up to a whole block included.
    pub fn seal(&self, first: Lsn, durable: Lsn, body: &Body, out: &mut Vec<u8>) -> Result<()> {
        let too_long = || Error::failed("journal frame too long");
        let sealed = u32::try_from(body.len() + seal::OVERHEAD).map_err(|_| too_long())?;
        let mut w = Writer::with_capacity(FRAME_HEADER);
        w.raw(FRAME_MAGIC).raw(&self.life).u64(first).u32(body.count() as u32).u32(sealed).u64(durable);
        out.clear();
        out.reserve(space(body.len()) as usize);
        out.extend_from_slice(w.as_slice());
        let ad = self.associated(w.as_slice());
        seal::seal_into(Seal::Journal, &self.key, &self.realm, &ad, &body.bytes, out)?;
        out.resize(space(body.len()) as usize, 0);
        Ok(())
    }

    /// The header that `bytes` begins with, where it claims to be of this life of the file.
    /// Nobody has vouched for it yet.
    pub fn peek(&self, bytes: &[u8]) -> Option<FrameHead> {
        let mut r = Reader::new(bytes, "frame");
        if r.array().ok()? != *FRAME_MAGIC || r.array().ok()? != self.life {
            return None;
        }
        let head = FrameHead {
            first: r.u64().ok()?,
            count: r.u32().ok()?,
            sealed: r.u32().ok()?,
            durable: r.u64().ok()?,
        };
        let least = seal::OVERHEAD as u64 + RECORD_HEADER as u64 * u64::from(head.count);
        let fits = head.count > 0 && u64::from(head.sealed) >= least;
        let last = head.first.checked_add(head.count.into());
        let numbered = head.first > head.durable && last.is_some_and(|last| last <= MAX_LSN);
        (fits && numbered).then_some(head)
    }

    /// Opens the frame that `bytes` begins with.
    pub fn open(&self, bytes: &[u8]) -> Result<(FrameHead, Body)> {
        let head = self.peek(bytes).ok_or_else(|| Error::damage("no frame of this journal file"))?;
        let mut r = Reader::new(bytes, "frame");
        let ad = self.associated(r.raw(FRAME_HEADER)?);
        let sealed = r.raw(head.sealed as usize)?;
        let message = crypt::open(Seal::Journal, &self.key, &self.realm, &ad, sealed)?;
        Ok((head, Body::parse(message, head.count)?))
    }
}

/// The records of a frame, each after its length.
#[derive(Default)]
pub struct Body {
    bytes: Vec<u8>,
    /// Where each record ends in `bytes`.
    ends: Vec<u32>,
}

impl Body {
    /// Adds a record; its parts are laid one after another and are `len` bytes in all.
    pub fn push(&mut self, parts: &[&[u8]], len: usize) {
        self.bytes.extend_from_slice(&(len as u32).to_le_bytes());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.ends.push(self.bytes.len() as u32);
    }

    fn parse(bytes: Vec<u8>, count: u32) -> Result<Body> {
        let mut r = Reader::new(&bytes, "frame's records");
        // No more than the bytes can hold: the header's count was checked against the sealed length.
        let mut ends = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let len = r.u32()?;
            r.raw(len as usize)?;
            ends.push((bytes.len() - r.rest().len()) as u32);
        }
        if !r.rest().is_empty() {
            return Err(r.bad("more bytes than records"));
        }
        Ok(Body { bytes, ends })
    }

    pub fn record(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |i| self.ends[i] as usize);
        self.bytes.get(start + RECORD_HEADER..end)
    }

    pub fn count(&self) -> usize {
        self.ends.len()
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Empties it and keeps its memory, where that is not more than `most` bytes.
    pub fn clear(&mut self, most: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(most);
        self.ends.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> Keys {
        Keys::new(&Key([7; 32]), RealmId([1; 16]))
    }

    fn header() -> FileHeader {
        FileHeader { id: 3, durable: 9, supersedes: true, salt: [5; 32], size: 64 << 10 }
    }

    proptest! {
        #[test]
        fn a_frame_opens_only_as_it_was_sealed(
            records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20),
            at: prop::sample::Index, bit in 0u8..8,
        ) {
            let cipher = keys().cipher(&header());
            let mut body = Body::default();
            records.iter().for_each(|r| body.push(&[&r[..r.len() / 2], &r[r.len() / 2..]], r.len()));
            let mut frame = vec![9; 3];
            cipher.seal(10, 9, &body, &mut frame)?;
            prop_assert_eq!(frame.len() as u64, space(body.len()));
            let (head, again) = cipher.open(&frame)?;
            prop_assert_eq!((head.first, head.last(), head.space()), (10, 9 + records.len() as u64, frame.len() as u64));
            for (i, r) in records.iter().enumerate() {
                prop_assert_eq!(again.record(i), Some(&r[..]));
            }
            prop_assert!(again.record(records.len()).is_none());
            let other = keys().cipher(&FileHeader { durable: 8, ..header() });
            prop_assert!(other.open(&frame).is_err());
            let covered = FRAME_HEADER + head.sealed as usize;
            frame[at.index(covered)] ^= 1 << bit;
            prop_assert!(cipher.open(&frame).is_err());
        }

        #[test]
        fn hostile_bytes_are_refused_in_peace(bytes in proptest::collection::vec(any::<u8>(), 0..300), count in 0u32..80) {
            let _ = Body::parse(bytes.clone(), count);
            prop_assert!(keys().decode_header(&bytes).is_err());
            prop_assert!(keys().cipher(&header()).open(&bytes).is_err());
        }
    }

    #[test]
    fn a_file_header_is_read_only_as_it_was_written() {
        let block = keys().encode_header(&header());
        assert_eq!(keys().decode_header(&block).unwrap(), header());
        for at in 0..BLOCK as usize {
            let mut bent = block.clone();
            bent[at] ^= 4;
            assert!(keys().decode_header(&bent).is_err(), "byte {at}");
        }
        assert!(Keys::new(&Key([8; 32]), RealmId([1; 16])).decode_header(&block).is_err());
        assert!(Keys::new(&Key([7; 32]), RealmId([2; 16])).decode_header(&block).is_err());
    }
}
