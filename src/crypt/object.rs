//! A small object inside its seal: lightly compressed where that pays, and padded so that the stored size
//! says little. The object's key is a keyed hash of these very bytes: what is encrypted is what is hashed.

use super::Seal;
use super::compress::{compress, decompress};
use super::pad::{is_padding, pad};
use super::seal as sealing;
use crate::chunk::{ChunkRef, Opening};
use crate::error::{Error, Result};
use crate::types::{Address, Key, MAX_CHUNK, RealmId};
use crate::wire::{Reader, Writer};

const STORED: u8 = 0;
const BROTLI: u8 = 1;
/// The smallest object worth compressing, in bytes.
const LEAST: usize = 256;
const WINDOW_BITS: u32 = 18;

/// The longest stream that makes compressing worth it: an eighth is saved at least. None where it never is.
fn most_packed(size: usize) -> Option<usize> {
    (size >= LEAST).then(|| size - size.div_ceil(8))
}

/// Codec (u8), size of the content, for Brotli the size of its stream, payload, zero padding.
fn encode(content: &[u8]) -> Vec<u8> {
    let mut w = Writer::with_capacity(content.len() + content.len() / 8 + 16);
    match most_packed(content.len()).and_then(|most| compress(content, WINDOW_BITS, most)) {
        Some(packed) => w.u8(BROTLI).var(content.len() as u64).bytes(&packed),
        None => w.u8(STORED).bytes(content),
    };
    let mut inner = w.into_vec();
    pad(&mut inner);
    inner
}

/// Accepts exactly what [`encode`] can give, save that any Brotli stream that saves enough will do: which
/// one an encoder finds is its own affair, so there no single encoding can be demanded.
fn decode(mut inner: Vec<u8>) -> Result<Vec<u8>> {
    let mut r = Reader::new(&inner, "sealed object");
    let codec = r.u8()?;
    let size = r.var()?;
    if size > MAX_CHUNK as u64 {
        return Err(r.bad("declares more than a chunk may hold"));
    }
    let size = size as usize;
    let payload = match codec {
        STORED => r.raw(size)?,
        BROTLI => r.bytes()?,
        _ => return Err(r.bad("has an unknown codec")),
    };
    let end = inner.len() - r.rest().len();
    if !is_padding(end, r.rest()) {
        return Err(r.bad("is not padded as it must be"));
    }
    if codec == BROTLI {
        if most_packed(size).is_none_or(|most| payload.len() > most) {
            return Err(r.bad("is compressed where that does not pay"));
        }
        return decompress(payload, size)
            .ok_or_else(|| r.bad("its compressed stream is not what it declares"));
    }
    let start = end - size;
    inner.truncate(end);
    inner.drain(..start);
    Ok(inner)
}

/// Seals an object under the key that its bytes and the kind key give. `number` binds what is numbered.
pub fn seal(
    kind: Seal,
    kind_key: &Key,
    realm: &RealmId,
    number: &[u8],
    content: &[u8],
) -> Result<(ChunkRef, Vec<u8>)> {
    let too_large = || Error::failed(format!("{kind:?} of {} bytes is too large for a chunk", content.len()));
    if content.len() > MAX_CHUNK {
        return Err(too_large());
    }
    let inner = encode(content);
    if inner.len() + sealing::OVERHEAD > MAX_CHUNK {
        return Err(too_large());
    }
    let key = Key(*blake3::keyed_hash(&kind_key.0, &inner).as_bytes());
    let stored = sealing::seal(kind, &key, realm, number, &inner)?;
    Ok((ChunkRef { address: Address::of(&stored), opening: Opening::Sealed { seal: kind, key } }, stored))
}

/// Opens what [`seal`] sealed; anything else is damage.
pub fn open(kind: Seal, key: &Key, realm: &RealmId, number: &[u8], stored: &[u8]) -> Result<Vec<u8>> {
    let named = |e: Error| e.context(format!("chunk {} cannot be opened", Address::of(stored)));
    if stored.len() > MAX_CHUNK {
        return Err(named(Error::damage("larger than a chunk may be")));
    }
    sealing::open(kind, key, realm, number, stored).and_then(decode).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REALM: RealmId = RealmId([7; 16]);
    const KIND_KEY: Key = Key([9; 32]);

    fn roundtrip(content: &[u8]) -> Vec<u8> {
        let (chunk, stored) = seal(Seal::Content, &KIND_KEY, &REALM, b"", content).unwrap();
        assert_eq!(chunk.address, Address::of(&stored));
        let Opening::Sealed { seal: Seal::Content, key } = chunk.opening else { panic!("{chunk:?}") };
        assert_eq!(open(Seal::Content, &key, &REALM, b"", &stored).unwrap(), content);
        stored
    }

    fn text(lines: usize) -> Vec<u8> {
        (0..lines).flat_map(|i| format!("line {i} of many\n").into_bytes()).collect()
    }

    proptest! {
        #[test]
        fn objects_come_back(content in proptest::collection::vec(any::<u8>(), 0..3000)) {
            roundtrip(&content);
        }

        #[test]
        fn hostile_bytes_are_refused_or_canonical(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), codec in 0u8..3) {
            if let Some(first) = bytes.first_mut() {
                *first = codec;
            }
            if let Ok(content) = decode(bytes.clone()) && bytes[0] == STORED {
                let mut w = Writer::new();
                w.u8(STORED).bytes(&content);
                let mut again = w.into_vec();
                pad(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn sizes_from_nothing_to_the_limit() {
        assert_eq!(roundtrip(b"").len(), 2 + sealing::OVERHEAD);
        assert!(roundtrip(&text(10_000)).len() < 60_000);
        let mut noise = vec![0; MAX_CHUNK];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        roundtrip(&noise[..MAX_CHUNK - (64 << 10) - 5]);
        assert!(seal(Seal::Content, &KIND_KEY, &REALM, b"", &noise).is_err());
        roundtrip(&vec![0; MAX_CHUNK]);
        assert!(seal(Seal::Content, &KIND_KEY, &REALM, b"", &vec![0; MAX_CHUNK + 1]).is_err());
    }

    /// TRUST 1.1: the key is a hash of the bytes given to the cipher, never of the content behind them.
    #[test]
    fn the_key_hashes_what_is_encrypted() {
        let content = text(100);
        let (chunk, stored) = seal(Seal::Node, &KIND_KEY, &REALM, b"", &content).unwrap();
        let Opening::Sealed { key, .. } = chunk.opening else { panic!() };
        let inner = sealing::open(Seal::Node, &key, &REALM, b"", &stored).unwrap();
        assert_eq!(inner[0], BROTLI);
        assert_eq!(key.0, *blake3::keyed_hash(&KIND_KEY.0, &inner).as_bytes());
        assert_ne!(key.0, *blake3::keyed_hash(&KIND_KEY.0, &content).as_bytes());
        assert_ne!(key.0, *blake3::hash(&inner).as_bytes());
    }

    /// TRUST 5: contents of nearly the same size have stored bytes of the same size.
    #[test]
    fn stored_sizes_are_blurred() {
        let mut noise = vec![0; 1022];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let size = |len: usize| roundtrip(&noise[..len]).len();
        assert_eq!((size(990), size(1021)), (1024 + sealing::OVERHEAD, 1024 + sealing::OVERHEAD));
        assert_eq!((size(989), size(1022)), (992 + sealing::OVERHEAD, 1088 + sealing::OVERHEAD));
    }

    /// TRUST 1.6, 1.9: one encoding, and a bounded decoder.
    #[test]
    fn what_no_encoder_writes_is_refused() {
        let inner = |codec: u8, size: u64, rest: &[u8]| {
            let mut w = Writer::new();
            w.u8(codec).var(size).raw(rest);
            w.into_vec()
        };
        let padded = |mut bytes: Vec<u8>| {
            pad(&mut bytes);
            bytes
        };
        let stream = |packed: &[u8]| {
            let mut w = Writer::new();
            w.bytes(packed);
            w.into_vec()
        };
        let plain = text(100);
        let size = plain.len() as u64;
        let packed = compress(&plain, 22, plain.len()).unwrap();
        let good = padded(inner(BROTLI, size, &stream(&packed)));
        assert_eq!(decode(good.clone()).unwrap(), plain);
        assert_eq!(decode(padded(inner(STORED, 9, &[5; 9]))).unwrap(), [5; 9]);

        let refused = |bytes: Vec<u8>, why: &str| {
            let e = decode(bytes).unwrap_err();
            assert!(e.to_string().contains(why), "{e}, not {why}");
        };
        refused(vec![], "early");
        refused(padded(inner(2, 9, &[5; 9])), "codec");
        refused(padded(inner(STORED, 10, &[5; 4])), "early");
        refused(padded(inner(STORED, MAX_CHUNK as u64 + 1, &[5; 9])), "more than a chunk");
        refused(padded(inner(BROTLI, u64::MAX, &stream(&packed))), "more than a chunk");
        refused([good.clone(), vec![0]].concat(), "padded");
        refused(good[..good.len() - 1].to_vec(), "padded");
        let mut dirty = good.clone();
        *dirty.last_mut().unwrap() = 1;
        refused(dirty, "padded");
        refused(vec![STORED, 0x83, 0, 1, 2, 3], "minimal");
        // A stream that is longer, shorter or larger than declared, and a bomb.
        refused(padded(inner(BROTLI, size, &stream(&[&packed[..], &[0]].concat()))), "not what it declares");
        refused(padded(inner(BROTLI, size - 1, &stream(&packed))), "not what it declares");
        refused(padded(inner(BROTLI, size + 1, &stream(&packed))), "not what it declares");
        let bomb = compress(&vec![0; MAX_CHUNK], 18, 1000).unwrap();
        refused(padded(inner(BROTLI, 1000, &stream(&bomb))), "not what it declares");
        // Compression of what is too small, or that saves too little.
        refused(padded(inner(BROTLI, 255, &stream(&packed[..9]))), "does not pay");
        refused(padded(inner(BROTLI, 264, &stream(&[1; 232]))), "does not pay");
    }
}
