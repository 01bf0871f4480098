//! Key slots: the drive's secrets, each time sealed under one passphrase, key file or recovery code.
//!
//! A slot lies in the store, where anyone may read and replace it: whatever it shows in the clear is
//! bound to the seal, and asks no more of the machine than [`KdfParams`] allows.

mod kdf;
mod recovery;
mod secret;

pub use kdf::KdfParams;
pub use recovery::RecoveryCode;
pub use secret::Secret;

use super::seal::{self, FORMAT, SUITE};
use super::secrets::DriveSecrets;
use super::{Seal, domains};
use crate::error::{Error, Kind, Result};
use crate::sys::{Random, random};
use crate::types::{DriveId, Key, RealmId, Time, hex};
use crate::wire::{Reader, Writer};
use std::fmt;
use zeroize::Zeroizing;

const MAGIC: &[u8; 10] = b"nacre slot";
/// The longest label, in bytes.
pub const MAX_LABEL: usize = 255;

/// The name of a slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub [u8; 16]);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What opens a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotKind {
    Passphrase = 1,
    KeyFile = 2,
    Recovery = 3,
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            SlotKind::Passphrase => "passphrase",
            SlotKind::KeyFile => "key file",
            SlotKind::Recovery => "recovery code",
        })
    }
}

/// What opens a slot, and how hard it is to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Passphrase(KdfParams),
    KeyFile,
    Recovery,
}

/// A key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    id: SlotId,
    drive: DriveId,
    lock: Lock,
    salt: [u8; 32],
    label: String,
    created: Time,
    sealed: Vec<u8>,
}

impl Slot {
    /// Fails with `Kind::Usage` for a label that no slot can have.
    pub fn check_label(label: &str) -> Result<()> {
        match label.len() > MAX_LABEL {
            true => Err(Error::new(Kind::Usage, format!("a label may have {MAX_LABEL} bytes at most"))),
            false => Ok(()),
        }
    }

    /// Seals the drive's secrets under `secret`. `params` matter to passphrases only.
    ///
    /// Fails with `Kind::Usage` for an empty passphrase, a label over [`MAX_LABEL`] bytes, or parameters
    /// out of range.
    pub fn create(
        secrets: &DriveSecrets,
        secret: &Secret,
        params: KdfParams,
        label: &str,
        now: Time,
        source: &dyn Random,
    ) -> Result<Slot> {
        Slot::check_label(label)?;
        let lock = match secret {
            Secret::Passphrase(text) if text.is_empty() => {
                return Err(Error::new(Kind::Usage, "the passphrase is empty"));
            }
            Secret::Passphrase(_) => {
                params.check().map_err(|why| Error::new(Kind::Usage, why))?;
                Lock::Passphrase(params)
            }
            Secret::KeyFile(_) => Lock::KeyFile,
            Secret::Recovery(_) => Lock::Recovery,
        };
        let mut slot = Slot {
            id: SlotId(random(source)?),
            drive: secrets.drive,
            lock,
            salt: random(source)?,
            label: label.to_owned(),
            created: now,
            sealed: Vec::new(),
        };
        let key = slot.key(secret)?;
        slot.sealed = seal::seal(Seal::Slot, &key, &slot.realm(), &slot.header(), &secrets.encode())?;
        Ok(slot)
    }

    /// The drive's secrets. For a passphrase this takes the time and memory that its parameters ask for.
    ///
    /// Fails with `Kind::Secret` if the secret is the wrong one or of the wrong kind. (A damaged slot
    /// cannot be told from a wrong secret.)
    pub fn open(&self, secret: &Secret) -> Result<DriveSecrets> {
        if secret.kind() != self.kind() {
            return Err(Error::new(
                Kind::Secret,
                format!("key slot {} is opened by a {}, not by a {}", self.id, self.kind(), secret.kind()),
            ));
        }
        let key = self.key(secret)?;
        let opened = seal::open(Seal::Slot, &key, &self.realm(), &self.header(), &self.sealed)
            .map(Zeroizing::new)
            .map_err(|_| {
                Error::new(
                    Kind::Secret,
                    format!(
                        "this {} does not open key slot {}: it is wrong, or the slot is damaged",
                        self.kind(),
                        self.id
                    ),
                )
            })?;
        let secrets = DriveSecrets::decode(&opened)
            .map_err(|e| e.context(format!("key slot {} holds no secrets of a drive", self.id)))?;
        if secrets.drive != self.drive {
            return Err(Error::damage(format!("key slot {} holds the secrets of another drive", self.id)));
        }
        Ok(secrets)
    }

    pub fn id(&self) -> SlotId {
        self.id
    }

    pub fn drive(&self) -> DriveId {
        self.drive
    }

    pub fn kind(&self) -> SlotKind {
        match self.lock {
            Lock::Passphrase(_) => SlotKind::Passphrase,
            Lock::KeyFile => SlotKind::KeyFile,
            Lock::Recovery => SlotKind::Recovery,
        }
    }

    /// How hard a passphrase is to try; None for key files and recovery codes, which nobody can guess.
    pub fn kdf(&self) -> Option<KdfParams> {
        match self.lock {
            Lock::Passphrase(params) => Some(params),
            Lock::KeyFile | Lock::Recovery => None,
        }
    }

    /// Whether a slot that is made today would be harder to guess.
    pub fn is_weak(&self) -> bool {
        self.kdf().is_some_and(|params| params.is_weaker_than(&KdfParams::default()))
    }

    /// As whoever made the slot wrote it: escape it before it meets a terminal. Until the slot is opened,
    /// this and all else that it shows may be the store's invention.
    pub fn label(&self) -> &str {
        &self.label
    }

    pub fn created(&self) -> Time {
        self.created
    }

    /// The bytes at rest.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.header()).bytes(&self.sealed);
        w.into_vec()
    }

    /// Reads bytes at rest. Fails with `Kind::Damage` for anything but what [`Slot::encode`] writes, and
    /// for parameters out of range: before any memory is reserved for them.
    pub fn decode(bytes: &[u8]) -> Result<Slot> {
        let mut r = Reader::new(bytes, "key slot");
        if r.array()? != *MAGIC {
            return Err(r.bad("is none"));
        }
        let format = r.u16()?;
        let suite = r.u8()?;
        if (format, suite) != (FORMAT, SUITE) {
            return Err(r.bad("is of a format that this version of nacrefs does not know"));
        }
        let id = SlotId(r.array()?);
        let drive = DriveId(r.array()?);
        let lock = match r.u8()? {
            1 => {
                let params = KdfParams { memory_kib: r.u32()?, passes: r.u32()?, lanes: r.u32()? };
                params.check().map_err(|why| r.bad(&why))?;
                Lock::Passphrase(params)
            }
            2 => Lock::KeyFile,
            3 => Lock::Recovery,
            _ => return Err(r.bad("is of an unknown kind")),
        };
        let salt = r.array()?;
        let label = r.bytes()?;
        if label.len() > MAX_LABEL {
            return Err(r.bad("has a label that is too long"));
        }
        let label =
            std::str::from_utf8(label).map_err(|_| r.bad("has a label that is not UTF-8"))?.to_owned();
        let created = Time::get(&mut r)?;
        let sealed = r.bytes()?.to_vec();
        r.end()?;
        let slot = Slot { id, drive, lock, salt, label, created, sealed };
        if slot.encode() != bytes {
            return Err(Error::damage(format!("key slot {id} is not in its one encoding")));
        }
        Ok(slot)
    }

    /// Everything in the clear, as it stands in the bytes at rest: the seal's associated data.
    fn header(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(MAGIC).u16(FORMAT).u8(SUITE).raw(&self.id.0).raw(&self.drive.0).u8(self.kind() as u8);
        if let Lock::Passphrase(params) = self.lock {
            w.u32(params.memory_kib).u32(params.passes).u32(params.lanes);
        }
        w.raw(&self.salt).bytes(self.label.as_bytes());
        self.created.put(&mut w);
        w.into_vec()
    }

    /// A slot is opened before any realm is known: the drive's id stands for the realm.
    fn realm(&self) -> RealmId {
        RealmId(self.drive.0)
    }

    fn key(&self, secret: &Secret) -> Result<Key> {
        match (secret, self.lock) {
            (Secret::Passphrase(text), Lock::Passphrase(params)) => {
                let stretched = params.stretch(text.as_bytes(), &self.salt)?;
                Ok(domains::SLOT_PASSPHRASE.derive(&[&stretched.0]))
            }
            (Secret::KeyFile(key), Lock::KeyFile) => Ok(domains::SLOT_KEY_FILE.derive(&[&key.0, &self.salt])),
            (Secret::Recovery(code), Lock::Recovery) => {
                Ok(domains::SLOT_RECOVERY.derive(&[&code.key().0, &self.salt]))
            }
            _ => Err(Error::failed("a key slot met a secret of another kind")),
        }
    }
}

#[cfg(test)]
mod tests;
