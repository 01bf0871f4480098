//! Keys, sealing, self-encryption (docs/SECURITY.md has the rules, docs/FORMAT.md the bytes).

mod compress;
pub mod domains;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod keys;
pub mod local;
mod object;
pub mod pad;
pub mod protect;
pub mod seal;
pub mod secrets;
pub mod set;
pub mod sign;
pub mod slot;
#[cfg(test)]
mod vectors;
#[cfg(debug_assertions)]
pub mod witness;

pub use keys::RealmKeys;
pub use local::{DeviceRecord, LocalKeys, Memory};
pub use seal::{SealKey, open, seal};
pub use secrets::DriveSecrets;
pub use sign::{PublicKey, Signature, Signed, SigningKey};
pub use slot::{KdfParams, RecoveryCode, Secret, Slot, SlotId, SlotKind};

/// What a sealed thing is: part of its associated data, so that nothing can stand in for another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Seal {
    /// Small content, tails and extents of files.
    Content = 1,
    /// A node of a Map.
    Node = 2,
    /// A commit.
    Commit = 3,
    /// A drive head's payload.
    Head = 4,
    /// An index run.
    Index = 5,
    /// A pack's footer.
    Footer = 6,
    /// A journal frame.
    Journal = 7,
    /// An entry of the disk cache.
    Cache = 8,
    /// A key slot's secret.
    Slot = 9,
    /// A file of the state directory.
    State = 10,
}
