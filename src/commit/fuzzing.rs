//! What the fuzz targets (fuzz/) see of this layer, besides what is public. Each reads something and writes it anew.

use super::packs;
use super::shells::{Item, item, name_key, record_bytes, record_key};
use super::versions::Payload;
use crate::error::Result;

/// An entry of the Map of shells, its key and its value.
pub fn shell(key: &[u8], value: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    Ok(match item(key, value)? {
        Item::Inode(inode) => (record_key(inode.ino), record_bytes(&inode)),
        Item::Name(ino, name) => (name_key(ino, &name), Vec::new()),
    })
}

/// An entry of the index of packs, its key and its value.
pub fn pack(key: &[u8], value: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let pack = packs::read(key, value)?;
    Ok((pack.id.0.to_vec(), packs::value(&pack)))
}

/// What a head carries, behind its seal.
pub fn head_payload(bytes: &[u8]) -> Result<Vec<u8>> {
    Payload::from_bytes(bytes).map(|payload| payload.to_bytes())
}
