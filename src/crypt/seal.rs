//! The one seal for everything but self-encrypted chunks and public data.
//!
//! `seal(kind, key, realm, ad, m)` is XChaCha20-Poly1305 whose nonce is the first 24 bytes of keyed BLAKE3
//! over the associated data and the message, so that no nonce can meet two messages, whatever the disk or
//! a virtual machine is rolled back to; it is computed again when opening, which makes the seal commit to
//! its message. (In the manner of SIV, RFC 5297; the cipher is draft-irtf-cfrg-xchacha.)
//!
//! Sealed bytes: nonce (24), ciphertext (as long as the message), tag (16).

use super::Seal;
use crate::error::{Error, Result};
use crate::types::{Key, RealmId};
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

/// The format version that every associated data carries.
pub const FORMAT: u16 = 1;
/// XChaCha20-Poly1305 with BLAKE3.
pub const SUITE: u8 = 1;
/// How many bytes a seal adds to its message.
pub const OVERHEAD: usize = NONCE + TAG;

const NONCE: usize = 24;
const TAG: usize = 16;
const MAGIC: &[u8; 5] = b"nacre";

/// Magic, format version, kind, suite, realm, then what the caller binds the message to.
fn associated(kind: Seal, realm: &RealmId, ad: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + 4 + 16 + ad.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&[kind as u8, SUITE]);
    out.extend_from_slice(&realm.0);
    out.extend_from_slice(ad);
    out
}

/// The cipher's key and the nonce's key, from the one key of the seal.
fn keys(key: &Key) -> (XChaCha20Poly1305, Key) {
    let cipher = Key(blake3::derive_key("nacre 2026 seal: cipher key", &key.0));
    let nonce = Key(blake3::derive_key("nacre 2026 seal: nonce key", &key.0));
    (XChaCha20Poly1305::new((&cipher.0).into()), nonce)
}

fn nonce_for(key: &Key, associated: &[u8], message: &[u8]) -> [u8; NONCE] {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(&(associated.len() as u64).to_le_bytes()).update(associated).update(message);
    let mut nonce = [0; NONCE];
    hasher.finalize_xof().fill(&mut nonce);
    nonce
}

/// Seals a message: see the module's description.
pub fn seal(kind: Seal, key: &Key, realm: &RealmId, ad: &[u8], message: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(message.len() + OVERHEAD);
    seal_into(kind, key, realm, ad, message, &mut out)?;
    Ok(out)
}

/// Seals a message onto the end of `out`.
pub fn seal_into(
    kind: Seal,
    key: &Key,
    realm: &RealmId,
    ad: &[u8],
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let ad = associated(kind, realm, ad);
    let (cipher, nonce_key) = keys(key);
    let nonce = nonce_for(&nonce_key, &ad, message);
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(message);
    let tag = cipher
        .encrypt_in_place_detached(XNonce::from_slice(&nonce), &ad, &mut out[start..])
        .map_err(|_| Error::failed("message too long to seal"))?;
    out.extend_from_slice(&tag);
    Ok(())
}

/// Opens what [`seal`] sealed under the same kind, key, realm and associated data; anything else is damage.
pub fn open(kind: Seal, key: &Key, realm: &RealmId, ad: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    let bad = || Error::damage(format!("{kind:?}: the seal does not open"));
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>().ok_or_else(bad)?;
    let (text, tag) = rest.split_last_chunk::<TAG>().ok_or_else(bad)?;
    let ad = associated(kind, realm, ad);
    let (cipher, nonce_key) = keys(key);
    let mut message = text.to_vec();
    cipher
        .decrypt_in_place_detached(XNonce::from_slice(nonce), &ad, &mut message, Tag::from_slice(tag))
        .map_err(|_| bad())?;
    if nonce_for(&nonce_key, &ad, &message) != *nonce {
        return Err(bad());
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REALM: RealmId = RealmId([3; 16]);

    proptest! {
        #[test]
        fn a_seal_opens_only_as_it_was_made(m in proptest::collection::vec(any::<u8>(), 0..300), at: prop::sample::Index, bit in 0u8..8) {
            let key = Key([1; 32]);
            let sealed = seal(Seal::Node, &key, &REALM, b"ad", &m)?;
            prop_assert_eq!(sealed.len(), m.len() + OVERHEAD);
            prop_assert_eq!(open(Seal::Node, &key, &REALM, b"ad", &sealed)?, m.clone());
            prop_assert!(open(Seal::Content, &key, &REALM, b"ad", &sealed).is_err());
            prop_assert!(open(Seal::Node, &Key([2; 32]), &REALM, b"ad", &sealed).is_err());
            prop_assert!(open(Seal::Node, &key, &RealmId([4; 16]), b"ad", &sealed).is_err());
            prop_assert!(open(Seal::Node, &key, &REALM, b"AD", &sealed).is_err());
            let mut bent = sealed.clone();
            bent[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(open(Seal::Node, &key, &REALM, b"ad", &bent).is_err());
            prop_assert!(open(Seal::Node, &key, &REALM, b"ad", &sealed[..sealed.len() - 1]).is_err());
        }
    }

    #[test]
    fn nonces_differ_where_messages_do() {
        let key = Key([1; 32]);
        let a = seal(Seal::Node, &key, &REALM, b"", b"one").unwrap();
        let b = seal(Seal::Node, &key, &REALM, b"", b"two").unwrap();
        let c = seal(Seal::Node, &key, &REALM, b"o", b"ne").unwrap();
        assert_ne!(a[..NONCE], b[..NONCE]);
        assert_ne!(a[..NONCE], c[..NONCE]);
    }
}
