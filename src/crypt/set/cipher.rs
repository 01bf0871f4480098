//! The cipher of `self_encryption` 0.36: ChaCha20-Poly1305 (RFC 8439), then XOR with a repeated pad.

use crate::error::{Error, Result};
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Tag};
use zeroize::Zeroizing;

/// What the witness calls it.
#[cfg(debug_assertions)]
#[derive(Debug)]
struct Member;

const KEY: usize = 32;
const NONCE: usize = 12;
const PAD: usize = 52;
const TAG: usize = 16;
/// How many bytes sealing adds to the encoded piece.
pub const OVERHEAD: usize = TAG;

/// Pad, key and nonce of a member, from its index and the source hashes of itself and the two before it.
fn secrets(index: u32, hashes: &[[u8; 32]; 3]) -> Zeroizing<[u8; PAD + KEY + NONCE]> {
    let mut hasher = blake3::Hasher::new_derive_key("self_encryption/chunk/v2");
    hashes.iter().for_each(|hash| {
        hasher.update(hash);
    });
    // The crate's level of shrunken maps, which is 0 here always.
    hasher.update(&u64::from(index).to_le_bytes()).update(&0u64.to_le_bytes());
    let mut out = Zeroizing::new([0; PAD + KEY + NONCE]);
    hasher.finalize_xof().fill(&mut out[..]);
    out
}

fn xor_pad(bytes: &mut [u8], pad: &[u8]) {
    // Many pads in a row, so that the compiler can take a whole vector at a time.
    let mut pattern = Zeroizing::new([0; PAD * 16]);
    pattern.iter_mut().zip(pad.iter().cycle()).for_each(|(p, &b)| *p = b);
    for part in bytes.chunks_mut(pattern.len()) {
        part.iter_mut().zip(pattern.iter()).for_each(|(byte, &p)| *byte ^= p);
    }
}

/// Seals the encoded bytes of the member at `index`; `hashes` are the source hashes of members
/// `index`, `index` − 1 and `index` − 2, wrapping round.
pub fn seal_member(index: u32, hashes: &[[u8; 32]; 3], encoded: &[u8]) -> Result<Vec<u8>> {
    let secrets = secrets(index, hashes);
    let (pad, rest) = secrets.split_at(PAD);
    let (key, nonce) = rest.split_at(KEY);
    #[cfg(debug_assertions)]
    crate::crypt::witness::tell(Member, key, nonce, &[], encoded);
    let mut out = Vec::with_capacity(encoded.len() + TAG);
    out.extend_from_slice(encoded);
    let tag = ChaCha20Poly1305::new(key.into())
        .encrypt_in_place_detached(nonce.into(), &[], &mut out)
        .map_err(|_| Error::failed("piece too long to seal"))?;
    out.extend_from_slice(&tag);
    xor_pad(&mut out, pad);
    Ok(out)
}

/// Opens what [`seal_member`] sealed, to the encoded bytes; anything else is damage.
pub fn open_encoded(index: u32, hashes: &[[u8; 32]; 3], stored: &[u8]) -> Result<Vec<u8>> {
    let bad = || Error::damage(format!("member {index} of a self-encrypted set does not open"));
    let secrets = secrets(index, hashes);
    let (pad, rest) = secrets.split_at(PAD);
    let (key, nonce) = rest.split_at(KEY);
    let mut out = stored.to_vec();
    xor_pad(&mut out, pad);
    let length = out.len().checked_sub(TAG).ok_or_else(bad)?;
    let (text, tag) = out.split_at_mut(length);
    ChaCha20Poly1305::new(key.into())
        .decrypt_in_place_detached(nonce.into(), &[], text, Tag::from_slice(tag))
        .map_err(|_| bad())?;
    out.truncate(length);
    Ok(out)
}
