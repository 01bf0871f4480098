//! The keys and records of a state directory, the machine's own part of a drive.
//!
//! The local key is random for each state directory and seals the journal, the cache and the local index;
//! it lies there wrapped by the drive secret, so that the directory alone opens nothing.

use super::protect::Locked;
use super::seal::{self, FORMAT, SUITE, SealKey};
use super::secrets::DriveSecrets;
use super::sign::SigningKey;
use super::{Seal, domains};
use crate::error::{Error, Result};
use crate::sys::{Random, random};
use crate::types::{DeviceId, DriveId, Incarnation, Key, RealmId, Version};
use crate::wire::{Reader, Writer};
use std::fmt;
use zeroize::Zeroizing;

const MAGIC: &[u8; 11] = b"nacre state";
/// Device numbers are below this (20 bits).
pub const DEVICE_NUMBERS: u32 = 1 << 20;

/// What a file of the state directory holds.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Record {
    Keys = 1,
    Device = 2,
    Memory = 3,
}

/// Magic, format version, suite, record, drive, realm: the start of each file, and bound to its seal.
fn header(record: Record, drive: DriveId, realm: RealmId) -> Writer {
    let mut w = Writer::new();
    w.raw(MAGIC).u16(FORMAT).u8(SUITE).u8(record as u8).raw(&drive.0).raw(&realm.0);
    w
}

/// Reads a [`header`], which must be of this record, drive and realm.
fn check_header(r: &mut Reader, record: Record, drive: DriveId, realm: RealmId) -> Result<()> {
    if r.array()? != *MAGIC {
        return Err(r.bad("is none"));
    }
    let format = r.u16()?;
    let suite = r.u8()?;
    if (format, suite) != (FORMAT, SUITE) {
        return Err(r.bad("is of a format that this version of nacrefs does not know"));
    }
    if r.u8()? != record as u8 {
        return Err(r.bad("is another file's record"));
    }
    let found = DriveId(r.array()?);
    if found != drive {
        return Err(Error::failed(format!(
            "this state directory belongs to drive {found}, not to {drive}: give this one another (--state-dir, or the \
             option state_dir=)"
        )));
    }
    if RealmId(r.array()?) != realm {
        return Err(r.bad("belongs to another realm"));
    }
    Ok(())
}

/// The drive that a record says it is of, which nothing vouches for: to tell a person.
pub fn drive_of(record: &[u8]) -> Option<DriveId> {
    let mut r = Reader::new(record, "record");
    let is_ours = r.array().ok()? == *MAGIC;
    let _format_suite_record = (r.u16().ok()?, r.u8().ok()?, r.u8().ok()?);
    is_ours.then_some(DriveId(r.array().ok()?))
}

/// The keys of a state directory.
pub struct LocalKeys {
    drive: DriveId,
    realm: RealmId,
    keys: Locked<Keys>,
}

struct Keys {
    local: Key,
    records: SealKey,
    journal: Key,
    cache: Key,
    index: Key,
}

impl LocalKeys {
    /// Random ones, for a new state directory of this drive.
    pub fn generate(secrets: &DriveSecrets, source: &dyn Random) -> Result<LocalKeys> {
        Ok(LocalKeys::new(secrets, Key(random(source)?)))
    }

    fn new(secrets: &DriveSecrets, local: Key) -> LocalKeys {
        let keys = Keys {
            records: SealKey::new(&domains::STATE_RECORDS.derive(&[&local.0])),
            journal: domains::STATE_JOURNAL.derive(&[&local.0]),
            cache: domains::STATE_CACHE.derive(&[&local.0]),
            index: domains::STATE_INDEX.derive(&[&local.0]),
            local,
        };
        LocalKeys { drive: secrets.drive, realm: secrets.realm, keys: Locked::new(keys) }
    }

    /// The bytes of the state directory's key file: the local key, wrapped by the newest drive secret.
    /// To be written again after a new epoch has begun.
    pub fn wrap(&self, secrets: &DriveSecrets) -> Result<Vec<u8>> {
        let epoch = secrets.epoch();
        let mut w = header(Record::Keys, self.drive, self.realm);
        w.u32(epoch);
        let key = secrets.wrapping_key(epoch)?;
        let sealed = seal::seal(Seal::State, &key, &self.realm, w.as_slice(), &self.keys.local.0)?;
        w.raw(&sealed);
        Ok(w.into_vec())
    }

    /// Reads what [`LocalKeys::wrap`] wrote in this or an earlier epoch.
    pub fn unwrap(secrets: &DriveSecrets, bytes: &[u8]) -> Result<LocalKeys> {
        let mut r = Reader::new(bytes, "local key");
        check_header(&mut r, Record::Keys, secrets.drive, secrets.realm)?;
        let key = secrets.wrapping_key(r.u32()?).map_err(|e| e.context("local key cannot be opened"))?;
        let (head, sealed) = bytes.split_at(bytes.len() - r.rest().len());
        let opened = seal::open(Seal::State, &key, &secrets.realm, head, sealed)
            .map(Zeroizing::new)
            .map_err(|e| e.context("local key cannot be opened"))?;
        let mut r = Reader::new(&opened, "local key");
        let local = Key(r.array()?);
        r.end()?;
        Ok(LocalKeys::new(secrets, local))
    }

    pub fn drive(&self) -> DriveId {
        self.drive
    }

    pub fn realm(&self) -> RealmId {
        self.realm
    }

    /// The key that the journal derives its files' keys from.
    pub fn journal_key(&self) -> &Key {
        &self.keys.journal
    }

    pub fn cache_key(&self) -> &Key {
        &self.keys.cache
    }

    /// The key of the local copy of the index.
    pub fn index_key(&self) -> &Key {
        &self.keys.index
    }

    pub(super) fn seal(&self, record: Record, message: &[u8]) -> Result<Vec<u8>> {
        let mut w = header(record, self.drive, self.realm);
        let sealed = self.keys.records.seal(Seal::State, &self.realm, w.as_slice(), message)?;
        w.raw(&sealed);
        Ok(w.into_vec())
    }

    fn open(&self, record: Record, what: &'static str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let mut r = Reader::new(bytes, what);
        check_header(&mut r, record, self.drive, self.realm)?;
        let (head, sealed) = bytes.split_at(bytes.len() - r.rest().len());
        self.keys
            .records
            .open(Seal::State, &self.realm, head, sealed)
            .map(Zeroizing::new)
            .map_err(|e| e.context(format!("{what} cannot be opened")))
    }
}

impl fmt::Debug for LocalKeys {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "LocalKeys({})", self.drive)
    }
}

/// Who this machine is to the drive.
#[derive(Debug)]
pub struct DeviceRecord {
    pub device: DeviceId,
    pub signing: SigningKey,
    /// Above the counter in the inode numbers that this device gives out: below [`DEVICE_NUMBERS`].
    pub number: u32,
    /// Random at each mount, and in its commits: shows that a state directory was copied.
    pub incarnation: Incarnation,
}

impl DeviceRecord {
    /// The bytes of the device's file. Fails for a number out of range.
    pub fn seal(&self, keys: &LocalKeys) -> Result<Vec<u8>> {
        if self.number >= DEVICE_NUMBERS {
            return Err(Error::failed(format!("device number {} is over 20 bits", self.number)));
        }
        let mut w = Writer::with_capacity(16 + 32 + 4 + 16);
        w.raw(&self.device.0).raw(&self.signing.to_bytes().0).u32(self.number).raw(&self.incarnation.0);
        let message = Zeroizing::new(w.into_vec());
        keys.seal(Record::Device, &message)
    }

    pub fn open(keys: &LocalKeys, bytes: &[u8]) -> Result<DeviceRecord> {
        let opened = keys.open(Record::Device, "device record", bytes)?;
        let mut r = Reader::new(&opened, "device record");
        let device = DeviceId(r.array()?);
        let signing = SigningKey::from_bytes(&Key(r.array()?));
        let number = r.u32()?;
        let incarnation = Incarnation(r.array()?);
        if number >= DEVICE_NUMBERS {
            return Err(r.bad("number over 20 bits"));
        }
        r.end()?;
        Ok(DeviceRecord { device, signing, number, incarnation })
    }
}

/// The newest head that this machine has seen: only its descendants are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub version: Version,
    /// BLAKE3 of the head's bytes.
    pub head: [u8; 32],
    /// The version, and its head, that the journal's changes were made on: older than the newest seen where they were
    /// not yet done over what other machines have made.
    pub base: (Version, [u8; 32]),
}

impl Memory {
    /// The bytes of the memory's file.
    pub fn seal(&self, keys: &LocalKeys) -> Result<Vec<u8>> {
        let mut w = Writer::with_capacity(2 * (8 + 32));
        w.u64(self.version).raw(&self.head).u64(self.base.0).raw(&self.base.1);
        keys.seal(Record::Memory, w.as_slice())
    }

    pub fn open(keys: &LocalKeys, bytes: &[u8]) -> Result<Memory> {
        let opened = keys.open(Record::Memory, "memory of the newest head", bytes)?;
        let mut r = Reader::new(&opened, "memory of the newest head");
        let memory = Memory { version: r.u64()?, head: r.array()?, base: (r.u64()?, r.array()?) };
        r.end()?;
        Ok(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::sys::SystemRandom;

    fn drive() -> (DriveSecrets, LocalKeys) {
        let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        let keys = LocalKeys::generate(&secrets, &SystemRandom).unwrap();
        (secrets, keys)
    }

    fn device() -> DeviceRecord {
        DeviceRecord {
            device: DeviceId([1; 16]),
            signing: SigningKey::from_bytes(&Key([2; 32])),
            number: DEVICE_NUMBERS - 1,
            incarnation: Incarnation([3; 16]),
        }
    }

    #[test]
    fn local_keys_come_back_through_key_rotation() {
        let (mut secrets, keys) = drive();
        let wrapped = keys.wrap(&secrets).unwrap();
        secrets.next_epoch(&SystemRandom).unwrap();
        let again = LocalKeys::unwrap(&secrets, &wrapped).unwrap();
        assert_eq!(again.keys.local, keys.keys.local);
        assert_eq!((again.cache_key(), again.index_key()), (keys.cache_key(), keys.index_key()));
        let anew = keys.wrap(&secrets).unwrap();
        assert_ne!(anew, wrapped);
        assert_eq!(LocalKeys::unwrap(&secrets, &anew).unwrap().keys.local, keys.keys.local);
    }

    /// TRUST 2: a key for each state directory, and a subkey for each of its uses.
    #[test]
    fn no_two_uses_share_a_key() {
        let (secrets, keys) = drive();
        let other = LocalKeys::generate(&secrets, &SystemRandom).unwrap();
        assert_ne!(keys.keys.local, other.keys.local);
        let all = [
            keys.cache_key().clone(),
            keys.index_key().clone(),
            keys.journal_key().clone(),
            keys.keys.local.clone(),
            other.cache_key().clone(),
            other.journal_key().clone(),
        ];
        for (at, key) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|k| k != key), "{at}");
        }
    }

    #[test]
    fn records_come_back_and_nothing_else_does() {
        let (secrets, keys) = drive();
        let (_, strangers) = drive();
        let memory = Memory { version: 77, head: [8; 32], base: (76, [7; 32]) };
        let (wrapped, sealed, remembered) =
            (keys.wrap(&secrets).unwrap(), device().seal(&keys).unwrap(), memory.seal(&keys).unwrap());

        let opened = DeviceRecord::open(&keys, &sealed).unwrap();
        assert_eq!(
            (opened.device, opened.number, opened.incarnation),
            (DeviceId([1; 16]), 0xf_ffff, Incarnation([3; 16]))
        );
        assert_eq!(opened.signing.public(), device().signing.public());
        assert_eq!(opened.seal(&keys).unwrap(), sealed);
        assert_eq!(Memory::open(&keys, &remembered).unwrap(), memory);

        assert!(Memory::open(&keys, &sealed).is_err());
        assert!(DeviceRecord::open(&keys, &remembered).is_err());
        let e = Memory::open(&strangers, &remembered).unwrap_err();
        assert!(e.to_string().contains("belongs to drive"), "{e}");
        let sibling = LocalKeys::generate(&secrets, &SystemRandom).unwrap();
        assert_eq!(Memory::open(&sibling, &remembered).unwrap_err().kind(), Kind::Damage);

        for (bytes, open) in [
            (&wrapped, (&|b: &[u8]| LocalKeys::unwrap(&secrets, b).is_err()) as &dyn Fn(&[u8]) -> bool),
            (&sealed, &|b| DeviceRecord::open(&keys, b).is_err()),
            (&remembered, &|b| Memory::open(&keys, b).is_err()),
        ] {
            for at in 0..bytes.len() {
                let mut bent = bytes.clone();
                bent[at] ^= 1;
                assert!(open(&bent), "byte {at}");
                assert!(open(&bytes[..at]), "{at} bytes");
            }
            assert!(open(&[&bytes[..], &[0]].concat()));
        }
    }

    #[test]
    fn device_numbers_have_20_bits() {
        let (_, keys) = drive();
        assert!(DeviceRecord { number: DEVICE_NUMBERS, ..device() }.seal(&keys).is_err());
    }

    /// TRUST 2: the machine's disk holds no key in the clear.
    #[test]
    fn no_secret_is_at_rest_in_the_clear() {
        let (secrets, keys) = drive();
        let wrapped = keys.wrap(&secrets).unwrap();
        assert!(!wrapped.windows(32).any(|w| w == keys.keys.local.0));
        let sealed = device().seal(&keys).unwrap();
        assert!(!sealed.windows(32).any(|w| w == [2; 32]));
        assert_eq!(format!("{keys:?}"), format!("LocalKeys({})", secrets.drive));
        assert!(!format!("{:?}", device()).contains("[2, 2"));
    }
}
