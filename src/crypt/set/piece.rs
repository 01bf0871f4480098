//! The `fast` encoding of a piece: a Brotli stream (RFC 7932) that is either stored or lightly compressed.
//!
//! Any Brotli decoder reads it. Window size is 16 bits throughout, so that the first bit is 0.

use crate::crypt::compress::{compress, decompress};
use crate::error::{Error, Result};
use crate::types::MAX_CHUNK;
use bytes::Bytes;

const WINDOW_BITS: u32 = 16;
/// Shorter pieces are not worth a compressor.
const LEAST: usize = 64;
/// The empty stream: window 16, last, empty.
const EMPTY: u8 = 0x06;
/// The end of a stream: last, empty.
const END: u8 = 0x03;

/// Encodes a piece of at most 4 MiB. The same piece always gives the same bytes.
pub fn encode_piece(plain: &[u8]) -> Vec<u8> {
    if plain.is_empty() {
        return vec![EMPTY];
    }
    // A stream that saves less than a thirty-second part is not worth unpacking.
    let packed =
        if plain.len() < LEAST { None } else { compress(plain, WINDOW_BITS, plain.len() - plain.len() / 32) };
    packed.unwrap_or_else(|| store(plain))
}

/// Decodes a piece whose size is known; anything but exactly `size` bytes from all of the input is damage.
pub fn decode_piece(encoded: Bytes, size: usize) -> Result<Bytes> {
    if size > MAX_CHUNK {
        return Err(Error::damage(format!("a piece of {size} bytes is larger than any chunk")));
    }
    if let Some(start) = stored_start(&encoded, size) {
        return Ok(encoded.slice(start..start + size));
    }
    let damaged = || Error::damage(format!("a piece does not decompress to the {size} bytes it should have"));
    decompress(&encoded, size).map(Bytes::from).ok_or_else(damaged)
}

/// How many bytes stand before the payload of a stored piece, and the bits of its header.
///
/// From the lowest bit: window 16 (`0`), not the last block (`0`), nibbles of the length less four
/// (2 bits), length less one, uncompressed (`1`), zeros up to a whole byte.
fn stored_header(size: usize) -> (usize, u32) {
    let nibbles = match size {
        0..=0x1_0000 => 4,
        0x1_0001..=0x10_0000 => 5,
        _ => 6,
    };
    let bits = ((nibbles - 4) << 2) | ((size as u32).wrapping_sub(1) << 4) | (1 << (4 + 4 * nibbles));
    ((5 + 4 * nibbles as usize).div_ceil(8), bits)
}

fn store(plain: &[u8]) -> Vec<u8> {
    let (width, bits) = stored_header(plain.len());
    let mut out = Vec::with_capacity(width + plain.len() + 1);
    out.extend_from_slice(&bits.to_le_bytes()[..width]);
    out.extend_from_slice(plain);
    out.push(END);
    out
}

/// Where the payload begins, if this is what [`store`] makes of `size` bytes.
fn stored_start(encoded: &[u8], size: usize) -> Option<usize> {
    let (width, bits) = stored_header(size);
    let header = bits.to_le_bytes();
    let is_stored = size > 0
        && encoded.len() == width + size + 1
        && encoded.starts_with(&header[..width])
        && encoded.ends_with(&[END]);
    is_stored.then_some(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::set::tests::{noise, text};
    use proptest::prelude::*;

    fn back(plain: &[u8]) -> Vec<u8> {
        let encoded = encode_piece(plain);
        let mut stock = Vec::new();
        brotli_decompressor::BrotliDecompress(&mut &encoded[..], &mut stock).unwrap();
        assert_eq!(stock, plain, "a decoder that knows nothing of us reads it");
        assert_eq!(decode_piece(encoded.clone().into(), plain.len()).unwrap(), plain);
        encoded
    }

    #[test]
    fn stored_pieces_cost_four_or_five_bytes_and_text_shrinks() {
        for (size, cost) in [(1, 4), (63, 4), (4096, 4), (0x1_0000, 4), (0x1_0001, 5), (0x10_0001, 5)] {
            assert_eq!(back(&noise(size, 7)).len(), size + cost, "{size}");
        }
        assert_eq!(back(&[]), [EMPTY]);
        assert!(back(&text(65536, 1)).len() < 40_000);
        assert!(back(&vec![0; 65536]).len() < 64);
        assert!(back(&vec![0; MAX_CHUNK]).len() < 4096);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn pieces_come_back_and_nothing_else_is_accepted(
            size in 0usize..9000, seed: u64, is_text: bool, at: prop::sample::Index, by in 1u8..,
        ) {
            let plain = if is_text { text(size, seed) } else { noise(size, seed) };
            let encoded = back(&plain);
            let refused = |bytes: Vec<u8>, size| decode_piece(bytes.into(), size).is_err();
            prop_assert!(refused(encoded.clone(), size + 1));
            prop_assert!(size == 0 || refused(encoded.clone(), size - 1));
            prop_assert!(refused([&encoded[..], &[0]].concat(), size), "bytes left over");
            prop_assert!(refused(encoded[..encoded.len() - 1].to_vec(), size), "bytes missing");
            let mut bent = encoded.clone();
            bent[at.index(encoded.len())] ^= by;
            if let Ok(other) = decode_piece(bent.into(), size) {
                prop_assert_eq!(other.len(), size);
            }
        }

        #[test]
        fn any_bytes_are_a_piece_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64), size in 0usize..70000) {
            if let Ok(plain) = decode_piece(bytes.into(), size) {
                prop_assert_eq!(plain.len(), size);
            }
        }
    }
}
