//! What the fuzz targets (fuzz/) see of this layer, besides what is public.

use super::local::{LocalKeys, Record};
use super::secrets::DriveSecrets;
use crate::error::Result;

pub use super::compress::decompress;

/// The message of a key slot: the secrets of a drive, and the same written anew.
pub fn secrets(bytes: &[u8]) -> Result<(DriveSecrets, Vec<u8>)> {
    let secrets = DriveSecrets::decode(bytes)?;
    let again = secrets.encode().to_vec();
    Ok((secrets, again))
}

/// The files `device` and `memory` of a state directory with these messages.
pub fn state_files(keys: &LocalKeys, message: &[u8]) -> Result<[Vec<u8>; 2]> {
    Ok([keys.seal(Record::Device, message)?, keys.seal(Record::Memory, message)?])
}
