//! The one seal for everything but self-encrypted chunks and public data.
//!
//! `seal(kind, key, realm, ad, m)` is XChaCha20-Poly1305 whose nonce is the first 24 bytes of keyed BLAKE3
//! over the associated data and the message, so that no nonce can meet two messages, whatever the disk or
//! a virtual machine is rolled back to; it is computed again when opening, which makes the seal commit to
//! its message. (In the manner of SIV, RFC 5297; the cipher is draft-irtf-cfrg-xchacha.)
//!
//! Sealed bytes: nonce (24), ciphertext (as long as the message), tag (16).

use super::{Seal, domains};
use crate::error::{Error, Result};
use crate::types::{Key, RealmId};
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroize;

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

/// A key of seals, made ready: for keys that seal or open many messages.
pub struct SealKey {
    cipher: XChaCha20Poly1305,
    nonce: Key,
}

impl SealKey {
    pub fn new(key: &Key) -> SealKey {
        let cipher = domains::SEAL_CIPHER.derive(&[&key.0]);
        let nonce = domains::SEAL_NONCE.derive(&[&key.0]);
        SealKey { cipher: XChaCha20Poly1305::new((&cipher.0).into()), nonce }
    }

    /// Seals a message: see the module's description.
    pub fn seal(&self, kind: Seal, realm: &RealmId, ad: &[u8], message: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(message.len() + OVERHEAD);
        self.seal_into(kind, realm, ad, message, &mut out)?;
        Ok(out)
    }

    /// Seals a message onto the end of `out`, which is left as it was if that fails.
    pub fn seal_into(
        &self,
        kind: Seal,
        realm: &RealmId,
        ad: &[u8],
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let ad = associated(kind, realm, ad);
        let nonce = self.nonce_for(&ad, message);
        #[cfg(debug_assertions)]
        super::witness::tell(kind, &self.nonce.0, &nonce, &ad, message);
        let before = out.len();
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(message);
        match self.cipher.encrypt_in_place_detached(XNonce::from_slice(&nonce), &ad, &mut out[start..]) {
            Ok(tag) => out.extend_from_slice(&tag),
            Err(_) => {
                out.truncate(before);
                return Err(Error::failed(format!(
                    "{kind:?} of {} bytes is too long to seal",
                    message.len()
                )));
            }
        }
        Ok(())
    }

    /// Opens what was sealed under the same kind, key, realm and associated data; anything else is damage.
    pub fn open(&self, kind: Seal, realm: &RealmId, ad: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let bad = || Error::damage(format!("{kind:?}: the seal does not open"));
        let (nonce, rest) = sealed.split_first_chunk::<NONCE>().ok_or_else(bad)?;
        let (text, tag) = rest.split_last_chunk::<TAG>().ok_or_else(bad)?;
        let ad = associated(kind, realm, ad);
        let mut message = text.to_vec();
        self.cipher
            .decrypt_in_place_detached(XNonce::from_slice(nonce), &ad, &mut message, Tag::from_slice(tag))
            .map_err(|_| bad())?;
        if self.nonce_for(&ad, &message) != *nonce {
            message.zeroize();
            return Err(bad());
        }
        Ok(message)
    }

    fn nonce_for(&self, associated: &[u8], message: &[u8]) -> [u8; NONCE] {
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce.0);
        hasher.update(&(associated.len() as u64).to_le_bytes()).update(associated).update(message);
        let mut nonce = [0; NONCE];
        hasher.finalize_xof().fill(&mut nonce);
        nonce
    }
}

/// Seals one message under a key of its own: [`SealKey::seal`].
pub fn seal(kind: Seal, key: &Key, realm: &RealmId, ad: &[u8], message: &[u8]) -> Result<Vec<u8>> {
    SealKey::new(key).seal(kind, realm, ad, message)
}

/// Seals a message onto the end of `out`: [`SealKey::seal_into`].
pub fn seal_into(
    kind: Seal,
    key: &Key,
    realm: &RealmId,
    ad: &[u8],
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    SealKey::new(key).seal_into(kind, realm, ad, message, out)
}

/// Opens what [`seal`] sealed under the same kind, key, realm and associated data; anything else is damage.
pub fn open(kind: Seal, key: &Key, realm: &RealmId, ad: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    SealKey::new(key).open(kind, realm, ad, sealed)
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

    /// TRUST 1.5: magic, format version, kind, suite and realm, then what the caller binds.
    #[test]
    fn associated_data_says_what_the_thing_is() {
        let ad = associated(Seal::Journal, &REALM, b"lsn");
        assert_eq!(ad, [b"nacre".as_slice(), &[1, 0, 7, 1], &[3; 16], b"lsn"].concat());
    }

    /// The nonce's hash tells associated data and message apart, whatever runs into what.
    #[test]
    fn associated_data_and_message_do_not_run_together() {
        let key = SealKey::new(&Key([1; 32]));
        assert_ne!(key.nonce_for(b"ab", b"c"), key.nonce_for(b"a", b"bc"));
    }

    /// TRUST 1.3: a seal commits to its message. Whoever has the key can make a tag for any nonce, but
    /// only the nonce that the message gives opens.
    #[test]
    fn a_valid_tag_under_another_nonce_is_refused() {
        let key = SealKey::new(&Key([1; 32]));
        let ad = associated(Seal::Node, &REALM, b"");
        let mut sealed = vec![5; NONCE];
        let mut text = b"message".to_vec();
        let tag =
            key.cipher.encrypt_in_place_detached(XNonce::from_slice(&[5; NONCE]), &ad, &mut text).unwrap();
        sealed.extend_from_slice(&text);
        sealed.extend_from_slice(&tag);
        assert!(key.open(Seal::Node, &REALM, b"", &sealed).is_err());
    }

    #[test]
    fn sealing_appends() {
        let (key, mut out) = (SealKey::new(&Key([1; 32])), b"before".to_vec());
        key.seal_into(Seal::Journal, &REALM, b"7", b"frame", &mut out).unwrap();
        assert_eq!(out[..6], *b"before");
        assert_eq!(open(Seal::Journal, &Key([1; 32]), &REALM, b"7", &out[6..]).unwrap(), b"frame");
    }
}
