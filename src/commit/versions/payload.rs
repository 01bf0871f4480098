//! What a head carries, sealed: where the commit is, and who signed (docs/FORMAT.md, "Head payloads").

use crate::crypt::{PublicKey, RealmKeys, Signature, Signed};
use crate::error::{Error, Result};
use crate::store::{Head, PackId, PackInfo};
use crate::types::{Address, DeviceId, DriveId, Key, RealmId, Time};
use crate::wire::{Reader, Writer};

const FORMAT: u8 = 1;

/// The payload of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    pub commit: CommitAt,
    /// The commit's, so that a moment is found by heads alone.
    pub time: Time,
    /// The key that the device signs with, and the admin key's word that it does.
    pub device_key: [u8; 32],
    pub certificate: Signature,
}

/// Where a commit is, and its key: found without any index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitAt {
    pub address: Address,
    pub key: Key,
    /// The pack that holds the commit, and nothing else.
    pub pack: PackInfo,
    /// In that pack, in bytes.
    pub offset: u32,
    pub len: u32,
}

impl Payload {
    pub(in crate::commit) fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(256);
        let at = &self.commit;
        w.u8(FORMAT).raw(&at.address.0).raw(&at.key.0);
        w.raw(&at.pack.id.0).var(at.pack.bytes).var(at.pack.chunks.into());
        w.var(at.offset.into()).var(at.len.into());
        self.time.put(&mut w);
        w.raw(&self.device_key).raw(&self.certificate);
        w.into_vec()
    }

    pub(in crate::commit) fn from_bytes(bytes: &[u8]) -> Result<Payload> {
        let mut r = Reader::new(bytes, "payload of a head");
        if r.u8()? != FORMAT {
            return Err(r.bad("has a form unknown to this version of nacrefs"));
        }
        let (address, key) = (Address(r.array()?), Key(r.array()?));
        let pack = PackInfo { id: PackId(r.array()?), bytes: r.var()?, chunks: r.var32()? };
        let (offset, len) = (r.var32()?, r.var32()?);
        let payload = Payload {
            commit: CommitAt { address, key, pack, offset, len },
            time: Time::get(&mut r)?,
            device_key: r.array()?,
            certificate: r.array()?,
        };
        r.end()?;
        Ok(payload)
    }

    /// The payload as a head carries it, bound to all that the head shows in the clear.
    pub fn seal(&self, head: &Head, keys: &RealmKeys) -> Result<Vec<u8>> {
        keys.seal_head(head.version, &shown(head), &self.to_bytes())
    }

    pub fn open(head: &Head, keys: &RealmKeys) -> Result<Payload> {
        let bytes = keys.open_head(head.version, &shown(head), &head.payload)?;
        Payload::from_bytes(&bytes).map_err(|e| e.context(format!("head {}", head.version)))
    }

    /// Whether the head was signed by a device that the admin key vouches for.
    pub fn vouches_for(&self, head: &Head, signed: &[u8], admin: &PublicKey) -> Result<()> {
        let certified = certificate_bytes(head.drive, head.realm, head.device, &self.device_key);
        admin.verify(Signed::Device, &certified, &self.certificate)?;
        PublicKey::from_bytes(&self.device_key)?.verify(Signed::Head, signed, &head.signature)
    }
}

/// What the admin key signs to certify a device: drive, realm, device, the device's public key.
pub fn certificate_bytes(drive: DriveId, realm: RealmId, device: DeviceId, key: &[u8; 32]) -> Vec<u8> {
    [&drive.0[..], &realm.0, &device.0, key].concat()
}

/// Every field that a head shows in the clear, as its signature covers them.
fn shown(head: &Head) -> Vec<u8> {
    Head { payload: Default::default(), ..head.clone() }.signed_bytes()
}

impl CommitAt {
    /// Refuses a chunk that the pack cannot hold.
    pub fn check(&self) -> Result<()> {
        if u64::from(self.offset) + u64::from(self.len) > self.pack.bytes || self.len == 0 {
            return Err(Error::damage("a head points past the end of the pack that holds its commit"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload() -> Payload {
        let pack = PackInfo { id: PackId([3; 32]), bytes: 4096, chunks: 1 };
        Payload {
            commit: CommitAt { address: Address([1; 32]), key: Key([2; 32]), pack, offset: 16, len: 900 },
            time: Time { sec: 1_700_000_000, nsec: 9 },
            device_key: [4; 32],
            certificate: [5; 64],
        }
    }

    #[test]
    fn a_payload_has_one_encoding() {
        let bytes = payload().to_bytes();
        assert_eq!(Payload::from_bytes(&bytes).unwrap(), payload());
        for n in 0..bytes.len() {
            assert!(Payload::from_bytes(&bytes[..n]).is_err());
        }
        assert!(Payload::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        let mut past = payload();
        past.commit.len = 4096;
        assert!(past.commit.check().is_err());
        payload().commit.check().unwrap();
    }

    proptest! {
        #[test]
        fn bent_payloads_are_refused_or_canonical(at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = payload().to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(payload) = Payload::from_bytes(&bytes) {
                prop_assert_eq!(payload.to_bytes(), bytes);
            }
        }
    }
}
