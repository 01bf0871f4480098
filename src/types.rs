//! The words that every layer uses: addresses, keys, numbers, times.

use crate::error::Result;
use crate::wire::{Reader, Writer};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The largest chunk that a store holds, in stored bytes (4 MiB).
pub const MAX_CHUNK: usize = 4 << 20;

/// The name of a chunk: BLAKE3 of its stored (encrypted) bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 32]);

impl Address {
    pub fn of(stored: &[u8]) -> Address {
        Address(*blake3::hash(stored).as_bytes())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write_hex(f, &self.0[..6])
    }
}

fn write_hex(f: &mut fmt::Formatter, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// 32 secret bytes: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Random names, given once: of a drive, a realm, a device, a start of a mount.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
    };
}
id!(
    /// A drive, for life.
    DriveId
);
id!(
    /// A realm: the drive itself, or a subtree shared for writing.
    RealmId
);
id!(
    /// A machine's state directory, as the drive knows it.
    DeviceId
);
id!(
    /// One start of a device: two at a time show that a state directory was copied.
    Incarnation
);

/// The number of a journal record; grows by one for each, never reused on a device.
pub type Lsn = u64;
/// No journal comes so far: a number above this is none of ours, so that whoever reads one may count on from it.
pub const MAX_LSN: Lsn = u64::MAX >> 1;
/// The number of a commit: the counter of its head.
pub type Version = u64;
/// The number of an epoch of keys.
pub type Epoch = u32;
/// An inode number: the device's number (20 bits) above a counter (43 bits); the top bit is 0.
pub type Ino = u64;

/// A point in time: seconds and nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

impl Time {
    pub fn put(self, w: &mut Writer) {
        w.ivar(self.sec).var(self.nsec.into());
    }

    pub fn get(r: &mut Reader) -> Result<Time> {
        let t = Time { sec: r.ivar()?, nsec: r.var32()? };
        if t.nsec >= 1_000_000_000 {
            return Err(r.bad("nanoseconds out of range"));
        }
        Ok(t)
    }
}
