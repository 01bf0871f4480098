//! The index key, and the header that says under which epoch's key an object is sealed.

use crate::crypt::seal::{FORMAT, SUITE};
use crate::error::{Error, Result};
use crate::types::{Epoch, Key, RealmId};
use crate::wire::{Reader, Writer};
use std::collections::BTreeMap;

/// The index keys of a realm, one for each key epoch: they seal pack footers and index runs.
#[derive(Clone)]
pub struct IndexKeys {
    realm: RealmId,
    current: Epoch,
    keys: BTreeMap<Epoch, Key>,
}

impl IndexKeys {
    /// The key that everything new is sealed under.
    pub fn new(realm: RealmId, epoch: Epoch, key: Key) -> IndexKeys {
        IndexKeys { realm, current: epoch, keys: BTreeMap::from([(epoch, key)]) }
    }

    /// Also knows the key of an earlier epoch.
    pub fn with_earlier(mut self, epoch: Epoch, key: Key) -> IndexKeys {
        self.keys.entry(epoch).or_insert(key);
        self
    }

    pub fn realm(&self) -> &RealmId {
        &self.realm
    }

    /// The epoch that everything new is sealed under.
    pub fn epoch(&self) -> Epoch {
        self.current
    }

    /// The key of an epoch.
    pub fn of(&self, epoch: Epoch) -> Result<&Key> {
        let unknown = || Error::damage(format!("it says key epoch {epoch}, of which there is no key"));
        self.keys.get(&epoch).ok_or_else(unknown)
    }
}

/// How many bytes a header takes.
pub(super) const HEADER: usize = 16;

/// What a pack or an index run begins with: magic (8), format version (u16), suite (u8), flags (u8, none
/// is defined), key epoch (u32).
pub(super) fn header(magic: &[u8; 8], epoch: Epoch) -> Vec<u8> {
    let mut w = Writer::with_capacity(HEADER);
    w.raw(magic).u16(FORMAT).u8(SUITE).u8(0).u32(epoch);
    w.into_vec()
}

/// Reads the key epoch from a header, and refuses any header but our own.
pub(super) fn read_header(bytes: &[u8], magic: &[u8; 8], what: &'static str) -> Result<Epoch> {
    let mut r = Reader::new(bytes, what);
    if r.array()? != *magic || r.u16()? != FORMAT || r.u8()? != SUITE || r.u8()? != 0 {
        return Err(r.bad("has a header that this version does not know"));
    }
    let epoch = r.u32()?;
    r.end()?;
    Ok(epoch)
}
