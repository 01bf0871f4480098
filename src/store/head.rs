//! The bytes of a head: the signed record that makes a commit the newest version.

use crate::crypt::seal::{FORMAT, SUITE};
use crate::error::Result;
use crate::types::{DeviceId, DriveId, Epoch, RealmId, Version};
use crate::wire::{Reader, Writer};
use bytes::Bytes;

const MAGIC: &[u8; 8] = b"nacrehed";
/// How long the fields before the payload are, in bytes.
const FIXED: usize = 8 + 2 + 1 + 1 + 16 + 16 + 4 + 16 + 8 + 2 * LINK + 4;
const LINK: usize = 8 + 32;
pub const SIGNATURE: usize = 64;
/// The longest payload of a head (4 MiB).
pub const MAX_PAYLOAD: usize = 4 << 20;
/// The longest head.
pub const MAX_HEAD: usize = FIXED + MAX_PAYLOAD + SIGNATURE;

/// A head's name and what vouches for it: BLAKE3 of its bytes. Version 0 and zeros: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadLink {
    pub version: Version,
    pub hash: [u8; 32],
}

impl HeadLink {
    fn put(&self, w: &mut Writer) {
        w.u64(self.version).raw(&self.hash);
    }

    fn get(r: &mut Reader) -> Result<HeadLink> {
        let link = HeadLink { version: r.u64()?, hash: r.array()? };
        if link.version == 0 && link != HeadLink::default() {
            return Err(r.bad("links to a head that cannot be"));
        }
        Ok(link)
    }
}

/// A head. The payload is sealed by the commit layer; here it is opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub drive: DriveId,
    pub realm: RealmId,
    /// The key epoch that the payload is sealed under.
    pub epoch: Epoch,
    /// The device that signed.
    pub device: DeviceId,
    pub version: Version,
    /// The valid head before this one.
    pub before: HeadLink,
    /// The newest valid head whose version is at most this version with its lowest set bit cleared.
    pub skip: HeadLink,
    pub payload: Bytes,
    pub signature: [u8; SIGNATURE],
}

impl Head {
    /// The bytes that the signature covers.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(FIXED + self.payload.len() + SIGNATURE);
        w.raw(MAGIC).u16(FORMAT).u8(SUITE).u8(0).raw(&self.drive.0).raw(&self.realm.0).u32(self.epoch);
        w.raw(&self.device.0).u64(self.version);
        self.before.put(&mut w);
        self.skip.put(&mut w);
        w.u32(self.payload.len() as u32).raw(&self.payload);
        w.into_vec()
    }

    /// The bytes of the object.
    pub fn encode(&self) -> Bytes {
        let mut bytes = self.signed_bytes();
        bytes.extend_from_slice(&self.signature);
        bytes.into()
    }

    /// Every field is of fixed length or counted, so a head has one encoding.
    pub fn decode(bytes: &[u8]) -> Result<Head> {
        let mut r = Reader::new(bytes, "head");
        if r.array()? != *MAGIC || r.u16()? != FORMAT || r.u8()? != SUITE || r.u8()? != 0 {
            return Err(r.bad("is none that this version knows"));
        }
        let head = Head {
            drive: DriveId(r.array()?),
            realm: RealmId(r.array()?),
            epoch: r.u32()?,
            device: DeviceId(r.array()?),
            version: r.u64()?,
            before: HeadLink::get(&mut r)?,
            skip: HeadLink::get(&mut r)?,
            payload: {
                let len = r.u32()? as usize;
                if len > MAX_PAYLOAD {
                    return Err(r.bad("has too long a payload"));
                }
                Bytes::copy_from_slice(r.raw(len)?)
            },
            signature: r.array()?,
        };
        let skip_at_most = head.version & head.version.wrapping_sub(1);
        if matches!(head.version, 0 | Version::MAX)
            || head.before.version >= head.version
            || head.skip.version > skip_at_most
            || head.skip.version > head.before.version
        {
            return Err(r.bad("links to heads that do not come before it"));
        }
        r.end()?;
        Ok(head)
    }

    /// What vouches for the head as it is.
    pub fn link(&self) -> HeadLink {
        HeadLink { version: self.version, hash: *blake3::hash(&self.encode()).as_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_head_has_one_encoding(version in 1u64..1000, payload in proptest::collection::vec(any::<u8>(), 0..100), at: prop::sample::Index, bit in 0u8..8) {
            let link = |version| HeadLink { version, hash: if version == 0 { [0; 32] } else { [9; 32] } };
            let head = Head {
                drive: DriveId([1; 16]),
                realm: RealmId([2; 16]),
                epoch: 3,
                device: DeviceId([4; 16]),
                version,
                before: link(version - 1),
                skip: link(version & (version - 1)),
                payload: payload.into(),
                signature: [5; SIGNATURE],
            };
            let bytes = head.encode();
            prop_assert_eq!(&Head::decode(&bytes)?, &head);
            prop_assert!(Head::decode(&bytes[..bytes.len() - 1]).is_err());
            let mut bent = bytes.to_vec();
            bent[at.index(bytes.len())] ^= 1 << bit;
            if let Ok(other) = Head::decode(&bent) {
                prop_assert_eq!(other.encode(), bent);
                prop_assert_ne!(other.link(), head.link());
            }
        }
    }
}
