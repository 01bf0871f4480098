//! The secrets of a drive: what its key slots hold, and all that is needed to read it and to run it.

use super::domains;
use super::keys::RealmKeys;
use super::pad::{is_padding, padme};
use super::protect::Locked;
use super::sign::SigningKey;
use crate::error::{Error, Result};
use crate::sys::{Random, random};
use crate::types::{DriveId, Epoch, Key, RealmId};
use crate::wire::{Reader, Writer};
use std::fmt;
use zeroize::Zeroizing;

/// The secrets of a drive. Epochs of keys are numbered from 1.
pub struct DriveSecrets {
    pub drive: DriveId,
    /// The realm that is the drive itself: its secrets are the drive's.
    pub realm: RealmId,
    pub admin: SigningKey,
    newest: Locked<Key>,
    /// From the one before the newest down to the first.
    earlier: Vec<Locked<Key>>,
}

impl DriveSecrets {
    /// A new drive's: random ids and keys, in epoch 1.
    pub fn generate(source: &dyn Random) -> Result<DriveSecrets> {
        Ok(DriveSecrets {
            drive: DriveId(random(source)?),
            realm: RealmId(random(source)?),
            admin: SigningKey::generate(source)?,
            newest: Locked::new(Key(random(source)?)),
            earlier: Vec::new(),
        })
    }

    /// The newest epoch.
    pub fn epoch(&self) -> Epoch {
        self.earlier.len() as Epoch + 1
    }

    /// Begins a new epoch, with a secret that is not derived from the earlier ones. Slots, and the local
    /// keys of state directories, must then be sealed anew.
    pub fn next_epoch(&mut self, source: &dyn Random) -> Result<()> {
        let next = Locked::new(Key(random(source)?));
        self.earlier.insert(0, std::mem::replace(&mut self.newest, next));
        Ok(())
    }

    /// The realm's keys of the newest epoch.
    pub fn realm_keys(&self) -> RealmKeys {
        RealmKeys::new(self.realm, self.epoch(), &self.newest, self.first())
    }

    /// The realm's keys of an epoch. Fails with `Kind::Damage` for one that has not begun, as far as
    /// these secrets know.
    pub fn realm_keys_of(&self, epoch: Epoch) -> Result<RealmKeys> {
        Ok(RealmKeys::new(self.realm, epoch, self.secret(epoch)?, self.first()))
    }

    /// The key that wraps a state directory's local key in an epoch.
    pub(super) fn wrapping_key(&self, epoch: Epoch) -> Result<Key> {
        let secret = self.secret(epoch)?;
        Ok(domains::STATE_WRAP.derive(&[&secret.0, &self.drive.0, &self.realm.0, &epoch.to_le_bytes()]))
    }

    fn first(&self) -> &Key {
        self.earlier.last().unwrap_or(&self.newest)
    }

    fn secret(&self, epoch: Epoch) -> Result<&Key> {
        let found = match self.epoch().checked_sub(epoch) {
            Some(0) => Some(&*self.newest),
            Some(back) if epoch > 0 => self.earlier.get(back as usize - 1).map(|key| &**key),
            _ => None,
        };
        found.ok_or_else(|| {
            Error::damage(format!("no key of epoch {epoch}: these secrets know epochs 1 to {}", self.epoch()))
        })
    }

    /// Drive, realm, newest epoch (u32), its secret and those of all before it down to the first, admin
    /// key's seed, zero padding.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let len = 16 + 16 + 4 + 32 * (self.earlier.len() + 2);
        // Never grows, for that would leave a copy behind.
        let mut w = Writer::with_capacity(padme(len));
        w.raw(&self.drive.0).raw(&self.realm.0).u32(self.epoch()).raw(&self.newest.0);
        for secret in &self.earlier {
            w.raw(&secret.0);
        }
        w.raw(&self.admin.to_bytes().0);
        for _ in len..padme(len) {
            w.u8(0);
        }
        Zeroizing::new(w.into_vec())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<DriveSecrets> {
        let mut r = Reader::new(bytes, "drive secrets");
        let drive = DriveId(r.array()?);
        let realm = RealmId(r.array()?);
        let epochs = r.u32()? as usize;
        if epochs == 0 || epochs > r.rest().len() / 32 {
            return Err(r.bad("epoch out of range"));
        }
        let newest = Locked::new(Key(r.array()?));
        let mut earlier = Vec::with_capacity(epochs - 1);
        for _ in 1..epochs {
            earlier.push(Locked::new(Key(r.array()?)));
        }
        let admin = SigningKey::from_bytes(&Key(r.array()?));
        if !is_padding(bytes.len() - r.rest().len(), r.rest()) {
            return Err(r.bad("not padded as they must be"));
        }
        Ok(DriveSecrets { drive, realm, admin, newest, earlier })
    }
}

impl fmt::Debug for DriveSecrets {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "DriveSecrets({} epoch {})", self.drive, self.epoch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Sealer;
    use crate::sys::SystemRandom;
    use proptest::prelude::*;

    fn secrets(epochs: usize) -> DriveSecrets {
        let mut secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        for _ in 1..epochs {
            secrets.next_epoch(&SystemRandom).unwrap();
        }
        secrets
    }

    /// TRUST 2: a new epoch keeps the keys of those before it, and what is for life.
    #[test]
    fn every_epoch_keeps_its_keys() {
        let mut secrets = secrets(1);
        let first = secrets.realm_keys();
        secrets.next_epoch(&SystemRandom).unwrap();
        let second = secrets.realm_keys();
        secrets.next_epoch(&SystemRandom).unwrap();
        assert_eq!((secrets.epoch(), secrets.realm_keys().epoch()), (3, 3));
        for old in [&first, &second] {
            let again = secrets.realm_keys_of(old.epoch()).unwrap();
            assert_eq!(old.source_hash(b"x"), again.source_hash(b"x"));
            assert_eq!(old.boundary_key(), again.boundary_key());
            assert_ne!(old.source_hash(b"x"), secrets.realm_keys().source_hash(b"x"));
        }
        assert_ne!(first.source_hash(b"x"), second.source_hash(b"x"));
        assert!(secrets.realm_keys_of(0).is_err());
        assert!(secrets.realm_keys_of(4).is_err());
        assert!(secrets.realm_keys_of(u32::MAX).is_err());
        assert_ne!(secrets.wrapping_key(1).unwrap(), secrets.wrapping_key(2).unwrap());
    }

    #[test]
    fn drives_have_nothing_in_common() {
        let (a, b) = (secrets(1), secrets(1));
        assert!(a.drive != b.drive && a.realm != b.realm && *a.newest != *b.newest);
        assert_ne!(a.admin.public(), b.admin.public());
    }

    #[test]
    fn one_encoding() {
        for epochs in [1, 2, 3, 40] {
            let bytes = secrets(epochs).encode();
            let again = DriveSecrets::decode(&bytes).unwrap();
            assert_eq!((again.epoch() as usize, again.encode()), (epochs, bytes.clone()));
            assert!(DriveSecrets::decode(&bytes[..bytes.len() - 1]).is_err());
            assert!(DriveSecrets::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        let mut bytes = secrets(3).encode();
        assert_eq!(bytes.len(), 36 + 4 * 32 + 12);
        *bytes.last_mut().unwrap() = 1;
        assert!(DriveSecrets::decode(&bytes).is_err());
        let mut bytes = secrets(3).encode();
        bytes[32..36].fill(0);
        assert!(DriveSecrets::decode(&bytes).is_err());
        bytes[32..36].fill(0xff);
        assert!(DriveSecrets::decode(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_canonical(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), epoch in 0u8..6) {
            if let Some(field) = bytes.get_mut(32..36) {
                field.copy_from_slice(&[epoch, 0, 0, 0]);
            }
            if let Ok(secrets) = DriveSecrets::decode(&bytes) {
                prop_assert_eq!(&secrets.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn debugging_shows_no_secret() {
        let secrets = secrets(2);
        assert_eq!(format!("{secrets:?}"), format!("DriveSecrets({} epoch 2)", secrets.drive));
    }
}
