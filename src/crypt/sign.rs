//! Signatures: Ed25519 (RFC 8032), verified strictly, so that no signature has a second form.
//!
//! The admin key certifies devices; a device key signs heads. What is signed begins with magic, format
//! version, purpose and suite, so that no signature can stand in for one of another purpose.

use super::protect::Locked;
use super::seal::{FORMAT, SUITE};
use crate::error::{Error, Result};
use crate::sys::{Random, random};
use crate::types::{Key, hex};
use ed25519_dalek::Signer;
use std::fmt;
use zeroize::Zeroizing;

const MAGIC: &[u8; 5] = b"nacre";

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Signed {
    /// A head, by a device.
    Head = 1,
    /// A device's certificate, by the admin.
    Device = 2,
}

/// The bytes of a signature.
pub type Signature = [u8; 64];

/// A private key, in locked memory, wiped when dropped.
pub struct SigningKey(Locked<ed25519_dalek::SigningKey>);

impl SigningKey {
    pub fn generate(source: &dyn Random) -> Result<SigningKey> {
        let seed = Zeroizing::new(random::<32>(source)?);
        Ok(SigningKey(Locked::new(ed25519_dalek::SigningKey::from_bytes(&seed))))
    }

    /// The key of a seed (RFC 8032, 5.1.5): any 32 bytes are one.
    pub fn from_bytes(seed: &Key) -> SigningKey {
        SigningKey(Locked::new(ed25519_dalek::SigningKey::from_bytes(&seed.0)))
    }

    pub fn to_bytes(&self) -> Key {
        Key(self.0.to_bytes())
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub fn sign(&self, purpose: Signed, message: &[u8]) -> Signature {
        self.0.sign(&signed_bytes(purpose, message)).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public())
    }
}

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// Fails with `Kind::Damage` for what is no point of the curve, and for the weak points.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<PublicKey> {
        match ed25519_dalek::VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(PublicKey(key)),
            _ => Err(Error::damage(format!("{} is not a public key", hex(bytes)))),
        }
    }

    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Fails with `Kind::Damage` unless this key's owner signed this message for this purpose.
    pub fn verify(&self, purpose: Signed, message: &[u8], signature: &Signature) -> Result<()> {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0
            .verify_strict(&signed_bytes(purpose, message), &signature)
            .map_err(|_| Error::damage(format!("{purpose:?}: the signature is not of the key {self}")))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&hex(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn signed_bytes(purpose: Signed, message: &[u8]) -> Vec<u8> {
    [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &[purpose as u8, SUITE], message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SystemRandom;

    #[test]
    fn a_signature_is_of_one_key_purpose_and_message() {
        let key = SigningKey::generate(&SystemRandom).unwrap();
        let signature = key.sign(Signed::Head, b"message");
        let public = PublicKey::from_bytes(&key.public().to_bytes()).unwrap();
        public.verify(Signed::Head, b"message", &signature).unwrap();
        assert!(public.verify(Signed::Device, b"message", &signature).is_err());
        assert!(public.verify(Signed::Head, b"massage", &signature).is_err());
        let other = SigningKey::generate(&SystemRandom).unwrap();
        assert!(other.public().verify(Signed::Head, b"message", &signature).is_err());
        for at in 0..64 {
            let mut bent = signature;
            bent[at] ^= 1;
            assert!(public.verify(Signed::Head, b"message", &bent).is_err());
        }
    }

    #[test]
    fn a_key_comes_back_from_its_bytes() {
        let key = SigningKey::generate(&SystemRandom).unwrap();
        let again = SigningKey::from_bytes(&key.to_bytes());
        assert_eq!(key.public(), again.public());
        assert_eq!(key.sign(Signed::Device, b"m"), again.sign(Signed::Device, b"m"));
    }

    /// With the group's order added to its second half a signature is the same number in another form.
    #[test]
    fn signatures_have_one_form() {
        const ORDER: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let key = SigningKey::from_bytes(&Key([4; 32]));
        let mut second = key.sign(Signed::Head, b"m");
        let mut carry = 0;
        for (byte, add) in second[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert!(key.public().verify(Signed::Head, b"m", &second).is_err());
    }

    #[test]
    fn weak_and_impossible_public_keys_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        assert!(PublicKey::from_bytes(&one).is_err());
        assert!(PublicKey::from_bytes(&[0; 32]).is_err());
        assert!((0..=255).any(|b| PublicKey::from_bytes(&[b; 32]).is_err()));
    }

    #[test]
    fn debugging_shows_no_secret() {
        let key = SigningKey::from_bytes(&Key([4; 32]));
        assert_eq!(format!("{key:?}"), format!("SigningKey(of {})", key.public()));
    }
}
