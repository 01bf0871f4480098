//! What the fuzz targets (fuzz/) see of this layer, besides what is public.

use super::{fstab, metrics, mounts, secrets};
use crate::error::Result;
use crate::types::Key;
use std::io::Read;
use zeroize::Zeroizing;

pub use super::helper::call as helper_call;
pub use super::logging::parse_level;

/// The passphrase in a file.
pub fn passphrase_of(from: impl Read, what: &str) -> Result<Zeroizing<String>> {
    secrets::files::text_of(from, what, "passphrase")
}

/// The key in the text of a key file.
pub fn parse_key(text: &str) -> Option<Box<Key>> {
    secrets::files::parse_key(text)
}

/// How many of the mounts that `/proc/self/mountinfo` shows are ours, and have an owner.
pub fn mountinfo(text: &[u8]) -> usize {
    mounts::parse(text).iter().filter(|m| m.is_ours() && m.owner().is_some()).count()
}

/// Whether the head of a request is one for the metrics; else the status to answer with.
pub fn metrics_route(head: &[u8]) -> Result<(), &'static str> {
    metrics::route(head)
}

/// How many lines of an fstab are ours.
pub fn fstab_lines(text: &str) -> usize {
    fstab::parse(text).len()
}
